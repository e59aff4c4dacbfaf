"""Attention by an instruction that multiplies bytes: what differs from `attention` in f32.

Each query and each key is rounded to bytes at its own scale, V at one scale for the head, and the powers of
the scores to the integers up to POWERS; scores, their highest and all sums are f32 between the two products,
which are exact. Results are divided by the sum of the powers as they were rounded. (Zhang et al. 2024, arXiv
2410.02367, round q and k so.) A word holds four bytes: neighbours along a head in q and k, the same column
of four neighbouring keys in v and in the powers, so the places of `attention` are those of f32, in words.

Where the instruction takes unsigned bytes on one side, queries are shifted by MIDDLE, and what that adds to
the sums of each key is taken off at the start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from isthmus.errors import CompilerBug
from isthmus.kernels.attention_pairs import line_of
from isthmus.kernels.attention_shape import BLOCK_VECTORS, FOUR
from isthmus.kernels.attention_tile import Chunk, Rows, Steps
from isthmus.kernels.builder import Expr, Memory, Register, Value, vector_type
from isthmus.kernels.math import ROUND, ROUND_BITS, magnitude_bits
from isthmus.kernels.math_short import exp_negative
from isthmus.kernels.panels import transpose_panel
from isthmus.kernels.tir import tirx
from isthmus.target import Target

LARGEST = 127  # a byte's magnitude
MIDDLE = 128  # what unsigned bytes of a query stand for 0 with
POWERS = {True: 255, False: 127}  # the largest power, unsigned or not
# Rows whose largest number is below have no digits to keep: a scale for them could not be inverted.
TINY = 2.0**-100


def multiplies_bytes(target: Target) -> bool:
    """Whether the target multiplies words of four bytes by one instruction."""
    products = target.byte_products
    return target.byte_order == "little" and products is not None and products.of_words is not None


class ByteSteps(Steps):
    """The steps of `attention` on words of four bytes."""

    def scale_by(self, scale: Expr) -> None:
        k, products, extra = self.k, self.k.target.byte_products, self.parts.extra
        words = None if products is None else products.of_words
        if words is None or extra is None:
            raise CompilerBug(f"{k.target.name} declares no products of four bytes")
        super().scale_by(scale)
        self.products, self.extra = words, extra
        self.query_scales = k.stack("query_scales", self.shape.group)
        self.value_scale = k.stack("value_scale", 1)

    # Packing

    def copy_query(self, row: Memory, copy: Memory, number: Expr) -> None:
        """A row of q as bytes, and its scale times that of scores; `number` within the group."""
        k, shape = self.k, self.shape
        lines = self._lines(row, shape.width)
        scale = self._scale(self._largest(lines))
        self.query_scales.store(number, scale * self.scale)
        inverse = k.let("inverse", 1.0 / scale)
        middle = MIDDLE if self.products.unsigned else 0
        self._store_bytes(lines, inverse, copy, middle)

    def pack_keys(self, source: Memory, pitch: Expr, first: Expr, keys: Expr, block: Memory) -> None:
        """A block of keys as words, [words][block], with scales and what their sums start with."""
        k, shape, extra = self.k, self.shape, self.extra
        there = k.let("there", k.smaller(keys - first, shape.block))
        with k.loop("j", 0, there) as j:
            lines = self._lines(source.at((first + j) * pitch, "key"), shape.width)
            scale = self._scale(self._largest(lines))
            extra.scales.store(first + j, scale)
            self._store_bytes(lines, k.let("inverse", 1.0 / scale), extra.stage.at(j * shape.words, "bytes"))
        with k.loop("j", there, shape.block) as j:
            extra.scales.store(first + j, 0.0)
        transpose_panel(k, extra.stage, block, shape.words, there, shape.words, shape.block)
        if self.products.unsigned:
            self._start_sums(first, block)

    def _start_sums(self, first: Expr, block: Memory) -> None:
        """What a shift of q by MIDDLE would add to the sums of each key, negative."""
        k, shape, lanes = self.k, self.shape, self.shape.lanes
        shifted = self._word_everywhere(tirx.IntImm("int32", MIDDLE * 0x01010101 - (1 << 32)))
        for v in range(BLOCK_VECTORS):
            total = k.register("shift", lanes, 0, "int32")
            with k.loop("word", 0, shape.words) as word:
                self._add(total, shifted, self._line(block.load(word * shape.block + v * lanes, lanes)))
            self.extra.initial.store(first + v * lanes, k.constant(0, total.value) - total.value)

    def pack_values(self, source: Memory, pitch: Expr, keys: Expr) -> None:
        """V as words of four keys, [fours of keys][value_pitch]; zeros for columns that lack."""
        k, shape, lanes = self.k, self.shape, self.shape.lanes
        largest = k.register("largest", lanes, 0, "int32")
        with k.loop("j", 0, keys) as j:
            for line in self._lines(source.at(j * pitch, "value"), shape.value_width):
                largest.set(tirx.max(largest.value, magnitude_bits(self.k, line)))
        scale = self._scale(k.reduce(largest.value, tirx.max))
        self.value_scale.store(0, scale)
        inverse = k.let("inverse", k.spread(1.0 / scale, lanes))
        with k.loop("four", 0, k.divide_up(keys, FOUR)) as four:
            keys_of = [k.smaller(four * FOUR + i, keys - 1) * pitch for i in range(FOUR)]
            rows = [self._lines(source.at(at, "value"), shape.value_width) for at in keys_of]
            place = self.parts.packed_v.at(four * shape.value_pitch, "v_packed")
            for number, lines in enumerate(zip(*rows, strict=True)):
                whole = [k.bits(line * inverse + ROUND, "int32") for line in lines]
                place.store(number * lanes, k.bits(self._word(whole), "float32"))

    def _word(self, whole: Sequence[Expr]) -> Expr:
        """The lowest bytes of four vectors of integers, side by side."""
        k, word = self.k, None
        for i, part in enumerate(whole):
            byte = tirx.bitwise_and(part, k.constant(255, part))
            moved = tirx.shift_left(byte, k.constant(8 * i, byte)) if i else byte
            word = moved if word is None else tirx.bitwise_or(word, moved)
        return k.let("word", word)

    def _lines(self, row: Memory, width: int) -> list[Expr]:
        lanes = self.shape.lanes
        return [self.k.let("line", line_of(self.k, row, at, width, lanes)) for at in range(0, width, lanes)]

    def _largest(self, lines: Sequence[Expr]) -> Expr:
        largest = magnitude_bits(self.k, lines[0])
        for line in lines[1:]:
            largest = self.k.let("largest", tirx.max(largest, magnitude_bits(self.k, line)))
        return self.k.reduce(largest, tirx.max)

    def _scale(self, largest: Expr) -> Expr:
        k = self.k
        size = k.let("size", k.bits(largest, "float32"))
        return k.let("scale", k.select(size < TINY, 1.0, size / float(LARGEST)))

    def _store_bytes(self, lines: Sequence[Expr], inverse: Expr, to: Memory, middle: int = 0) -> None:
        k, lanes = self.k, self.shape.lanes
        bytes_ = to.reread("int8").at(to.offset * FOUR)
        for number, line in enumerate(lines):
            whole = k.bits(line * k.spread(inverse, lanes) + (ROUND + middle), "int32")
            bytes_.store(number * lanes, k.cast(whole - k.constant(ROUND_BITS, whole), "int8"))

    # Scores

    def _products(self, height: int, queries: Memory, key: Expr, row: Expr) -> Sequence[Sequence[Register]]:
        k, shape, lanes = self.k, self.shape, self.shape.lanes
        totals = k.tile("total", height, BLOCK_VECTORS, lanes, "int32")
        for v in range(BLOCK_VECTORS):
            start = k.constant(0, totals[0][v].value)
            if self.products.unsigned:
                start = k.let("start", self.extra.initial.load(key + v * lanes, lanes))
            for registers in totals:
                registers[v].set(start)
        block = self.parts.packed_k.at(key * shape.words, "k_block")

        def multiply(d: Expr) -> None:
            self._multiply(totals, queries, shape.words, d, block.at(d * shape.block, "k_row"))

        self._steps(shape.words, multiply)
        tile = k.tile("score", height, BLOCK_VECTORS, lanes)
        for v in range(BLOCK_VECTORS):
            scales = k.let("key_scales", self.extra.scales.load(key + v * lanes, lanes))
            for i, registers in enumerate(tile):
                scale = k.let("scale", k.spread(self.query_scales.load(row + i), lanes))
                registers[v].set(k.cast(totals[i][v].value, "float32") * scales * scale)
        return tile

    def _line(self, words: Expr) -> Expr:
        return self._as_bytes(words)

    def _factor(self, word: Expr) -> Expr:
        return self._word_everywhere(self.k.bits(word, "int32"))

    def _add(self, register: Register, factor: Expr, line: Expr) -> None:
        """Bytes of the factor, unsigned perhaps, times those of the line."""
        dtype = vector_type("int32", self.shape.lanes)
        register.set(self.k.intrinsic(dtype, self.products.intrinsic, register.value, factor, line))

    def _word_everywhere(self, word: Expr) -> Expr:
        return self._as_bytes(self.k.spread(word, self.shape.lanes, "int32"))

    def _as_bytes(self, vector: Expr) -> Expr:
        return tirx.reinterpret(vector_type("int8", FOUR * self.shape.lanes), vector)

    # Softmax

    def _numerator(self) -> Expr:
        return self.value_scale.load(0)

    def _powers(self, row: Expr, i: Expr, blocks: Expr, chunk: Chunk) -> None:
        """The powers of a block, as bytes, take the first quarter of the place of its scores."""
        k, shape, scores = self.k, self.shape, self.parts.scores
        # Powers up to the largest byte, not up to 1.
        shift = self.lanewise.load(i * shape.lanes) - math.log(POWERS[self.products.unsigned])
        level = k.let("level", k.spread(shift, shape.lanes))
        sums = [k.register(f"sum{v}", shape.lanes, 0.0) for v in range(BLOCK_VECTORS)]
        with k.loop("kb", 0, blocks) as kb:
            places = [k.let("place", self._place(kb, i, v)) for v in range(BLOCK_VECTORS)]
            powers = [exp_negative(k, scores.load(place, shape.lanes) - level) for place in places]
            rounded = [k.let("rounded", power + ROUND) for power in powers]
            for v, (total, whole) in enumerate(zip(sums, rounded, strict=True)):
                total.add(whole - ROUND)
                bits = k.bits(whole, "int32")
                bytes_ = k.cast(bits - k.constant(ROUND_BITS, bits), "int8")
                self.parts.powers.store(places[0] * FOUR + v * shape.lanes, bytes_)
        self._keep_sums(row, sums, chunk)

    # Values

    def _columns(
        self, rows: Rows, chunk: Chunk, keys: Expr, lines: list[Memory], first: Value, vectors: int
    ) -> None:
        k, shape = self.k, self.shape
        totals = k.tile("total", len(lines), vectors, shape.lanes, "int32")
        for register in (register for row in totals for register in row):
            register.set(0)
        self._add_values(totals, chunk, keys, first)
        sums = [[k.cast(register.value, "float32") for register in row] for row in totals]
        tile = k.tile("acc", len(lines), vectors, shape.lanes)
        self._start(tile, rows, chunk, first)
        for registers, row in zip(tile, sums, strict=True):
            for register, value in zip(registers, row, strict=True):
                register.add(value)
        self._leave(tile, rows, chunk, lines, first)
