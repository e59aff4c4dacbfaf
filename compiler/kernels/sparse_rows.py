"""A few rows for `sparse` where vectors have more lanes: parts of vectors, or the others would be empty.

Half a vector is loaded twice as often in the same time, and a number of the matrix takes the time of two
loads. So up to eight rows take half of 16 lanes, and up to four a quarter.
"""

from __future__ import annotations

from isthmus.kernels.builder import Builder, Expr, Memory
from isthmus.kernels.tir import tirx
from isthmus.target import VectorUnit

# Lanes of a part.
PARTS = (4, 8)


def narrow_lanes(vector: VectorUnit) -> tuple[int, ...]:
    """Lanes that parts of a vector may have."""
    return tuple(lanes for lanes in PARTS if lanes < vector.lanes(32))


def fill_rows(
    k: Builder,
    source: Memory,
    tile: Memory,
    rows: int,
    group: int,
    depth: Expr,
    count: Expr,
    pitch: Expr,
    end: Expr,
) -> None:
    """`count` rows of `source` as tile[word][rows]: words of `group` elements, `depth` elements of each row;
    zeros up to word `end`, and for rows that are not there."""
    words = tile.reread("int32")
    whole = k.let("whole_words", depth if group == 1 else k.divide(depth, group))
    with k.loop("pad", whole, end) as pad:
        words.store(pad * rows, 0, rows)
    for r in range(rows):
        row = source.at(r * pitch, f"row{r}")
        with k.when(count > r):
            with k.loop("kk", 0, whole) as kk:
                words.store(kk * rows + r, tirx.reinterpret("int32", row.load(kk * group, group)))
            if group > 1:
                with k.loop("i", whole * group, depth) as i:
                    tile.store((whole * rows + r) * group + i - whole * group, row.load(i))
        with k.otherwise(), k.loop("kk", 0, whole) as kk:
            words.store(kk * rows + r, 0)


def by_row(k: Builder, stage: Memory, rows: int) -> list[Expr]:
    """stage[lanes][rows] as a vector for each row."""
    lanes = k.lanes
    parts = [k.let("part", stage.load(i * lanes, lanes)) for i in range(rows)]
    return [k.let("row", k.shuffle(parts, [i * rows + r for i in range(lanes)])) for r in range(rows)]
