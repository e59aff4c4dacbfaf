"""Products, softmax and normalisation."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.activation import scaled
from isthmus.ir.dims import Shape, product
from isthmus.ir.types import DType
from isthmus.ops import nn, pointwise, reduce


def matmul(node: Node) -> Tensor:
    return product_of(node, node[0], node[1])


def product_of(node: Node, a: Tensor, b: Tensor) -> Tensor:
    """NumPy's matmul: vectors are rows on the left and columns on the right."""
    if not a.rank or not b.rank:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: cannot multiply {a.type} by {b.type}")
    left = node.b.reshape(a, (1, *a.shape)) if a.rank == 1 else a
    right = node.b.reshape(b, (*b.shape, 1)) if b.rank == 1 else b
    result = node.b.op(nn.matmul, left, right)
    shape = list(result.shape)
    if b.rank == 1:
        del shape[-1]
    if a.rank == 1:
        del shape[-1 if b.rank == 1 else -2]
    return node.b.reshape(result, shape)


def gemm(node: Node) -> Tensor:
    a, b, c = node[0], node[1], node.get(2)
    if a.rank != 2 or b.rank != 2:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: cannot multiply {a.type} by {b.type}")
    a = node.b.swap(a, 0, 1) if node.integer("transA", 0) else a
    b = node.b.swap(b, 0, 1) if node.integer("transB", 0) else b
    result = scaled(node, node.b.op(nn.matmul, a, b), node.number("alpha", 1.0))
    beta = node.number("beta", 1.0)
    return result if c is None or beta == 0 else node.b.op(pointwise.add, result, scaled(node, c, beta))


def softmax(node: Node) -> Tensor:
    return _along_axis(node, log=False)


def log_softmax(node: Node) -> Tensor:
    return _along_axis(node, log=True)


def _along_axis(node: Node, log: bool) -> Tensor:
    x = node[0]
    if node.opset < 13:
        # Until opset 12, everything from the axis on was one axis.
        axis = node.axis("axis", 1, x.rank)
        flat = node.b.reshape(x, (*x.shape[:axis], product(x.shape[axis:])))
        return node.b.reshape(_last(node, flat, log), x.shape)
    axis = node.axis("axis", -1, x.rank)
    return node.b.swap(_last(node, node.b.swap(x, axis, -1), log), axis, -1)


def _last(node: Node, x: Tensor, log: bool) -> Tensor:
    if not log:
        return node.b.op(nn.softmax, x)
    axes = (x.rank - 1,)
    shifted = node.b.op(pointwise.sub, x, node.b.op(reduce.reduce_max, x, axes=axes))
    total = node.b.op(reduce.reduce_sum, node.b.op(pointwise.exp, shifted), axes=axes)
    return node.b.op(pointwise.sub, shifted, node.b.op(pointwise.log, total))


def hardmax(node: Node) -> Tensor:
    x = node[0]
    axis = node.axis("axis", 1 if node.opset < 13 else -1, x.rank)
    flat = node.b.reshape(x, (*x.shape[:axis], product(x.shape[axis:]))) if node.opset < 13 else x
    best = node.b.op(reduce.argmax, flat, axis=axis)
    places = node.b.iota(flat.shape, axis)
    return node.b.reshape(node.b.cast(node.b.op(pointwise.equal, places, best), x.dtype), x.shape)


def layer_normalization(node: Node) -> list[Tensor | None]:
    node.ignore("stash_type")  # the precision of the statistics; ours is at least as good
    x = node[0]
    epsilon = node.number("epsilon", 1e-5)
    axis = node.axis("axis", -1, x.rank)
    result = normalized(node, x, node[1], node.get(2), axis, epsilon)
    if not node.uses(1) and not node.uses(2):
        return [result]
    mean, inverse = statistics(node, x, tuple(range(axis, x.rank)), epsilon)
    return [result, mean, inverse]


def normalized(
    node: Node, x: Tensor, scale: Tensor, bias: Tensor | None, axis: int, epsilon: float
) -> Tensor:
    """Layer normalisation over the axes from `axis` on; scale and bias broadcast to those."""
    tail = x.shape[axis:]
    if not _fits(scale, len(tail)) or not (bias is None or _fits(bias, len(tail))):
        # Scales that differ between rows are applied after the statistics.
        mean, inverse = statistics(node, x, tuple(range(axis, x.rank)), epsilon)
        plain = node.b.op(pointwise.mul, node.b.op(pointwise.sub, x, mean), inverse)
        plain = node.b.op(pointwise.mul, plain, scale)
        return plain if bias is None else node.b.op(pointwise.add, plain, bias)
    width = product(tail)
    flat = node.b.reshape(x, (*x.shape[:axis], width))
    zero = node.b.broadcast(node.like(0, x), (width,)) if bias is None else _row(node, bias, tail)
    row = node.b.op(nn.layer_norm, flat, _row(node, scale, tail), zero, epsilon=epsilon)
    return node.b.reshape(row, x.shape)


def _fits(tensor: Tensor, rank: int) -> bool:
    return tensor.rank <= rank or all(d == 1 for d in tensor.shape[: tensor.rank - rank])


def _row(node: Node, tensor: Tensor, tail: Shape) -> Tensor:
    """A scale as one vector over the normalised axes."""
    trimmed = node.b.reshape(tensor, tensor.shape[max(0, tensor.rank - len(tail)) :])
    return node.b.reshape(node.b.broadcast(trimmed, tail), (product(tail),))


def statistics(node: Node, x: Tensor, axes: tuple[int, ...], epsilon: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + epsilon) along `axes`."""
    mean = node.b.op(reduce.reduce_mean, x, axes=axes)
    centred = node.b.op(pointwise.sub, x, mean)
    variance = node.b.op(reduce.reduce_mean, node.b.op(pointwise.mul, centred, centred), axes=axes)
    return mean, inverse_root(node, variance, epsilon)


def inverse_root(node: Node, x: Tensor, epsilon: float) -> Tensor:
    """1 / sqrt(x + epsilon)."""
    shifted = node.b.op(pointwise.add, x, node.like(epsilon, x))
    return node.b.op(pointwise.reciprocal, node.b.op(pointwise.sqrt, shifted))


def rms_normalization(node: Node) -> Tensor:
    node.ignore("stash_type")
    x = node[0]
    return rms_normalized(node, x, node[1], node.axis("axis", -1, x.rank), node.number("epsilon", 1e-5))


def rms_normalized(node: Node, x: Tensor, scale: Tensor, axis: int, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * scale over the axes from `axis` on; at least in f32."""
    axes = tuple(range(axis, x.rank))
    narrow = x.dtype in (DType.F16, DType.BF16)
    wide = node.b.cast(x, DType.F32) if narrow else x
    mean = node.b.op(reduce.reduce_mean, node.b.op(pointwise.mul, wide, wide), axes=axes)
    result = node.b.op(pointwise.mul, wide, inverse_root(node, mean, epsilon))
    return node.b.op(pointwise.mul, node.b.cast(result, x.dtype), scale)


def lp_normalization(node: Node) -> Tensor:
    x = node[0]
    axes, p = (node.axis("axis", -1, x.rank),), node.integer("p", 2)
    if p == 1:
        size = node.b.op(reduce.reduce_sum, node.b.op(pointwise.absolute, x), axes=axes)
    elif p == 2:
        total = node.b.op(reduce.reduce_sum, node.b.op(pointwise.mul, x, x), axes=axes)
        size = node.b.op(pointwise.sqrt, total)
    else:
        raise node.unsupported(f"p={p}; known: 1, 2")
    empty = node.b.op(pointwise.equal, size, node.like(0, x))
    return node.b.op(pointwise.div, x, node.b.op(pointwise.where, empty, node.like(1, x), size))


def batch_normalization(node: Node) -> list[Tensor | None]:
    x, scale, bias, mean, variance = (node[i] for i in range(5))
    node.ignore("momentum", "spatial")
    running: list[Tensor | None] = []
    if node.integer("training_mode", 0):
        keep = node.number("momentum", 0.9)
        axes = tuple(i for i in range(x.rank) if i != 1)
        own = node.b.op(reduce.reduce_mean, x, axes=axes)
        centred = node.b.op(pointwise.sub, x, own)
        spread = node.b.op(reduce.reduce_mean, node.b.op(pointwise.mul, centred, centred), axes=axes)
        batch = [node.b.cast(node.b.reshape(t, mean.shape), mean.dtype) for t in (own, spread)]
        running = [_blend(node, old, new, keep) for old, new in zip((mean, variance), batch, strict=True)]
        mean, variance = batch
    inverse = inverse_root(node, variance, node.number("epsilon", 1e-5))
    factor = node.b.op(pointwise.mul, scale, inverse)
    shift = node.b.op(pointwise.sub, bias, node.b.op(pointwise.mul, mean, factor))
    channels = (*factor.shape, *(1,) * (x.rank - 2))
    scaled = node.b.op(pointwise.mul, x, node.b.reshape(factor, channels))
    return [node.b.op(pointwise.add, scaled, node.b.reshape(shift, channels)), *running]


def _blend(node: Node, old: Tensor, new: Tensor, keep: float) -> Tensor:
    """old * keep + new * (1 - keep)."""
    parts = (node.b.op(pointwise.mul, t, node.like(share, t)) for t, share in ((old, keep), (new, 1 - keep)))
    return node.b.op(pointwise.add, *parts)


def instance_normalization(node: Node) -> Tensor:
    x, scale, bias = node[0], node[1], node[2]
    mean, inverse = statistics(node, x, tuple(range(2, x.rank)), node.number("epsilon", 1e-5))
    channels = (*scale.shape, *(1,) * (x.rank - 2))
    plain = node.b.op(pointwise.mul, node.b.op(pointwise.sub, x, mean), inverse)
    plain = node.b.op(pointwise.mul, plain, node.b.reshape(scale, channels))
    return node.b.op(pointwise.add, plain, node.b.reshape(bias, channels))


def group_normalization(node: Node) -> Tensor:
    node.ignore("stash_type")
    x, scale, bias, groups = node[0], node[1], node[2], node.integer("num_groups", 1)
    batch, channels, *rest = x.shape
    per_group = node.b.quotient((channels,), (groups,))
    split = node.b.reshape(x, (batch, groups, per_group * product(tuple(rest))))
    mean, inverse = statistics(node, split, (2,), node.number("epsilon", 1e-5))
    plain = node.b.op(pointwise.mul, node.b.op(pointwise.sub, split, mean), inverse)
    if node.opset < 21:
        # One scale for each group.
        plain = node.b.op(pointwise.mul, plain, node.b.reshape(scale, (groups, 1)))
        return node.b.reshape(node.b.op(pointwise.add, plain, node.b.reshape(bias, (groups, 1))), x.shape)
    shape = (*scale.shape, *(1,) * len(rest))
    plain = node.b.op(pointwise.mul, node.b.reshape(plain, x.shape), node.b.reshape(scale, shape))
    return node.b.op(pointwise.add, plain, node.b.reshape(bias, shape))


OPERATORS: Mapping[str, Importer] = {
    "BatchNormalization": batch_normalization,
    "Gemm": gemm,
    "GroupNormalization": group_normalization,
    "Hardmax": hardmax,
    "InstanceNormalization": instance_normalization,
    "LayerNormalization": layer_normalization,
    "LogSoftmax": log_softmax,
    "LpNormalization": lp_normalization,
    "MatMul": matmul,
    "RMSNormalization": rms_normalization,
    "Softmax": softmax,
}
