"""The loops around an expression: over units of work, over rows, and three ways to fill them.

- Nothing reduced: each row is whole vectors, then single elements.
- The innermost loop reduced: a row is folded into vectors of accumulators, these into one number.
- The innermost loop kept: strips of columns are folded in registers, row by row; y is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from isthmus.errors import CompilerBug
from isthmus.ir.types import DType
from isthmus.kernels.builder import Builder, Expr, Register, index
from isthmus.kernels.loops_emit import Arguments, Expression, Faults, Level, Place, store
from isthmus.kernels.loops_math import hold
from isthmus.kernels.loops_nest import Fold, Gather, Nest, Parameter, Step, gather_counts, listings
from isthmus.kernels.loops_pointwise import accumulator_type, combine, decode, identity, memory_type
from isthmus.kernels.tir import tirx
from isthmus.target import Target

# Vectors in flight in a reduction, when the expression is too short to keep the machine busy on its own.
UNROLL = 4
SHORT = 8
# Columns done at a time when an operand strides along the innermost loop: the next rows find its cache lines.
STRIP = 32


class Generator:
    """Generates the function of one nest."""

    def __init__(self, nest: Nest, target: Target, symbol: str) -> None:
        self.nest = nest
        self.k = Builder(symbol, target)
        body, finish = listings(nest)
        self.arguments = _read_arguments(self.k, nest, (*body, *finish))
        self.innermost = len(nest.loops) - 1  # -1 when there is none
        self.count = self.arguments.extents[-1] if nest.loops else index(1)
        self.body_steps = body
        self.finish_steps = finish
        self.finish: Expression | None = None
        self.dtype = body[-1].dtype
        self.lanes = 1

    def generate(self) -> Expr:
        """The function, complete."""
        k, arguments = self.k, self.arguments
        work = arguments.begin < arguments.end
        if self.nest.innermost_kept:
            work = tirx.And(work, self.count > 0)
        with k.when(work):
            self._guarded()
        return k.finish().func

    def _guarded(self) -> None:
        """The loops, unless something that has no elements is to be gathered from."""
        empty = self._empty()
        if empty is None:
            self._loops()
            return
        with self.k.when(empty):
            self.arguments.fault.store(0, self.arguments.site)
        with self.k.otherwise():
            self._loops()

    def _empty(self) -> Expr | None:
        """Whether some gather would read from an extent of 0."""
        conditions = []
        for steps, loops in ((self.body_steps, self.nest.reduced_loops), (self.finish_steps, ())):
            for operand in sorted({s.node.operand for s in steps if isinstance(s.node, Gather)}):
                for extent, _ in self.arguments.gathers[operand]:
                    condition = extent <= 0
                    for loop in loops:
                        condition = tirx.And(condition, self.arguments.extents[loop] > 0)
                    conditions.append(condition)
        total = None
        for condition in conditions:
            total = condition if total is None else tirx.Or(total, condition)
        return total

    def _loops(self) -> None:
        k, nest = self.k, self.nest
        shape = Expression(k, nest, self.arguments, self.body_steps, None, self.innermost)
        self.lanes = self._width(shape)
        gathers = any(isinstance(s.node, Gather) for s in (*self.body_steps, *self.finish_steps))
        faults = Faults(k, self.lanes) if gathers else None
        self.body = Expression(k, nest, self.arguments, self.body_steps, faults, self.innermost)
        self.body.emit_once()
        if self.finish_steps:
            innermost = self.innermost if nest.innermost_kept else -1
            self.finish = Expression(k, nest, self.arguments, self.finish_steps, faults, innermost)
            self.finish.emit_once()
        if not nest.reduced_loops:
            self._map()
        elif nest.innermost_kept:
            self._fold_columns()
        else:
            self._fold_row()
        if faults:
            faults.report(self.arguments)

    def _width(self, shape: Expression) -> int:
        """Lanes of a vector: one register of the widest type up to 32 bits; wider types take several."""
        if not self.nest.loops:
            return 1
        moving = [s for s, level in zip(shape.steps, shape.levels, strict=True) if level is Level.ELEMENT]
        bits = {_value_bits(step) for step in (*moving, *self.finish_steps)}
        bits.add(self.nest.output.dtype.bits)
        return self.k.target.vector.lanes(32 if shape.varies() else min(32, max(bits)))

    # Units of work

    def _units(self, body: Callable[[Place, Expr, Expr], None], *, strips: bool = False) -> None:
        """`body(place, low, high)` for each unit in [begin, end) and the columns [low, high) of its row.

        Units of a block share all but the last of their loops. With `strips` the rows of a block are
        done one strip of columns after the other.
        """
        k, arguments = self.k, self.arguments
        loops = self.nest.unit_loops
        if not loops:
            with k.loop("unit", arguments.begin, arguments.end):
                body(self._place({}), index(0), self.count)
            return
        rows = arguments.extents[loops[-1]]
        first = k.let("first_block", k.divide(arguments.begin, rows))
        last = k.let("last_block", k.divide_up(arguments.end, rows))
        with k.loop("block", first, last) as block:
            variables: dict[int, Expr] = {}
            rest = block
            for loop in reversed(loops[1:-1]):
                variables[loop] = k.let("index", k.remainder(rest, arguments.extents[loop]))
                rest = k.let("rest", k.divide(rest, arguments.extents[loop]))
            if len(loops) > 1:
                variables[loops[0]] = rest
            base = self._place(variables)
            start = k.let("start", block * rows)
            top = k.let("top", k.larger(arguments.begin - start, 0))
            bottom = k.let("bottom", k.smaller(arguments.end - start, rows))
            with self._columns(strips) as (low, high), k.loop("row", top, bottom) as row:
                body(self._step(base, loops[-1], row), low, high)

    @contextmanager
    def _columns(self, strips: bool) -> Iterator[tuple[Expr, Expr]]:
        if not strips:
            yield index(0), self.count
            return
        with self.k.loop("strip", 0, self.k.divide_up(self.count, STRIP)) as strip:
            low = self.k.let("low", strip * STRIP)
            yield low, self.k.let("high", self.k.smaller(low + STRIP, self.count))

    def _place(self, variables: dict[int, Expr]) -> Place:
        offsets = []
        for strides in self.arguments.strides:
            offset: Expr = index(0)
            for loop, variable in variables.items():
                offset = offset + variable * strides[loop]
            offsets.append(self.k.let("offset", offset))
        return Place(variables, tuple(offsets))

    def _step(self, place: Place, loop: int, variable: Expr) -> Place:
        """`place`, moved along one more loop."""
        offsets = [
            self.k.let("offset", offset + variable * strides[loop])
            for offset, strides in zip(place.offsets, self.arguments.strides, strict=True)
        ]
        return Place({**place.variables, loop: variable}, tuple(offsets))

    def _over_reduced(self, stack: ExitStack, place: Place, loops: Sequence[int]) -> Place:
        """Enter the loops `loops`, for as long as `stack` is open."""
        inside = place
        for loop in loops:
            variable = stack.enter_context(self.k.loop("reduced", 0, self.arguments.extents[loop]))
            variables = {**inside.variables, loop: variable}
            # The output does not move along a reduced loop.
            moved = [
                self.k.let("offset", offset + variable * strides[loop])
                for offset, strides in zip(inside.offsets[:-1], self.arguments.strides[:-1], strict=True)
            ]
            inside = Place(variables, (*moved, place.offsets[-1]))
        return inside

    # Nothing reduced

    def _map(self) -> None:
        strides = self.body.varies() or (self.nest.innermost_kept and self.nest.output.inner != "unit")
        self._units(self._map_row, strips=strides)

    def _map_row(self, place: Place, low: Expr, high: Expr) -> None:
        self.body.emit_row(place)

        def element(column: Expr, lanes: int) -> None:
            store(self.k, self.nest, self.arguments, place, column, lanes, self.body.element(column, lanes))

        if not self.nest.loops:
            element(low, 1)
            return
        self._over_row(low, high, self.lanes, element)

    def _over_row(self, low: Expr, high: Expr, width: int, element: Callable[[Expr, int], None]) -> None:
        """Whole blocks of `width` columns of [low, high), then one by one."""
        k = self.k
        if width == 1:
            with k.loop("column", low, high) as column:
                element(column, 1)
            return
        blocks = k.let("blocks", k.divide(high - low, width))
        with k.loop("column_block", 0, blocks) as block:
            element(k.let("column", low + block * width), width)
        with k.loop("column", k.let("tail", low + blocks * width), high) as column:
            element(column, 1)

    # The innermost loop reduced

    def _fold_row(self) -> None:
        k, fold = self.k, self._fold()
        kind, start = accumulator_type(self.dtype), identity(fold, self.dtype)
        unroll = self._unroll()
        vectors = [k.register(f"sum_{i}", self.lanes, start, kind) for i in range(unroll)]
        single = k.register("sum_tail", 1, start, kind)

        def row(place: Place, low: Expr, high: Expr) -> None:
            for register in (*vectors, single):
                register.set(k.constant(start, register.value))
            with ExitStack() as stack:
                inside = self._over_reduced(stack, place, self.nest.reduced_loops[:-1])
                # A row without elements may have no memory either.
                stack.enter_context(k.when(high > low))
                self.body.emit_row(inside)
                done = self._fold_blocks(vectors, low, high)
                with k.loop("column", done, high) as column:
                    self._fold_into(single, column, 1)
            total = vectors[0].value
            for vector in vectors[1:]:
                total = self._combine(total, vector.value)
            folded = k.reduce(total, self._combine)
            if self.finish is not None:
                self.finish.emit_row(place)
            self._finish(place, index(0), 1, self._combine(folded, single.value))

        self._units(row)

    def _fold_blocks(self, vectors: Sequence[Register], low: Expr, high: Expr) -> Expr:
        """Fold blocks of all vectors at once, then of one; the first column left."""
        k, lanes = self.k, self.lanes
        for count in dict.fromkeys((len(vectors), 1)):
            width = count * lanes
            blocks = k.let("blocks", k.divide(high - low, width))
            with k.loop("column_block", 0, blocks) as block:
                column = k.let("column", low + block * width)
                for i, vector in enumerate(vectors[:count]):
                    self._fold_into(vector, column + i * lanes, lanes)
            low = k.let("done", low + blocks * width)
        return low

    def _fold_into(self, register: Register, column: Expr, lanes: int) -> None:
        value = self.body.element(column, lanes)
        if self.dtype is DType.BOOL:
            value = self.k.cast(value, "uint8")
        value = self.k.spread(value, lanes)
        register.set(combine(self.k, self._fold(), self.dtype, register.value, value))

    def _combine(self, a: Expr, b: Expr) -> Expr:
        a, b = hold(self.k, "a", a), hold(self.k, "b", b)
        return hold(self.k, "folded", combine(self.k, self._fold(), self.dtype, a, b))

    def _fold(self) -> Fold:
        if self.nest.fold is None:
            raise CompilerBug("no fold")
        return self.nest.fold

    def _unroll(self) -> int:
        cheap = len(self.body_steps) <= SHORT and not self.body.varies()
        return UNROLL if cheap else 1

    def _finish(self, place: Place, column: Expr, lanes: int, folded: Expr) -> None:
        """Apply `finish` to the result of the fold and write it."""
        if self.dtype is DType.BOOL:
            folded = decode(self.k, folded, DType.BOOL)
        value = folded
        if self.finish is not None:
            value = self.finish.element(column, lanes, folded)
        store(self.k, self.nest, self.arguments, place, column, lanes, value)

    # The innermost loop kept

    def _fold_columns(self) -> None:
        k, fold = self.k, self._fold()
        kind, start = accumulator_type(self.dtype), identity(fold, self.dtype)
        vectors = [k.register(f"columns_{i}", self.lanes, start, kind) for i in range(self._unroll())]
        single = k.register("column_tail", 1, start, kind)

        def strip(place: Place, registers: Sequence[Register], column: Expr, lanes: int) -> None:
            for register in registers:
                register.set(k.constant(start, register.value))
            with ExitStack() as stack:
                self.body.emit_row(self._over_reduced(stack, place, self.nest.reduced_loops))
                for i, register in enumerate(registers):
                    self._fold_into(register, column + i * lanes, lanes)
            for i, register in enumerate(registers):
                self._finish(place, column + i * lanes, lanes, register.value)

        def row(place: Place, low: Expr, high: Expr) -> None:
            if self.finish is not None:
                self.finish.emit_row(place)
            for count in dict.fromkeys((len(vectors), 1)):
                width = count * self.lanes
                blocks = k.let("blocks", k.divide(high - low, width))
                with k.loop("column_block", 0, blocks) as block:
                    strip(place, vectors[:count], k.let("column", low + block * width), self.lanes)
                low = k.let("done", low + blocks * width)
            with k.loop("column", low, high) as column:
                strip(place, [single], column, 1)

        self._units(row)


def _value_bits(step: Step) -> int:
    """The width of a step's value; a loop variable starts as an int64."""
    return 32 if step.dtype.is_narrow else step.dtype.bits


def _read_arguments(k: Builder, nest: Nest, steps: Sequence[Step]) -> Arguments:
    """Declare the parameters and read the arrays among them into variables."""
    operands = tuple(k.input(f"a{i}", memory_type(a.dtype)) for i, a in enumerate(nest.operands))
    output = k.output("y", memory_type(nest.output.dtype))
    extents, strides = k.input("extents", "int64"), k.input("strides", "int64")
    fault, site = k.output("fault", "int32"), k.scalar("site", "int32")
    begin, end = k.size("begin"), k.size("end")
    depth, position = len(nest.loops), 0

    def take(name: str) -> Expr:
        nonlocal position
        position += 1
        return k.let(name, strides.load(position - 1))

    along: list[tuple[Expr, ...]] = []
    gathers: list[tuple[tuple[Expr, Expr], ...]] = []
    for i, count in enumerate(gather_counts(nest)):
        along.append(tuple(take(f"a{i}_{loop}") for loop in range(depth)))
        gathers.append(tuple((take(f"a{i}_extent"), take(f"a{i}_stride")) for _ in range(count)))
    along.append(tuple(take(f"y_{loop}") for loop in range(depth)))
    slots = sorted({step.node.slot for step in steps if isinstance(step.node, Parameter)})
    return Arguments(
        operands=operands,
        output=output,
        extents=tuple(k.let(f"n{loop}", extents.load(loop)) for loop in range(depth)),
        parameters={slot: k.let(f"parameter{slot}", extents.load(depth + slot)) for slot in slots},
        strides=tuple(along),
        gathers=tuple(gathers),
        fault=fault,
        site=site,
        begin=begin,
        end=end,
    )
