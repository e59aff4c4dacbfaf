"""com.microsoft: normalisation with the sums and lookups before it."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.nn import inverse_root, normalized, rms_normalized, statistics
from isthmus.ir.types import DType
from isthmus.ops import movement, nn, pointwise, reduce


def simplified_layer_normalization(node: Node) -> list[Tensor | None]:
    """Root mean square normalisation; onnxruntime puts it into the standard domain too."""
    node.ignore("stash_type")
    x, epsilon = node[0], node.number("epsilon", 1e-5)
    axis = node.axis("axis", -1, x.rank)
    return [rms_normalized(node, x, node[1], axis, epsilon), *_inverse_size(node, x, axis, epsilon, 1)]


def _inverse_size(node: Node, x: Tensor, axis: int, epsilon: float, output: int) -> list[Tensor | None]:
    """1 / sqrt(mean(x^2) + epsilon), where output `output` is used."""
    if not node.uses(output):
        return [None]
    mean = node.b.op(reduce.reduce_mean, node.b.op(pointwise.mul, x, x), axes=tuple(range(axis, x.rank)))
    return [inverse_root(node, mean, epsilon)]


def skip_layer_normalization(node: Node) -> list[Tensor | None]:
    """layer_norm(x + skip + bias); the sum is output 3."""
    total = _sum(node, node.get(4))
    epsilon = node.number("epsilon", 1e-12)
    result = normalized(node, total, node[2], node.get(3), total.rank - 1, epsilon)
    if not node.uses(1) and not node.uses(2):
        return [result, None, None, total]
    return [result, *statistics(node, total, (total.rank - 1,), epsilon), total]


def skip_simplified_layer_normalization(node: Node) -> list[Tensor | None]:
    """rms_norm(x + skip + bias); the sum is output 3."""
    total = _sum(node, node.get(3))
    last, epsilon = total.rank - 1, node.number("epsilon", 1e-12)
    result = rms_normalized(node, total, node[2], last, epsilon)
    return [result, None, *_inverse_size(node, total, last, epsilon, 2), total]


def _sum(node: Node, bias: Tensor | None) -> Tensor:
    """x + skip + bias; the bias goes to the term that is a product, as a layer has it."""
    x, skip = node[0], node[1]
    if bias is None:
        return node.b.op(pointwise.add, x, skip)
    if skip.value is not None and skip.value.op is nn.matmul:
        x, skip = skip, x
    return node.b.op(pointwise.add, node.b.op(pointwise.add, x, bias), skip)


def embed_layer_normalization(node: Node) -> list[Tensor | None]:
    """layer_norm(word + position + segment), the number of tokens that the mask keeps, and the sum."""
    ids, segments, mask, positions = node[0], node.get(1), node.get(7), node.get(8)
    node.ignore("mask_index_type")  # onnxruntime goes by the mask itself
    total = node.b.op(movement.gather, node[2], ids, axis=0)
    if segments is not None and node.get(4) is not None:
        total = node.b.op(pointwise.add, total, node.b.op(movement.gather, node[4], segments, axis=0))
    if positions is None:
        at = node.b.cut(node[3], 0, 0, ids.shape[1])
    else:
        at = node.b.op(movement.gather, node[3], positions, axis=0)
    total = node.b.op(pointwise.add, total, at)
    result = normalized(node, total, node[5], node.get(6), 2, node.number("epsilon", 1e-12))
    return [result, kept(node, mask, ids) if node.uses(1) else None, total]


def kept(node: Node, mask: Tensor | None, ids: Tensor) -> Tensor:
    """How many elements of each row of the mask are 1, as i32; 0 without a mask."""
    if mask is None:
        return node.b.full(ids.shape[:1], 0, DType.I32)
    ones = node.b.cast(node.b.op(pointwise.equal, mask, node.like(1, mask)), DType.I32)
    return node.b.reshape(node.b.op(reduce.reduce_sum, ones, axes=(1,)), ids.shape[:1])


OPERATORS: Mapping[str, Importer] = {
    "SimplifiedLayerNormalization": simplified_layer_normalization,
    "com.microsoft::EmbedLayerNormalization": embed_layer_normalization,
    "com.microsoft::SimplifiedLayerNormalization": simplified_layer_normalization,
    "com.microsoft::SkipLayerNormalization": skip_layer_normalization,
    "com.microsoft::SkipSimplifiedLayerNormalization": skip_simplified_layer_normalization,
}
