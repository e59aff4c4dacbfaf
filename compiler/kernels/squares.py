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
    """Bytes read as words of 32 bits."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def load(self, i: Value, lanes: int = 1) -> Expr:
        return tirx.reinterpret(vector_type("int32", lanes), self.memory.load(i * WORD, WORD * lanes))


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
    k: Builder, source: Memory, tile: Memory, depth: Expr, rows: Expr, pitch: Expr, width: int
) -> None:
    """tile[kk, j] = bytes 4 kk to 4 kk + 3 of source[j], for j < width and all words of `depth` bytes.

    0 for bytes and rows that source does not have.
    """
    lanes = k.lanes
    whole = k.let("whole_words", k.divide(depth, WORD))
    with k.loop("part", 0, width // lanes) as part:
        first = k.let("first_row", part * lanes)
        here = source.at(first * pitch, "here")
        with k.when(first + lanes <= rows):
            squares = k.let("squares", k.divide(whole, lanes) if lanes > 1 else 0)
            with k.loop("square", 0, squares) as square:
                start = k.let("start", square * lanes)
                lines = [_Words(here.at(i * pitch, f"row{i}")) for i in range(lanes)]
                for i, column in enumerate(transposed(k, lines, start)):
                    bytes_ = tirx.reinterpret(vector_type(tile.dtype, WORD * lanes), column)
                    tile.store(((start + i) * width + first) * WORD, bytes_)
            _single_bytes(
                k, here, tile.at(first * WORD, "there"), squares * lanes, depth, lanes, pitch, width
            )
        with k.otherwise():
            count = k.let("count", k.larger(rows - first, 0))
            _single_bytes(k, here, tile.at(first * WORD, "there"), 0, depth, count, pitch, width)


def _single_bytes(
    k: Builder,
    source: Memory,
    tile: Memory,
    begin: Value,
    depth: Expr,
    rows: Value,
    pitch: Expr,
    width: int,
) -> None:
    """The words from `begin` on, byte by byte, zeros first."""
    with k.loop("word", begin, k.divide_up(depth, WORD)) as word:
        clear_words(k, tile, word * width)
        with k.loop("byte", word * WORD, k.smaller(depth, (word + 1) * WORD)) as byte:
            to = k.let("to", word * (width * WORD) + (byte - word * WORD))
            with k.loop("i", 0, rows) as i:
                tile.store(to + i * WORD, source.load(i * pitch + byte))


def clear_words(k: Builder, tile: Memory, place: Expr) -> None:
    """Zeros for one vector of words, `place` words into the tile."""
    if k.lanes > 1:
        tile.store(place * WORD, 0, WORD * k.lanes)
        return
    for i in range(WORD):
        tile.store(place * WORD + i, 0)
