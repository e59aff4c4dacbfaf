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
that the core could do with one number to a block, nearly all with 4 columns to a block. Products of few rows,
for which a vector of rows would be nearly empty, have a form of their own (`sparse_rows`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from isthmus.errors import CompilerBug
from isthmus.ir.sparse import Blocks
from isthmus.kernels.arithmetic import F32, Arithmetic, round_bf16
from isthmus.kernels.builder import Builder, Expr, Memory, Register
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.math import ACTIVATIONS, Function
from isthmus.kernels.sparse_rows import Matrix, Rows, few_rows, spread_words
from isthmus.kernels.squares import clear_words, transpose_rows, transpose_words, transposed
from isthmus.kernels.tir import tirx
from isthmus.target import Target, sparse_vectors


@dataclass(frozen=True, slots=True)
class Shape:
    """Columns of a block, and words of its rows; and vectors of rows that a tile holds."""

    outputs: int
    inputs: int
    vectors: int


def scratch_words(
    target: Target, stored: Blocks, columns: int, arithmetic: type[Arithmetic] = F32
) -> tuple[int, int]:
    """Words of scratch of one call: of a tile of x, and of the sums of all columns."""
    wide = sparse_vectors(target.vector, stored.outputs) * target.vector.lanes(32)
    sums = -(-columns // stored.outputs) * stored.outputs
    words = (stored.window + stored.inputs) // arithmetic.group
    width = group_width(target, stored.outputs)
    few = max(few_rows(target.vector, stored.outputs), default=0) * -(-columns // width) * width
    return words * wide, max(sums * wide, few + spread_words(target.vector, stored.outputs, words))


def tells_rows(target: Target, outputs: int) -> bool:
    """Whether the kernel is told how many rows there are in all."""
    return bool(few_rows(target.vector, outputs))


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
) -> Kernel:
    """y[i, j] = act(bias[j] + residual[i, j] + sum_k x[i, k] w[k, j]) for a range of rows and of columns.

    `void sparse_<arithmetic>_<outputs>x<inputs>[_res][_<activation>][_rounded](x, w, bias, [residual,] y,
    tile, sums, k, n, window, [rows,] ldx, [ldr,] ldy, row_begin, row_end, group_begin, group_end)`.
    x[rows, k], residual[rows, n] and y[rows, n] have rows `ld*` apart; w is stored as `Blocks(outputs,
    inputs, window, ..)`, and only numbers that are stored take part: a NaN in x does not meet the others'
    zeros. bias is padded to whole groups of `group_width` columns; tile and sums are scratch,
    `scratch_words`. Each sum has its order for the number of all `rows` (which is there where `tells_rows`),
    whatever the ranges. residual may be y. What `arithmetic` needs besides, follows w, padded as bias.
    `rounded`: y is bf16.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise CompilerBug(f"sparse has no activation {activation!r}; it has {', '.join(ACTIVATIONS)}")
    if inputs % arithmetic.group:
        raise CompilerBug(f"blocks of {inputs} inputs are no whole words of {arithmetic.name}")
    base = f"sparse_{arithmetic.name}_{outputs}x{inputs}"
    ends = [*["res"] * residual, *([activation] if activation else []), *["rounded"] * rounded]
    symbol = "_".join([base, *ends])
    function = ACTIVATIONS[activation] if activation else None
    shape = Shape(outputs, inputs // arithmetic.group, sparse_vectors(target.vector, outputs))
    return Kernel.deferred(
        target.symbol(symbol),
        lambda: _Sparse(symbol, target, shape, function, residual, arithmetic, rounded).kernel(),
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
    ) -> None:
        k = self.k = Builder(symbol, target)
        self.shape = shape
        self.lanes = k.lanes
        self.width = group_width(target, shape.outputs)
        self.activation = activation
        self.group = arithmetic.group
        self.x = k.input("x", arithmetic.x)
        self.w = k.input("w", arithmetic.w)
        self.arithmetic = arithmetic(k)
        self.bias = k.input("bias")
        self.residual = k.input("residual") if residual else None
        self.rounded = rounded
        self.y = k.output("y", "uint16" if rounded else "float32")
        self.tile = k.output("tile", arithmetic.x)
        self.sums = k.output("sums", arithmetic.sums)
        self.depth = k.size("k")
        self.columns = k.size("n")
        self.window = k.size("window")
        self.all_rows: Expr = k.size("rows") if few_rows(target.vector, shape.outputs) else None
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
        self.row_count = k.let("row_count", k.larger(self.row_end - self.row_begin, 0))
        self.many = k.let("many", k.divide_up(self.columns, shape.outputs))
        self.windows = k.let("windows", k.divide_up(self.depth, self.window))
        lists = k.let("lists", self.windows * self.many)
        self.places = self.w.at((lists + 1) * self.group, "places_start")
        self.values = self.places.at(self._word(lists) * self.group, "values_start")
        few = few_rows(k.target.vector, shape.outputs)
        k.choose([(self.all_rows <= rows, partial(self._few, rows)) for rows in few], self._tiles)

    def _few(self, rows: int) -> None:
        """All rows at once: window after window of K, each for all groups of columns."""
        k, shape = self.k, self.shape
        size = k.let("size", k.divide_up(self.columns, self.width) * self.width)
        matrix = Matrix(
            shape.outputs, shape.inputs, self.group, self.places, self.values, self._word, self.many
        )
        few = Rows(k, self.arithmetic, matrix, rows, self.tile, self.sums.at(size * rows, "spread"))
        end = self.window_words + shape.inputs
        with k.when(self.row_count > 0), k.loop("window", 0, self.windows) as window:
            begin = k.let("window_begin", window * self.window)
            depth = k.let("window_depth", k.smaller(self.window, self.depth - begin))
            source = self.x.at(self.row_begin * self.ldx + begin, "source")
            few.fill(source, depth, self.row_count, self.ldx, end)
            with k.loop("group", self.group_begin, self.group_end) as group:
                column = k.let("column", group * self.width)
                first = k.let("first_list", k.divide(column, shape.outputs))
                last = k.let("last_list", k.smaller(first + self.width // shape.outputs, self.many))
                sums = few.sums(first, last, k.let("before", window * self.many))
                left = k.let("left", self.columns - column)
                for r, row in enumerate(sums):
                    partial = self.sums.at(size * r + column, "partial")
                    total = k.register("total", self.lanes, row, self.arithmetic.sums)
                    with k.when(window > 0):
                        total.set(partial.load(0, self.lanes) + total.value)
                    with k.when(window + 1 < self.windows):
                        partial.store(0, total.value)
                    with k.otherwise(), k.when(self.row_count > r):
                        bias = k.let("bias_part", self.bias.load(column, self.lanes))
                        initial = self._initial(column)
                        self._finish_row(total.value, initial, self.row_begin + r, column, left, bias)

    def _tiles(self) -> None:
        k, shape = self.k, self.shape
        self.stage = k.stack("stage", self.width * shape.vectors * self.lanes, self.arithmetic.sums)
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
        wide = vectors * self.lanes
        # Two sums for each, or one multiplication would wait for the other; as many whatever the height of
        # the tile, so that the bits do not depend on how rows are shared out.
        sets = 2 if shape.outputs < 4 else 1
        kind = self.arithmetic.sums
        sums = [k.tile(f"acc{s}", shape.outputs, vectors, self.lanes, kind) for s in range(sets)]
        partial = self.sums.at(number * (shape.outputs * wide), "partial")
        for row in (row for tile in sums for row in tile):
            for register in row:
                register.set(0)
        with k.when(tirx.Not(self.starts)):
            for r, row in enumerate(sums[0]):
                for v, register in enumerate(row):
                    register.set(partial.load(r * wide + v * self.lanes, self.lanes))
        begin, end = (k.let("pair", self._word(before + number + i)) for i in (0, 1))
        each = shape.outputs * shape.inputs
        with k.loop("pair", begin, end) as pair:
            blocks = self.values.at(pair * (2 * each * self.group), "pair_start")
            places = k.let("places", self.arithmetic.places(self.places, pair * self.group))
            low = k.cast(places, "int64") & k.constant(0xFFFF, self.column)
            high = k.cast(places, "int64") >> k.constant(16, self.column)
            for s, found in enumerate((low, high)):
                numbers = blocks.at(s * each * self.group, "numbers")
                self._block(sums[s % sets], vectors, k.let("block_place", found), numbers)
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
                to.store(r * wide + v * self.lanes, total)

    def _word(self, i: Expr) -> Expr:
        return self.k.cast(self.arithmetic.places(self.w, i * self.group), "int64")

    def _block(self, sums: list[list[Register]], vectors: int, place: Expr, numbers: Memory) -> None:
        k, shape, lanes = self.k, self.shape, self.lanes
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
        wide = vectors * lanes
        for part in range(0, self.width, lanes):
            column = k.let("part_column", self.column + part)
            left = k.let("left", self.columns - column)
            with k.when(left > 0):
                bias = k.let("bias_part", self.bias.load(column, lanes))
                initial = self._initial(column)
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
