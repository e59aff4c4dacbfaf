"""Attention by an instruction that multiplies pairs of bf16: what differs from `attention` in f32.

A word holds two bf16: neighbours along a head in q and k, the same column of two neighbouring keys in v and
in the powers. So the places of `attention`, counted in words, are those of f32, and each step of a product
does twice as much. Scores, their highest and their sums stay f32; the scale is applied to sums, not to q, and
the powers are rounded after they were summed.
"""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.kernels.arithmetic import round_bf16, rounded_pair
from isthmus.kernels.attention_shape import BLOCK_VECTORS, PAIR, Shape
from isthmus.kernels.attention_tile import Chunk, Steps
from isthmus.kernels.builder import Builder, Expr, Memory, Register, Value, lanes_of, vector_type
from isthmus.kernels.math_short import exp_negative
from isthmus.kernels.panels import transpose
from isthmus.kernels.tir import tirx


def line_of(k: Builder, row: Memory, start: int, width: int, count: int) -> Expr:
    """`count` elements of a row from `start`, a multiple of `count`, on; zeros where the row has ended.

    Of a row that ends before, no more is read than it has: its last `count` elements and those before, moved,
    or, of a shorter one, two vectors that overlap.
    """
    left = width - start
    if left >= count:
        return row.load(start, count)
    if width > count:
        parts, order = [row.load(width - count, count)], [*range(count - left, count)]
    else:
        half = 1 << (left.bit_length() - 1)
        parts = [row.load(at, half) for at in (start, width - half)]
        order = [*range(half), *range(3 * half - left, 2 * half)]
    zeros = k.spread(0.0 if row.dtype == "float32" else 0, count, row.dtype)
    given = sum(map(lanes_of, parts))
    return k.let("line", k.shuffle([*parts, zeros], [*order, *range(given, given + count - left)]))


def words_of(k: Builder, row: Memory, start: int, width: int) -> Expr:
    """A vector of words of a row, of bf16 or of f32 that is rounded; zeros where the row has ended."""
    if row.dtype == "float32":
        return k.let("words", _rounded(k, row, start, width))
    line = line_of(k, row, start, width, PAIR * k.lanes)
    return k.let("words", tirx.reinterpret(vector_type("int32", k.lanes), line))


def _rounded(k: Builder, row: Memory, start: int, width: int) -> Expr:
    low, high = (
        line_of(k, row, at, width, k.lanes) if at < width else k.constant(0.0, row.load(0, k.lanes))
        for at in (start, start + k.lanes)
    )
    return tirx.reinterpret(vector_type("int32", k.lanes), rounded_pair(k, low, high))


def interleaved(k: Builder, rows: Sequence[Expr]) -> Expr:
    """Elements of two rows in turns: a word for each column."""
    lanes = lanes_of(rows[0])
    return k.shuffle(rows, [half * lanes + lane for lane in range(lanes) for half in range(PAIR)])


def pack_keys(
    k: Builder, shape: Shape, source: Memory, pitch: Expr, first: Expr, keys: Expr, block: Memory
) -> None:
    """The keys from `first` on as words, [words][block]; zeros for those that are not there."""
    lanes = shape.lanes
    for v in range(BLOCK_VECTORS):
        start = k.let("start", first + v * lanes)
        places = [k.smaller(start + j, keys - 1) * pitch for j in range(lanes)]
        rows = [source.at(place, f"key{j}") for j, place in enumerate(places)]
        present = k.let("present", k.lane_numbers(lanes) < k.cast(keys - start, "int32"))
        for word in range(0, shape.words, lanes):
            vectors = [words_of(k, row, word * PAIR, shape.width) for row in rows]
            for i, column in enumerate(transpose(k, vectors)[: shape.words - word]):
                shown = k.let("shown", k.select(present, column, 0, "int32"))
                block.store((word + i) * shape.block + v * lanes, k.bits(shown, "float32"))


def pack_values(k: Builder, shape: Shape, source: Memory, pitch: Expr, keys: Expr, packed: Memory) -> None:
    """V as words of two keys, [pairs of keys][value_pitch]; zeros for keys and columns that lack."""
    lanes = shape.lanes
    with k.loop("pair", 0, k.divide_up(keys, PAIR)) as pair:
        first = k.let("first", pair * PAIR)
        second = k.let("second", k.smaller(first + 1, keys - 1))
        rows = [source.at(key * pitch, f"value{i}") for i, key in enumerate((first, second))]
        place = packed.at(pair * shape.value_pitch, "v_packed")
        for start in range(0, shape.value_width, lanes):
            lines = [line_of(k, row, start, shape.value_width, lanes) for row in rows]
            if source.dtype == "float32":
                lines = [k.let("rounded", round_bf16(k, line)) for line in lines]
            lines[1] = k.let("shown", k.select(first + 1 < keys, lines[1], 0, "uint16"))
            words = tirx.reinterpret(vector_type("float32", lanes), interleaved(k, lines))
            place.store(start, words)


def copy_query(k: Builder, shape: Shape, row: Memory, copy: Memory) -> None:
    """A row of q as words, zeros behind them up to a whole vector."""
    for start in range(0, shape.words, shape.lanes):
        # What is beyond the row's words is overwritten by the next row, or room of the scores.
        copy.store(start, k.bits(words_of(k, row, start * PAIR, shape.width), "float32"))


class PairSteps(Steps):
    """The steps of `attention` on words of two bf16."""

    def copy_query(self, row: Memory, copy: Memory, number: Expr) -> None:
        copy_query(self.k, self.shape, row, copy)

    def pack_keys(self, source: Memory, pitch: Expr, first: Expr, keys: Expr, block: Memory) -> None:
        pack_keys(self.k, self.shape, source, pitch, first, keys, block)

    def pack_values(self, source: Memory, pitch: Expr, keys: Expr) -> None:
        pack_values(self.k, self.shape, source, pitch, keys, self.parts.packed_v)

    def _line(self, words: Expr) -> Expr:
        return self.k.bits(words, "int32")

    def _factor(self, word: Expr) -> Expr:
        return self.k.spread(self.k.bits(word, "int32"), self.shape.lanes, "int32")

    def _add(self, register: Register, factor: Expr, line: Expr) -> None:
        dtype = vector_type("float32", self.shape.lanes)
        register.set(self.k.helper(dtype, "dot_bf16", register.value, factor, line))

    def _scaled(self, tile: Sequence[Sequence[Register]]) -> None:
        scale = self.k.let("scale", self.k.spread(self.scale, self.shape.lanes))
        for register in (register for row in tile for register in row):
            register.set(register.value * scale)

    def _powers(self, row: Expr, i: Expr, blocks: Expr, chunk: Chunk) -> None:
        """The powers of a block, rounded, take the first half of the place of its scores."""
        k, shape, scores = self.k, self.shape, self.parts.scores
        level = k.let("level", k.spread(self.lanewise.load(i * shape.lanes), shape.lanes))
        sums = [k.register(f"sum{v}", shape.lanes, 0.0) for v in range(BLOCK_VECTORS)]
        with k.loop("kb", 0, blocks) as kb:
            places = [k.let("place", self._place(kb, i, v)) for v in range(BLOCK_VECTORS)]
            powers = [exp_negative(k, scores.load(place, shape.lanes) - level) for place in places]
            for total, power in zip(sums, powers, strict=True):
                total.add(power)
            self.parts.powers.store(places[0] * PAIR, rounded_pair(k, *powers))
        self._keep_sums(row, sums, chunk)

    def _store_values(self, line: Memory, first: Value, start: int, value: Expr, width: int) -> None:
        if line.dtype != "float32":
            value = self.k.let("rounded", round_bf16(self.k, value))
        super()._store_values(line, first, start, value, width)
