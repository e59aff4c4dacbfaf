"""Product with a matrix of few numbers, and what follows it: bias, residual, activation.

Rows of x are taken `vectors` vectors at a time and transposed, a window of K at a time, into a tile
[window][rows], which stays in the nearest cache while all columns use it. In a window a column is a list
of blocks (`ir.sparse.Blocks`): the kernel reads it from its first to its last byte, and multiplies each
number by one line of the tile. In the last window, sums of as many columns as a vector has lanes are
transposed back, and leave with bias, residual and activation.

What a number is, `arithmetic` says: one f32, or a word of two bf16 or four bytes, of which a line of the tile
holds those of each row. Sums of bytes are integers, exact, and become floats on their way out, as in the
dense product.

What it costs: one load for each multiplication, one more for each number, so at most 4 of 5 multiplications
that the core could do with one number to a block, nearly all with 4 columns to a block. Few rows, of which
a vector would be nearly empty, take parts of vectors (`sparse_rows`), or are multiplied by vectors of the
matrix where it has masks and many numbers (`sparse_masks`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from isthmus.errors import CompilerBug
from isthmus.ir.sparse import MASK, TOGETHER, Blocks
from isthmus.kernels.arithmetic import F32, Arithmetic, round_bf16
from isthmus.kernels.builder import Builder, Expr, Memory, Register
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.math import Function
from isthmus.kernels.math_short import activation_of
from isthmus.kernels.sparse_masks import ROWS, Masked, Places, tile_words
from isthmus.kernels.sparse_rows import by_row, fill_rows, narrow_lanes
from isthmus.kernels.squares import clear_words, transpose_rows, transpose_words, transposed
from isthmus.kernels.tir import tirx
from isthmus.target import Target, sparse_vectors

# Masks are for few rows: what a vector of K takes beside its multiplications, what these take for each row,
# and what a number takes without masks. In any unit, and between two processors: by a Zen 4 alone a number
# takes 10, by a Sapphire Rapids 13 with one row and 20 with four.
MASKED_SLOTS, ROW_SLOTS, NUMBER_SLOTS = 15, 6, 13


@dataclass(frozen=True, slots=True)
class Shape:
    """Columns of a block, and words of its rows; and vectors of rows that a tile holds."""

    outputs: int
    inputs: int
    vectors: int


def scratch_words(
    target: Target, stored: Blocks, shape: tuple[int, int], arithmetic: type[Arithmetic] = F32
) -> tuple[int, int]:
    """Words of scratch of one call, by a matrix of this shape: of a tile of x, and of sums of all columns."""
    depth, columns = shape
    wide = sparse_vectors(target.vector, stored.outputs) * target.vector.lanes(32)
    sums = -(-columns // stored.outputs) * stored.outputs
    words = (stored.window + stored.inputs) // arithmetic.group
    if stored.masked:
        group = arithmetic.group
        x = tile_words(-(-depth // group), stored.window // group)
        return max(words * wide, x), sums * wide
    return words * wide, sums * wide


def tells_rows(target: Target) -> bool:
    """Whether the kernel is told how many rows there are in all."""
    return bool(narrow_lanes(target.vector))


def group_width(target: Target, outputs: int) -> int:
    """Columns of one unit of the second range."""
    return max(target.vector.lanes(32), outputs)


def kernel(
    target: Target,
    outputs: int,
    inputs: int,
    activation: str | None = None,
    residual: bool = False,
    arithmetic: type[Arithmetic] = F32,
    rounded: bool = False,
    masked: bool = False,
) -> Kernel:
    """y[i, j] = act(bias[j] + residual[i, j] + sum_k x[i, k] w[k, j]) for a range of rows and of columns.

    `void sparse_<arithmetic>_<outputs>x<inputs>[_masked][_res][_<activation>][_rounded](x, w, bias,
    [residual,] y, tile, sums, k, n, window, [rows,] ldx, [ldr,] ldy, row_begin, row_end, group_begin,
    group_end)`. x is [rows, k], residual[rows, n] and y[rows, n] have rows `ld*` apart; w is stored as
    `Blocks(outputs, inputs, window, .., masked)`, and only stored numbers take part: a NaN in x does not meet
    the others' zeros. bias is padded to whole groups of `group_width` columns; tile and sums are scratch,
    `scratch_words`. Each sum has its order for the number of all `rows` (which is there where `tells_rows`),
    whatever the ranges. residual may be y. What `arithmetic` needs besides, follows w, padded as bias.
    `rounded`: y is bf16, and the activation that of `activation_of`.
    """
    function = activation_of(activation, rounded)
    if inputs % arithmetic.group:
        raise CompilerBug(f"blocks of {inputs} inputs are no whole words of {arithmetic.name}")
    if masked and not target.reads_masks(outputs, inputs // arithmetic.group):
        raise CompilerBug(f"{target.name} reads no masks of blocks of {outputs}x{inputs}")
    base = f"sparse_{arithmetic.name}_{outputs}x{inputs}{'_masked' * masked}"
    ends = [*["res"] * residual, *([activation] if activation else []), *["rounded"] * rounded]
    symbol = "_".join([base, *ends])
    shape = Shape(outputs, inputs // arithmetic.group, sparse_vectors(target.vector, outputs))
    return Kernel.deferred(
        target.symbol(symbol),
        lambda: _Sparse(symbol, target, shape, function, residual, arithmetic, rounded, masked).kernel(),
    )


class _Sparse:
    """The parts of one kernel while it is written."""

    def __init__(
        self,
        symbol: str,
        target: Target,
        shape: Shape,
        activation: Function | None,
        residual: bool,
        arithmetic: type[Arithmetic],
        rounded: bool,
        masked: bool,
    ) -> None:
        k = self.k = Builder(symbol, target)
        self.shape = shape
        self.masked = masked
        self.lanes = k.lanes
        self.width = group_width(target, shape.outputs)
        self.activation = activation
        self.group = arithmetic.group
        self.x = k.input("x", arithmetic.x)
        self.w = k.input("w", arithmetic.w)
        self.arithmetic = arithmetic(k)
        self.arithmetic.declare()
        self.bias = k.input("bias")
        self.residual = k.input("residual") if residual else None
        self.rounded = rounded
        self.y = k.output("y", "uint16" if rounded else "float32")
        self.tile = k.output("tile", arithmetic.x)
        self.sums = k.output("sums", arithmetic.sums)
        self.depth = k.size("k")
        self.columns = k.size("n")
        self.window = k.size("window")
        self.all_rows: Expr = k.size("rows") if tells_rows(target) else None
        self.ldx = k.size("ldx")
        self.ldr = k.size("ldr") if residual else None
        self.ldy = k.size("ldy")
        self.row_begin, self.row_end = k.size("row_begin"), k.size("row_end")
        self.group_begin, self.group_end = k.size("group_begin"), k.size("group_end")

    def kernel(self) -> Kernel:
        return self.k.later(self.body)

    def body(self) -> None:
        k, shape = self.k, self.shape
        self.window_words = self.window if self.group == 1 else k.divide(self.window, self.group)
        # A step that is 1, which compilers do not know: a loop of two steps at a time would end otherwise
        # than foreseen for every other list.
        self.one = k.let("one", k.smaller(self.columns, 1))
        self.row_count = k.let("row_count", k.larger(self.row_end - self.row_begin, 0))
        self.many = k.let("many", k.divide_up(self.columns, shape.outputs))
        self.windows = k.let("windows", k.divide_up(self.depth, self.window))
        lists = k.let("lists", self.windows * self.many)
        behind = lists + 1
        runs = k.let("runs", k.divide_up(self.window_words, MASK))
        if self.masked:
            together = k.divide_up(self.many, TOGETHER) * TOGETHER
            behind = behind + k.divide(self.windows * together * runs, 2)
        pairs = k.let("pairs", self._word(lists))
        self.places = self.w.at(behind * self.group, "places_start")
        self.values = self.places.at(pairs * self.group, "values_start")
        if not self.masked:
            self._tiles()
            return
        masks = self.w.reread("uint16").at(2 * (lists + 1), "masks_start")
        places = Places(self.columns, runs, masks, self.values, self.group, self._word)
        few = Masked(k, self.arithmetic, places, self.tile)
        vectors = lists * runs
        slow = MASKED_SLOTS * vectors + ROW_SLOTS * self.all_rows * vectors
        k.choose([(slow <= 2 * NUMBER_SLOTS * pairs, partial(self._few_by_masks, few))], self._tiles)

    def _few_by_masks(self, few: Masked) -> None:
        k = self.k
        with k.loop("t", 0, k.divide_up(self.row_count, ROWS)) as t:
            first = k.let("first", self.row_begin + t * ROWS)
            left = k.let("left", self.row_end - first)
            cases = [
                (left >= rows, partial(self._masked_rows, few, first, rows)) for rows in range(ROWS, 1, -1)
            ]
            k.choose(cases, partial(self._masked_rows, few, first, 1))

    def _masked_rows(self, few: Masked, first: Expr, rows: int) -> None:
        k = self.k
        with k.loop("window", 0, self.windows) as window:
            begin = k.let("window_begin", window * self.window)
            depth = k.let("window_depth", k.smaller(self.window, self.depth - begin))
            few.fill(rows, window, self.x.at(first * self.ldx + begin, "source"), depth, self.ldx)
        with k.loop("group", self.group_begin, self.group_end) as group:
            column = k.let("column", group * self.width)
            left = k.let("left", self.columns - column)
            bias = k.let("bias_part", self.bias.load(column, self.lanes))
            initial = self._initial(column)
            for r, row in enumerate(few.sums(rows, group, self.windows)):
                self._finish_row(row, initial, first + r, column, left, bias)

    def _tiles(self) -> None:
        k, shape = self.k, self.shape
        self.stage = k.stack("stage", self.width * shape.vectors * self.lanes, self.arithmetic.sums)
        narrow = narrow_lanes(k.target.vector) if self.arithmetic.narrow else ()
        k.choose(
            [(self.all_rows <= rows, partial(self._one_tile, rows)) for rows in narrow], self._whole_tiles
        )

    def _one_tile(self, lanes: int) -> None:
        """All rows in a part of a vector."""
        self.row_lanes, self.first, self.count = lanes, self.row_begin, self.row_count
        with self.k.when(self.count > 0):
            self._rows(1)

    def _whole_tiles(self) -> None:
        k, shape = self.k, self.shape
        self.row_lanes = self.lanes
        vectors = k.let("vectors", k.divide_up(self.row_count, self.lanes))
        tiles = k.let("tiles", k.divide_up(vectors, shape.vectors))
        fewer = k.let("fewer", k.divide(vectors, k.larger(tiles, 1)))
        more = k.let("more", vectors - fewer * tiles)
        with k.loop("t", 0, tiles) as t:
            before = k.let("before", t * fewer + k.smaller(t, more))
            height = k.let("height", fewer + k.cast(t < more, "int64"))
            self.first = k.let("first", self.row_begin + before * self.lanes)
            self.count = k.let("count", k.smaller(height * self.lanes, self.row_end - self.first))
            cases = [(k.equal(height, v), lambda v=v: self._rows(v)) for v in range(shape.vectors, 1, -1)]
            k.choose(cases, lambda: self._rows(1))

    def _rows(self, vectors: int) -> None:
        """A tile of `vectors` vectors of rows: window after window of K, each for all groups of columns."""
        k, many, windows = self.k, self.many, self.windows
        with k.loop("window", 0, windows) as window:
            begin = k.let("window_begin", window * self.window)
            depth = k.let("window_depth", k.smaller(self.window, self.depth - begin))
            self.starts = k.let("starts", k.equal(window, 0))
            self.ends = k.let("ends", k.equal(window + 1, windows))
            source = self.x.at(self.first * self.ldx + begin, "source")
            self._fill_tile(source, depth, vectors)
            with k.loop("group", self.group_begin, self.group_end) as group:
                self.column = k.let("column", group * self.width)
                first = k.let("first_list", k.divide(self.column, self.shape.outputs))
                left = k.smaller(self.width // self.shape.outputs, many - first)
                with k.loop("b", 0, left) as b:
                    self._sums(vectors, window * many, k.let("list", first + b), b)
                with k.when(self.ends):
                    self._finish(vectors)

    def _fill_tile(self, source: Memory, depth: Expr, vectors: int) -> None:
        """The rows of a window, one beside the other."""
        k, lanes = self.k, self.lanes
        if self.row_lanes < lanes:
            end = self.window_words + self.shape.inputs
            fill_rows(k, source, self.tile, self.row_lanes, self.group, depth, self.count, self.ldx, end)
            return
        wide = vectors * lanes
        if self.group == 1:
            transpose_rows(k, source, self.tile, depth, self.count, self.ldx, wide)
        else:
            transpose_words(k, source, self.tile, depth, self.count, self.ldx, wide, self.group)
        words = depth if self.group == 1 else k.divide_up(depth, self.group)
        # What lies beyond the matrix is multiplied by zeros, and must not be a NaN.
        with k.loop("pad", words, self.window_words + self.shape.inputs) as kk:
            for v in range(vectors):
                if self.group == 1:
                    self.tile.store(kk * wide + v * lanes, 0.0, lanes)
                else:
                    clear_words(k, self.tile, kk * wide + v * lanes, self.group)

    def _sums(self, vectors: int, before: Expr, number: Expr, place: Expr) -> None:
        """The sums of one list of blocks go on where the window before left them; at last into the stage."""
        k, shape = self.k, self.shape
        wide = vectors * self.row_lanes
        # Two sums for each, or one multiplication would wait for the other; as many whatever the height of
        # the tile, so that the bits do not depend on how rows are shared out.
        sets = 2 if shape.outputs < 4 else 1
        kind = self.arithmetic.sums
        sums = [k.tile(f"acc{s}", shape.outputs, vectors, self.row_lanes, kind) for s in range(sets)]
        partial = self.sums.at(number * (shape.outputs * wide), "partial")
        for row in (row for tile in sums for row in tile):
            for register in row:
                register.set(0)
        with k.when(tirx.Not(self.starts)):
            for r, row in enumerate(sums[0]):
                for v, register in enumerate(row):
                    register.set(partial.load(r * wide + v * self.row_lanes, self.row_lanes))
        begin, end = (k.let("pair", self._word(before + number + i)) for i in (0, 1))
        each = shape.outputs * shape.inputs
        at = k.register("at", 1, begin, "int64")
        with k.repeat(at.value < end):
            pair = k.let("pair", at.value)
            blocks = self.values.at(pair * (2 * each * self.group), "pair_start")
            places = k.let("places", self.arithmetic.places(self.places, pair * self.group))
            low = k.cast(places, "int64") & k.constant(0xFFFF, self.column)
            high = k.cast(places, "int64") >> k.constant(16, self.column)
            for s, found in enumerate((low, high)):
                numbers = blocks.at(s * each * self.group, "numbers")
                self._block(sums[s % sets], vectors, k.let("block_place", found), numbers)
            at.add(self.one)
        staged = self.stage.at(place * (shape.outputs * wide), "staged")
        with k.when(self.ends):
            self._store_sums(sums, staged, wide)
        with k.otherwise():
            self._store_sums(sums, partial, wide)

    def _store_sums(self, sums: list[list[list[Register]]], to: Memory, wide: int) -> None:
        for r, row in enumerate(sums[0]):
            for v, register in enumerate(row):
                total = register.value
                for tile in sums[1:]:
                    total = total + tile[r][v].value
                to.store(r * wide + v * self.row_lanes, total)

    def _word(self, i: Expr) -> Expr:
        return self.k.cast(self.arithmetic.places(self.w, i * self.group), "int64")

    def _block(self, sums: list[list[Register]], vectors: int, place: Expr, numbers: Memory) -> None:
        k, shape, lanes = self.k, self.shape, self.row_lanes
        wide = vectors * lanes
        lines = self.tile.at(place * (shape.inputs * wide * self.group), "lines")
        for c in range(shape.inputs):
            starts = [(c * wide + v * lanes) * self.group for v in range(vectors)]
            parts = [self.arithmetic.rows(lines, start, lanes) for start in starts]
            if shape.outputs > 1 and self.group == 1:
                parts = [k.let(f"part{v}", part) for v, part in enumerate(parts)]
            for r in range(shape.outputs):
                number = self.arithmetic.number(numbers, (c * shape.outputs + r) * self.group, lanes)
                for register, part in zip(sums[r], parts, strict=True):
                    self.arithmetic.add(register, part, number)

    def _finish(self, vectors: int) -> None:
        """The stage [width][rows] to y as rows: with bias, residual and activation."""
        k, lanes = self.k, self.lanes
        wide = vectors * self.row_lanes
        for part in range(0, self.width, lanes):
            column = k.let("part_column", self.column + part)
            left = k.let("left", self.columns - column)
            with k.when(left > 0):
                bias = k.let("bias_part", self.bias.load(column, lanes))
                initial = self._initial(column)
                if self.row_lanes < lanes:
                    for i, row in enumerate(by_row(k, self.stage.at(part * wide, "line"), wide)):
                        with k.when(self.count > i):
                            self._finish_row(row, initial, self.first + i, column, left, bias)
                    continue
                with k.loop("v", 0, vectors) as v:
                    valid = k.let("valid", self.count - v * lanes)
                    lines = [self.stage.at((part + j) * wide, f"line{j}") for j in range(lanes)]
                    for i, row in enumerate(transposed(k, lines, v * lanes)):
                        with k.when(valid > i):
                            number = self.first + v * lanes + i
                            self._finish_row(row, initial, number, column, left, bias)

    def _initial(self, column: Expr) -> Expr | None:
        """What is added to the sums of columns from `column` on before anything else."""
        k = self.k
        return k.let("initial", self.arithmetic.initial(column, self.lanes)) if self.arithmetic.late else None

    def _finish_row(
        self, sums: Expr, initial: Expr | None, number: Expr, column: Expr, left: Expr, bias: Expr
    ) -> None:
        total = sums if initial is None else sums + initial
        self._store(number, column, left, self.arithmetic.value(total, number, column) + bias)

    def _store(self, row: Expr, column: Expr, left: Expr, value: Expr) -> None:
        k, lanes = self.k, self.lanes
        line = self.y.at(row * self.ldy + column, "line")
        other = self.residual.at(row * self.ldr + column, "other") if self.residual is not None else None
        act = self.activation or (lambda _, total: total)
        value = k.let("value", value)
        with k.when(left >= lanes):
            whole = value if other is None else value + other.load(0, lanes)
            line.store(0, self._result(act(k, k.let("sum", whole))))
        if lanes == 1:
            return
        with k.otherwise():
            buffer = k.stack("edge", lanes)
            buffer.store(0, value)
            if other is not None:
                with k.loop("j", 0, left) as j:
                    buffer.store(j, buffer.load(j) + other.load(j))
            buffer.store(0, act(k, k.let("sum", buffer.load(0, lanes))))
            with k.loop("j", 0, left) as j:
                line.store(j, self._result(buffer.load(j)))

    def _result(self, value: Expr) -> Expr:
        """A finished value as y has it."""
        return round_bf16(self.k, value) if self.rounded else value
