"""Tiles of products in floats with weights of few bits: see `block_gemm`, whose kernels they are part of."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.ir.types import DType
from isthmus.kernels.arithmetic import widened
from isthmus.kernels.block_row import CHUNK, STEP, products_of, scratch_floats
from isthmus.kernels.block_weights import BYTES, HALF, IN_MEMORY, WORD, Kind, Weights, scale_of
from isthmus.kernels.builder import Builder, Expr, Memory, Register, Value, index, vector_type
from isthmus.kernels.gemm import panel_width, tile_of
from isthmus.kernels.tir import tirx
from isthmus.target import Target

# Bytes ahead of the words in use that are fetched.
AHEAD = 16384
# The power of two that a row takes for floats of 8 bits, which lack more than that.
RAISED = 60
# The number at which a float's lowest digit is worth 1.
UNIT, UNIT_BITS = float(1 << 23), 0x4B000000
# What rows are in memory.
ROWS: Mapping[DType, str] = {DType.F32: "float32", DType.BF16: "uint16", DType.F16: "uint16"}


class BlockTiles:
    """The parts of one kernel while it is written, and its tiles of rows in floats."""

    def __init__(self, symbol: str, target: Target, kind: Kind, scales: DType, x: DType) -> None:
        k = self.k = Builder(symbol, target)
        self.kind, self.bits, self.each = kind, kind.bits, WORD // kind.bits
        self.weights = Weights(k, kind)
        self.shape, self.width = tile_of(target), panel_width(target)
        self.scales_in, self.x_in = scales, x
        self.x, self.w = k.input("x", ROWS[x]), k.input("w", "int8")
        self.scale = k.input("scale", IN_MEMORY[scales])
        self.bias, self.y = k.input("bias"), k.output("y")
        self.products = products_of(target)
        has_scratch = self.products is not None or x is not DType.F32
        self.scratch = k.output("scratch") if has_scratch else None
        self.depth, self.columns, self.shift = k.size("k"), k.size("n"), k.size("shift")
        self.ldx, self.ldy = k.size("ldx"), k.size("ldy")
        self.row_begin, self.row_end = k.size("row_begin"), k.size("row_end")
        self.panel_begin, self.panel_end = k.size("panel_begin"), k.size("panel_end")

    def _begin(self) -> None:
        """What is the same for all panels."""
        k = self.k
        self.wide: Memory | None = None
        if self.x_in is not DType.F32 and self.scratch is not None:
            # Behind what one row is taken apart to.
            of_step = scratch_floats(k.target, STEP)
            self.wide = self.scratch.at(k.divide(self.depth, STEP) * of_step, "wide_start")
        self.stage = k.stack("stage", self.shape.rows * self.width)
        self.words = k.let("words", k.divide(self.depth, self.each))
        self.blocks = k.let("blocks", k.larger(tirx.shift_right(self.depth, self.shift), 1))

    def _at(self, panel: Expr) -> None:
        """What is read and written for `panel`."""
        k = self.k
        self.column = k.let("column", panel * self.width)
        self.panel = self.w.at(panel * self.words * (self.width * BYTES), "panel_start")
        self.scales = self.scale.at(panel * self.blocks * self.width, "scales_start")

    def _scale(self, place: Expr) -> Expr:
        return scale_of(self.k, self.scales, place, self.k.lanes, self.scales_in)

    def _in_floats(self, rows: Expr) -> None:
        k, shape = self.k, self.shape
        tiles = k.let("tiles", k.divide_up(rows, shape.rows))
        height = k.let("height", k.divide(rows, k.larger(tiles, 1)))
        taller = k.let("taller", rows - height * tiles)
        with k.loop("panel", self.panel_begin, self.panel_end) as panel, k.loop("t", 0, tiles) as t:
            self.first = k.let("first", self.row_begin + t * height + k.smaller(t, taller))
            self._at(panel)
            tall = k.let("tile_height", height + k.cast(t < taller, "int64"))
            self._widen(tall)
            cases = [(k.equal(tall, h), lambda h=h: self._rows(h)) for h in range(shape.rows, 1, -1)]
            k.choose(cases, lambda: self._rows(1))

    def _only_row(self) -> Memory:
        """The first row, alone, in f32."""
        self.first = self.row_begin
        self._widen(1)
        return self._row(0)

    def _widen(self, count: Value) -> None:
        """Make f32 of as many rows from `first` on, where they are something else. What meets a word of
        weights lies side by side for all of them, so that a tile reads it by one pointer."""
        if self.wide is None:
            return
        k, wide, each = self.k, self.wide, self.each
        together = max(k.lanes // each, 1)
        with k.loop("i", 0, count) as i:
            source = self.x.at((self.first + i) * self.ldx, "narrow")

            def words(word: Expr, number: int) -> None:
                lanes = 1 if k.lanes == 1 else each * number
                for at in range(0, each * number, lanes):
                    numbers = k.let("numbers", widened(k, source.load(word * each + at, lanes), self.x_in))
                    for part in range(0, lanes, each):
                        place = ((word + part // each) * count + i) * each + at
                        few = lanes > each
                        wide.store(place, k.shuffle([numbers], range(part, part + each)) if few else numbers)

            done = k.let("done", k.divide(self.words, together) * together)
            with k.loop("group", 0, k.divide(done, together)) as group:
                words(k.let("word", group * together), together)
            if together > 1:
                with k.loop("word", done, self.words) as word:
                    words(word, 1)

    def _row(self, i: int) -> Memory:
        if self.wide is None:
            return self.x.at((self.first + i) * self.ldx, f"x{i}")
        return self.wide.at(i * self.each, f"x{i}")

    def _rows(self, rows: int) -> None:
        self._tile([self._row(i) for i in range(rows)])

    def _tile(self, x_rows: list[Memory], *, raised: bool = False) -> None:
        k, lanes, rows = self.k, self.k.lanes, len(x_rows)
        # From what meets a word of weights to what meets the next.
        self.pitch = self.each * (1 if self.wide is None else rows)
        sums = k.tile("sum", rows, self.shape.vectors, lanes)
        for j in range(self.shape.vectors):
            bias = k.let("bias", self.bias.load(self.column + j * lanes, lanes))
            for row in sums:
                row[j].set(bias)
        if rows == 1 and lanes > 1:
            self._by_blocks(sums[0], x_rows[0], raised=raised)
        else:
            self._by_words(sums, x_rows)
        self._finish(sums)

    def _by_words(self, sums: list[list[Register]], x_rows: list[Memory]) -> None:
        """Several rows share numbers that are scaled once."""
        k, lanes = self.k, self.k.lanes
        with k.loop("word", 0, self.words) as word:
            block = k.let("block", tirx.shift_right(word * self.each, self.shift))
            self._fetch(word, word + 1)
            vectors = range(self.shape.vectors)
            scales = [self._scale(block * self.width + j * lanes) for j in vectors]
            numbers = [
                self.weights.numbers(self.panel, (word * self.width + j * lanes) * BYTES) for j in vectors
            ]
            # One number of each row at a time: what is read of a row would take the registers of sums.
            for i in range(self.each):
                weights = [
                    k.let("weight", found[i] * scale) for found, scale in zip(numbers, scales, strict=True)
                ]
                for row, x_row in zip(sums, x_rows, strict=True):
                    factor = k.let("factor", self._factor(x_row, word, i))
                    for register, weight in zip(row, weights, strict=True):
                        register.add(factor * weight)

    def _by_blocks(self, sums: list[Register], x_row: Memory, *, raised: bool) -> None:
        """One row: the scale is left to the end of a block, and each place in a word has a sum of its own.
        Integers become floats where they stand: what that makes of them is left to the end as well."""
        k, lanes = self.k, self.k.lanes
        is_integer = self.kind.is_integer
        places = sorted({place % HALF for place in self.weights.places()}) if is_integer else range(self.each)
        parts = {place: k.register(f"part{place}", lanes) for place in places}
        whole = k.divide(tirx.shift_left(index(1), self.shift), self.each)
        each = k.let("block_words", k.smaller(whole, self.words if is_integer else CHUNK // self.each))
        count = k.divide(self.words, each) if is_integer else k.divide_up(self.words, each)
        with k.loop("block", 0, count) as block:
            first, end = k.let("first_word", block * each), k.let("end_word", (block + 1) * each)
            if not is_integer:
                # A part of a block, so that not too much is fetched at once.
                end = k.let("last_word", k.smaller(end, self.words))
                block = k.let("scales_of", tirx.shift_right(first * self.each, self.shift))
            self._fetch(first, end)
            for j, register in enumerate(sums):
                for part in parts.values():
                    part.set(0.0)
                with k.loop("word", first, end) as word:
                    if is_integer:
                        self._one_word(parts, x_row, word, j)
                    else:
                        self._one_word_of_floats(parts, x_row, word, j, raised=raised)
                total = parts[0].value
                for place in places[1:]:
                    part = parts[place].value * 2.0**-place if is_integer else parts[place].value
                    total = k.let("total", total + part)
                if raised:
                    total = k.let("total", total * 2.0 ** (self.kind.bias - RAISED))
                register.add(total * self._scale(block * self.width + j * lanes))

    def _one_word(self, parts: dict[int, Register], x_row: Memory, word: Expr, j: int) -> None:
        """Numbers become the lowest digits of a float, and what is above is taken away."""
        k, lanes = self.k, self.k.lanes
        stored = self.panel.load((word * self.width + j * lanes) * BYTES, BYTES * lanes)
        words = tirx.reinterpret(vector_type("uint32", lanes), stored)
        # From signed numbers to those from 0 on.
        sign = 1 << self.bits - 1
        signs = k.constant(sum(sign << place for place in self.weights.places()), words)
        low = k.let("low", tirx.bitwise_xor(words, signs))
        high = k.let("high", tirx.shift_right(low, k.constant(HALF, low)))
        for i, place in enumerate(self.weights.places()):
            at = place % HALF
            digits = tirx.bitwise_and(high if place >= HALF else low, k.constant((2 * sign - 1) << at, low))
            above = k.bits(tirx.bitwise_or(digits, k.constant(UNIT_BITS, low)), "float32")
            parts[at].add(self._factor(x_row, word, i) * k.let("number", above - (UNIT + float(sign << at))))

    def _one_word_of_floats(
        self, parts: dict[int, Register], x_row: Memory, word: Expr, j: int, *, raised: bool
    ) -> None:
        place = (word * self.width + j * self.k.lanes) * BYTES
        numbers = (self.weights.raised if raised else self.weights.numbers)(self.panel, place)
        for i, number in enumerate(numbers):
            parts[i].add(self._factor(x_row, word, i) * self.k.let("number", number))

    def _fetch(self, begin: Expr, end: Expr) -> None:
        """Ask for what lies ahead of these words."""
        line = self.k.target.caches.line_bytes
        lines = self.width * BYTES // line
        with self.k.loop("line", begin * lines, end * lines) as place:
            self.panel.prefetch(place * line + AHEAD, level=2)

    def _factor(self, row: Memory, word: Expr, i: int) -> Expr:
        return self.k.spread(row.load(word * self.pitch + i), self.k.lanes)

    def _finish(self, sums: list[list[Register]]) -> None:
        k, lanes = self.k, self.k.lanes
        left = k.let("left", self.columns - self.column)
        lines = [self.y.at((self.first + i) * self.ldy + self.column, f"y{i}") for i in range(len(sums))]
        with k.when(left >= self.width):
            for row, line in zip(sums, lines, strict=True):
                for j, register in enumerate(row):
                    line.store(j * lanes, register.value)
        with k.otherwise():
            for i, row in enumerate(sums):
                for j, register in enumerate(row):
                    self.stage.store(i * self.width + j * lanes, register.value)
            with k.loop("i", 0, len(sums)) as i, k.loop("j", 0, left) as j:
                value = self.stage.load(i * self.width + j)
                self.y.store((self.first + i) * self.ldy + self.column + j, value)
