"""Lowering of the ops over rows of sequences of different lengths."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.ir.dims import Dim, product
from isthmus.ir.graph import Value, counted_by
from isthmus.kernels import attention, loops_kept
from isthmus.lowering.plan import Arg, Counted, Number, Pointer, Real, Scratch
from isthmus.lowering.state import (
    Handler,
    Lowering,
    inner_unit,
    not_on_target,
    require_f32,
    round_up,
    rounds_attention,
    static_size,
)
from isthmus.lowering.views import View, whole


def _kept_rows(state: Lowering, value: Value) -> None:
    """The rows that are kept; from here on the plan knows how many they are."""
    name = counted_by(value)
    assert name is not None
    (count,) = value.args
    source, most = state.contiguous(count), product(count.shape)
    state.most[name] = most
    place = state.allocate(value)
    args: list[Arg] = [
        Pointer(source.buffer, source.offset),
        Pointer(place.buffer, place.offset),
        Number(value.shape[0]),
    ]
    last = Pointer(source.buffer, source.offset + most - 1)
    kernel = loops_kept.kept_rows(state.target)
    state.call(kernel, args, place.buffer, value, most, counts=Counted(name, last, most))
    state.views[value] = place


def _ragged_attention(state: Lowering, value: Value) -> None:
    """Fused attention within each sequence; the result is laid out [rows, heads, width]."""
    q, k, v, ends, *masks = value.args
    mixed = value.attr("mixed")
    if not mixed:
        require_f32(value, state.target, (q, k, v, *masks))
    elif state.target.instruction("dot_bf16") is None:
        raise not_on_target(value, state.target)
    views = [inner_unit(state, a) for a in (q, k, v)]
    heads, rows, value_width = value.shape
    count, width, value_width = (static_size(value, state, d) for d in (heads, q.shape[2], value_width))
    group = count // static_size(value, state, k.shape[0])
    (longest,) = value.attr("longest")
    last = state.view(ends)
    kind: attention.Mask = "row" if masks else "none"
    place = _result(state, value, rows)
    rounds = rounds_attention(value, state.target)
    scratch = attention.scratch(state.target, width, value_width, kind, mixed, rounds)
    floats = round_up(longest, scratch.block) * scratch.per_key + scratch.constant
    strides: list[Dim] = [s for view in (*views, place) for s in view.strides[:2]]
    mask = [state.contiguous(m) for m in masks]
    args: list[Arg] = [
        *(Pointer(view.buffer, view.offset) for view in (*views, last, *mask, place)),
        Scratch(floats),
        Real(value.attr("scale")),
        *(Number(d) for d in (count, group, longest, last.strides[0], *strides)),
    ]
    form = (value.attr("safe"), value.attr("causal"), True, mixed)
    kernel = attention.kernel(state.target, width, value_width, kind, *form, rounds=rounds)
    state.call(kernel, args, place.buffer, value, ends.shape[0] * count)
    state.views[value] = place


def _result(state: Lowering, value: Value, rows: Dim) -> View:
    place = state.allocate(value)
    if place.buffer.place == "output":
        return place
    heads, _, width = value.shape
    return whole(place.buffer, (rows, heads, width)).transposed((1, 0, 2))


HANDLERS: Mapping[str, Handler] = {"kept_rows": _kept_rows, "ragged_attention": _ragged_attention}
