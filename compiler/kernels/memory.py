"""What a kernel reads and writes: expressions and their types, pointers, local variables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from isthmus.kernels.tir import tirx

if TYPE_CHECKING:
    from isthmus.kernels.builder import Builder

# TVM ships no type information: to mypy an expression is Any, and this alias only says what is meant.
Expr: TypeAlias = Any
Value: TypeAlias = Any  # an Expr, or a Python number


def dtype_of(value: Expr) -> str:
    """TVM's name of a value's type, lanes included: `float32x16`."""
    return str(value.ty.dtype)


def lanes_of(value: Expr) -> int:
    """1 for a scalar."""
    return int(value.ty.dtype.lanes)


def element_type(dtype: str) -> str:
    """`float32x16` -> `float32`."""
    return dtype.split("x")[0]


def vector_type(dtype: str, lanes: int) -> str:
    """`float32`, 16 -> `float32x16`; a vector of one lane is a scalar."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def index(value: Value) -> Expr:
    """An int64 expression."""
    if isinstance(value, int):
        return tirx.IntImm("int64", value)
    return value if dtype_of(value) == "int64" else tirx.Cast("int64", value)


class Memory:
    """A pointer: a parameter, or memory on the stack. `at` gives the same pointer moved by an offset."""

    def __init__(self, builder: Builder, buffer: Expr, dtype: str, offset: Value = 0) -> None:
        self.builder = builder
        self.buffer = buffer
        self.dtype = dtype
        self.offset = offset

    def _place(self, i: Value) -> Expr:
        return index(self.offset + i) if not isinstance(self.offset, int) or self.offset else index(i)

    def at(self, offset: Value, name: str = "offset") -> Memory:
        """The same memory counted from element `offset`, which is computed here and once."""
        return Memory(self.builder, self.buffer, self.dtype, self.builder.let(name, self._place(offset)))

    def reread(self, dtype: str) -> Memory:
        """The same memory from its very beginning, as elements of another type."""
        shape = self.buffer.shape
        buffer = tirx.decl_buffer(
            shape, dtype, name=f"{self.buffer.name}_{dtype}", data=self.buffer.data, layout=None
        )
        self.builder.emit(tirx.DeclBuffer(buffer, data=self.buffer.data))
        return Memory(self.builder, buffer, dtype)

    def load(self, i: Value, lanes: int = 1) -> Expr:
        """`lanes` consecutive elements from `i`."""
        place = self._place(i)
        if lanes > 1:
            place = tirx.Ramp(place, index(1), lanes)
        return tirx.BufferLoad(self.buffer, [place])

    def store(self, i: Value, value: Value, lanes: int | None = None) -> None:
        """Write `value` (all its lanes) from element `i` on; a number or a scalar is spread over `lanes`."""
        wanted = lanes or (1 if isinstance(value, int | float) else lanes_of(value))
        value = self.builder.spread(value, wanted, self.dtype)
        place = self._place(i)
        if wanted > 1:
            place = tirx.Ramp(place, index(1), wanted)
        self.builder.emit(tirx.BufferStore(self.buffer, value, [place]))

    def address(self, i: Value) -> Expr:
        """The address of element `i`, for intrinsics."""
        return tirx.address_of(tirx.BufferLoad(self.buffer, [self._place(i)]))

    def prefetch(self, i: Value, *, write: bool = False, level: int = 1) -> None:
        """Ask for the cache line of element `i`, into level 1 (nearest) to 3. Any address is allowed."""
        address = self.address(i)
        hints = (1 if write else 0, 4 - level, 1)
        self.builder.intrinsic_statement("llvm.prefetch", address, *(tirx.const(h, "int32") for h in hints))


class Register:
    """A local variable of `lanes` elements."""

    def __init__(self, builder: Builder, buffer: Expr, dtype: str, lanes: int) -> None:
        self.builder = builder
        self.buffer = buffer
        self.dtype = dtype
        self.lanes = lanes

    def _place(self) -> Expr:
        return index(0) if self.lanes == 1 else tirx.Ramp(index(0), index(1), self.lanes)

    @property
    def value(self) -> Expr:
        """What the variable holds where this expression is used."""
        return tirx.BufferLoad(self.buffer, [self._place()])

    def set(self, value: Value) -> None:
        """Assign; a scalar is spread over the lanes."""
        value = self.builder.spread(value, self.lanes, self.dtype)
        self.builder.emit(tirx.BufferStore(self.buffer, value, [self._place()]))

    def add(self, value: Value) -> None:
        """`self += value`; with a product this is the fused multiply-add."""
        self.set(self.value + value)
