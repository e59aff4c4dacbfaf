"""Lowering of the ops that have kernels of their own, and of those that need several calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from isthmus.ir.dims import Dim, Shape, product
from isthmus.ir.encodings import Interleaved, Panels
from isthmus.ir.graph import Value
from isthmus.ir.sparse import Blocks, GroupPanels
from isthmus.ir.types import DType
from isthmus.kernels import attention as attention_kernels
from isthmus.kernels import (
    attention_tiles,
    gemm,
    gemm_tiles,
    loops,
    pack,
    softmax,
    sparse,
)
from isthmus.kernels.arithmetic import F32, Arithmetic, HalfWeights, bf16_of
from isthmus.kernels.kernel import Kernel
from isthmus.lowering import lines, ragged
from isthmus.lowering.expressions import NestBuilder
from isthmus.lowering.plan import Arg, Fault, Number, Pitch, Pointer, Real, Scratch, Sizes
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
from isthmus.lowering.views import Buffer, View, whole
from isthmus.target import Target


def row_result(state: Lowering, value: Value, width: int) -> tuple[View, Dim | Pitch]:
    """Memory for rows of `width`, and the distance between them: the arena's rows may lie further apart."""
    place = state.allocate(value, width=width)
    return place, Pitch(place.buffer) if place.buffer.width is not None else width


def _linear(state: Lowering, value: Value) -> None:
    """One GEMM over packed weights; bias, residual and activation are applied to the tile in registers."""
    w = value.args[1]
    if isinstance(w.t.encoding, Blocks):
        _sparse_linear(state, value, w.t.encoding)
        return
    stored = w.t.encoding
    if not isinstance(stored, Panels | Interleaved | GroupPanels):
        raise not_on_target(value, state.target, "its weight is not packed")
    scratch: list[Arg] = []
    if isinstance(stored, GroupPanels):
        depth, arithmetic = w.t.static_shape[0], _arithmetic(state, value)
        scratch = [Scratch(gemm.copy_words(state.target, depth, arithmetic, value.attr("rounded")))]
    _call_product(state, value, _product_kernel(state, value), stored.width, scratch)


def _call_product(
    state: Lowering,
    value: Value,
    kernel: Kernel,
    width: int,
    scratch: Sequence[Arg] = (),
    more: Sequence[Arg] = (),
) -> None:
    """`kernel`, which makes panels of `width` columns, over the operands of a linear.

    `scratch` is memory of its own, `more` are sizes it takes besides K and N.
    """
    x, w, bias, *residual = value.args
    k, n = w.t.static_shape
    source, rows, ldx = state.rows(x)
    others = [state.rows(r) for r in residual]
    place, ldy = row_result(state, value, n)
    args: list[Arg] = [
        Pointer(source.buffer, source.offset, ldx),
        Pointer(state.view(w).buffer),
        Pointer(state.view(bias).buffer),
        *(Pointer(view.buffer, view.offset, pitch) for view, _, pitch in others),
        Pointer(place.buffer, place.offset, ldy),
        *scratch,
        Number(k),
        Number(n),
        *more,
        distance(ldx),
        *(distance(pitch) for _, _, pitch in others),
        distance(ldy),
    ]
    state.call(kernel, args, place.buffer, value, rows, panels=-(-n // width), row_local=True)
    state.views[value] = place


def _product_kernel(state: Lowering, value: Value) -> Kernel:
    """The kernel of a linear, by its element types and what the target has for them."""
    w, residual = value.args[1], value.args[3:]
    activation = None if value.attr("activation") == "none" else value.attr("activation")
    rounded = value.attr("rounded")
    target, arithmetic = state.target, _arithmetic(state, value)
    halved = w.t.encoding.group if isinstance(w.t.encoding, GroupPanels) else 0
    if not halved and value.args[0].dtype is DType.BF16 and target.multiplies_in_tiles("bf16"):
        return gemm_tiles.kernel(target, activation, bool(residual), rounded)
    return gemm.kernel(target, activation, bool(residual), arithmetic, rounded, halved=halved)


def _arithmetic(state: Lowering, value: Value) -> type[Arithmetic]:
    """How a linear is multiplied, by its element types."""
    x, w, bias, *residual = value.args
    if x.dtype is DType.BF16 and bias.dtype is DType.F32:
        return bf16_of(state.target)
    require_f32(value, state.target, [x, bias, *residual], result=not value.attr("rounded"))
    return HalfWeights if w.dtype is DType.F16 else F32


def _sparse_linear(state: Lowering, value: Value, stored: Blocks) -> None:
    """The same over a matrix of which only the blocks with numbers are stored."""
    x, w, _, *residual = value.args
    activation = value.attr("activation")
    arithmetic = F32 if w.dtype is DType.F32 else bf16_of(state.target)
    kernel = sparse.kernel(
        state.target,
        stored.outputs,
        stored.inputs,
        None if activation == "none" else activation,
        bool(residual),
        arithmetic,
        value.attr("rounded"),
        stored.masked,
    )
    depth, columns = w.t.static_shape
    tile, sums = sparse.scratch_words(state.target, stored, (depth, columns), arithmetic)
    width = sparse.group_width(state.target, stored.outputs)
    scratch = [Scratch(tile), Scratch(sums, tile)]
    _call_product(state, value, kernel, width, scratch, sparse_sizes(state.target, x, stored))


def sparse_sizes(target: Target, x: Value, stored: Blocks) -> list[Arg]:
    """What a product with `stored` is told besides K and N: its window, and perhaps how many rows x has."""
    told = sparse.tells_rows(target)
    return [Number(stored.window), *([Number(product(x.shape[:-1]))] if told else [])]


def distance(pitch: Dim | Pitch) -> Arg:
    """The distance between rows, as an argument."""
    return pitch if isinstance(pitch, Pitch) else Number(pitch)


def _softmax(state: Lowering, value: Value) -> None:
    require_f32(value, state.target)
    source, rows, ldx = state.rows(value.args[0])
    place = state.allocate(value)
    width = value.shape[-1]
    args: list[Arg] = [
        Pointer(source.buffer, source.offset, ldx),
        Pointer(place.buffer, place.offset, width),
        Number(width),
        distance(ldx),
        Number(width),
    ]
    state.call(softmax.kernel(state.target), args, place.buffer, value, rows)
    state.views[value] = place


def _attention(state: Lowering, value: Value) -> None:
    """Fused attention over strided views: whatever split and transposed Q, K and V costs nothing.

    The result is laid out [batch, length, heads, width], the order in which it is used next.
    """
    mixed = value.attr("mixed")
    if not mixed:
        require_f32(value, state.target)
    elif not state.target.multiplies_bf16:
        raise not_on_target(value, state.target)
    q, k, v, *masks = value.args
    views = [inner_unit(state, a) for a in (q, k, v)]
    batch, heads, queries, _ = value.shape
    keys = k.shape[2]
    width, value_width = static_size(value, state, q.shape[3]), static_size(value, state, v.shape[3])
    group = static_size(value, state, heads) // static_size(value, state, k.shape[1])
    mask = _mask(state, masks[0], (batch, heads, queries, keys)) if masks else None
    kind: attention_kernels.Mask = "none" if mask is None else ("row" if mask.strides[2] == 0 else "full")
    place = _attention_result(state, value)
    tiles = mixed and state.target.multiplies_in_tiles("bf16")
    rounds = rounds_attention(value, state.target)
    if tiles:
        scratch = attention_tiles.scratch(width, value_width, kind)
    else:
        scratch = attention_kernels.scratch(state.target, width, value_width, kind, mixed, rounds)
    floats = round_up(keys, scratch.block) * scratch.per_key + scratch.constant
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
    make = attention_tiles.kernel if tiles else partial(attention_kernels.kernel, mixed=mixed, rounds=rounds)
    kernel = make(state.target, width, value_width, kind, value.attr("safe"), value.attr("causal"))
    state.call(kernel, args, place.buffer, value, batch * heads)
    state.views[value] = place


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
    left = inner_unit(state, a).broadcast((*batch, m, k))
    right = state.view(b).broadcast((*batch, k, n))
    place = state.allocate(value)
    width = gemm.panel_width(state.target)
    columns = round_up(n, width)
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


HANDLERS: Mapping[str, Handler] = {
    "linear": _linear,
    "softmax": _softmax,
    "attention": _attention,
    "matmul": _matmul,
    "concat": _concat,
    "pad": _pad,
    **dict.fromkeys(FOLDS, _reduce),
    **lines.HANDLERS,
    **ragged.HANDLERS,
}
