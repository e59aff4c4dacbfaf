"""Products of rows of floats with weights of few bits, which become floats as they are read.

Weights lie in words of 4 bytes: 8 neighbours of a column in 4 bits, or 4 in 8 bits. Blocks of rows of
the matrix have a scale for each column. One row reads every word once, in order: as fast as memory gives
them; where there are instructions for products of bytes, without floats (`block_row`). More rows share what
it takes to make floats of them. Rows of bf16 or f16 are widened to f32 first, as many as a tile has, once for
a panel.
"""

from __future__ import annotations

from collections.abc import Callable

from isthmus.errors import CompilerBug
from isthmus.ir.types import DType
from isthmus.kernels import block_row
from isthmus.kernels.block_row import CHUNK, DIGITS, STEP, RowOfDigits, fits
from isthmus.kernels.block_tiles import RAISED, ROWS, BlockTiles
from isthmus.kernels.block_weights import BYTES, KINDS, SCALES
from isthmus.kernels.builder import Expr, Memory, Register, index
from isthmus.kernels.gemm import tile_of
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.math import magnitude_bits
from isthmus.kernels.tir import tirx
from isthmus.target import ByteProducts, Target

# Bytes ahead of the words in use that are fetched where one row is multiplied as bytes, by bits of a weight:
# measured. Words of 8 bits are done with so fast that what is far ahead only gets in the way of what is next.
AHEAD_OF_BYTES = {4: 8192, 8: 1024}
# The exponents (as f32 has them) of the largest magnitudes of rows that can take `RAISED` and lose nothing in
# products.
RAISED_FROM, RAISED_TO = 127 - 40, 127 + 60
# Rows of a chunk for which there is code without a loop over words, by bits of a weight.
UNROLLED = {4: (CHUNK, CHUNK // 2), 8: (CHUNK,)}


def kernel(target: Target, kind: str, scales: DType = DType.F32, x: DType = DType.F32) -> Kernel:
    """y[i, j] = bias[j] + sum_k x[i, k] (q[k, j] scale[k / block, j]) for a range of rows and of panels.

    `void gemm_<kind>[_f16|_e8m0][_of_<x>](x, w, scale, bias, y, [scratch,] k, n, shift, ldx, ldy, row_begin,
    row_end, panel_begin, panel_end)`: blocks have 2^shift rows, at least 8; k is a multiple of 8. x is f32,
    bf16 or f16, w is `Nibbles`, or `SmallFloats`, or, in 8 bits, `Interleaved` by 4, without infinities and
    NaN; scale [k / block, n] is `Panels` of `scales`, which but for f32 are normal numbers, or in f16 zero;
    bias is padded to whole panels. scratch is there where `scratch_floats` is not 0.
    """
    if kind not in KINDS or scales not in SCALES:
        raise CompilerBug(f"no product of weights of {kind} with scales in {scales}; there is {[*KINDS]}")
    if x not in ROWS:
        raise CompilerBug(f"no product of rows of {x}; there is {[*map(str, ROWS)]}")
    symbol = f"gemm_{kind}{SCALES[scales]}" + ("" if x is DType.F32 else f"_of_{x}")
    return Kernel.deferred(
        target.symbol(symbol), lambda: _BlockGemm(symbol, target, KINDS[kind], scales, x).kernel()
    )


def scratch_floats(target: Target, depth: int, x: DType) -> int:
    """Floats of memory a thread needs for rows of `depth` of type `x`; it may need none."""
    wide = 0 if x is DType.F32 else tile_of(target).rows * depth
    return block_row.scratch_floats(target, depth) + wide


class _BlockGemm(BlockTiles):
    """Which way rows are multiplied, and one row in digits."""

    def kernel(self) -> Kernel:
        return self.k.later(self.body)

    def body(self) -> None:
        k = self.k
        self._begin()
        rows = k.let("rows", k.larger(self.row_end - self.row_begin, 0))
        if self.scratch is None or self.products is None:
            self._in_floats(rows)
        elif self.weights.is_bytes:
            self._row_of_digits(rows, self.products, self.scratch)
        elif self.kind.bias and not k.target.vector.flushes:
            self._row_raised(rows, self.scratch)
        else:
            self._in_floats(rows)

    def _row_raised(self, rows: Expr, scratch: Memory) -> None:
        """One row of ordinary numbers takes the factor that floats of 8 bits lack, once for all columns."""
        k = self.k
        ordinary = k.register("ordinary", 1, 0, "int32")
        with k.when(k.equal(rows, 1)):
            largest = k.register("largest", STEP, 0, "int32")
            row = self._only_row()
            with k.loop("step", 0, k.divide(self.depth, STEP)) as step:
                number = k.let("number", row.load(step * STEP, STEP))
                largest.set(tirx.max(largest.value, magnitude_bits(k, number)))
                scratch.store(step * STEP, number * 2.0**RAISED)
            most = k.reduce(largest.value, tirx.max)
            inside = tirx.And(most >= RAISED_FROM << 23, most <= RAISED_TO << 23)
            ordinary.set(k.select(tirx.Or(inside, k.equal(most, 0)), 1, 0, "int32"))
        with k.when(k.equal(ordinary.value, 1)), k.loop("panel", self.panel_begin, self.panel_end) as panel:
            self.first = self.row_begin
            self._at(panel)
            self._tile([scratch], raised=True)
        with k.otherwise():
            self._in_floats(rows)

    def _row_of_digits(self, rows: Expr, products: ByteProducts, scratch: Memory) -> None:
        k = self.k
        digits = k.register("digits", 1, 0, "int32")
        block = tirx.shift_left(index(1), self.shift)
        chunk = k.let("chunk", k.smaller(block, CHUNK))
        row = RowOfDigits(k, products, scratch, self.depth, chunk)
        with k.when(k.equal(rows, 1)):
            digits.set(row.split(self._only_row(), self._zero()))
        with k.when(k.equal(digits.value, 1)):
            self._in_digits(row)
        with k.otherwise():
            self._in_floats(rows)

    def _in_digits(self, row: RowOfDigits) -> None:
        """One row, all vectors of a panel at once: digits are spread once for all of them."""
        k, lanes, vectors = self.k, self.k.lanes, self.shape.vectors
        sums = [k.register(f"sum{j}", lanes) for j in range(vectors)]
        totals = [
            [k.register(f"total{d}_{j}", lanes, dtype="int32") for j in range(vectors)] for d in range(DIGITS)
        ]
        with k.loop("panel", self.panel_begin, self.panel_end) as panel:
            self._at(panel)
            for j, total in enumerate(sums):
                total.set(self.bias.load(self.column + j * lanes, lanes))
            cases = [self._whole_chunks(row, sums, totals, size) for size in UNROLLED[self.bits]]
            k.choose(cases, lambda: self._any_chunks(row, sums, totals))
            self.first = self.row_begin
            self._finish([sums])

    def _whole_chunks(
        self, row: RowOfDigits, sums: list[Register], totals: list[list[Register]], size: int
    ) -> tuple[Expr, Callable[[], None]]:
        """Chunks of `size` that fill the row, unrolled, and when that is so."""
        k, words, together = self.k, size // self.each, fits(size, self.kind.largest)

        def write() -> None:
            with k.loop("chunk", 0, row.chunks) as chunk:
                row.start(totals, chunk, self._zero(), together=together)
                first = k.let("first_word", chunk * words)
                for word in range(words):
                    self._fetch_line(first + word)
                    self._products(row, totals, first + word)
                self._end_chunk(row, sums, totals, chunk, together=together)

        return tirx.And(k.equal(row.chunk, size), k.equal(k.remainder(self.depth, size), 0)), write

    def _any_chunks(self, row: RowOfDigits, sums: list[Register], totals: list[list[Register]]) -> None:
        k, together = self.k, fits(CHUNK, self.kind.largest)
        with k.loop("chunk", 0, row.chunks) as chunk:
            row.start(totals, chunk, self._zero(), together=together)
            line = k.let("line", k.divide(row.chunk, self.each))
            end = k.let("end_word", k.smaller((chunk + 1) * line, self.words))
            with k.loop("word", chunk * line, end) as word:
                self._products(row, totals, word)
            self._end_chunk(row, sums, totals, chunk, together=together)

    def _end_chunk(
        self,
        row: RowOfDigits,
        sums: list[Register],
        totals: list[list[Register]],
        chunk: Expr,
        *,
        together: bool,
    ) -> None:
        k, lanes = self.k, self.k.lanes
        block = k.let("block", tirx.shift_right(chunk * row.chunk, self.shift))
        for j, total in enumerate(sums):
            scale = self._scale(block * self.width + j * lanes)
            found = row.value([by_digit[j] for by_digit in totals], chunk, together=together)
            total.add(found * scale)

    def _fetch_line(self, word: Expr) -> None:
        """Ask for what lies ahead of one word of each column."""
        ahead = AHEAD_OF_BYTES[self.bits]
        for place in range(0, self.width * BYTES, self.k.target.caches.line_bytes):
            self.panel.prefetch(word * (self.width * BYTES) + place + ahead, level=2)

    def _zero(self) -> int:
        """What is stored for the number 0: the instruction wants weights from 0 on, or signed ones."""
        signed = self.products is not None and not self.products.unsigned
        as_it_is = self.bits == 8 or not self.kind.is_integer
        return 0 if signed and as_it_is else self.kind.largest

    def _products(self, row: RowOfDigits, totals: list[list[Register]], word: Expr) -> None:
        lanes = self.k.lanes
        factors = row.words(word * self.each, self.each)
        for j in range(self.shape.vectors):
            place = (word * self.width + j * lanes) * BYTES
            parts = [*self.weights.bytes(self.panel, place, self._zero(), lanes)]
            for by_digit, words in zip(totals, factors, strict=True):
                for part, factor in zip(parts, words, strict=True):
                    row.add(by_digit[j], factor, part)
