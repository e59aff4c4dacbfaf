"""Integers that count: what is known of index tensors without running anything."""

from __future__ import annotations

from dataclasses import dataclass

from isthmus.ir.dims import Dim, Shape
from isthmus.ir.graph import Value
from isthmus.ir.rewrite import splat
from isthmus.ops import movement, pointwise


@dataclass(frozen=True, slots=True)
class Run:
    """Integers that count up by one from `start` along `axis` and are the same along every other axis."""

    axis: int
    start: Dim


def as_run(value: Value, depth: int = 16) -> Run | None:
    """How `value` counts, if it does."""
    if depth == 0:
        return None
    op = value.op
    if op is movement.iota:
        return Run(value.attr("axis"), 0)
    if op is pointwise.add:
        return _shifted(value, depth)
    if op is pointwise.cast and value.dtype.is_integer and value.dtype.bits >= 32:
        return as_run(value.args[0], depth - 1) if value.args[0].dtype.is_integer else None
    if op is movement.broadcast:
        inner = as_run(value.args[0], depth - 1)
        axis = inner.axis + value.t.rank - value.args[0].t.rank if inner else 0
        fits = inner is not None and value.shape[axis] == value.args[0].shape[inner.axis]
        return Run(axis, inner.start) if inner and fits else None
    if op is movement.slice_:
        inner = as_run(value.args[0], depth - 1)
        if inner is None or value.attr("steps")[inner.axis] != 1:
            return None
        return Run(inner.axis, inner.start + value.attr("starts")[inner.axis])
    if op is movement.transpose:
        inner = as_run(value.args[0], depth - 1)
        return Run(value.attr("perm").index(inner.axis), inner.start) if inner else None
    if op is movement.reshape:
        return _reshaped(value, depth)
    return None


def _shifted(value: Value, depth: int) -> Run | None:
    for count, other in (value.args, value.args[::-1]):
        number = splat(other)
        inner = as_run(count, depth - 1) if number is not None and count.shape == value.shape else None
        if inner is not None and number is not None:
            return Run(inner.axis, inner.start + int(number))
    return None


def _reshaped(value: Value, depth: int) -> Run | None:
    """A reshape that only adds or removes axes of one element."""
    source, target = value.args[0].shape, value.shape
    long = [d for d in source if d != 1]
    inner = as_run(value.args[0], depth - 1)
    if inner is None or long != [d for d in target if d != 1] or source[inner.axis] == 1:
        return None
    place = sum(d != 1 for d in source[: inner.axis])
    axes = [axis for axis, d in enumerate(target) if d != 1]
    return Run(axes[place], inner.start)


def writes_everything(indices: Value, shape: Shape) -> bool:
    """Whether the rows of `indices` name every place of `shape`'s first axes, in order, each once."""
    lead = indices.shape[:-1]
    parts = indices.args if indices.op is movement.concat else (indices,)
    if lead != shape[: len(parts)] or any(part.shape != (*lead, 1) for part in parts):
        return False
    return all(
        splat(part) == 0 if lead[axis] == 1 else as_run(part) == Run(axis, 0)
        for axis, part in enumerate(parts)
    )
