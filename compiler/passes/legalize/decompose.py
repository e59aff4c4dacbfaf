"""Ops without kernels of their own, said with those that have one."""

from __future__ import annotations

from isthmus.ir.graph import Marker, Value
from isthmus.ir.rewrite import Match, Rule
from isthmus.ir.types import DType
from isthmus.ops.movement import full, iota, reshape
from isthmus.ops.pointwise import (
    equal,
    greater,
    greater_equal,
    is_nan,
    less,
    less_equal,
    logical_or,
    where,
)
from isthmus.ops.reduce import argmax, argmin, cumsum, reduce_max, reduce_min, reduce_sum


def _running_sum(m: Match) -> Value:
    """Element i is the sum of the elements j <= i: one loop over j, without n x n elements in between."""
    x, axis = m.value("x"), int(str(m.attr("axis")))
    length = x.shape[axis]
    wide = (*x.shape[:axis], 1, *x.shape[axis:])
    i, j = (
        iota(
            shape=tuple(length if a == at else 1 for a in range(len(wide))),
            axis=at,
            dtype=DType.I64,
        )
        for at in (axis, axis + 1)
    )
    compare = {
        (False, False): less_equal,
        (True, False): less,
        (False, True): greater_equal,
        (True, True): greater,
    }[bool(m.attr("exclusive")), bool(m.attr("reverse"))]
    zero = full(shape=(), value=0.0, dtype=x.dtype)
    terms = where(compare(j, i), reshape(x, shape=wide), zero)
    return reshape(reduce_sum(terms, axes=(axis + 1,)), shape=x.shape)


def _position(m: Match, greatest: bool) -> Value:
    """The first (or last) place that holds the extreme, or a NaN, which no comparison finds."""
    x, axis = m.value("x"), int(str(m.attr("axis")))
    length = x.shape[axis]
    extreme = (reduce_max if greatest else reduce_min)(x, axes=(axis,))
    found = equal(x, extreme)
    if x.dtype.is_float:
        found = logical_or(found, is_nan(x))
    line = tuple(length if a == axis else 1 for a in range(x.t.rank))
    places = iota(shape=line, axis=axis, dtype=DType.I64)
    if m.attr("last"):
        nowhere = full(shape=(), value=-1.0, dtype=DType.I64)
        return reduce_max(where(found, places, nowhere), axes=(axis,))
    nowhere = full(shape=(), value=float((1 << 31) - 1), dtype=DType.I64)
    return reduce_min(where(found, places, nowhere), axes=(axis,))


_FLAGS = [(e, r) for e in (False, True) for r in (False, True)]

DECOMPOSE = (
    Rule(
        "decompose-cumsum",
        lambda x: cumsum(x, axis=Marker("axis"), exclusive=Marker("exclusive"), reverse=Marker("reverse")),
        _running_sum,
        examples=(
            *({"x": "i64[b,n]", "axis": 1, "exclusive": e, "reverse": r} for e, r in _FLAGS),
            {"x": "f32[n,3]", "axis": 0, "exclusive": False, "reverse": False},
        ),
    ),
    Rule(
        "decompose-argmax",
        lambda x: argmax(x, axis=Marker("axis"), last=Marker("last")),
        lambda m: _position(m, greatest=True),
        examples=tuple(
            {"x": x, "axis": 1, "last": last} for x in ("i64[b,n]", "f32[b,n,3]") for last in (False, True)
        ),
    ),
    Rule(
        "decompose-argmin",
        lambda x: argmin(x, axis=Marker("axis"), last=Marker("last")),
        lambda m: _position(m, greatest=False),
        examples=({"x": "f32[b,n]", "axis": 0, "last": False}, {"x": "i32[b,n]", "axis": 1, "last": True}),
    ),
)
