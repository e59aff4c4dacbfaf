"""From the steps of an expression to TIR: what is computed once, once a row, and for each element.

A step that does not depend on the innermost loop is computed outside of it, on scalars. For a row-wise
gather (an embedding) this makes the address of the row, and the loop over the row is plain vector code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from isthmus.errors import CompilerBug
from isthmus.ir.types import DType
from isthmus.kernels.builder import Builder, Expr, Memory, index, lanes_of
from isthmus.kernels.loops_math import hold
from isthmus.kernels.loops_nest import Apply, Gather, Index, Load, Nest, Parameter, Reduced, Scalar, Step
from isthmus.kernels.loops_pointwise import apply, decode, encode, memory_type, round_to, value_type
from isthmus.kernels.tir import tirx


@dataclass(frozen=True, slots=True)
class Arguments:
    """The parameters of a nest's kernel, read into variables.

    `strides[i][d]` is the stride of operand i along loop d, `gathers[i][j]` the extent and stride of its
    j-th gather index; the output comes last in `strides`.
    """

    operands: tuple[Memory, ...]
    output: Memory
    extents: tuple[Expr, ...]
    parameters: Mapping[int, Expr]
    strides: tuple[tuple[Expr, ...], ...]
    gathers: tuple[tuple[tuple[Expr, Expr], ...], ...]
    fault: Memory
    site: Expr
    begin: Expr
    end: Expr


@dataclass(frozen=True, slots=True)
class Place:
    """Where the loops stand: the variable of each loop but the innermost, and each operand's offset there."""

    variables: Mapping[int, Expr]
    offsets: tuple[Expr, ...]


class Level(IntEnum):
    """How often a step is computed."""

    ONCE = 0
    ROW = 1
    ELEMENT = 2


class Faults:
    """Remembers in registers whether an index was out of range, and tells the caller at the end."""

    def __init__(self, k: Builder, lanes: int) -> None:
        self.k = k
        self.row = k.register("fault_row", 1, 0, "int32")
        self.element = k.register("fault_element", lanes, 0, "int32")

    def add(self, valid: Expr) -> None:
        """Note the lanes that are not valid."""
        lanes = lanes_of(valid)
        if lanes in (1, self.element.lanes):
            register = self.row if lanes == 1 else self.element
            register.set(self.k.select(valid, register.value, self.k.constant(1, register.value)))
            return
        raise CompilerBug(f"faults of {lanes} lanes")

    def report(self, arguments: Arguments) -> None:
        """`*fault = site` if there was any."""
        one = self.k.reduce(self.element.value, tirx.bitwise_or)
        with self.k.when(tirx.Not(tirx.EQ(tirx.bitwise_or(one, self.row.value), self.k.constant(0, one)))):
            arguments.fault.store(0, arguments.site)


class Expression:
    """The value of the last of `steps`, to be emitted at its three levels from the outside in."""

    def __init__(
        self,
        k: Builder,
        nest: Nest,
        arguments: Arguments,
        steps: Sequence[Step],
        faults: Faults | None,
        innermost: int,
    ) -> None:
        self.k = k
        self.nest = nest
        self.arguments = arguments
        self.steps = steps
        self.faults = faults
        self.innermost = innermost  # the loop that elements are counted along; -1 when there is none
        self.levels: list[Level] = []
        for step in steps:
            self.levels.append(self._level(step))
        self.place = Place({}, ())
        self._outer: dict[int, Expr] = {}
        self._rows: dict[int, Expr] = {}  # of a gather: the offset without the part that varies by element

    def _level(self, step: Step) -> Level:
        own = Level.ONCE
        match step.node:
            case Load(operand=operand) | Gather(operand=operand):
                own = Level.ROW if self._is_still(operand) else Level.ELEMENT
            case Index(loop=loop):
                own = Level.ELEMENT if loop == self.innermost else Level.ROW
            case Reduced():
                own = Level.ELEMENT
            case _:
                pass
        return max((own, *(self.levels[a] for a in step.args)))

    def _is_still(self, operand: int) -> bool:
        return self.innermost < 0 or self.nest.operands[operand].inner == "zero"

    def varies(self) -> bool:
        """Whether lanes must be loaded one by one: a stride along the innermost loop, or an index in it."""
        for step, level in zip(self.steps, self.levels, strict=True):
            if level is not Level.ELEMENT or not isinstance(step.node, Load | Gather):
                continue
            if self.nest.operands[step.node.operand].inner == "any":
                return True
            if any(self.levels[a] is Level.ELEMENT for a in step.args):
                return True
        return False

    # The three levels

    def emit_once(self) -> None:
        """Compute what no loop changes."""
        self._outer = {}
        self._emit(Level.ONCE)

    def emit_row(self, place: Place) -> None:
        """Compute what the innermost loop does not change."""
        self.place = place
        self._emit(Level.ROW)
        for i, step in enumerate(self.steps):
            if isinstance(step.node, Gather) and self.levels[i] is Level.ELEMENT:
                self._rows[i] = self._row_offset(step)

    def _emit(self, level: Level) -> None:
        for i, step in enumerate(self.steps):
            if self.levels[i] is level:
                self._outer[i] = self._named(step, self._value(i, step, self._outer, index(0), 1, None))

    def element(self, column: Expr, lanes: int, reduced: Expr | None = None) -> Expr:
        """The value at `lanes` columns from `column` on; a scalar if it is the same in all."""
        values = dict(self._outer)
        for i, step in enumerate(self.steps):
            if self.levels[i] is Level.ELEMENT:
                values[i] = self._named(step, self._value(i, step, values, column, lanes, reduced))
        return values[len(self.steps) - 1]

    # Steps

    def _named(self, step: Step, value: Expr) -> Expr:
        return hold(self.k, "value", value)

    def _value(
        self, i: int, step: Step, values: Mapping[int, Expr], column: Expr, lanes: int, reduced: Expr | None
    ) -> Expr:
        k = self.k
        match step.node:
            case Load(operand=operand):
                return self._load(operand, self.place.offsets[operand], column, lanes)
            case Gather():
                return self._gather(i, step, values, column, lanes)
            case Index(loop=loop):
                return round_to(
                    k, k.cast(self._variable(loop, column, lanes), value_type(step.dtype)), step.dtype
                )
            case Scalar(value=value):
                return constant(value, step.dtype)
            case Parameter(slot=slot):
                return round_to(
                    k, k.cast(self.arguments.parameters[slot], value_type(step.dtype)), step.dtype
                )
            case Reduced():
                if reduced is None:
                    raise CompilerBug("Reduced() outside of finish")
                return reduced
            case Apply(op=op):
                arguments = [values[a] for a in step.args]
                wide = max(map(lanes_of, arguments))
                spread = [k.spread(a, wide) for a in arguments]
                return apply(k, op, step.dtype, spread, [self.steps[a].dtype for a in step.args])

    def _variable(self, loop: int, column: Expr, lanes: int) -> Expr:
        if loop != self.innermost:
            return self.place.variables[loop]
        return column if lanes == 1 else tirx.Ramp(column, index(1), lanes)

    def _load(self, operand: int, offset: Expr, column: Expr, lanes: int) -> Expr:
        dtype = self.nest.operands[operand].dtype
        memory = self.arguments.operands[operand]
        match "zero" if self._is_still(operand) else self.nest.operands[operand].inner:
            case "zero":
                return decode(self.k, hold(self.k, "stored", memory.load(offset)), dtype)
            case "unit":
                return decode(self.k, hold(self.k, "stored", memory.load(offset + column, lanes)), dtype)
            case "any":
                stride = self.arguments.strides[operand][self.innermost]
                places = [offset + (column + lane) * stride for lane in range(lanes)]
                return decode(self.k, self._collect(memory, places), dtype)

    def _collect(self, memory: Memory, places: Sequence[Expr]) -> Expr:
        """A vector of elements from anywhere."""
        loaded = [self.k.let("lane", memory.load(place)) for place in places]
        return (
            loaded[0]
            if len(loaded) == 1
            else hold(self.k, "stored", self.k.shuffle(loaded, range(len(loaded))))
        )

    # Gathers

    def _picked(self, step: Step, position: int, value: Expr) -> Expr:
        """The offset that one index adds; a fault and 0 if it is out of range."""
        assert isinstance(step.node, Gather) and self.faults is not None
        k = self.k
        extent, stride = self.arguments.gathers[step.node.operand][position]
        chosen = hold(k, "chosen", k.cast(value, "int64"))
        extent, stride = k.spread(extent, lanes_of(chosen)), k.spread(stride, lanes_of(chosen))
        zero = k.constant(0, chosen)
        wrapped = hold(k, "wrapped", k.select(chosen < zero, chosen + extent, chosen))
        # As unsigned numbers, negative ones are too large.
        valid = hold(k, "valid", k.bits(wrapped, "uint64") < k.bits(extent, "uint64"))
        self.faults.add(valid)
        return hold(k, "picked", k.select(valid, wrapped, zero) * stride)

    def _row_offset(self, step: Step) -> Expr:
        """The offset of a gather as far as it is known outside the innermost loop."""
        assert isinstance(step.node, Gather)
        offset = self.place.offsets[step.node.operand]
        for position, a in enumerate(step.args):
            if self.levels[a] is not Level.ELEMENT:
                offset = offset + self._picked(step, position, self._outer[a])
        return self.k.let("gathered", offset)

    def _gather(self, i: int, step: Step, values: Mapping[int, Expr], column: Expr, lanes: int) -> Expr:
        assert isinstance(step.node, Gather)
        operand = step.node.operand
        offset = self._rows[i] if self.levels[i] is Level.ELEMENT else self._row_offset(step)
        moving = [(p, a) for p, a in enumerate(step.args) if self.levels[a] is Level.ELEMENT]
        if not moving:
            return self._load(operand, offset, column, lanes)
        total = self.k.constant(0, tirx.Broadcast(index(0), lanes) if lanes > 1 else index(0))
        for position, a in moving:
            total = total + self._picked(step, position, values[a])
        total = self.k.let("total", total)
        inner = self.nest.operands[operand].inner
        stride = {"zero": index(0), "unit": index(1)}.get(inner) or self.arguments.strides[operand][
            self.innermost
        ]
        first = self.k.let("first", offset + column * stride)
        picked = [total] if lanes == 1 else [self.k.shuffle([total], [lane]) for lane in range(lanes)]
        places = [first + lane * stride + p for lane, p in enumerate(picked)]
        memory = self.arguments.operands[operand]
        return decode(self.k, self._collect(memory, places), self.nest.operands[operand].dtype)


def constant(value: float | int | bool, dtype: DType) -> Expr:
    """A literal, as it is inside an expression."""
    if dtype is DType.BOOL:
        return tirx.const(bool(value), "bool")
    # Through NumPy, which rounds to the type.
    rounded = dtype.numpy.type(value)
    return tirx.const(float(rounded) if dtype.is_float else int(rounded), value_type(dtype))


def store(
    k: Builder, nest: Nest, arguments: Arguments, place: Place, column: Expr, lanes: int, value: Expr
) -> None:
    """Write `value` to `lanes` elements of the output from `column` of the innermost loop on."""
    dtype = nest.output.dtype
    encoded = hold(k, "encoded", encode(k, value, dtype))
    offset = place.offsets[-1]
    if nest.output.inner == "unit":
        arguments.output.store(offset + column, encoded, lanes)
        return
    stride = arguments.strides[-1][-1] if nest.innermost_kept else index(0)
    encoded = k.spread(encoded, lanes, memory_type(dtype))
    for lane in range(lanes):
        part = encoded if lanes == 1 else k.shuffle([encoded], [lane])
        arguments.output.store(offset + (column + lane) * stride, part)
