"""What kernels over rows share. Four rows at a time: a reduction is a chain, and four chains overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from isthmus.kernels.builder import Builder, Expr, Memory

ROWS = 4


def by_fours(k: Builder, begin: Expr, end: Expr, emit: Callable[[Expr, int], None]) -> None:
    """emit(first, 4) for whole fours of the rows [begin, end), then emit(row, 1) for each row left."""
    count = k.let("row_count", k.larger(end - begin, 0))
    whole = k.let("whole_rows", k.divide(count, ROWS))
    with k.loop("four", 0, whole) as four:
        emit(k.let("first", begin + four * ROWS), ROWS)
    with k.loop("row", begin + whole * ROWS, end) as row:
        emit(row, 1)


def fetch_rows(k: Builder, n: Expr, read: Sequence[Memory], written: Sequence[Memory]) -> None:
    """Ask for n floats of each row that is read next, and of each that is written now.

    Between two products both have often left the second-level cache, for the matrix of the one before.
    """
    line = k.target.caches.line_bytes // 4
    with k.loop("line", 0, k.divide_up(n, line)) as number:
        for row in read:
            row.prefetch(number * line)
        for row in written:
            row.prefetch(number * line, write=True)


def reduce_rows(
    k: Builder,
    rows: int,
    n: Expr,
    element: Callable[[int, Expr, int], Expr],
    combine: Callable[[Expr, Expr], Expr] = lambda value, total: value + total,
    initial: float = 0.0,
    dtype: str = "float32",
) -> list[Expr]:
    """For each row, element(row, j, lanes) over all j in [0, n) combined; `element` may store as it goes."""
    vectors = [k.register(f"vectors{i}", k.lanes, initial, dtype) for i in range(rows)]
    scalars = [k.register(f"scalars{i}", 1, initial, dtype) for i in range(rows)]

    def step(j: Expr, lanes: int) -> None:
        for i, register in enumerate(vectors if lanes > 1 else scalars):
            register.set(combine(element(i, j, lanes), register.value))

    k.vectorized("j", n, step)
    halves = [k.let(f"across{i}", k.reduce(register.value, combine)) for i, register in enumerate(vectors)]
    return [
        k.let(f"total{i}", combine(half, register.value))
        for i, (half, register) in enumerate(zip(halves, scalars, strict=True))
    ]
