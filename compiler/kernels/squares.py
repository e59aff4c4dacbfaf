"""Squares of `lanes` x `lanes` numbers transposed on their way from memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from isthmus.kernels.builder import Builder, Expr, Memory, Value, lanes_of, vector_type
from isthmus.kernels.tir import tirx
from isthmus.target import BYTES_IN_WORD

# Numbers of the parts that are loaded: what shuffles reach most cheaply on every chip.
PART = 4

WORD = BYTES_IN_WORD


class Row(Protocol):
    """What a row of a square is read from."""

    def load(self, i: Value, lanes: int = 1) -> Expr: ...


class _Words:
    """Elements of which `group` fill a word, read as words of 32 bits."""

    def __init__(self, memory: Memory, group: int) -> None:
        self.memory = memory
        self.group = group

    def load(self, i: Value, lanes: int = 1) -> Expr:
        loaded = self.memory.load(i * self.group, self.group * lanes)
        return tirx.reinterpret(vector_type("int32", lanes), loaded)


def transposed(k: Builder, rows: Sequence[Row], start: Value) -> list[Expr]:
    """The columns start, start + 1, .. of a square whose rows begin at `rows`, as vectors.

    Parts of four numbers are loaded straight into the quarter where they belong, so that two rounds of
    shuffles within quarters are left, whatever the width of a vector.
    """
    lanes = len(rows)
    if lanes == 1:
        return [k.let("t", rows[0].load(start))]
    part = min(PART, lanes)
    columns: list[Expr] = []
    for block in range(0, lanes, part):
        lines = [
            _joined(k, [rows[quarter + i].load(start + block, part) for quarter in range(0, lanes, part)])
            for i in range(part)
        ]
        columns += _within(k, lines, part)
    return columns


def _joined(k: Builder, parts: Sequence[Expr]) -> Expr:
    """Vectors one after the other as one."""
    while len(parts) > 1:
        size = 2 * lanes_of(parts[0])
        parts = [k.shuffle([a, b], range(size)) for a, b in zip(parts[0::2], parts[1::2], strict=True)]
    return k.let("joined", parts[0])


def _within(k: Builder, lines: Sequence[Expr], part: int) -> list[Expr]:
    """Squares of `part` numbers side by side, each transposed in its place by rounds of perfect shuffles."""
    half = part // 2
    for _ in range(part.bit_length() - 1):
        lines = [
            k.let("t", _interleaved(k, lines[i], lines[i + half], part, begin))
            for i in range(half)
            for begin in (0, half)
        ]
    return list(lines)


def _interleaved(k: Builder, a: Expr, b: Expr, part: int, begin: int) -> Expr:
    """Of each part the half from `begin` on, of a and b in turn."""
    lanes = lanes_of(a)
    order = [
        place
        for first in range(begin, lanes, part)
        for at in range(first, first + part // 2)
        for place in (at, lanes + at)
    ]
    return k.shuffle([a, b], order)


def transpose_rows(
    k: Builder, source: Memory, tile: Memory, depth: Expr, rows: Expr, pitch: Expr, width: int
) -> None:
    """tile[kk, j] = source[j, kk] for kk < depth and j < width; 0 for rows that source does not have."""
    lanes = k.lanes
    with k.loop("part", 0, width // lanes) as part:
        first = k.let("first_row", part * lanes)
        here = source.at(first * pitch, "here")
        with k.when(first + lanes <= rows):
            squares = k.let("squares", k.divide(depth, lanes))
            with k.loop("square", 0, squares) as square:
                start = k.let("start", square * lanes)
                lines = [here.at(i * pitch, f"row{i}") for i in range(lanes)]
                for i, column in enumerate(transposed(k, lines, start)):
                    tile.store((start + i) * width + first, column)
            with k.loop("kk", squares * lanes, depth) as kk, k.loop("i", 0, lanes) as i:
                tile.store(kk * width + first + i, here.load(i * pitch + kk))
        with k.otherwise(), k.loop("kk", 0, depth) as kk:
            tile.store(kk * width + first, 0.0, lanes)
            with k.loop("i", first, rows) as i:
                tile.store(kk * width + i, source.load(i * pitch + kk))


def transpose_words(
    k: Builder,
    source: Memory,
    tile: Memory,
    depth: Expr,
    rows: Expr,
    pitch: Expr,
    width: int,
    group: int = WORD,
) -> None:
    """tile[kk, j] = elements group kk to group kk + group - 1 of source[j], which fill a word, for j < width
    and all words of `depth` elements.

    0 for elements and rows that source does not have.
    """
    lanes = k.lanes
    whole = k.let("whole_words", k.divide(depth, group))
    with k.loop("part", 0, width // lanes) as part:
        first = k.let("first_row", part * lanes)
        here = source.at(first * pitch, "here")
        with k.when(first + lanes <= rows):
            squares = k.let("squares", k.divide(whole, lanes) if lanes > 1 else 0)
            with k.loop("square", 0, squares) as square:
                start = k.let("start", square * lanes)
                lines = [_Words(here.at(i * pitch, f"row{i}"), group) for i in range(lanes)]
                for i, column in enumerate(transposed(k, lines, start)):
                    elements = tirx.reinterpret(vector_type(tile.dtype, group * lanes), column)
                    tile.store(((start + i) * width + first) * group, elements)
            there = tile.at(first * group, "there")
            _single_elements(k, here, there, squares * lanes, depth, lanes, pitch, width, group)
        with k.otherwise():
            count = k.let("count", k.larger(rows - first, 0))
            there = tile.at(first * group, "there")
            _single_elements(k, here, there, 0, depth, count, pitch, width, group)


def _single_elements(
    k: Builder,
    source: Memory,
    tile: Memory,
    begin: Value,
    depth: Expr,
    rows: Value,
    pitch: Expr,
    width: int,
    group: int,
) -> None:
    """The words from `begin` on, element by element, zeros first."""
    with k.loop("word", begin, k.divide_up(depth, group)) as word:
        clear_words(k, tile, word * width, group)
        with k.loop("byte", word * group, k.smaller(depth, (word + 1) * group)) as byte:
            to = k.let("to", word * (width * group) + (byte - word * group))
            with k.loop("i", 0, rows) as i:
                tile.store(to + i * group, source.load(i * pitch + byte))


def clear_words(k: Builder, tile: Memory, place: Expr, group: int = WORD) -> None:
    """Zeros for one vector of words of `group` elements, `place` words into the tile."""
    if k.lanes > 1:
        tile.store(place * group, 0, group * k.lanes)
        return
    for i in range(group):
        tile.store(place * group + i, 0)
