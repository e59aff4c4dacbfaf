"""Lowering of the ops that have kernels of their own, and of those that need several calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from isthmus.ir.dims import Dim, Shape, product
from isthmus.ir.graph import Value
from isthmus.ir.types import DType, Panels
from isthmus.kernels import attention as attention_kernels
from isthmus.kernels import gemm, layer_norm, loops, loops_scan, pack, rms_norm, softmax
from isthmus.kernels.kernel import Kernel
from isthmus.lowering.expressions import NestBuilder
from isthmus.lowering.order import lower_order
from isthmus.lowering.plan import Arg, Fault, Number, Pitch, Pointer, Real, Scratch, Sizes
from isthmus.lowering.state import Handler, Lowering, not_on_target, require_f32
from isthmus.lowering.views import Buffer, View, whole


def _row_result(state: Lowering, value: Value, width: int) -> tuple[View, Dim | Pitch]:
    """Memory for rows of `width`, and the distance between them: the arena's rows may lie further apart."""
    place = state.allocate(value, width=width)
    return place, Pitch(place.buffer) if place.buffer.width is not None else width


def _linear(state: Lowering, value: Value) -> None:
    """One GEMM over packed weights; bias, residual and activation are applied to the tile in registers."""
    require_f32(value, state.target)
    x, w, bias, *residual = value.args
    if not isinstance(w.t.encoding, Panels):
        raise not_on_target(value, state.target, "its weight is not packed")
    (k, n), width = w.t.static_shape, w.t.encoding.width
    activation = value.attr("activation")
    kernel = gemm.kernel(state.target, None if activation == "none" else activation, bool(residual))
    source, rows, ldx = state.rows(x)
    others = [state.rows(r) for r in residual]
    place, ldy = _row_result(state, value, n)
    pointers: list[Arg] = [
        Pointer(source.buffer, source.offset, ldx),
        Pointer(state.view(w).buffer),
        Pointer(state.view(bias).buffer),
        *(Pointer(view.buffer, view.offset, pitch) for view, _, pitch in others),
        Pointer(place.buffer, place.offset, ldy),
    ]
    distances = [_distance(ldx), *(_distance(pitch) for _, _, pitch in others), _distance(ldy)]
    args = [*pointers, Number(k), Number(n), *distances]
    panels = -(-n // width)
    state.call(kernel, args, place.buffer, value, rows, panels=panels, row_local=True)
    state.views[value] = place


def _distance(pitch: Dim | Pitch) -> Arg:
    return pitch if isinstance(pitch, Pitch) else Number(pitch)


def _layer_norm(state: Lowering, value: Value) -> None:
    require_f32(value, state.target)
    x, scale, bias, *residual = value.args
    width = _static(value, state, value.shape[-1])
    source, rows, ldx = state.rows(x)
    others = [state.rows(r) for r in residual]
    gains = [state.contiguous(v) for v in (scale, bias)]
    place, ldy = _row_result(state, value, width)
    args: list[Arg] = [
        Pointer(source.buffer, source.offset, ldx),
        *(Pointer(view.buffer, view.offset, pitch) for view, _, pitch in others),
        *(Pointer(view.buffer, view.offset) for view in gains),
        Pointer(place.buffer, place.offset, ldy),
        Real(value.attr("epsilon")),
        Number(width),
        _distance(ldx),
        *(_distance(pitch) for _, _, pitch in others),
        _distance(ldy),
    ]
    kernel = layer_norm.kernel(state.target, bool(residual))
    state.call(kernel, args, place.buffer, value, rows, row_local=True)
    state.views[value] = place


def _rms_norm(state: Lowering, value: Value) -> None:
    require_f32(value, state.target)
    x, scale = value.args
    width = _static(value, state, value.shape[-1])
    source, rows, ldx = state.rows(x)
    gain = state.contiguous(scale)
    place, ldy = _row_result(state, value, width)
    args: list[Arg] = [
        Pointer(source.buffer, source.offset, ldx),
        Pointer(gain.buffer, gain.offset),
        Pointer(place.buffer, place.offset, ldy),
        Real(value.attr("epsilon")),
        Number(width),
        _distance(ldx),
        _distance(ldy),
    ]
    state.call(rms_norm.kernel(state.target), args, place.buffer, value, rows, row_local=True)
    state.views[value] = place


def _static(value: Value, state: Lowering, dim: Dim) -> int:
    if not isinstance(dim, int):
        raise not_on_target(value, state.target, f"the width {dim} is not known")
    return dim


def _softmax(state: Lowering, value: Value) -> None:
    require_f32(value, state.target)
    source, rows, ldx = state.rows(value.args[0])
    place = state.allocate(value)
    width = value.shape[-1]
    args: list[Arg] = [
        Pointer(source.buffer, source.offset, ldx),
        Pointer(place.buffer, place.offset, width),
        Number(width),
        _distance(ldx),
        Number(width),
    ]
    state.call(softmax.kernel(state.target), args, place.buffer, value, rows)
    state.views[value] = place


def _attention(state: Lowering, value: Value) -> None:
    """Fused attention over strided views: whatever split and transposed Q, K and V costs nothing.

    The result is laid out [batch, length, heads, width], the order in which it is used next.
    """
    require_f32(value, state.target)
    q, k, v, *masks = value.args
    views = [_inner_unit(state, a) for a in (q, k, v)]
    batch, heads, queries, _ = value.shape
    keys = k.shape[2]
    width, value_width = _static(value, state, q.shape[3]), _static(value, state, v.shape[3])
    group = _static(value, state, heads) // _static(value, state, k.shape[1])
    mask = _mask(state, masks[0], (batch, heads, queries, keys)) if masks else None
    kind: attention_kernels.Mask = "none" if mask is None else ("row" if mask.strides[2] == 0 else "full")
    place = _attention_result(state, value)
    scratch = attention_kernels.scratch(state.target, width, value_width, kind)
    floats = _round_up(keys, scratch.block) * scratch.per_key + scratch.constant
    strides = [s for view in views for s in view.strides[:3]]
    if mask is not None:
        strides += mask.strides[:2] if kind == "row" else mask.strides[:3]
    strides += place.strides[:3]
    args: list[Arg] = [
        *(Pointer(view.buffer, view.offset) for view in views),
        *((Pointer(mask.buffer, mask.offset),) if mask is not None else ()),
        Pointer(place.buffer, place.offset),
        Scratch(floats),
        Real(value.attr("scale")),
        *(Number(d) for d in (heads, group, queries, keys, *strides)),
    ]
    kernel = attention_kernels.kernel(state.target, width, value_width, kind, value.attr("safe"))
    state.call(kernel, args, place.buffer, value, batch * heads)
    state.views[value] = place


def _round_up(dim: Dim, multiple: int) -> Dim:
    return (dim + multiple - 1) // multiple * multiple


def _inner_unit(state: Lowering, value: Value) -> View:
    view = state.view(value)
    return view if view.strides[-1] == 1 or view.shape[-1] == 1 else state.contiguous(value)


def _mask(state: Lowering, value: Value, scores: Shape) -> View:
    """The mask over all scores, with stride 0 where it repeats; along the keys it has to lie in memory."""
    view = state.view(value)
    wide = view.broadcast(scores)
    if wide.strides[3] == 1:
        return wide
    shape = (*view.shape[:-1], scores[3])
    place = whole(state.temporary(value, product(shape)), shape)
    return state.copy(value, view.broadcast(shape), place).broadcast(scores)


def _attention_result(state: Lowering, value: Value) -> View:
    place = state.allocate(value)
    if place.buffer.place == "output":
        return place
    batch, heads, queries, width = value.shape
    return whole(place.buffer, (batch, queries, heads, width)).transposed((0, 2, 1, 3))


def _matmul(state: Lowering, value: Value) -> None:
    """A product of two computed matrices: the right one is packed into panels first, item by item."""
    require_f32(value, state.target)
    a, b = value.args
    *batch, m, n = value.shape
    k = a.shape[-1]
    left = _inner_unit(state, a).broadcast((*batch, m, k))
    right = state.view(b).broadcast((*batch, k, n))
    place = state.allocate(value)
    width = gemm.panel_width(state.target)
    columns = _round_up(n, width)
    panels, zeros = Scratch(columns * k), Scratch(columns, columns * k)
    extents = tuple(batch)
    steps = len(extents) or 1

    def at(view: View) -> Pointer:
        return Pointer(view.buffer, view.offset, None, view.strides[:-2] or (0,) * steps)

    def call(kernel: Kernel, args: tuple[Arg, ...], units: Dim, panels: Dim | None = None) -> None:
        state.call(kernel, args, place.buffer, value, units, panels=panels, batch=extents or (1,))

    fill = NestBuilder((columns,), state.view, state.views.__contains__)
    target = Buffer("zeros", DType.F32, columns, "arena")
    built = fill.finish(loops.Scalar(0.0, DType.F32), whole(target, (columns,)))
    call(
        loops.kernel(built.nest, state.target),
        (zeros, Sizes(built.extents), Sizes(built.strides), Fault(0), Number(0)),
        built.units,
    )
    call(
        pack.kernel(state.target),
        (at(right), panels, Number(k), Number(n), Number(right.strides[-2]), Number(right.strides[-1])),
        columns // width,
    )
    call(
        gemm.kernel(state.target, None, False),
        (at(left), panels, zeros, at(place), Number(k), Number(n), Number(left.strides[-2]), Number(n)),
        m,
        columns // width,
    )
    state.views[value] = place


def _concat(state: Lowering, value: Value) -> None:
    """Each part is computed, or copied, straight into its place."""
    place = state.allocate(value)
    axis = value.attr("axis")
    start: Dim = 0
    for part in value.args:
        starts = tuple(start if i == axis else 0 for i in range(value.t.rank))
        state.store(part, place.sliced(starts, part.shape, (1,) * value.t.rank))
        start = start + part.shape[axis]
    state.views[value] = place


def _pad(state: Lowering, value: Value) -> None:
    place = state.allocate(value)
    (source,) = value.args
    fill = NestBuilder(value.shape, state.view, state.views.__contains__)
    number = value.attr("value")
    constant = float(number) if value.dtype.is_float else int(number)
    state.add_nest(fill, loops.Scalar(constant, value.dtype), place, value)
    state.store(source, place.sliced(value.attr("before"), source.shape, (1,) * value.t.rank))
    state.views[value] = place


FOLDS: Mapping[str, loops.Fold] = {
    "reduce_sum": "sum",
    "reduce_mean": "sum",
    "reduce_max": "max",
    "reduce_min": "min",
    "reduce_prod": "prod",
}


def _reduce(state: Lowering, value: Value) -> None:
    (source,) = value.args
    axes = frozenset(value.attr("axes"))
    place = state.allocate(value)
    nest = NestBuilder(source.shape, state.view, state.views.__contains__)
    kept = [i for i in range(source.t.rank) if i not in axes]
    outer = View(
        place.buffer, place.offset, tuple(place.shape[i] for i in kept), tuple(place.strides[i] for i in kept)
    )
    body = nest.node(source, nest.identity())
    last: loops.Node | None = None
    if value.op.name == "reduce_mean":
        count = nest.size(product(tuple(source.shape[i] for i in sorted(axes))), value.dtype)
        last = loops.Apply("div", (loops.Reduced(), count), value.dtype)
    state.add_nest(nest, body, outer, value, axes, FOLDS[value.op.name], last)
    state.views[value] = place


def _lines(state: Lowering, value: Value) -> tuple[View, Dim, Dim, Dim]:
    """The argument of an op along one axis, in row order: (its view, lines before, length, lines after)."""
    (source,) = value.args
    axis = value.attr("axis")
    shape = source.shape
    return state.contiguous(source), product(shape[:axis]), shape[axis], product(shape[axis + 1 :])


def _cumsum(state: Lowering, value: Value) -> None:
    source, outer, count, inner = _lines(state, value)
    place = state.allocate(value)
    kernel = loops_scan.cumsum(
        value.dtype, state.target, exclusive=value.attr("exclusive"), reverse=value.attr("reverse")
    )
    strides = (count * inner, inner, 1)
    args: list[Arg] = [
        Pointer(source.buffer, source.offset),
        Pointer(place.buffer, place.offset),
        *(Number(d) for d in (count, inner, *strides, *strides)),
    ]
    state.call(kernel, args, place.buffer, value, outer * inner)
    state.views[value] = place


def _arg_extreme(state: Lowering, value: Value) -> None:
    source, outer, count, inner = _lines(state, value)
    place = state.allocate(value)
    kind: Literal["argmax", "argmin"] = "argmax" if value.op.name == "argmax" else "argmin"
    kernel = loops_scan.arg_extreme(kind, source.buffer.dtype, state.target, last=value.attr("last"))
    args: list[Arg] = [
        Pointer(source.buffer, source.offset),
        Pointer(place.buffer, place.offset),
        *(Number(d) for d in (count, inner, count * inner, inner, 1, inner, 1)),
    ]
    state.call(kernel, args, place.buffer, value, outer * inner)
    state.views[value] = place


HANDLERS: Mapping[str, Handler] = {
    "linear": _linear,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "softmax": _softmax,
    "attention": _attention,
    "matmul": _matmul,
    "concat": _concat,
    "pad": _pad,
    "cumsum": _cumsum,
    "argmax": _arg_extreme,
    "argmin": _arg_extreme,
    "sort_order": lower_order,
    **dict.fromkeys(FOLDS, _reduce),
}
