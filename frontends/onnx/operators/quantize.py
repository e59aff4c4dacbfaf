"""Numbers to integers and back: one scale, one for each channel, or one for each block along an axis."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.small_floats import stored
from isthmus.frontends.onnx.tensors import NARROW, dtype_of
from isthmus.ir.graph import weight_of
from isthmus.ir.types import DType, TensorType
from isthmus.ir.weights import InMemory, Unpacked, Weight
from isthmus.ops import pointwise, reduce
from isthmus.ops.quantize import dequantize, quantize, step


def quantize_linear(node: Node) -> Tensor:
    node.ignore("precision")
    x, scale, zero = node[0], node[1], node.get(2)
    bits, dtype = _wanted(node, zero)
    if dtype.is_stored:
        return _to_floats(node, x, scale, dtype)
    node.ignore("saturate")
    x = x if x.dtype.is_float else node.b.cast(x, DType.F32)
    return quantized(node, x, scale, zero, dtype, *_along(node, x), bits=bits)


def _to_floats(node: Node, x: Tensor, scale: Tensor, dtype: DType) -> Tensor:
    """x / scale, in f32, as floats of 8 bits or 4; their zero points are zero."""
    wide, (step_,) = _laid_out(node, x, scale, None, *_along(node, x))
    quotient = node.b.op(pointwise.div, node.b.cast(wide, DType.F32), node.b.cast(step_, DType.F32))
    found = stored(node, quotient, dtype, node.integer("saturate", 1) != 0)
    return node.b.reshape(found, x.shape)


def _wanted(node: Node, zero: Tensor | None) -> tuple[int, DType]:
    """Bits (0: all of them) and element type of the result."""
    if zero is not None:
        node.ignore("output_dtype")
        return narrow_bits(zero), zero.dtype
    code = node.integer("output_dtype", 0)
    if code in NARROW:
        return NARROW[code]
    return 0, dtype_of(code, node.where) if code else DType.U8


def narrow_bits(tensor: Tensor) -> int:
    """How many bits the elements of a weight had in the model, if less than 8; else 0."""
    weight = weight_of(tensor.value) if tensor.value is not None else None
    return weight.source.bits if weight is not None and isinstance(weight.source, Unpacked) else 0


def _along(node: Node, x: Tensor) -> tuple[int, int]:
    """The axis of the scales, and the size of a block; 0: not in blocks."""
    axis = node.integer("axis", 1)
    if x.rank and not -x.rank <= axis < x.rank and max(math.prod(_static(node[1])), 1) == 1:
        axis = 0  # without meaning for one scale
    return (node.normal(axis, x.rank) if x.rank else 0), node.integer("block_size", 0)


def _static(x: Tensor) -> tuple[int, ...]:
    return x.type.static_shape if x.type.is_static else (2,)


def dequantize_linear(node: Node) -> Tensor:
    q = node[0]
    result = dequantized(node, q, node[1], node.get(2), *_along(node, q))
    return node.b.cast(result, node.dtype("output_dtype", result.dtype))


def quantized(
    node: Node,
    x: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    dtype: DType,
    axis: int = 0,
    block: int = 0,
    bits: int = 0,
) -> Tensor:
    """saturate(round(x / scale) + zero), scales along `axis`, each for `block` elements if that is not 0."""
    wide, params = _laid_out(node, x, scale, zero, axis, block)
    return node.b.reshape(node.b.op(quantize, wide, *params, dtype=dtype, bits=bits), x.shape)


def dequantized(
    node: Node, q: Tensor, scale: Tensor, zero: Tensor | None, axis: int = 0, block: int = 0
) -> Tensor:
    """(q - zero) * scale, scales along `axis`, each for `block` elements if that is not 0."""
    if scale.dtype.is_stored:
        scale = node.b.cast(scale, DType.F32)
    wide, params = _laid_out(node, q, scale, zero, axis, block)
    if q.dtype.is_stored and not _has_kernels(node, q, zero):
        floats = [node.b.cast(t, DType.F32) for t in (wide, *params)]
        distance = node.b.op(pointwise.sub, floats[0], floats[2]) if zero is not None else floats[0]
        result = node.b.cast(node.b.op(pointwise.mul, distance, floats[1]), scale.dtype)
        return node.b.reshape(result, q.shape)
    params = params[:1] if q.dtype.is_stored else params
    return node.b.reshape(node.b.op(dequantize, wide, *params), q.shape)


def _has_kernels(node: Node, q: Tensor, zero: Tensor | None) -> bool:
    """Whether small floats are a weight of numbers, which products may take as they are."""
    point = node.b.known(zero) if zero is not None else np.zeros(1)
    if point is None or point.any():
        return False
    weight = weight_of(q.value) if q.value is not None else None
    return weight is not None and bool(np.isfinite(weight.read()).all())


def _laid_out(
    node: Node, x: Tensor, scale: Tensor, zero: Tensor | None, axis: int, block: int
) -> tuple[Tensor, list[Tensor]]:
    """`x`, and scale and zero point so that they broadcast against it."""
    params = [scale] if zero is None else [scale, zero]
    if not block:
        return x, [_broadcastable(node, p, x.rank, axis) for p in params]
    if block < 0 or any(p.rank != x.rank for p in params):
        text = f"{node.operator}: scales {scale.type} of {x.type} in blocks of {block}"
        raise node.error(Code.SHAPE_MISMATCH, text)
    count, dim = scale.shape[axis], x.shape[axis]
    split = [node.b.reshape(p, (*p.shape[: axis + 1], 1, *p.shape[axis + 1 :])) for p in params]
    if node.b.facts.resolve(count * block - dim) == 0:
        return node.b.reshape(x, (*x.shape[:axis], count, block, *x.shape[axis + 1 :])), split
    # The last block is cut short.
    spread = [node.b.broadcast(p, (*p.shape[: axis + 1], block, *p.shape[axis + 2 :])) for p in split]
    flat = [node.b.reshape(p, (*p.shape[:axis], p.shape[axis] * block, *p.shape[axis + 2 :])) for p in spread]
    return x, [node.b.cut(p, axis, 0, dim) for p in flat]


def _broadcastable(node: Node, p: Tensor, rank: int, axis: int) -> Tensor:
    if p.type.size == 1:
        return node.b.reshape(p, ())
    return node.b.reshape(p, (*p.shape, *(1,) * (rank - axis - 1))) if p.rank == 1 else p


def dynamic_quantize_linear(node: Node) -> list[Tensor | None]:
    return list(dynamically(node, node[0]))


def dynamically(node: Node, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`x` as u8 over the range of its elements and 0; its scale and zero point."""
    axes, zero = tuple(range(x.rank)), node.like(0, x)
    low, high = (
        node.b.op(clip, node.b.reshape(node.b.op(extreme, x, axes=axes) if axes else x, ()), zero)
        for extreme, clip in (
            (reduce.reduce_min, pointwise.minimum),
            (reduce.reduce_max, pointwise.maximum),
        )
    )
    scale = node.b.op(step, low, high)
    place = node.b.op(pointwise.sub, zero, node.b.op(pointwise.div, low, scale))
    clipped = node.b.op(pointwise.minimum, node.b.op(pointwise.maximum, place, zero), node.like(255, x))
    point = node.b.cast(node.b.op(pointwise.round_even, clipped), DType.U8)
    return quantized(node, x, scale, point, DType.U8), scale, point


def unpacked(node: Node, packed: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """The numbers of `bits` bits in the bytes of the constant `packed`, as u8 of `shape`."""
    if bits == 8:
        return node.b.reshape(packed, shape)
    weight = weight_of(packed.value) if packed.value is not None else None
    if weight is None and packed.known is not None and packed.known.dtype != object:
        weight = Weight(node.where, packed.type, InMemory(packed.known.tobytes()))
    if weight is None or weight.type.dtype is not DType.U8:
        raise node.unsupported(f"packed weights that are {'computed' if weight is None else packed.type}")
    count = math.prod(shape)
    if math.prod(weight.type.static_shape) * 8 != count * bits:
        text = f"{node.operator}: {packed.type} does not hold {list(shape)} numbers of {bits} bits"
        raise node.error(Code.SHAPE_MISMATCH, text)
    name = node.b.unique(f"{weight.name}.unpacked")
    return node.b.weight(
        Weight(name, TensorType(DType.U8, shape), Unpacked(weight.source, bits, False, count))
    )


OPERATORS: Mapping[str, Importer] = {
    "DequantizeLinear": dequantize_linear,
    "DynamicQuantizeLinear": dynamic_quantize_linear,
    "QuantizeLinear": quantize_linear,
    "com.microsoft::DequantizeLinear": dequantize_linear,
    "com.microsoft::QuantizeLinear": quantize_linear,
}
