"""Lowering of the ops along one axis that have kernels of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from isthmus.ir.dims import Dim, Shape, product
from isthmus.ir.graph import Value
from isthmus.kernels import loops_order, loops_scan, loops_scatter
from isthmus.kernels.kernel import Kernel
from isthmus.lowering.plan import Arg, Fault, Number, Pointer
from isthmus.lowering.state import Handler, Lowering
from isthmus.lowering.views import View, whole


def _lines(shape: Shape, axis: int) -> tuple[Dim, Dim, Dim]:
    """A tensor in row order as lines along `axis`: (lines before, length, lines after)."""
    return product(shape[:axis]), shape[axis], product(shape[axis + 1 :])


def _strides(shape: Shape, axis: int) -> tuple[Dim, Dim, Dim]:
    """The strides of those three."""
    _, count, inner = _lines(shape, axis)
    return count * inner, inner, 1


def _lower(
    state: Lowering, value: Value, kernel: Kernel, source: View, sizes: Sequence[Dim], units: Dim
) -> None:
    """Adds the call of a kernel that takes one tensor in row order, its result, and `sizes`."""
    place = state.allocate(value)
    args: list[Arg] = [
        Pointer(source.buffer, source.offset),
        Pointer(place.buffer, place.offset),
        *map(Number, sizes),
    ]
    state.call(kernel, args, place.buffer, value, units)
    state.views[value] = place


def lower_running(state: Lowering, value: Value) -> None:
    """Running sums and products."""
    (x,) = value.args
    axis = value.attr("axis")
    outer, count, inner = _lines(x.shape, axis)
    kernel = loops_scan.running(
        "sum" if value.op.name == "cumsum" else "prod",
        value.dtype,
        state.target,
        exclusive=value.attr("exclusive"),
        reverse=value.attr("reverse"),
    )
    strides = _strides(x.shape, axis)
    _lower(state, value, kernel, state.contiguous(x), (count, inner, *strides, *strides), outer * inner)


def lower_extreme(state: Lowering, value: Value) -> None:
    """The position of the greatest or least."""
    (x,) = value.args
    axis = value.attr("axis")
    source = state.contiguous(x)
    outer, count, inner = _lines(x.shape, axis)
    kind: Literal["argmax", "argmin"] = "argmax" if value.op.name == "argmax" else "argmin"
    kernel = loops_scan.arg_extreme(kind, source.buffer.dtype, state.target, last=value.attr("last"))
    sizes = (count, inner, *_strides(x.shape, axis), inner, 1)
    _lower(state, value, kernel, source, sizes, outer * inner)


def lower_top_k(state: Lowering, value: Value) -> None:
    (x,) = value.args
    axis, (taken,) = value.attr("axis"), value.attr("count")
    source = state.contiguous(x)
    outer, size, inner = _lines(x.shape, axis)
    kernel = loops_order.top(source.buffer.dtype, state.target, descending=value.attr("descending"))
    sizes = (size, taken, inner, *_strides(x.shape, axis), *_strides(value.shape, axis))
    _lower(state, value, kernel, source, sizes, outer * inner)


def lower_scatter(state: Lowering, value: Value) -> None:
    """A copy of what is there, then the updates."""
    x, indices, updates = value.args
    axis = value.attr("axis")
    outer, count, inner = _lines(updates.shape, axis)
    # One index for each whole row is the usual form: that of ScatterND, and of updates to a cache.
    rows = outer == 1 and inner != 1 and all(d == 1 for d in indices.shape[axis + 1 :])
    picks = state.contiguous(indices)
    if not rows and indices.shape != updates.shape:
        every = whole(state.temporary(indices, updates.t.size), updates.shape)
        picks = state.copy(indices, picks.broadcast(updates.shape), every)
    new, place = state.contiguous(updates), state.allocate(value)
    state.store(x, place)
    kernel = loops_scatter.scatter(
        value.dtype, picks.buffer.dtype, value.attr("join"), state.target, rows=rows
    )
    steps = (0, 1, 0) if rows else _strides(updates.shape, axis)
    site = state.site(value)
    args: list[Arg] = [
        Pointer(new.buffer, new.offset),
        Pointer(picks.buffer, picks.offset),
        Pointer(place.buffer, place.offset),
        *map(Number, (count, value.shape[axis], inner)),
        *map(Number, (*_strides(updates.shape, axis), *steps, *_strides(value.shape, axis))),
        Fault(site),
        Number(site),
    ]
    state.call(kernel, args, place.buffer, value, outer * inner)
    state.views[value] = place


HANDLERS: Mapping[str, Handler] = {
    "argmax": lower_extreme,
    "argmin": lower_extreme,
    "cumprod": lower_running,
    "cumsum": lower_running,
    "scatter": lower_scatter,
    "top_k": lower_top_k,
}
