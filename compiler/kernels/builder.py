"""The language kernels are written in: Python that lays down TIR statements, nothing hidden.

A complete example, `y = max(alpha * x, 0)` over `n` elements:

    def scale_relu(target: Target) -> Kernel:
        k = Builder("scale_relu_f32", target)
        x = k.input("x")                        # const float *x
        y = k.output("y")                       # float *y
        alpha = k.scalar("alpha")               # float alpha
        n = k.size("n")                         # int64_t n

        def element(i: Expr, lanes: int) -> None:
            scaled = k.let("scaled", x.load(i, lanes) * alpha)
            y.store(i, k.select(scaled < 0.0, 0.0, scaled))      # a NaN stays a NaN

        k.vectorized("i", n, element)           # whole vectors, then a scalar tail (lanes == 1)
        return k.finish()

What to know:
- Expressions are TVM's: `+ - * /`, comparisons and Python numbers work, a scalar meets a vector by
  broadcast. `a * b + c` becomes one FMA where the target has it (`rounded` prevents it). NaN and infinities
  are honoured.
- An expression used twice is computed twice (and a chain of such uses grows exponentially): name it
  with `let`, which computes it once, there.
- Comparisons are `< <= > >=`, `equal` and `is_nan`; all but the last are false for NaN.
- Indices are int64 ELEMENTS. `/` does not divide integers: use `divide` and `remainder`, for values >= 0.
- Loads and stores need only element alignment, so any NumPy array will do.
- Python loops unroll; `k.loop` loops at run time. State that changes in a loop lives in a `Register`
  (a local variable that LLVM keeps in a machine register) or in `k.stack` memory.
- Pointers must not alias, unless each element is read before, and only before, it is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from isthmus.errors import CompilerBug
from isthmus.kernels.kernel import Declared, Kernel, Parameter
from isthmus.kernels.memory import (
    Expr,
    Memory,
    Register,
    Value,
    dtype_of,
    element_type,
    index,
    lanes_of,
    vector_type,
)
from isthmus.kernels.tir import tirx, tvm
from isthmus.target import Target

__all__ = [
    "Builder",
    "Expr",
    "Memory",
    "Register",
    "Value",
    "dtype_of",
    "element_type",
    "index",
    "lanes_of",
    "vector_type",
]

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "int8": "int8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "uint8": "uint8_t",
    "uint16": "uint16_t",
    "uint32": "uint32_t",
    "uint64": "uint64_t",
    "bool": "uint8_t",
}

# Pointers carry no extent; TVM wants one, and so it gets one that nothing exceeds.
UNBOUNDED = 1 << 40


class Builder:
    """Collects the parameters and statements of one kernel; `finish` returns it."""

    def __init__(self, symbol: str, target: Target) -> None:
        self.symbol = target.symbol(symbol)
        self.target = target
        self.lanes = target.vector.lanes(32)
        self._parameters: list[Parameter] = []
        self._variables: list[Expr] = []
        self._scopes: list[list[Expr]] = [[]]
        self._helpers: set[str] = set()

    # Parameters

    def input(self, name: str, dtype: str = "float32") -> Memory:
        """`const T *name`: memory that is only read."""
        return self._pointer(name, dtype, "const ")

    def output(self, name: str, dtype: str = "float32") -> Memory:
        """`T *name`: memory that is written."""
        return self._pointer(name, dtype, "")

    def size(self, name: str) -> Expr:
        """`int64_t name`: a size, stride or position, in elements."""
        return self._value_parameter(name, "int64")

    def scalar(self, name: str, dtype: str = "float32") -> Expr:
        """`T name`: a number."""
        return self._value_parameter(name, dtype)

    def _pointer(self, name: str, dtype: str, qualifier: str) -> Memory:
        variable = tirx.Var(name, tvm.ir.PointerType(tvm.ir.PrimType(dtype)))
        buffer = tirx.decl_buffer((index(UNBOUNDED),), dtype, name=name, data=variable, layout=None)
        self._parameters.append(Parameter(name, f"{qualifier}{C_TYPES[dtype]} *"))
        self._variables.append(variable)
        self.emit(tirx.DeclBuffer(buffer, data=variable))
        return Memory(self, buffer, dtype)

    def _value_parameter(self, name: str, dtype: str) -> Expr:
        variable = tirx.Var(name, dtype)
        self._parameters.append(Parameter(name, C_TYPES[dtype]))
        self._variables.append(variable)
        return variable

    # Values

    def let(self, name: str, value: Value) -> Expr:
        """Compute `value` here, once, and give it a name. What needs no computing is returned as it is."""
        if isinstance(value, int | float | tirx.IntImm | tirx.FloatImm | tirx.Var):
            return value
        if element_type(dtype_of(value)) == "bool" and lanes_of(value) > 1:
            # TVM's analysis of integer ranges fails on a vector of truth values that is given a name.
            number = self.let(name, self.select(value, 1, 0, "uint8"))
            return tirx.Not(tirx.EQ(number, self.constant(0, number)))
        variable = tirx.Var(name, value.ty)
        self.emit(tirx.Bind(variable, value))
        return variable

    def spread(self, value: Value, lanes: int, dtype: str = "float32") -> Expr:
        """`value` as a vector of `lanes` (a scalar when 1); a Python number becomes a constant of `dtype`."""
        if isinstance(value, bool | int | float):
            value = tirx.const(value, dtype)
        if lanes == 1 or lanes_of(value) == lanes:
            return value
        return tirx.Broadcast(value, lanes)

    def constant(self, value: float, like: Expr) -> Expr:
        """`value` with the type and lanes of `like`."""
        return self.spread(value, lanes_of(like), element_type(dtype_of(like)))

    def select(self, condition: Expr, then: Value, otherwise: Value, dtype: str = "float32") -> Expr:
        """Lane by lane `condition ? then : otherwise`, both computed. `dtype` is for two numbers."""
        values = [v for v in (then, otherwise) if not isinstance(v, int | float)]
        dtype = element_type(dtype_of(values[0])) if values else dtype
        lanes = max(map(lanes_of, [condition, *values]))
        if lanes_of(condition) < lanes:
            condition = tirx.Broadcast(condition, lanes)
        return tirx.Select(condition, self.spread(then, lanes, dtype), self.spread(otherwise, lanes, dtype))

    def equal(self, a: Expr, b: Value) -> Expr:
        """`a == b`, lane by lane; false for NaN. (Python's own `==` on expressions does not make one.)"""
        return tirx.EQ(a, self.constant(b, a) if isinstance(b, int | float) else b)

    def is_nan(self, value: Expr) -> Expr:
        """Whether a float is NaN. (TVM's `!=` is false for NaN, hence this form.)"""
        return tirx.Not(tirx.EQ(value, value))

    def cast(self, value: Expr, dtype: str) -> Expr:
        """Convert the number; floats are truncated towards zero."""
        wanted = vector_type(dtype, lanes_of(value))
        if element_type(dtype_of(value)) == "bool" and dtype != "bool":
            return self.select(value, 1, 0, dtype)  # see `let`
        return value if dtype_of(value) == wanted else tirx.Cast(wanted, value)

    def bits(self, value: Expr, dtype: str) -> Expr:
        """The same bits read as another type of the same width."""
        if isinstance(value, tirx.IntImm) and value.value == 0:
            return tirx.const(0, dtype)  # to TVM, a 0 read as another type is a null pointer
        return tirx.reinterpret(vector_type(dtype, lanes_of(value)), value)

    def divide(self, a: Value, b: Value) -> Expr:
        """Integer `a // b` for a >= 0 and b > 0."""
        return tirx.truncdiv(index(a), index(b))

    def remainder(self, a: Value, b: Value) -> Expr:
        """Integer `a % b` for a >= 0 and b > 0."""
        return tirx.truncmod(index(a), index(b))

    def divide_up(self, a: Value, b: Value) -> Expr:
        """Integer ceil(a / b) for a >= 0 and b > 0."""
        return tirx.truncdiv(index(a) + b - 1, index(b))

    def smaller(self, a: Value, b: Value) -> Expr:
        """The smaller of two int64."""
        return tirx.min(index(a), index(b))

    def larger(self, a: Value, b: Value) -> Expr:
        """The larger of two int64."""
        return tirx.max(index(a), index(b))

    def shuffle(self, vectors: Sequence[Expr], order: Sequence[int]) -> Expr:
        """The lanes `order` of the concatenated `vectors`."""
        return tirx.Shuffle(list(vectors), [tirx.IntImm("int32", lane) for lane in order])

    def lane_numbers(self, lanes: int) -> Expr:
        """The int32 vector 0, 1, ... lanes - 1."""
        if lanes == 1:
            return tirx.IntImm("int32", 0)
        return tirx.Ramp(tirx.IntImm("int32", 0), tirx.IntImm("int32", 1), lanes)

    def reduce(self, value: Expr, combine: Callable[[Expr, Expr], Expr]) -> Expr:
        """All lanes combined into one scalar, by halves: log2(lanes) steps, in a fixed order."""
        lanes = lanes_of(value)
        while lanes > 1:
            value = self.let("part", value)
            lanes //= 2
            low, high = range(lanes), range(lanes, 2 * lanes)
            value = combine(self.shuffle([value], low), self.shuffle([value], high))
        return self.let("reduced", value)

    def reduce_sum(self, value: Expr) -> Expr:
        """The sum of all lanes."""
        return self.reduce(value, lambda a, b: a + b)

    def rounded(self, name: str, value: Expr) -> Expr:
        """`value`, named and rounded: never fused with what it is added to, so that all chips agree."""
        return self.let(name, self.intrinsic(dtype_of(value), "llvm.arithmetic.fence", value))

    def fused(self, a: Expr, b: Expr, c: Expr) -> Expr:
        """a * b + c, rounded once: only where the target does that in one instruction."""
        return self.intrinsic(dtype_of(c), "llvm.fma", a, b, c)

    def intrinsic(self, dtype: str, name: str, *arguments: Expr) -> Expr:
        """The value of an LLVM intrinsic without side effects: `intrinsic("float32x16", "llvm.sqrt", x)`."""
        return tirx.call_llvm_pure_intrin(dtype, name, *arguments)

    def intrinsic_statement(self, name: str, *arguments: Expr) -> None:
        """Call an LLVM intrinsic for its effect."""
        self.emit(tirx.Evaluate(tirx.call_llvm_intrin("void", name, *arguments)))

    def helper(self, dtype: str, name: str, *arguments: Expr) -> Expr:
        """The value of an instruction that the target brings: see `Target.instructions`."""
        text = self.target.instruction(name)
        if text is None:
            raise CompilerBug(f"{self.symbol}: {self.target.name} has no instruction {name}")
        self._helpers.add(text)
        return tirx.call_pure_extern(dtype, f"isthmus_{name}", *arguments)

    # Local state

    def register(
        self, name: str, lanes: int, initial: Value | None = None, dtype: str = "float32"
    ) -> Register:
        """A local variable of `lanes` elements. Create it outside the loop in which it is to survive."""
        buffer = self._local(name, lanes, dtype)
        register = Register(self, buffer, dtype, lanes)
        if initial is not None:
            register.set(initial)
        return register

    def tile(
        self, name: str, rows: int, columns: int, lanes: int, dtype: str = "float32"
    ) -> list[list[Register]]:
        """`rows` x `columns` registers: `tile[i][j]`."""
        return [
            [self.register(f"{name}_{i}_{j}", lanes, dtype=dtype) for j in range(columns)]
            for i in range(rows)
        ]

    def stack(self, name: str, count: int, dtype: str = "float32", aligned: bool = False) -> Memory:
        """`count` elements on the stack, indexable at run time; `aligned` as the target's vectors are."""
        if not aligned:
            return Memory(self, self._local(name, count, dtype), dtype)
        # What is no vector gets 16 bytes from TVM at most.
        lanes = self.lanes * 4 // np.dtype(dtype).itemsize
        vectors = self._local(f"{name}_vectors", -(-count // lanes), vector_type(dtype, lanes))
        data, shape = vectors.data, (index(count),)
        buffer = tirx.decl_buffer(shape, dtype, name=name, data=data, scope="local", layout=None)
        self.emit(tirx.DeclBuffer(buffer, data=data))
        return Memory(self, buffer, dtype)

    def _local(self, name: str, count: int, dtype: str) -> Expr:
        buffer = tirx.decl_buffer((index(count),), dtype, name=name, scope="local", layout=None)
        self.emit(tirx.AllocBuffer(buffer))
        return buffer

    # Statements

    def emit(self, statement: Expr) -> None:
        """Append one TIR statement to the innermost open block."""
        self._scopes[-1].append(statement)

    @contextmanager
    def _block(self) -> Iterator[list[Expr]]:
        statements: list[Expr] = []
        self._scopes.append(statements)
        yield statements
        self._scopes.pop()
        if not statements:
            statements.append(tirx.Evaluate(tirx.IntImm("int32", 0)))

    @contextmanager
    def loop(self, name: str, begin: Value, end: Value) -> Iterator[Expr]:
        """`for name in [begin, end)` at run time, one by one; nothing when end <= begin."""
        first = index(begin)
        counter = tirx.Var(name, "int64")
        with self._block() as body:
            yield counter
        extent = index(end) if isinstance(begin, int) and begin == 0 else index(end) - first
        self.emit(tirx.For(counter, first, extent, tirx.ForKind.SERIAL, _sequence(body)))

    @contextmanager
    def repeat(self, condition: Expr) -> Iterator[None]:
        """`while (condition) { ... }`, the condition computed anew each time."""
        with self._block() as body:
            yield
        self.emit(tirx.While(condition, _sequence(body)))

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """`if (condition) { ... }`"""
        with self._block() as body:
            yield
        self.emit(tirx.IfThenElse(condition, _sequence(body), None))

    @contextmanager
    def otherwise(self) -> Iterator[None]:
        """The `else` of the `when` just before it. (`elif`: a `when` inside an `otherwise`.)"""
        if not self._scopes[-1] or not isinstance(self._scopes[-1][-1], tirx.IfThenElse):
            raise CompilerBug(f"{self.symbol}: otherwise() without a when() before it")
        before = self._scopes[-1].pop()
        with self._block() as body:
            yield
        self.emit(tirx.IfThenElse(before.condition, before.then_case, _sequence(body)))

    def choose(self, cases: Sequence[tuple[Expr, Callable[[], None]]], default: Callable[[], None]) -> None:
        """`if / else if / ... / else` over run-time conditions, tested in order."""
        if not cases:
            default()
            return
        condition, then = cases[0]
        with self.when(condition):
            then()
        with self.otherwise():
            self.choose(cases[1:], default)

    def vectorized(
        self, name: str, count: Value, body: Callable[[Expr, int], None], *, lanes: int | None = None
    ) -> None:
        """`body(i, lanes)` for whole vectors of [0, count), then `body(i, 1)` for the elements left."""
        width = lanes or self.lanes
        whole = self.let("whole", self.divide(count, width) * width)
        with self.loop(f"{name}_block", 0, self.divide(count, width)) as block:
            body(self.let(name, block * width), width)
        with self.loop(f"{name}_tail", whole, count) as i:
            body(i, 1)

    def finish(self) -> Kernel:
        """The kernel, complete."""
        func = self._function()
        return self._kernel(lambda: func)

    def later(self, body: Callable[[], None]) -> Kernel:
        """The kernel with the parameters declared so far; `body` lays down the statements when needed."""

        declared = list(self._scopes[0])

        def build() -> Expr:
            self._scopes = [list(declared)]
            body()
            return self._function()

        return self._kernel(build)

    def _kernel(self, build: Callable[[], Expr]) -> Kernel:
        declared = Declared(tuple(self._parameters), build)
        return Kernel(self.symbol, lambda: declared)

    def _function(self) -> Expr:
        if len(self._scopes) != 1:
            raise CompilerBug(f"{self.symbol}: finished inside an open block")
        body = _sequence(self._scopes[0])
        if self._helpers:
            text = tvm.ir.StringImm("".join(sorted(self._helpers)))
            body = tirx.AttrStmt(tirx.const(0, "int32"), "pragma_import_llvm", text, body)
        func = tirx.PrimFunc(self._variables, body)
        return func.with_attr({"global_symbol": self.symbol, "tirx.noalias": True})


def _sequence(statements: Sequence[Expr]) -> Expr:
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))
