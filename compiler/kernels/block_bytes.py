"""Products of rows of bytes with weights of few bits in blocks: sums of a block in i32, of blocks in f32.

Weights lie in words as `block_gemm` has them, and become bytes as they are read: of 4 bits, two words of
four neighbours. Where an instruction wants one side unsigned, that are weights, each `zero` more than it
stands for; sums in i32 begin with what that is too much, which a row's bytes say, once for all columns. Sums
in f32 wait in memory while a block is summed, and a tile is half as high as others: what words become, and
the ends of blocks, take the registers. (Of 32, 8 rows take three times as long as 5, and 7 a fifth longer.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any, ClassVar

from isthmus.errors import CompilerBug
from isthmus.ir.types import DType
from isthmus.kernels.arithmetic import Arithmetic
from isthmus.kernels.block_weights import BYTES, IN_MEMORY, KINDS, SCALES, Kind, Weights, scale_of
from isthmus.kernels.builder import Builder, Expr, Memory, Register, index, lanes_of
from isthmus.kernels.byte_arithmetic import GROUP
from isthmus.kernels.byte_products import nibbles_of, words_of
from isthmus.kernels.gemm import symbol_of, tile_of
from isthmus.kernels.gemm_ends import Ends
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.math import ACTIVATIONS
from isthmus.kernels.math_short import SHORT
from isthmus.kernels.tir import tirx
from isthmus.ops.integer import FEWEST_BYTES
from isthmus.target import Target

# Rows whose sums by block are kept at a time; panels are read again for the next.
ROWS = 128
# Rows of a tile for which there is code without a loop over the words of FEWEST_BYTES neighbours.
UNROLLED = 2
# Bytes ahead of the words in use that are fetched, by bits of a weight: as `block_gemm` has them for a row.
AHEAD = {4: 8192, 8: 1024}


class ByteBlocks(Arithmetic):
    """Parameters after w: `scale`, of blocks of 2^`shift` rows; `x_scale`, whose numbers are `lds` apart (0:
    one for all rows); `starts`, scratch of `scratch_words`."""

    x = w = "int8"
    late = True
    kind: ClassVar[Kind]
    scales_in: ClassVar[DType]

    def __init__(self, k: Builder) -> None:
        super().__init__(k)
        self.products = (nibbles_of if self.kind.bits == 4 else words_of)(k.target)(k)
        self.read = Weights(k, self.kind)

    def declare(self) -> None:
        k = self.k
        self.scale = k.input("scale", IN_MEMORY[self.scales_in])
        self.shift = k.size("shift")
        self.x_scale = k.input("x_scale")
        self.lds = k.size("lds")
        self.starts = k.output("starts", "int32")

    @property
    def zero(self) -> int:
        """What stands for the number 0 where weights are multiplied."""
        as_it_is = self.k.lanes == 1 or (self.kind.bits == 8 and self.products.x == "int8")
        return 0 if as_it_is else self.kind.largest

    def weights(self, panel: Memory, place: Expr, lanes: int) -> Iterator[Any]:
        """Four neighbours after the other of the words of `lanes` columns."""
        if lanes == 1:
            single = self.read.integers(panel, place)
            return (single[i : i + GROUP] for i in range(0, self.group, GROUP))
        return (self.products.taken(w, lanes) for w in self.read.bytes(panel, place, self.zero, lanes))

    def factor(self, row: Memory, place: Expr, lanes: int) -> Any:
        return self.products.number(row, place, lanes)

    def add(self, register: Register, factor: Any, weights: Any) -> None:
        # Weights are the side that may be unsigned.
        self.products.add(register, weights, factor)

    def value(self, total: Expr, row: Expr, column: Expr) -> Expr:
        scale = self.k.spread(self.x_scale.load(row * self.lds), lanes_of(total))
        return self.k.rounded("scaled", total * scale)


@cache
def arithmetic(kind: str, scales: DType) -> type[ByteBlocks]:
    """Products with weights of `kind`, q4 or q8, and scales stored in `scales`."""

    class Blocks(ByteBlocks):
        name = f"{kind}_i8{SCALES[scales]}"
        group = 32 // KINDS[kind].bits
        scales_in = scales

    Blocks.kind = KINDS[kind]
    return Blocks


def scratch_words(depth: int, block: int) -> int:
    """Words of memory that a thread needs for rows of `depth` in blocks."""
    return ROWS * (depth // block)


def kernel(
    target: Target,
    kind: str,
    scales: DType,
    activation: str | None = None,
    residual: bool = False,
    short: bool = False,
) -> Kernel:
    """What `integer_block_linear` says, for a range of rows and of panels.

    `void gemm_<kind>_i8[_f16|_e8m0][_res][_<activation>[_short]](x, w, scale, shift, x_scale, lds, starts,
    bias, [residual,] y, k, n, ldx, [ldr,] ldy, row_begin, row_end, panel_begin, panel_end)`: blocks have
    2^shift rows, at least FEWEST_BYTES, that k is a multiple of. w, scale and bias are as `block_gemm` takes
    them.
    """
    known = SHORT if short else ACTIVATIONS
    if kind not in ("q4", "q8") or scales not in SCALES or activation not in (None, *known):
        raise CompilerBug(f"no product of bytes and {kind}, scales in {scales}, then {activation}")
    way = arithmetic(kind, scales)
    symbol = symbol_of(way.name, activation, residual, short=short)
    function, shape = known[activation] if activation else None, tile_of(target, words_of(target))
    shape = replace(shape, rows=shape.rows // 2 + 1)
    return Kernel.deferred(
        target.symbol(symbol),
        lambda: _BlockBytes(symbol, target, shape, function, residual, way, False, None).kernel(),
    )


class _BlockBytes(Ends):
    """The tiles of one kernel while it is written."""

    straight = False
    arithmetic: ByteBlocks

    def kernel(self) -> Kernel:
        return self.k.later(self.body)

    def body(self) -> None:
        k, shape, of = self.k, self.shape, self.arithmetic
        # There is one chunk of K, and nothing waits in y.
        self.narrow, self.starts, self.ends = True, *[tirx.const(True, "bool")] * 2
        self.stage = k.stack("stage", shape.rows * self.width)
        self.words = k.let("words", k.divide(self.depth, of.group))
        self.blocks = k.let("blocks", tirx.shift_right(self.depth, of.shift))
        rows = k.let("rows", k.larger(self.row_end - self.row_begin, 0))
        with k.loop("part", 0, k.divide_up(rows, ROWS)) as part:
            begin = self.begin = k.let("begin", self.row_begin + part * ROWS)
            count = k.let("count", k.smaller(self.row_end - begin, ROWS))
            if of.zero:
                self._sum_rows(count)
            tiles = k.let("tiles", k.divide_up(count, shape.rows))
            height = k.let("height", k.divide(count, tiles))
            taller = k.let("taller", k.remainder(count, tiles))
            with k.loop("panel", self.panel_begin, self.panel_end) as panel, k.loop("t", 0, tiles) as t:
                self.first = k.let("first", begin + t * height + k.smaller(t, taller))
                self.column = k.let("column", panel * self.width)
                self.panel = self.w.at(panel * self.words * (self.width * BYTES), "panel_start")
                self.scales = of.scale.at(panel * self.blocks * self.width, "scales_start")
                self._any_height(k.let("tile_height", height + k.cast(t < taller, "int64")))

    def _any_height(self, height: Expr) -> None:
        k = self.k
        left = k.let("left", self.columns - self.column)
        self.whole = k.let("whole", left >= self.width)
        cases = [(k.equal(height, h), partial(self._tile, h)) for h in range(self.shape.rows, 1, -1)]
        k.choose(cases, partial(self._tile, 1))
        self._conclude(height, left)

    def _sum_rows(self, count: Expr) -> None:
        """What the sums of each block of each row begin with."""
        k, of = self.k, self.arithmetic
        steps = k.let("steps", k.divide(tirx.shift_left(index(1), of.shift), FEWEST_BYTES))
        with k.loop("i", 0, count) as i:
            row = self.x.at((self.begin + i) * self.ldx, "row")
            with k.loop("block", 0, self.blocks) as block:
                total = k.register("total", 1, 0, "int32")
                with k.loop("step", block * steps, (block + 1) * steps) as step:
                    wide = k.cast(row.load(step * FEWEST_BYTES, FEWEST_BYTES), "int16")
                    # No more than 32 * 128.
                    total.add(k.cast(k.reduce_sum(wide), "int32"))
                of.starts.store(i * self.blocks + block, total.value * -of.zero)

    def _tile(self, rows: int) -> None:
        k, of = self.k, self.arithmetic
        x_rows = [self.x.at((self.first + i) * self.ldx, f"x{i}") for i in range(rows)]
        starts = [of.starts.at((self.first - self.begin + i) * self.blocks, f"s{i}") for i in range(rows)]
        sums = k.tile("sum", rows, self.shape.vectors, self.lanes, "int32")
        places = [[i * self.width + j * self.lanes for j in range(self.shape.vectors)] for i in range(rows)]
        for row in places:
            for place in row:
                self.stage.store(place, 0.0, self.lanes)
        size = k.let("block_words", k.divide(tirx.shift_left(index(1), of.shift), of.group))
        with k.loop("block", 0, self.blocks) as block:
            for registers, start in zip(sums, starts, strict=True):
                value = k.let("start", start.load(block)) if of.zero else 0
                for register in registers:
                    register.set(value)
            self._steps(rows, block * size, (block + 1) * size, partial(self._multiply, sums, x_rows))
            for j in range(self.shape.vectors):
                place = block * self.width + j * self.lanes
                scale = scale_of(k, self.scales, place, self.lanes, of.scales_in)
                for i, registers in enumerate(sums):
                    scaled = k.rounded("scaled", k.cast(registers[j].value, "float32") * scale)
                    stored = self.stage.load(places[i][j], self.lanes)
                    self.stage.store(places[i][j], stored + scaled)

    def _steps(self, rows: int, begin: Expr, end: Expr, multiply: Callable[[Expr], None]) -> None:
        """Each word of a block; by few rows several in a step."""
        k, each = self.k, FEWEST_BYTES // self.arithmetic.group if rows <= UNROLLED else 1
        with k.loop("step", k.divide(begin, each), k.divide(end, each)) as step:
            for i in range(each):
                multiply(k.let("word", step * each + i))

    def _multiply(self, sums: list[list[Register]], x_rows: list[Memory], word: Expr) -> None:
        k, of, lanes = self.k, self.arithmetic, self.lanes
        for place in range(0, self.width * BYTES, k.target.caches.line_bytes):
            self.panel.prefetch(word * (self.width * BYTES) + place + AHEAD[of.kind.bits], level=2)
        places = [(word * self.width + j * lanes) * BYTES for j in range(self.shape.vectors)]
        words = (of.weights(self.panel, place, lanes) for place in places)
        for i, weights in enumerate(zip(*words, strict=True)):
            factors = (of.factor(row, word * of.group + i * GROUP, lanes) for row in x_rows)
            of.accumulate(sums, factors, weights)
