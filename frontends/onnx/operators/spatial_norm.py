"""Normalisation of images: over neighbouring channels, groups of channels, or everything but the channels."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.movement import padded
from isthmus.frontends.onnx.operators.nn import statistics
from isthmus.frontends.onnx.operators.spatial import check_image
from isthmus.ops import movement, pointwise, reduce


def lrn(node: Node) -> Tensor:
    """x / (bias + alpha / size * sum of x^2 over `size` channels)^beta  (Krizhevsky et al. 2012)."""
    x, size = node[0], node.integer("size", 1)
    if x.rank < 2 or size < 1:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator} of {x.type} over {size} channels")
    low = (size - 1) // 2
    before, after = ([n if i == 1 else 0 for i in range(x.rank)] for n in (low, size - 1 - low))
    squares = padded(node, node.b.op(pointwise.mul, x, x), before, after, "constant", 0.0)
    cut = node.b.op(movement.windows, squares, axes=(1,), sizes=(size,), strides=(1,), dilations=(1,))
    total = node.b.reshape(node.b.op(reduce.reduce_sum, cut, axes=(x.rank,)), x.shape)
    scaled = node.b.op(pointwise.mul, total, node.like(node.number("alpha", 1e-4) / size, x))
    base = node.b.op(pointwise.add, scaled, node.like(node.number("bias", 1.0), x))
    return node.b.op(
        pointwise.div, x, node.b.op(pointwise.pow_, base, node.like(node.number("beta", 0.75), x))
    )


def mean_variance_normalization(node: Node) -> Tensor:
    """(x - mean) / (standard deviation + 1e-9)."""
    x = node[0]
    given = node.integers("axes")
    axes = node.axes((0, 2, 3) if given is None else given, x.rank)
    mean = node.b.op(reduce.reduce_mean, x, axes=axes)
    centred = node.b.op(pointwise.sub, x, mean)
    variance = node.b.op(reduce.reduce_mean, node.b.op(pointwise.mul, centred, centred), axes=axes)
    deviation = node.b.op(pointwise.add, node.b.op(pointwise.sqrt, variance), node.like(1e-9, x))
    return node.b.op(pointwise.div, centred, deviation)


def group_norm(node: Node) -> Tensor:
    """com.microsoft: silu(group_norm(x)); channels last unless said otherwise."""
    return _group_norm(node, node[0], node[1], node[2])


def skip_group_norm(node: Node) -> list[Tensor | None]:
    """com.microsoft: group_norm(x + skip + bias); the sum is output 1."""
    x, skip, bias = node[0], node[3], node.get(4)
    if skip.rank == 2:
        skip = node.b.reshape(skip, (skip.shape[0], 1, 1, skip.shape[1]))
    total = node.b.op(pointwise.add, x, skip)
    total = total if bias is None else node.b.op(pointwise.add, total, bias)
    return [_group_norm(node, total, node[1], node[2]), total]


def _group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    check_image(node, x)
    groups, last = node.integer("groups", 1), bool(node.integer("channels_last", 1))
    axis = x.rank - 1 if last else 1
    each = node.b.quotient((x.shape[axis],), (groups,))
    split = node.b.reshape(x, (*x.shape[:axis], groups, each, *x.shape[axis + 1 :]))
    axes = tuple(i for i in range(1, split.rank) if i != axis)
    mean, inverse = statistics(node, split, axes, node.number("epsilon", 1e-5))
    plain = node.b.op(pointwise.mul, node.b.op(pointwise.sub, split, mean), inverse)
    shape = (groups, each, *(1,) * (split.rank - axis - 2))
    plain = node.b.op(pointwise.mul, plain, node.b.cast(node.b.reshape(scale, shape), x.dtype))
    plain = node.b.op(pointwise.add, plain, node.b.cast(node.b.reshape(bias, shape), x.dtype))
    result = node.b.reshape(plain, x.shape)
    return node.b.op(pointwise.silu, result) if node.integer("activation", 0) else result


OPERATORS: Mapping[str, Importer] = {
    "LRN": lrn,
    "MeanVarianceNormalization": mean_variance_normalization,
    "com.microsoft::GroupNorm": group_norm,
    "com.microsoft::SkipGroupNorm": skip_group_norm,
}
