"""Kernels along one axis that are no fold: running sums and products, and the position of the extreme.

    void cum{sum,prod}_<dtype>[_exclusive][_reverse](const T *x, T *y, int64_t count, int64_t inner,
        int64_t x_outer, int64_t x_axis, int64_t x_inner, int64_t y_outer, int64_t y_axis, int64_t y_inner,
        int64_t begin, int64_t end)
    void arg{max,min}_<dtype>[_last](const T *x, int64_t *y, int64_t count, int64_t inner,
        int64_t x_outer, int64_t x_axis, int64_t x_inner, int64_t y_outer, int64_t y_inner,
        int64_t begin, int64_t end)

The axis has `count` elements. The axes before it are one axis with stride `*_outer`, those after it one of
size `inner` with stride `*_inner`; strides are in elements. Unit u is the line at outer index u / inner and
inner index u % inner. In a running sum or product `y` may be `x` when their strides agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from isthmus.errors import Code, ModelError, Problem
from isthmus.ir.types import DType
from isthmus.kernels.builder import Builder, Expr
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.loops_math import hold
from isthmus.kernels.loops_pointwise import (
    accumulator_type,
    combine,
    decode,
    encode,
    identity,
    memory_type,
    value_type,
)
from isthmus.kernels.tir import tirx
from isthmus.target import Target


def running(
    fold: Literal["sum", "prod"],
    dtype: DType,
    target: Target,
    *,
    exclusive: bool = False,
    reverse: bool = False,
) -> Kernel:
    """y[i] = x[0] + ... + x[i] along a line, or their product; `exclusive` leaves out x[i], `reverse` goes
    from the end.

    Floats are combined in f64. Raises ModelError (not-on-target) for bool.
    """
    if dtype is DType.BOOL:
        raise ModelError(Problem(Code.NOT_ON_TARGET, f"no kernel for cum{fold} of bool"))
    name = f"cum{fold}_{dtype}{'_exclusive' * exclusive}{'_reverse' * reverse}"
    return Kernel.deferred(
        target.symbol(name), lambda: _running(name, fold, dtype, target, exclusive, reverse)
    )


def _running(
    name: str, fold: Literal["sum", "prod"], dtype: DType, target: Target, exclusive: bool, reverse: bool
) -> Kernel:
    k = Builder(name, target)
    x, y = k.input("x", memory_type(dtype)), k.output("y", memory_type(dtype))
    count, inner = k.size("count"), k.size("inner")
    x_strides = (k.size("x_outer"), k.size("x_axis"), k.size("x_inner"))
    y_strides = (k.size("y_outer"), k.size("y_axis"), k.size("y_inner"))
    wide = DType.F64 if dtype.is_float else dtype
    total = k.register("total", 1, dtype=value_type(wide))
    with lines(k, inner) as (outer, place):
        total.set(identity(fold, wide))
        x_line = k.let("x_line", outer * x_strides[0] + place * x_strides[2])
        y_line = k.let("y_line", outer * y_strides[0] + place * y_strides[2])
        with k.loop("i", 0, count) as i:
            at = k.let("at", count - 1 - i) if reverse else i
            value = k.cast(
                decode(k, k.let("stored", x.load(x_line + at * x_strides[1])), dtype), value_type(wide)
            )
            before = hold(k, "before", total.value)
            total.set(combine(k, fold, wide, before, value))
            result = k.cast(before if exclusive else total.value, value_type(dtype))
            y.store(y_line + at * y_strides[1], encode(k, k.let("result", result), dtype))
    return k.finish()


def arg_extreme(
    kind: Literal["argmax", "argmin"], dtype: DType, target: Target, *, last: bool = False
) -> Kernel:
    """The position of the greatest or least element of a line, the first or the last; NaN is beyond all."""
    name = f"{kind}_{dtype}{'_last' * last}"
    return Kernel.deferred(target.symbol(name), lambda: _arg_extreme(name, kind, dtype, target, last))


def _arg_extreme(
    name: str, kind: Literal["argmax", "argmin"], dtype: DType, target: Target, last: bool
) -> Kernel:
    k = Builder(name, target)
    x, y = k.input("x", memory_type(dtype)), k.output("y", "int64")
    count, inner = k.size("count"), k.size("inner")
    x_strides = (k.size("x_outer"), k.size("x_axis"), k.size("x_inner"))
    y_strides = (k.size("y_outer"), k.size("y_inner"))
    start = identity(kind.removeprefix("arg"), dtype)
    best = k.register("best", 1, dtype=accumulator_type(dtype))
    found = k.register("found", 1, dtype="int64")
    with lines(k, inner) as (outer, place):
        best.set(start)
        found.set(0)
        line = k.let("line", outer * x_strides[0] + place * x_strides[2])
        with k.loop("i", 0, count) as i:
            stored = k.let("stored", x.load(line + i * x_strides[1]))
            value = stored if dtype is DType.BOOL else hold(k, "value", decode(k, stored, dtype))
            better = _better(k, kind, value, best.value, is_float=dtype.is_float, last=last)
            with k.when(better):
                best.set(value)
                found.set(i)
        y.store(outer * y_strides[0] + place * y_strides[1], found.value)
    return k.finish()


def _better(k: Builder, kind: str, value: Expr, best: Expr, *, is_float: bool, last: bool) -> Expr:
    greater, less = (tirx.GE, tirx.LE) if last else (tirx.GT, tirx.LT)
    ahead = greater(value, best) if kind == "argmax" else less(value, best)
    if not is_float:
        return ahead
    wins = k.is_nan(value) if last else tirx.And(k.is_nan(value), tirx.EQ(best, best))
    return tirx.Or(ahead, wins)


@contextmanager
def lines(k: Builder, inner: Expr) -> Iterator[tuple[Expr, Expr]]:
    """The outer and the inner index of each unit in [begin, end)."""
    begin, end = k.size("begin"), k.size("end")
    with k.loop("unit", begin, end) as unit:
        yield k.let("outer", k.divide(unit, inner)), k.let("place", k.remainder(unit, inner))
