"""com.microsoft: operators that compute on what quantized numbers stand for, and weights in blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.activation import leaky
from isthmus.frontends.onnx.operators.microsoft_norm import kept
from isthmus.frontends.onnx.operators.nn import normalized, product_of
from isthmus.frontends.onnx.operators.pool import averaged
from isthmus.frontends.onnx.operators.quantize import dequantized, narrow_bits, quantized, unpacked
from isthmus.frontends.onnx.operators.spatial import channels_first, channels_last
from isthmus.ir.dims import product
from isthmus.ir.graph import Op
from isthmus.ir.types import DType
from isthmus.ops import movement, nn, pointwise, reduce
from isthmus.ops.quantize import dequantize, quantize


def _meant(node: Node, index: int) -> Tensor:
    """What input `index` stands for; its scale and zero point come behind it."""
    return dequantized(node, node[index], node[index + 1], node.get(index + 2))


def _result(node: Node, x: Tensor, index: int, dtype: DType) -> Tensor:
    """`x` in units of input `index`, with the zero point behind it."""
    return quantized(node, x, node[index], node.get(index + 1), dtype)


def _binary(op: Op) -> Importer:
    def importer(node: Node) -> Tensor:
        both = node.b.op(op, _meant(node, 0), _meant(node, 3))
        return _result(node, both, 6, node[0].dtype)

    return importer


def _unary(function: Callable[[Node, Tensor], Tensor]) -> Importer:
    def importer(node: Node) -> Tensor:
        return _result(node, function(node, _meant(node, 0)), 3, node[0].dtype)

    return importer


def _softmax(node: Node, x: Tensor) -> Tensor:
    axis = node.axis("axis", -1, x.rank)
    if node.integer("opset", 13) < 13:
        # Until opset 12, everything from the axis on was one axis.
        flat = node.b.reshape(x, (*x.shape[:axis], product(x.shape[axis:])))
        return node.b.reshape(node.b.op(nn.softmax, flat), x.shape)
    return node.b.swap(node.b.op(nn.softmax, node.b.swap(x, axis, -1)), axis, -1)


def _pooled(function: Callable[[Node, Tensor], Tensor]) -> Callable[[Node, Tensor], Tensor]:
    def pooled(node: Node, x: Tensor) -> Tensor:
        if not node.integer("channels_last", 0):
            return function(node, x)
        return channels_last(node, function(node, channels_first(node, x)))

    return pooled


def _mean_of_all(node: Node, x: Tensor) -> Tensor:
    return node.b.op(reduce.reduce_mean, x, axes=tuple(range(2, x.rank)))


def _reduce_mean(node: Node, x: Tensor) -> Tensor:
    axes = node.axes(node.integers("axes") or range(x.rank), x.rank)
    mean = node.b.op(reduce.reduce_mean, x, axes=axes)
    if node.integer("keepdims", 1):
        return mean
    return node.b.reshape(mean, tuple(d for i, d in enumerate(x.shape) if i not in axes))


def q_linear_concat(node: Node) -> Tensor:
    """Scale and zero point of the result come first, then (part, scale, zero point) for each part."""
    if len(node.inputs) < 5 or len(node.inputs) % 3 != 2:
        raise node.error(Code.INVALID_GRAPH, f"{node.operator} with {len(node.inputs)} inputs")
    parts = [_meant(node, i) for i in range(2, len(node.inputs), 3)]
    joined = node.b.concat(parts, node.axis("axis", 0, parts[0].rank))
    return _result(node, joined, 0, node[2].dtype)


def q_linear_where(node: Node) -> Tensor:
    chosen = node.b.op(pointwise.where, node[0], _meant(node, 1), _meant(node, 4))
    return _result(node, chosen, 7, node[1].dtype)


def q_embed_layer_normalization(node: Node) -> list[Tensor | None]:
    """layer_norm(word + position + segment) from quantized tables: only what is looked up is dequantized."""
    ids, segments = node[0], node.get(1)

    def rows(table: int, indices: Tensor, scale: int, zero: int) -> Tensor:
        picked = node.b.op(movement.gather, node[table], indices, axis=0)
        return dequantized(node, picked, node[scale], node.get(zero))

    total = rows(2, ids, 8, 13)
    places = node.b.cut(node[3], 0, 0, ids.shape[1])
    total = node.b.op(pointwise.add, total, dequantized(node, places, node[9], node.get(14)))
    if segments is not None and node.get(4) is not None:
        total = node.b.op(pointwise.add, total, rows(4, segments, 10, 15))
    gain = dequantized(node, node[5], node[11], node.get(16))
    bias = dequantized(node, node[6], node[12], node.get(17))
    result = normalized(node, total, gain, bias, 2, node.number("epsilon", 1e-12))
    return [result, kept(node, node.get(7), ids) if node.uses(1) else None]


# accuracy_level: activations may be as coarse as 8 bits, and onnxruntime's CPU kernels make them so.
IN_INT8 = 4

# --- weights in blocks ---------------------------------------------------------------------------


def matmul_n_bits(node: Node) -> Tensor:
    """x @ w^T [+ bias], w [n, k] in blocks along k."""
    if node.integer("weight_prepacked", 0):
        raise node.unsupported("weight_prepacked=1", "export the model without packing for one machine")
    if node.get(4) is not None:
        raise node.unsupported("the input g_idx", "quantize the model without reordering of rows")
    bits, block = node.integer("bits", 4), node.integer("block_size", 0)
    n, k = node.integer("N", 0), node.integer("K", 0)
    if bits not in (2, 4, 8) or block < 1 or n < 1 or k < 1:
        raise node.unsupported(f"bits={bits}, block_size={block}, N={n}, K={k}")
    count = -(-k // block)
    q = unpacked(node, node[1], bits, (n, count, block))
    scales = node.b.reshape(node[2], (n, count, 1))
    zero = zero_points(node, node.get(3), bits, (n, count), scales)
    wide = node.b.reshape(dequantized(node, q, scales, zero), (n, count * block))
    w = node.b.transpose(node.b.cut(wide, 1, 0, k), (1, 0))
    x = node[0]
    if node.integer("accuracy_level", 0) == IN_INT8:
        x = in_int8(node, x, count, block)
    result = product_of(node, x, node.b.cast(w, x.dtype))
    bias = node.get(5)
    return result if bias is None else node.b.op(pointwise.add, result, bias)


def in_int8(node: Node, x: Tensor, count: int, block: int) -> Tensor:
    """x as 8-bit numbers with one scale for each block of a row: round(x / s) * s, s = largest / 127.

    The model's answers were made and judged with this rounding, so it belongs to its meaning.
    """
    b = node.b
    k = x.shape[-1]
    missing = count * block - k
    lead = x.rank - 1
    wide = b.op(movement.pad, x, before=(0,) * x.rank, after=(*(0,) * lead, missing), value=0.0)
    blocks = b.reshape(wide if missing != 0 else x, (*x.shape[:-1], count, block))
    largest = b.op(reduce.reduce_max, b.op(pointwise.absolute, blocks), axes=(lead + 1,))
    zero, one = node.like(0, x), node.like(1, x)
    step = b.op(pointwise.div, largest, node.like(127, x))
    scale = b.op(pointwise.where, b.op(pointwise.equal, largest, zero), one, step)
    near = b.op(dequantize, b.op(quantize, blocks, scale, dtype=DType.I8), scale)
    flat = b.reshape(near, (*x.shape[:-1], count * block))
    return b.cut(flat, lead, 0, k)


def zero_points(
    node: Node, given: Tensor | None, bits: int, shape: tuple[int, int], scales: Tensor
) -> Tensor:
    """Zero points [n, count, 1]: fractions, or packed like the weights; the middle where there are none."""
    if given is None:
        return node.b.number(1 << bits - 1, DType.U8)
    if given.dtype.is_float:
        return node.b.reshape(node.b.cast(given, scales.dtype), (*shape, 1))
    rows, count = shape
    per_row = -(-count * bits // 8) * 8 // bits
    every = unpacked(node, given, bits, (rows, per_row))
    return node.b.reshape(node.b.cut(every, 1, 0, count), (rows, count, 1))


def gather_block_quantized(node: Node) -> Tensor:
    """Rows of a table that is quantized in blocks; only what is looked up is dequantized."""
    data, indices, scales, zero = node[0], node[1], node[2], node.get(3)
    bits, block = node.integer("bits", 4), node.integer("block_size", 128)
    at = node.axis("gather_axis", 0, data.rank)
    along = node.axis("quantize_axis", 1, data.rank)
    if at == along:
        raise node.unsupported(f"gather_axis and quantize_axis both {at}")
    if data.dtype is DType.U8 and not narrow_bits(data):
        # Bytes hold several numbers each, along the last axis.
        data = unpacked(node, data, bits, _widened(data, bits))
        middle = node.b.number(1 << bits - 1, DType.U8)
        zero = middle if zero is None else unpacked(node, zero, bits, _widened(zero, bits))
        if zero.rank:
            zero = node.b.slice(zero, (0,) * zero.rank, scales.shape)
    # The axis of the blocks, counted in the result.
    place = along if along < at else along + indices.rank - 1
    picked = [node.b.op(movement.gather, t, indices, axis=at) for t in (data, scales)]
    if zero is not None and zero.rank:
        zero = node.b.op(movement.gather, zero, indices, axis=at)
    elif zero is not None:
        zero = node.b.broadcast(zero, picked[1].shape)
    return dequantized(node, picked[0], picked[1], zero, place, block)


def _widened(packed: Tensor, bits: int) -> tuple[int, ...]:
    *rows, last = packed.type.static_shape
    return (*rows, last * 8 // bits)


OPERATORS: Mapping[str, Importer] = {
    "com.microsoft::GatherBlockQuantized": gather_block_quantized,
    "com.microsoft::MatMulNBits": matmul_n_bits,
    "com.microsoft::QEmbedLayerNormalization": q_embed_layer_normalization,
    "com.microsoft::QLinearAdd": _binary(pointwise.add),
    "com.microsoft::QLinearAveragePool": _unary(_pooled(averaged)),
    "com.microsoft::QLinearConcat": q_linear_concat,
    "com.microsoft::QLinearGlobalAveragePool": _unary(_pooled(_mean_of_all)),
    "com.microsoft::QLinearLeakyRelu": _unary(lambda node, x: leaky(node, x, node.number("alpha", 0.01))),
    "com.microsoft::QLinearMul": _binary(pointwise.mul),
    "com.microsoft::QLinearReduceMean": _unary(_reduce_mean),
    "com.microsoft::QLinearSigmoid": _unary(lambda node, x: node.b.op(pointwise.sigmoid, x)),
    "com.microsoft::QLinearSoftmax": _unary(_softmax),
    "com.microsoft::QLinearWhere": q_linear_where,
}
