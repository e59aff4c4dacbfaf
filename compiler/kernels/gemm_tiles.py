"""Matrix product in tile registers: 2 x 2 tiles of sums, their ends made from a stage in the nearest cache.

Elements are bf16, with sums in f32, or bytes, with exact sums in i32. Rows are cut into tiles of one height,
so that the tiles are set up once; the last one may begin within the one before, and then what both have is
written once. x is read where it lies, the weights from `Interleaved` panels two tiles wide. Scales, bias,
residual, activation and the form of the result come when the sums are in the stage. A K that is no whole
number of lines goes through copies that end in zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isthmus.kernels import gemm
from isthmus.kernels.arithmetic import Arithmetic, DotBF16, round_bf16, rounded_pair
from isthmus.kernels.builder import Expr, Memory, Value
from isthmus.kernels.byte_products import UnsignedQuads
from isthmus.kernels.byte_steps import Steps
from isthmus.kernels.gemm_ends import Parameters
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.math import Function
from isthmus.kernels.math_short import activation_of
from isthmus.kernels.tiles import LINE, ROWS, WORDS, TileUnit
from isthmus.target import TILE_COLUMNS, Target

SUMS = ((0, 1), (2, 3))  # tiles of sums by tile of a and tile of b
A, B = (4, 5), (6, 7)
PAIR = 2
# What a word holds, and what its sums become, by elements; products themselves are the unit's.
ARITHMETIC: dict[str, type[Arithmetic]] = {"bf16": DotBF16, "u8": UnsignedQuads}


def kernel(target: Target, activation: str | None, residual: bool, rounded: bool) -> Kernel:
    """`gemm.kernel` for x and w of bf16, with the same parameters."""
    function = activation_of(activation, rounded)
    symbol = gemm.symbol_of("bf16", activation, residual, rounded)
    return _deferred(symbol, target, "bf16", function, residual, rounded, None)


def byte_kernel(
    target: Target, activation: str | None, residual: bool, short: bool = False, steps: Steps | None = None
) -> Kernel:
    """`gemm.kernel` for x of u8 and w of i8, with the same parameters and the same bits."""
    function = activation_of(activation, short=short)
    symbol = gemm.symbol_of("i8", activation, residual, short=short, steps=steps)
    return _deferred(symbol, target, "u8", function, residual, False, steps)


def _deferred(
    symbol: str,
    target: Target,
    element: str,
    function: Function | None,
    residual: bool,
    rounded: bool,
    steps: Steps | None,
) -> Kernel:
    return Kernel.deferred(
        target.symbol(symbol),
        lambda: _TileGemm(symbol, target, element, function, residual, rounded, steps).kernel(),
        tiles=True,
    )


@dataclass(frozen=True, slots=True)
class _Row:
    """A tile of rows: the first one, and the first that no tile before has."""

    first: Expr
    fresh: Expr


class _TileGemm(Parameters):
    def __init__(
        self,
        symbol: str,
        target: Target,
        element: str,
        activation: Function | None,
        residual: bool,
        rounded: bool,
        steps: Steps | None,
    ) -> None:
        made = ARITHMETIC[element]
        super().__init__(symbol, target, activation, residual, made, rounded, steps)
        self.element, self.group, self.step = element, made.group, WORDS * made.group
        self.line = made.line(target.caches.line_bytes) * made.group

    def kernel(self) -> Kernel:
        return self.k.later(self.body)

    def body(self) -> None:
        k = self.k
        self.tile = TileUnit(k, self.element)
        self.stage = k.stack("stage", PAIR * ROWS * TILE_COLUMNS, self.arithmetic.sums, aligned=True)
        self.x_rest = k.stack("x_rest", PAIR * ROWS * self.step, self.arithmetic.x, aligned=True)
        self.w_rest = k.stack("w_rest", self.step * TILE_COLUMNS, self.arithmetic.w, aligned=True)
        rows = k.let("rows", self.row_end - self.row_begin)
        self.pitch = k.let("panel_words", k.divide_up(self.depth, self.group))
        self.steps = k.let("steps", k.divide(self.depth, self.step))
        self.rest = k.let("rest", self.depth - self.steps * self.step)
        self.panel_elements = k.let("panel_elements", self.pitch * (TILE_COLUMNS * self.group))
        with k.when(rows > 0):
            if self.bytes is not None:
                self.bytes.prepare()
            tiles = k.let("tiles", k.divide_up(rows, ROWS))
            self.height = k.let("height", k.divide_up(rows, tiles))
            self.last = k.let("last", self.row_end - self.height)
            self.tile.configure(dict.fromkeys((*sum(SUMS, ()), *A), self.height))
            pairs = k.let("pairs", k.divide(tiles, PAIR))
            lines = k.divide_up(self.panel_elements, self.line)
            share = k.let("share", k.divide_up(lines, k.divide_up(tiles, PAIR)))
            self.fetches = k.let("fetches", k.divide_up(share, k.larger(self.steps, 1)))
            with k.loop("panel", self.panel_begin, self.panel_end) as panel:
                self.column = k.let("column", panel * TILE_COLUMNS)
                self.panel = self.w.at(panel * self.panel_elements, "panel_start")
                self._rest_of_panel()
                with k.loop("pair", 0, pairs) as pair:
                    self._prefetched(share * pair)
                    self._product([self._row(2 * pair), self._row(2 * pair + 1)])
                with k.when(tiles > 2 * pairs):
                    self._prefetched(share * pairs)
                    self._product([self._row(2 * pairs)])
            self.tile.release()

    def _row(self, t: Expr) -> _Row:
        k = self.k
        fresh = k.let("fresh", self.row_begin + t * self.height)
        return _Row(k.let("first", k.smaller(fresh, self.last)), fresh)

    def _prefetched(self, line: Expr) -> None:
        """Where the part of the next panel begins that is fetched meanwhile."""
        self.ahead = self.panel.at(self.panel_elements + line * self.line, "ahead")

    def _rest_of_panel(self) -> None:
        """The last words of the panel, filled up with zeros to a whole tile."""
        k = self.k
        with k.when(self.rest > 0):
            words = k.let("rest_words", (self.pitch - self.steps * WORDS) * (TILE_COLUMNS * self.group))
            source = self.panel.at(self.steps * (self.step * TILE_COLUMNS), "rest_start")
            with k.loop("i", 0, words) as i:
                self.w_rest.store(i, source.load(i))
            with k.loop("i", words, self.step * TILE_COLUMNS) as i:
                self.w_rest.store(i, 0)

    def _product(self, rows: list[_Row]) -> None:
        k, tile = self.k, self.tile
        count = len(rows)
        sources = [self.x.at(row.first * self.ldx, f"x{i}") for i, row in enumerate(rows)]
        for line in SUMS[:count]:
            for sums in line:
                tile.zero(sums)
        pitch = k.let("x_bytes", self.ldx * (LINE // self.step))
        with k.loop("step", 0, self.steps) as step:
            with k.loop("p", 0, self.fetches) as p:
                self.ahead.prefetch((step * self.fetches + p) * self.line, level=2)
            weights = self.panel.at(step * (self.step * TILE_COLUMNS), "weights")
            self._multiply([source.at(step * self.step, "a") for source in sources], pitch, weights)
        with k.when(self.rest > 0):
            for i, source in enumerate(sources):
                self._rest_of_x(i, source)
            self._multiply([self.x_rest.at(i * ROWS * self.step) for i in range(count)], LINE, self.w_rest)
        for i, line in enumerate(SUMS[:count]):
            for j, sums in enumerate(line):
                place = i * ROWS * TILE_COLUMNS + j * WORDS
                tile.store(sums, self.stage, place, 4 * TILE_COLUMNS)
        left = k.let("left", self.columns - self.column)
        for i, row in enumerate(rows):
            stage = self.stage.at(i * ROWS * TILE_COLUMNS)
            with k.when(left >= TILE_COLUMNS):
                self._ends(row, stage)
            with k.otherwise():
                self._narrow_ends(row, stage, left)

    def _multiply(self, a: list[Memory], pitch: Value, b: Memory) -> None:
        """The products of one step: each tile is loaded once."""
        tile = self.tile
        line = 4 * TILE_COLUMNS
        tile.load(B[0], b, 0, line)
        for i, source in enumerate(a):
            tile.load(A[i], source, 0, pitch)
            tile.multiply(SUMS[i][0], A[i], B[0])
            if i == 0:
                tile.load(B[1], b, self.step, line)
            tile.multiply(SUMS[i][1], A[i], B[1])

    def _rest_of_x(self, i: int, source: Memory) -> None:
        """The ends of a tile's rows, filled up with zeros."""
        k = self.k
        with k.loop("r", 0, self.height) as r:
            line = source.at(r * self.ldx + self.steps * self.step, "line")
            copy = self.x_rest.at((i * ROWS + r) * self.step, "copy")
            with k.loop("j", 0, self.rest) as j:
                copy.store(j, line.load(j))
            with k.loop("j", self.rest, self.step) as j:
                copy.store(j, 0)

    def _ends(self, row: _Row, stage: Memory) -> None:
        """From sums to the result."""
        k, lanes = self.k, self.k.lanes
        places = range(0, TILE_COLUMNS, lanes)
        biases = [k.let("bias", self.bias.load(self.column + j, lanes)) for j in places]
        begins = self._begins(places, lanes)
        with k.loop("r", row.fresh - row.first, self.height) as r:
            sums = stage.at(r * TILE_COLUMNS, "sums")
            line = self.y.at((row.first + r) * self.ldy + self.column, "line")
            values = [
                self._value(sums.load(j, lanes), begin, row.first + r, self.column + j) + bias
                for j, begin, bias in zip(places, begins, biases, strict=True)
            ]
            if self.residual is not None:
                added = self.residual.at((row.first + r) * self.ldr + self.column, "added")
                values = [
                    self._named(value) + added.load(j, lanes) for j, value in zip(places, values, strict=True)
                ]
            self._put(line, [self._end(k.let("sum", value)) for value in values])

    def _begins(self, columns: Sequence[int], lanes: int) -> list[Expr | None]:
        """What is added to the sums of these columns of the panel before anything else."""
        if not self.arithmetic.late:
            return [None for _ in columns]
        loads = [self.arithmetic.initial(self.column + j, lanes) for j in columns]
        return [self.k.let("begin", load) for load in loads]

    def _value(self, total: Expr, begin: Expr | None, row: Expr, column: Expr) -> Expr:
        """A sum of products as f32."""
        return total if begin is None else self.arithmetic.value(total + begin, row, column)

    def _named(self, value: Expr) -> Expr:
        """Rounded before the next is added, where every chip gives the same bits."""
        return self.k.let("value", value) if self.arithmetic.late else value

    def _put(self, line: Memory, values: list[Expr]) -> None:
        k, lanes = self.k, self.k.lanes
        if self.rounded:
            for j in range(0, len(values), 2):
                line.store(j * lanes, rounded_pair(k, *values[j : j + 2]))
            return
        for j, value in enumerate(values):
            line.store(j * lanes, self._as_stored(value, self.column + j * lanes))

    def _end(self, value: Expr) -> Expr:
        return value if self.activation is None else self.activation(self.k, value)

    def _narrow_ends(self, row: _Row, stage: Memory, left: Expr) -> None:
        """The same for a panel that goes beyond the last column, one by one."""
        k = self.k
        with k.loop("r", row.fresh - row.first, self.height) as r, k.loop("j", 0, left) as j:
            column = self.column + j
            begin = self.arithmetic.initial(column, 1) if self.arithmetic.late else None
            value = self._value(stage.load(r * TILE_COLUMNS + j), begin, row.first + r, column)
            value = self._named(value + self.bias.load(column))
            if self.residual is not None:
                value = value + self.residual.load((row.first + r) * self.ldr + column)
            end = self._end(k.let("sum", value))
            place = (row.first + r) * self.ldy + column
            self.y.store(place, round_bf16(k, end) if self.rounded else self._as_stored(end, column))
