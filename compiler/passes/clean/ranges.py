"""Comparisons that the range of an integer expression decides."""

from __future__ import annotations

from collections.abc import Callable

from isthmus.ir.graph import Op, Value
from isthmus.ir.rewrite import Match, Rule, scalar, splat
from isthmus.ops import movement, pointwise
from isthmus.passes.clean.identities import constant_like

Interval = tuple[float, float]
EVERYTHING = (-float("inf"), float("inf"))


def interval_of(value: Value, depth: int = 16) -> Interval:
    """Bounds that every element of an integer value keeps; sizes are at least 0."""
    number = splat(value)
    if number is not None:
        return number, number
    if depth == 0 or not value.dtype.is_integer:
        return EVERYTHING
    if value.op is movement.iota:
        length = value.shape[value.attr("axis")]
        return 0, length - 1 if isinstance(length, int) else float("inf")
    if value.op is movement.dim_value:
        return 0, float("inf")
    if value.op in (movement.reshape, movement.transpose, movement.broadcast, movement.slice_):
        return interval_of(value.args[0], depth - 1)
    if value.op is pointwise.cast and value.dtype.bits >= 32 and value.args[0].dtype.is_integer:
        return interval_of(value.args[0], depth - 1)
    if value.op is pointwise.add:
        (a, b), (c, d) = (interval_of(arg, depth - 1) for arg in value.args)
        return a + c, b + d
    return EVERYTHING


Decide = Callable[[Interval, Interval], bool | None]


def _always(holds: bool, fails: bool) -> bool | None:
    return True if holds else (False if fails else None)


# Does a <op> b hold for every a and b of two intervals, for none, or does it depend?
_DECISIONS: tuple[tuple[Op, Decide], ...] = (
    (pointwise.less, lambda a, b: _always(a[1] < b[0], a[0] >= b[1])),
    (pointwise.less_equal, lambda a, b: _always(a[1] <= b[0], a[0] > b[1])),
    (pointwise.greater, lambda a, b: _always(a[0] > b[1], a[1] <= b[0])),
    (pointwise.greater_equal, lambda a, b: _always(a[0] >= b[1], a[1] < b[0])),
    (pointwise.equal, lambda a, b: _always(False, a[1] < b[0] or a[0] > b[1])),
)


def _rule(op: Op, decide: Decide) -> Rule:
    def outcome(m: Match) -> bool | None:
        if not m.value("x").dtype.is_integer:
            return None
        left, right = m.root.args
        return decide(interval_of(left), interval_of(right))

    return Rule(
        f"decided-{op.name}",
        lambda x, c=scalar(): op(x, c),
        lambda m: constant_like(m.root, float(bool(outcome(m)))),
        unless=lambda m: None if outcome(m) is not None else "",
        examples=(
            {"x": "i64[2,n] = iota(1) + 0", "c": "i64[] = -1"},
            {"x": "i64[2,5] = iota(1) + 3", "c": "i64[] = 9"},
        ),
    )


RANGES = tuple(_rule(op, decide) for op, decide in _DECISIONS)
