"""Pooling: a reduction over sliding windows, channels innermost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.spatial import (
    Geometry,
    across,
    channels_first,
    channels_last,
    check_image,
    geometry,
    slide,
)
from isthmus.ir.dims import Dim, floordiv, maximum, minimum, product
from isthmus.ir.graph import Op
from isthmus.ir.types import DType
from isthmus.ops import movement, pointwise, reduce
from isthmus.ops.movement import window_count


def _geometry(node: Node, x: Tensor) -> tuple[Geometry, Geometry]:
    """The geometry as written, and padded at the end for a last window that ceil_mode adds."""
    check_image(node, x)
    kernel = node.integers("kernel_shape")
    if kernel is None:
        raise node.error(Code.INVALID_GRAPH, f"{node.operator} without kernel_shape")
    g = geometry(node, x.shape[2:], kernel)
    if not node.integer("ceil_mode", 0):
        return g, g
    resolve = node.b.facts.resolve
    after: list[Dim] = []
    for i, dim in enumerate(x.shape[2:]):
        stride, span, low, high = g.strides[i], g.spans[i], g.before[i], g.after[i]
        up = floordiv(dim + low + high - span + stride - 1, stride) + 1
        # A window may not start in the padding behind the elements.
        count = resolve(minimum(resolve(up), resolve(floordiv(dim + low - 1, stride) + 1)))
        plain = resolve(window_count(dim + low + high, g.kernel[i], stride, g.dilations[i]))
        after.append(
            high if count == plain else resolve(maximum(high, (count - 1) * stride + span - dim - low))
        )
    return g, replace(g, after=tuple(after))


def _windows(node: Node, x: Tensor, g: Geometry, fill: float) -> Tensor:
    """[batch, out ..., kernel ..., channels]."""
    rank = len(g.kernel)
    cut = slide(node, channels_last(node, x), 1, g, fill)
    return node.b.transpose(cut, (0, *range(1, 1 + rank), *range(2 + rank, 2 + 2 * rank), 1 + rank))


def _reduced(node: Node, cut: Tensor, op: Op, rank: int) -> Tensor:
    """[batch, channels, out ...]."""
    total = node.b.op(op, cut, axes=tuple(range(1 + rank, 1 + 2 * rank)))
    return channels_first(node, node.b.reshape(total, (*cut.shape[: 1 + rank], cut.shape[-1])))


def max_pool(node: Node) -> list[Tensor | None]:
    x = node[0]
    _, g = _geometry(node, x)
    order = node.integer("storage_order", 0)
    cut = _windows(node, x, g, _lowest(x.dtype))
    best = _reduced(node, cut, reduce.reduce_max, len(g.kernel))
    return [best, _places(node, x, g, cut, order) if node.uses(1) else None]


def _lowest(dtype: DType) -> float:
    return -np.inf if dtype.is_float else float(np.iinfo(dtype.numpy.name).min)


def _places(node: Node, x: Tensor, g: Geometry, cut: Tensor, order: int) -> Tensor:
    """Where in `x`, read as one line, each maximum lies; order 1: with the axes of an image swapped."""
    rank = len(g.kernel)
    spatial = x.shape[2:]
    count: Dim = product(x.shape)
    if order:
        swapped = node.b.iota((count,), 0)
        line = node.b.reshape(swapped, (*x.shape[:2], *reversed(spatial)))
        numbers = node.b.transpose(line, (0, 1, *reversed(range(2, x.rank))))
    else:
        numbers = node.b.reshape(node.b.iota((count,), 0), x.shape)
    size = product(g.kernel)
    shape = (*cut.shape[: 1 + rank], size, cut.shape[-1])
    flat = node.b.reshape(cut, shape)
    best = node.b.op(reduce.argmax, flat, axis=1 + rank)
    where = node.b.reshape(_windows(node, numbers, g, 0.0), shape)
    found = node.b.op(movement.gather_elements, where, best, axis=1 + rank)
    return channels_first(node, node.b.reshape(found, (*cut.shape[: 1 + rank], cut.shape[-1])))


def average_pool(node: Node) -> Tensor:
    return averaged(node, node[0])


def averaged(node: Node, x: Tensor) -> Tensor:
    """The means of the windows that the attributes say."""
    plain, g = _geometry(node, x)
    whole = bool(node.integer("count_include_pad", 0))
    total = _reduced(node, _windows(node, x, g, 0.0), reduce.reduce_sum, len(g.kernel))
    padded = any(d != 0 for d in (*g.before, *g.after))
    if not padded or (whole and plain == g):
        return node.b.op(pointwise.mul, total, node.like(1 / float(np.prod(g.kernel)), x))
    for i, dim in enumerate(x.shape[2:]):
        counts = _counts(node, dim, i, plain, g, whole)
        total = node.b.op(
            pointwise.div,
            total,
            node.b.cast(node.b.reshape(counts, across(counts.shape, 2 + i, x.rank)), x.dtype),
        )
    return total


def _counts(node: Node, dim: Dim, i: int, plain: Geometry, g: Geometry, whole: bool) -> Tensor:
    """How many elements each window along one axis sees: those of the input, or with its own padding."""
    low, high = (plain.before[i], plain.after[i]) if whole else (0, 0)
    ones = node.b.full((dim + low + high,), 1.0, DType.F32)
    line = replace(
        g,
        kernel=g.kernel[i : i + 1],
        strides=g.strides[i : i + 1],
        dilations=g.dilations[i : i + 1],
        before=(g.before[i] - low,),
        after=(g.after[i] - high,),
    )
    total = node.b.op(reduce.reduce_sum, slide(node, ones, 0, line), axes=(1,))
    return node.b.reshape(total, total.shape[:1])


def lp_pool(node: Node) -> Tensor:
    x, p = node[0], node.integer("p", 2)
    _, g = _geometry(node, x)
    total = _reduced(node, _windows(node, _power(node, x, p), g, 0.0), reduce.reduce_sum, len(g.kernel))
    return _root(node, total, p)


def _power(node: Node, x: Tensor, p: int) -> Tensor:
    """|x|^p."""
    if p == 2:
        return node.b.op(pointwise.mul, x, x)
    size = node.b.op(pointwise.absolute, x)
    return size if p == 1 else node.b.op(pointwise.pow_, size, node.like(p, x))


def _root(node: Node, x: Tensor, p: int) -> Tensor:
    if p == 2:
        return node.b.op(pointwise.sqrt, x)
    return x if p == 1 else node.b.op(pointwise.pow_, x, node.like(1 / p, x))


def _whole(node: Node, x: Tensor, op: Op) -> Tensor:
    check_image(node, x)
    return node.b.op(op, x, axes=tuple(range(2, x.rank)))


def global_average_pool(node: Node) -> Tensor:
    return _whole(node, node[0], reduce.reduce_mean)


def global_max_pool(node: Node) -> Tensor:
    return _whole(node, node[0], reduce.reduce_max)


def global_lp_pool(node: Node) -> Tensor:
    p = node.integer("p", 2)
    return _root(node, _whole(node, _power(node, node[0], p), reduce.reduce_sum), p)


OPERATORS: Mapping[str, Importer] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalLpPool": global_lp_pool,
    "GlobalMaxPool": global_max_pool,
    "LpPool": lp_pool,
    "MaxPool": max_pool,
}
