"""Lowering of sort_order: two loop nests that compare every element along the axis with every other."""

from __future__ import annotations

from isthmus.ir.dims import Dim, Shape
from isthmus.ir.graph import Value, walk
from isthmus.ir.types import DType
from isthmus.lowering.state import Lowering
from isthmus.ops import movement, pointwise, reduce


def lower_order(state: Lowering, value: Value) -> None:
    """An element's rank is how many come before it; then each place looks for the element of its rank."""
    (x,) = value.args
    result = spelled_out(x, value.attr("axis"), value.attr("descending"), value.loc)
    for each in walk((result,), frozenset({x})):
        state.visit(each)
    state.views[value] = state.view(result)


def spelled_out(x: Value, axis: int, descending: bool, loc: str) -> Value:
    """sort_order by ops that become loop nests."""
    size = x.shape[axis]
    one = movement.reshape(x, shape=_with_one(x.shape, axis + 1), loc=loc)
    other = movement.reshape(x, shape=_with_one(x.shape, axis), loc=loc)
    own, others = (_line(size, at, x.t.rank + 1) for at in (axis, axis + 1))
    before = (pointwise.greater if descending else pointwise.less)(other, one)
    same = pointwise.equal(other, one)
    if x.dtype.is_float:
        # NaN is the largest, and equal to itself.
        first, second = (one, other) if descending else (other, one)
        is_less = pointwise.logical_and(
            pointwise.logical_not(pointwise.is_nan(first)), pointwise.is_nan(second)
        )
        before = pointwise.logical_or(before, is_less)
        both = pointwise.logical_and(pointwise.is_nan(one), pointwise.is_nan(other))
        same = pointwise.logical_or(same, both)
    tied = pointwise.logical_and(same, pointwise.less(others, own))
    ahead = pointwise.cast(pointwise.logical_or(before, tied), dtype=DType.I64)
    ranks = reduce.reduce_sum(ahead, axes=(axis + 1,), loc=loc)
    # Nobody shares a rank.
    found = pointwise.where(pointwise.equal(ranks, others), own, _zero())
    return movement.reshape(reduce.reduce_sum(found, axes=(axis,), loc=loc), shape=x.shape, loc=loc)


def _with_one(shape: Shape, axis: int) -> Shape:
    return (*shape[:axis], 1, *shape[axis:])


def _line(size: Dim, axis: int, rank: int) -> Value:
    return movement.iota(
        shape=tuple(size if i == axis else 1 for i in range(rank)), axis=axis, dtype=DType.I64
    )


def _zero() -> Value:
    return movement.full(shape=(), value=0.0, dtype=DType.I64)
