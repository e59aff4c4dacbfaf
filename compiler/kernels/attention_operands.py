"""What attention in tile registers multiplies: queries, keys and values as tile products take them."""

from __future__ import annotations

from dataclasses import dataclass

from isthmus.kernels.attention_pairs import interleaved, line_of, words_of
from isthmus.kernels.builder import Builder, Expr, Memory
from isthmus.kernels.panels import transpose
from isthmus.kernels.tiles import WORDS
from isthmus.kernels.tir import tirx

GROUP = 2  # elements in a word


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes known at compile time, in elements; widths are of whole tiles."""

    width: int
    value_width: int

    @property
    def lines(self) -> int:
        """Tiles along a head."""
        return -(-self.width // (WORDS * GROUP))

    @property
    def padded(self) -> int:
        return self.lines * WORDS * GROUP

    @property
    def columns(self) -> int:
        """Tiles of the result."""
        return -(-self.value_width // WORDS)

    @property
    def value_padded(self) -> int:
        return self.columns * WORDS

    @property
    def aligned(self) -> bool:
        """Whether queries are read where they lie."""
        return self.padded == self.width


def pack_keys(
    k: Builder, shape: Shape, source: Memory, pitch: Expr, first: Expr, keys: Expr, packed: Memory
) -> None:
    """16 keys: [words of the head][16 keys][2]."""
    block = packed.at(first * shape.padded, "k_block")
    places = [k.smaller(first + j, keys - 1) * pitch for j in range(WORDS)]
    rows = [source.at(place, f"key{j}") for j, place in enumerate(places)]
    present = k.let("present", k.lane_numbers(WORDS) < k.cast(keys - first, "int32"))
    for start in range(0, shape.width, WORDS * GROUP):
        words = [words_of(k, row, start, shape.width) for row in rows]
        for i, column in enumerate(transpose(k, words)):
            shown = k.let("shown", k.select(present, column, 0, "int32"))
            place = (start // GROUP + i) * WORDS * GROUP
            block.store(place, tirx.reinterpret(f"uint16x{WORDS * GROUP}", shown))


def pack_values(
    k: Builder, shape: Shape, source: Memory, pitch: Expr, pair: Expr, keys: Expr, packed: Memory
) -> None:
    """Two keys: [tiles of the result][2 keys / 2][16 columns][2]."""
    line = WORDS * GROUP
    both = [pair * GROUP + i for i in range(GROUP)]
    rows = [source.at(k.smaller(key, keys - 1) * pitch, f"value{i}") for i, key in enumerate(both)]
    block = k.let("block", k.divide(pair, WORDS))
    inside = k.let("inside", k.remainder(pair, WORDS))
    for tile in range(shape.columns):
        start = tile * WORDS
        parts = [line_of(k, row, start, shape.value_width, WORDS) for row in rows]
        shown = [
            k.let("shown", k.select(key < keys, part, 0, "uint16"))
            for key, part in zip(both, parts, strict=True)
        ]
        place = ((block * shape.columns + tile) * WORDS + inside) * line
        packed.store(place, interleaved(k, shown))


def copy_queries(k: Builder, shape: Shape, source: Memory, pitch: Expr, height: Expr, copies: Memory) -> None:
    """Rows of q, with zeros behind them up to whole lines."""
    with k.loop("i", 0, height) as i:
        row = source.at(i * pitch, "q_row")
        copy = copies.at(i * shape.padded, "q_copy")
        with k.loop("d", 0, shape.width) as d:
            copy.store(d, row.load(d))
        for d in range(shape.width, shape.padded):
            copy.store(d, 0)
