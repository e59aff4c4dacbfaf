"""Values that are functions of a mask, element by element: what they are where the mask is 0, or 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from isthmus.ir.evaluate import apply
from isthmus.ir.graph import Trait, Value
from isthmus.ir.rewrite import splat
from isthmus.ir.types import Array

# A score this much lower than another gets a weight of 0 in f32, unless the scores themselves differ by as
# much. Exporters write -10000, the lowest number there is, or -inf.
HIDDEN = -1e4


@dataclass(frozen=True, slots=True)
class OfMask:
    """A value whose element [b, .., s at `axis`, ..] is `at` of the mask's element [b, s]."""

    axis: int
    at: Callable[[float], Array]


def source_of(value: Value) -> Value | None:
    """The value of two axes, [batch, position], that `value` is made from, element by element; None if it is
    made from several, or from none."""
    seen = {value}
    open_ = [value]
    ends = []
    for each in open_:
        if not _by_element(each):
            ends.append(each)
            continue
        new = [arg for arg in each.args if arg not in seen and splat(arg) is None]
        seen.update(new)
        open_.extend(new)
    return ends[0] if len(ends) == 1 and ends[0].t.rank == 2 else None


def _by_element(value: Value) -> bool:
    return Trait.POINTWISE in value.op.traits or value.op.name in ("reshape", "broadcast")


def of_mask(value: Value, mask: Value) -> OfMask | None:
    """`value` as a function of `mask`, whose batch is its first axis; None if it is none."""
    if value is mask:
        return OfMask(1, lambda number: np.asarray(number).astype(mask.dtype.numpy))
    if value.op.name in ("reshape", "broadcast"):
        inner = of_mask(value.args[0], mask)
        axis = _moved(value, inner.axis) if inner is not None else None
        return OfMask(axis, inner.at) if inner is not None and axis is not None else None
    if Trait.POINTWISE not in value.op.traits:
        return None
    return _pointwise(value, mask)


def _moved(value: Value, axis: int) -> int | None:
    """Where the axis of positions is after a reshape that adds and drops axes of one element, or a broadcast;
    the batch stays first."""
    old, new = value.args[0].shape, value.shape
    if not new or not old or old[0] != new[0]:
        return None
    if value.op.name == "broadcast":
        return axis if len(old) == len(new) and old[axis] == new[axis] else None
    if [d for d in old[1:] if d != 1] != [old[axis]] or [d for d in new[1:] if d != 1] != [old[axis]]:
        return None
    return next(i for i, d in enumerate(new) if i and d != 1)


def _pointwise(value: Value, mask: Value) -> OfMask | None:
    parts: list[Callable[[float], Array]] = []
    axes = set()
    for arg in value.args:
        number = splat(arg)
        if number is not None:
            constant = np.asarray(number).astype(arg.dtype.numpy)
            parts.append(lambda _, constant=constant: constant)  # type: ignore[misc]
            continue
        inner = of_mask(arg, mask)
        if inner is None or arg.t.rank != value.t.rank:
            return None
        axes.add(inner.axis)
        parts.append(inner.at)
    if len(axes) != 1:
        return None
    return OfMask(axes.pop(), lambda number: apply(value, [part(number) for part in parts], {}))


def is_zero_where_padded(value: Value, mask: Value) -> int | None:
    """The axis of positions, if `value` is 0 (or false) wherever the mask is 0; else None."""
    found = of_mask(value, mask)
    return found.axis if found is not None and not found.at(0.0).any() else None


def hides_padding(bias: Value, mask: Value) -> bool:
    """Whether adding `bias` to scores does nothing to keys with a mask of 1, and hides those with 0."""
    found = of_mask(bias, mask)
    if found is None or found.axis != bias.t.rank - 1 or bias.t.rank != 4:
        return False
    return float(found.at(1.0)) == 0 and float(found.at(0.0)) <= HIDDEN
