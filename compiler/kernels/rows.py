"""What kernels over rows share. Four rows at a time: a reduction is a chain, and four chains overlap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from isthmus.kernels.arithmetic import round_bf16
from isthmus.kernels.builder import Builder, Expr

ROWS = 4

# What a kernel gives: f32, the same rounded to bf16, or both.
Result = Literal["f32", "rounded", "both"]


class ResultRows:
    """The result of a kernel over rows: the parameters it takes, and how it is stored."""

    def __init__(self, k: Builder, kind: Result) -> None:
        self.k, self.kind = k, kind
        self.y = k.output("y") if kind != "rounded" else None
        self.copy = k.output("y_rounded", "uint16") if kind != "f32" else None

    def distances(self) -> None:
        """The parameters that say how far rows lie apart: `ldy`, `ldy_rounded`."""
        self.ldy = self.k.size("ldy") if self.y is not None else None
        self.ld_copy = self.k.size("ldy_rounded") if self.copy is not None else None

    def rows(self, first: Expr, count: int) -> list[ResultRow]:
        return [ResultRow(self, first + i, i) for i in range(count)]


class ResultRow:
    """One row of a result."""

    def __init__(self, result: ResultRows, row: Expr, i: int) -> None:
        self.k = result.k
        self.y = None if result.y is None else result.y.at(row * result.ldy, f"y{i}")
        self.copy = None if result.copy is None else result.copy.at(row * result.ld_copy, f"c{i}")

    def store(self, j: Expr, value: Expr) -> None:
        if self.copy is not None:
            value = self.k.let("result", value)
            self.copy.store(j, round_bf16(self.k, value))
        if self.y is not None:
            self.y.store(j, value)


def result_suffix(kind: Result) -> str:
    """What kernels' names end with."""
    return "" if kind == "f32" else f"_{kind}"


def by_fours(k: Builder, begin: Expr, end: Expr, emit: Callable[[Expr, int], None]) -> None:
    """emit(first, 4) for whole fours of the rows [begin, end), then emit(row, 1) for each row left."""
    count = k.let("row_count", k.larger(end - begin, 0))
    whole = k.let("whole_rows", k.divide(count, ROWS))
    with k.loop("four", 0, whole) as four:
        emit(k.let("first", begin + four * ROWS), ROWS)
    with k.loop("row", begin + whole * ROWS, end) as row:
        emit(row, 1)


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
