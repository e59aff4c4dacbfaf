"""Matrices rearranged into panels: what a product reads line by line."""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.kernels.builder import Builder, Expr, Memory, Value, lanes_of


def transpose(k: Builder, rows: Sequence[Expr]) -> list[Expr]:
    """The transposed square of `lanes` vectors: log2(lanes) rounds of swapping ever larger blocks."""
    lanes = lanes_of(rows[0])
    size = 1
    while size < lanes:
        rows = [_exchange(k, rows, i, size) for i in range(lanes)]
        size *= 2
    return list(rows)


def _exchange(k: Builder, rows: Sequence[Expr], i: int, size: int) -> Expr:
    """Row i after the off-diagonal blocks of `size` were swapped between it and its partner."""
    lanes = lanes_of(rows[0])
    if i & size:
        order = [lane + size if not lane & size else lanes + lane for lane in range(lanes)]
    else:
        order = [lane if not lane & size else lanes + lane - size for lane in range(lanes)]
    return k.let("t", k.shuffle([rows[i & ~size], rows[i | size]], order))


def copy_panel(
    k: Builder, source: Memory, panel: Memory, depth: Value, columns: Expr, stride_k: Expr, width: int
) -> None:
    """panel[kk, j] = source[kk * stride_k + j] for j < columns, 0 beyond: the columns are contiguous."""
    with k.loop("kk", 0, depth) as kk:
        line = source.at(kk * stride_k, "line")
        packed = panel.at(kk * width, "packed")
        with k.when(columns >= width):
            for j in range(0, width, k.lanes):
                packed.store(j, line.load(j, k.lanes))
        with k.otherwise():
            with k.loop("j", 0, columns) as j:
                packed.store(j, line.load(j))
            with k.loop("pad", columns, width) as j:
                packed.store(j, 0.0)


def transpose_panel(
    k: Builder, source: Memory, panel: Memory, depth: Value, columns: Expr, stride_n: Expr, width: int
) -> None:
    """panel[kk, j] = source[kk + j * stride_n] for j < columns, 0 beyond: each column is contiguous."""
    # A known small depth is transposed in narrower squares.
    lanes = min(k.lanes, 1 << (depth.bit_length() - 1)) if isinstance(depth, int) else k.lanes
    whole = k.let("whole_depth", k.divide(depth, lanes) * lanes)
    with k.loop("group", 0, width // lanes) as group:
        first = k.let("first_column", group * lanes)
        with k.when(first < columns):
            # Beyond the last column it is read again, and zeroed after the transposition.
            places = [k.smaller(first + i, columns - 1) for i in range(lanes)]
            rows = [source.at(place * stride_n, f"column{i}") for i, place in enumerate(places)]
            present = k.let("present", k.lane_numbers(lanes) < k.cast(columns - first, "int32"))
            with k.loop("block", 0, k.divide(depth, lanes)) as block:
                start = k.let("start", block * lanes)
                square = transpose(k, [k.let("t", row.load(start, lanes)) for row in rows])
                for i, column in enumerate(square):
                    panel.store((start + i) * width + first, k.select(present, column, 0.0))
            with k.loop("kk", whole, depth) as kk, k.loop("j", 0, lanes) as j:
                place = k.smaller(first + j, columns - 1)
                value = source.load(kk + place * stride_n)
                panel.store(kk * width + first + j, k.select(first + j < columns, value, 0.0))
        with k.otherwise(), k.loop("kk", 0, depth) as kk:
            panel.store(kk * width + first, 0.0, lanes)


def gather_panel(
    k: Builder,
    source: Memory,
    panel: Memory,
    depth: Value,
    columns: Expr,
    strides: tuple[Expr, Expr],
    width: int,
) -> None:
    """panel[kk, j] = source[kk * stride_k + j * stride_n] for j < columns, 0 beyond."""
    stride_k, stride_n = strides
    with k.loop("kk", 0, depth) as kk:
        with k.loop("j", 0, k.smaller(columns, width)) as j:
            panel.store(kk * width + j, source.load(kk * stride_k + j * stride_n))
        with k.loop("pad", columns, width) as j:
            panel.store(kk * width + j, 0.0)
