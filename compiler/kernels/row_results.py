"""What kernels of norms write: rows of f32, and what reads them next takes instead or besides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from isthmus.kernels.arithmetic import round_bf16
from isthmus.kernels.builder import Builder, Expr, lanes_of
from isthmus.kernels.byte_rows import MIDDLE, ByteRows, largest_of_rows
from isthmus.kernels.byte_steps import ByteSteps, Steps

# What a kernel gives: f32, the same rounded to bf16, or both; or f32 and its rows as such bytes, each at its
# own scale, or at known steps.
Result: TypeAlias = Literal["f32", "rounded", "both", "int8", "uint8"] | Steps


class ResultRows:
    """The result of a kernel over rows: the parameters it takes, and how it is stored."""

    def __init__(self, k: Builder, kind: Result) -> None:
        self.k, self.kind = k, kind
        self.y = k.output("y") if kind != "rounded" else None
        self.copy = k.output("y_rounded", "uint16") if kind in ("rounded", "both") else None
        self.bytes = ByteRows(k, kind) if isinstance(kind, str) and kind in MIDDLE else None
        self.stepped = k.output("bytes", kind.dtype) if isinstance(kind, Steps) else None
        self.steps = ByteSteps(k, kind) if isinstance(kind, Steps) else None

    def distances(self) -> None:
        """The parameters that say how far rows lie apart: `ldy`, `ldy_rounded`; `lds` of scales, `ldb`."""
        self.ldy = self.k.size("ldy") if self.y is not None else None
        self.ld_copy = self.k.size("ldy_rounded") if self.copy is not None else None
        if self.bytes is not None:
            self.bytes.distances()
        self.ldb = self.k.size("ldb") if self.stepped is not None else None

    def prepare(self) -> None:
        """What is the same for all rows, computed once."""
        if self.steps is not None:
            self.steps.prepare()

    def rows(self, first: Expr, count: int) -> list[ResultRow]:
        return [ResultRow(self, first + i, i) for i in range(count)]

    def write(
        self, rows: Sequence[ResultRow], first: Expr, n: Expr, values: Callable[[Expr, int], Sequence[Expr]]
    ) -> None:
        """`values(j, lanes)` over all j in [0, n), one for each of `rows`: `first` and those after it."""
        k = self.k
        if self.bytes is None:
            k.vectorized("j", n, lambda j, lanes: _store(rows, j, values(j, lanes)))
            return
        found: list[Expr] = []

        def stored(i: int, j: Expr, lanes: int) -> Expr:
            if i == 0:
                found[:] = values(j, lanes)
            value = k.let("result", found[i])
            rows[i].store(j, value)
            return value

        largest = largest_of_rows(k, len(rows), n, stored)
        self.bytes.write([row.y for row in rows if row.y is not None], largest, first, n)


def _store(rows: Sequence[ResultRow], j: Expr, values: Sequence[Expr]) -> None:
    for row, value in zip(rows, values, strict=True):
        row.store(j, value)


class ResultRow:
    """One row of a result."""

    def __init__(self, result: ResultRows, row: Expr, i: int) -> None:
        self.k = result.k
        self.y = None if result.y is None else result.y.at(row * result.ldy, f"y{i}")
        self.copy = None if result.copy is None else result.copy.at(row * result.ld_copy, f"c{i}")
        self.steps = result.steps
        self.bytes = None if result.stepped is None else result.stepped.at(row * result.ldb, f"b{i}")

    def store(self, j: Expr, value: Expr) -> None:
        if self.copy is not None:
            value = self.k.let("result", value)
            self.copy.store(j, round_bf16(self.k, value))
        if self.bytes is not None and self.steps is not None:
            value = self.k.let("result", value)
            self.bytes.store(j, self.steps.bytes(value, j, lanes_of(value)))
        if self.y is not None:
            self.y.store(j, value)


def result_suffix(kind: Result) -> str:
    """What kernels' names end with."""
    if isinstance(kind, Steps):
        return kind.suffix
    return "" if kind == "f32" else f"_{kind}"
