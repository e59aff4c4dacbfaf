"""Lowering of products of bytes, and of what makes bytes of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from isthmus.ir.dims import Dim
from isthmus.ir.encodings import Interleaved, Nibbles, SmallFloats
from isthmus.ir.graph import Value
from isthmus.ir.sparse import Blocks, GroupPanels, MaskedPanels
from isthmus.ir.types import DType
from isthmus.kernels import (
    block_bytes,
    block_gemm,
    byte_rows,
    byte_steps,
    gemm,
    gemm_tiles,
    quantize_rows,
    sparse,
)
from isthmus.kernels.builder import C_TYPES
from isthmus.kernels.byte_arithmetic import Bytes
from isthmus.kernels.byte_products import HalfOfQuads, arithmetic_of, words_of
from isthmus.kernels.math_short import SHORT
from isthmus.lowering.heavy import distance, row_result, sparse_sizes
from isthmus.lowering.plan import Arg, Number, Pitch, Pointer, Scratch
from isthmus.lowering.state import Handler, Lowering, not_on_target, require_f32, static_size
from isthmus.lowering.steps import Stepped
from isthmus.lowering.views import View, whole

# The least step of bytes at which short forms of activations serve: they are 2e-4 off, a twentieth of it.
COARSE = 1 / 256


def _scale(state: Lowering, scale: Value) -> tuple[Pointer, Arg]:
    """One scale, or those of rows, and how far apart they are."""
    if not scale.shape:
        view = state.contiguous(scale)
        return Pointer(view.buffer, view.offset), Number(0)
    view, _, pitch = state.rows(scale)
    return Pointer(view.buffer, view.offset, pitch), distance(pitch)


def _columns(state: Lowering, value: Value, width: int) -> Pointer:
    """A vector of whole panels: what is computed lies in memory of that size, whatever is beyond."""
    if value.t.encoding is not None:
        return Pointer(state.view(value).buffer)
    size = -(-value.t.static_shape[0] // width) * width
    place = whole(state.temporary(value, size), value.shape)
    view = state.copy(value, state.view(value), place) if value in state.views else state.store(value, place)
    return Pointer(view.buffer)


# How matrices of integer_linear are stored.
Matrix: TypeAlias = Interleaved | Blocks | GroupPanels | MaskedPanels


def _arithmetic(state: Lowering, value: Value, stored: Matrix) -> type[Bytes]:
    """The products of a matrix that is stored like this."""
    if isinstance(stored, Blocks):
        return words_of(state.target)
    if not isinstance(stored, MaskedPanels):
        return arithmetic_of(state.target)
    if not state.target.expands_bytes:
        raise not_on_target(value, state.target, "two of four bytes are stored")
    return HalfOfQuads


def _integer_linear(state: Lowering, value: Value) -> None:
    x, w, offset, x_scale, w_scale, bias, *residual = value.args
    stored = w.t.encoding
    if not isinstance(stored, Matrix):
        raise not_on_target(value, state.target, "its weight is not packed")
    arithmetic = _arithmetic(state, value, stored)
    if x.dtype.c != C_TYPES[arithmetic.x]:
        raise not_on_target(value, state.target, "its rows are other bytes")
    k, n = w.t.static_shape
    activation = None if value.attr("activation") == "none" else value.attr("activation")
    scratch: list[Arg] = []
    made = None if isinstance(stored, Blocks) else state.stepped(value, alone=True)
    if isinstance(stored, Blocks):
        shape = (stored.outputs, stored.inputs)
        kernel = sparse.kernel(
            state.target, *shape, activation, bool(residual), arithmetic, masked=stored.masked
        )
        width = sparse.group_width(state.target, stored.outputs)
        tile, sums = sparse.scratch_words(state.target, stored, (k, n), arithmetic)
        scratch = [Scratch(tile), Scratch(sums, tile)]
    else:
        coarse = state.becomes_bytes(value) or (made is not None and made.step >= COARSE)
        short = activation in SHORT and coarse
        steps = None if made is None else made.steps
        if isinstance(stored, Interleaved) and state.target.multiplies_in_tiles("u8"):
            kernel = gemm_tiles.byte_kernel(state.target, activation, bool(residual), short, steps)
        else:
            halved = stored.group if isinstance(stored, GroupPanels) else 0
            kernel = gemm.kernel(
                state.target, activation, bool(residual), arithmetic, short=short, steps=steps, halved=halved
            )
        width = stored.width
        if not isinstance(stored, Interleaved):
            words = gemm.copy_words(state.target, k, arithmetic, narrow=steps is not None)
            scratch = [Scratch(words)]
    source, rows, ldx = state.rows(x)
    others = [state.rows(r) for r in residual]
    scale, lds = _scale(state, x_scale)
    vectors = [_columns(state, v, width) for v in (offset, w_scale, bias)]
    result = value if made is None else made.value
    place, ldy = row_result(state, result, n)
    args: list[Arg] = [
        Pointer(source.buffer, source.offset, ldx),
        Pointer(state.view(w).buffer),
        vectors[0],
        scale,
        lds,
        *vectors[1:],
        *(Pointer(view.buffer, view.offset, pitch) for view, _, pitch in others),
        Pointer(place.buffer, place.offset, ldy),
        *scratch,
        *([] if made is None else made.args(state.weight)),
        Number(k),
        Number(n),
        *(sparse_sizes(state.target, x, stored) if isinstance(stored, Blocks) else []),
        *map(distance, (ldx, *(pitch for _, _, pitch in others), ldy)),
    ]
    state.call(kernel, args, place.buffer, value, rows, panels=-(-n // width), row_local=True)
    state.views[result] = place


def _kind(value: Value) -> str:
    """What the weights of a block_linear are, as `block_gemm` calls it."""
    match value.args[1].dtype:
        case DType.F8E4M3:
            return "e4m3"
        case DType.F8E5M2:
            return "e5m2"
        case _:
            return "e2m1" if value.attr("floats") else f"q{value.attr('bits')}"


def _block_linear(state: Lowering, value: Value) -> None:
    x, q, scale, bias = value.args
    if not isinstance(q.t.encoding, Nibbles | Interleaved | SmallFloats):
        raise not_on_target(value, state.target, "its weight is not packed")
    (k, n), width = q.t.static_shape, q.t.encoding.width
    block = k // scale.t.static_shape[0]
    room = block_gemm.scratch_floats(state.target, k, x.dtype)
    source, rows, ldx = state.rows(x)
    place, ldy = row_result(state, value, n)
    args: list[Arg] = [
        Pointer(source.buffer, source.offset, ldx),
        *(Pointer(state.view(v).buffer) for v in (q, scale, bias)),
        Pointer(place.buffer, place.offset, ldy),
        *([Scratch(room)] if room else []),
        Number(k),
        Number(n),
        Number(block.bit_length() - 1),
        distance(ldx),
        distance(ldy),
    ]
    kernel = block_gemm.kernel(state.target, _kind(value), scale.dtype, x.dtype)
    state.call(kernel, args, place.buffer, value, rows, panels=-(-n // width), row_local=True)
    state.views[value] = place


def _integer_block_linear(state: Lowering, value: Value) -> None:
    x, q, scale, x_scale, bias, *residual = value.args
    if not isinstance(q.t.encoding, Nibbles | Interleaved):
        raise not_on_target(value, state.target, "its weight is not packed")
    (k, n), width = q.t.static_shape, q.t.encoding.width
    block = k // scale.t.static_shape[0]
    activation = None if value.attr("activation") == "none" else value.attr("activation")
    short = activation in SHORT and state.becomes_bytes(value)
    source, rows, ldx = state.rows(x)
    others = [state.rows(r) for r in residual]
    steps, lds = _scale(state, x_scale)
    place, ldy = row_result(state, value, n)
    args: list[Arg] = [
        Pointer(source.buffer, source.offset, ldx),
        *(Pointer(state.view(v).buffer) for v in (q, scale)),
        Number(block.bit_length() - 1),
        steps,
        lds,
        Scratch(block_bytes.scratch_words(k, block)),
        Pointer(state.view(bias).buffer),
        *(Pointer(view.buffer, view.offset, pitch) for view, _, pitch in others),
        Pointer(place.buffer, place.offset, ldy),
        Number(k),
        Number(n),
        *map(distance, (ldx, *(pitch for _, _, pitch in others), ldy)),
    ]
    kind = f"q{value.attr('bits')}"
    kernel = block_bytes.kernel(state.target, kind, scale.dtype, activation, bool(residual), short)
    state.call(kernel, args, place.buffer, value, rows, panels=-(-n // width), row_local=True)
    state.views[value] = place


def _quantize_rows(state: Lowering, value: Value) -> None:
    made = state.steps_of(value)
    if made is not None:
        _stepped_rows(state, made)
        return
    x, scale, zero = value.args
    width = static_size(value, state, x.shape[-1])
    source, rows, ldx = state.rows(x)
    steps, lds = _scale(state, scale)
    point = state.contiguous(zero)
    place, ldy = row_result(state, value, width)
    args: list[Arg] = [
        Pointer(source.buffer, source.offset, ldx),
        steps,
        Pointer(point.buffer, point.offset),
        Pointer(place.buffer, place.offset, ldy),
        Number(width),
        distance(ldx),
        lds,
        distance(ldy),
    ]
    kernel = quantize_rows.kernel(state.target, "uint8" if str(value.dtype) == "u8" else "int8")
    state.call(kernel, args, place.buffer, value, rows, row_local=True)
    state.views[value] = place


def _stepped_rows(state: Lowering, made: Stepped) -> None:
    value = made.value
    width = static_size(value, state, value.shape[-1])
    source, rows, ldx = state.rows(made.rows)
    place, ldy = row_result(state, value, width)
    args: list[Arg] = [
        Pointer(source.buffer, source.offset, ldx),
        Pointer(place.buffer, place.offset, ldy),
        *made.args(state.weight),
        Number(width),
        distance(ldx),
        distance(ldy),
    ]
    kernel = byte_steps.kernel(state.target, made.steps)
    state.call(kernel, args, place.buffer, value, rows, row_local=True)
    state.views[value] = place


def _row_scale(state: Lowering, value: Value) -> None:
    require_f32(value, state.target)
    (x,) = value.args
    source, rows, ldx = state.rows(x)
    scaled = state.scaled_bytes(x)
    if scaled is not None and scaled[0] is value:
        _scaled_rows(state, scaled, source, rows, ldx)
        return
    place, ldy = row_result(state, value, 1)
    args: list[Arg] = [
        Pointer(source.buffer, source.offset, ldx),
        Pointer(place.buffer, place.offset, ldy),
        Number(x.shape[-1]),
        distance(ldx),
        distance(ldy),
    ]
    state.call(quantize_rows.scale_kernel(state.target), args, place.buffer, value, rows, row_local=True)
    state.views[value] = place


def _scaled_rows(
    state: Lowering, scaled: tuple[Value, Value], source: View, rows: Dim, ldx: Dim | Pitch
) -> None:
    """Scales of rows and bytes by one call: what is read for the first is near for the second."""
    scale, quantized = scaled
    width = static_size(quantized, state, quantized.shape[-1])
    steps, lds = row_result(state, scale, 1)
    place, ldb = row_result(state, quantized, width)
    args: list[Arg] = [
        Pointer(source.buffer, source.offset, ldx),
        Pointer(steps.buffer, steps.offset, lds),
        Pointer(place.buffer, place.offset, ldb),
        Number(width),
        *map(distance, (ldx, lds, ldb)),
    ]
    kernel = byte_rows.kernel(state.target, "uint8" if quantized.dtype is DType.U8 else "int8")
    state.call(kernel, args, place.buffer, quantized, rows, row_local=True, copies=(steps.buffer,))
    state.views.update({scale: steps, quantized: place})


HANDLERS: Mapping[str, Handler] = {
    "integer_linear": _integer_linear,
    "block_linear": _block_linear,
    "integer_block_linear": _integer_block_linear,
    "quantize_rows": _quantize_rows,
    "row_scale": _row_scale,
}
