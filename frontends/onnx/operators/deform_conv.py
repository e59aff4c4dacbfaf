"""DeformConv: a convolution whose kernel looks at places that another tensor moves."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.conv import kernel_of
from isthmus.frontends.onnx.operators.grid_sample import element_at, neighbours, sampled
from isthmus.frontends.onnx.operators.spatial import Geometry, channels_first, check_image, geometry
from isthmus.ir.dims import Dim, Shape, product
from isthmus.ir.types import DType
from isthmus.ops import nn, pointwise
from isthmus.ops.movement import window_count


def deform_conv(node: Node) -> Tensor:
    x, w, offsets, bias, mask = node[0], node[1], node[2], node.get(3), node.get(4)
    check_image(node, x)
    g = geometry(node, x.shape[2:], kernel_of(node, w, x.rank, w.shape[2:]))
    parts, groups = node.integer("offset_group", 1), node.integer("group", 1)
    channels, out = w.shape[1] * groups, w.shape[0]
    if not isinstance(channels, int) or not isinstance(out, int) or channels % parts or out % groups:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: {w.type} in {groups} and {parts} groups")
    node.b.must_equal(x.shape[1], channels, f"{node.operator}: the channels of {x.type}")
    size = tuple(
        window_count(b + d + a, k, s, e)
        for d, b, a, k, s, e in zip(
            x.shape[2:], g.before, g.after, g.kernel, g.strides, g.dilations, strict=True
        )
    )
    size = tuple(map(node.b.facts.resolve, size))
    # [batch * parts, kernel, points ..., channels / parts]
    looked = _looked_at(node, x, offsets, g, parts, size)
    if mask is not None:
        factor = node.b.reshape(mask, (*looked.shape[:-1], 1))
        looked = node.b.op(pointwise.mul, looked, factor)
    result = _product(node, looked, w, (x.shape[0], parts, groups), size)
    if bias is not None:
        result = node.b.op(pointwise.add, result, bias)
    return channels_first(node, result)


def _looked_at(node: Node, x: Tensor, offsets: Tensor, g: Geometry, parts: int, size: Shape) -> Tensor:
    b, rank = node.b, len(g.kernel)
    batch, kernel = x.shape[0] * parts, int(np.prod(g.kernel))
    image = b.reshape(x, (batch, node.b.quotient((x.shape[1],), (parts,)), *x.shape[2:]))
    image = b.transpose(image, (0, *range(2, 2 + rank), 1))
    moved = b.reshape(offsets, (batch, kernel, rank, *size))
    within = np.stack(np.unravel_index(np.arange(kernel), g.kernel))
    taps = []
    for axis in range(rank):
        own = (1, 1, *(d if i == axis else 1 for i, d in enumerate(size)))
        first = b.op(pointwise.mul, b.iota(own, 2 + axis), b.number(g.strides[axis], DType.I64))
        first = b.op(pointwise.sub, first, b.dim(g.before[axis]))
        steps = b.array((within[axis] * g.dilations[axis]).reshape(1, kernel, *(1,) * rank))
        start = b.cast(b.op(pointwise.add, first, steps), moved.dtype)
        by = b.reshape(b.cut(moved, 2, axis, 1), (batch, kernel, *size))
        at = b.op(pointwise.add, by, start)
        dim: Dim = x.shape[2 + axis]
        taps.append([(element_at(node, i, dim, "zeros", True), weight) for i, weight in neighbours(node, at)])
    return sampled(node, image, taps)


def _product(node: Node, looked: Tensor, w: Tensor, counts: tuple[Dim, int, int], size: Shape) -> Tensor:
    """The kernel as a matrix for each group: [batch, points ..., out]."""
    b = node.b
    batch, parts, groups = counts
    kernel, part = looked.shape[1], looked.shape[-1]
    points = product(size)
    flat = b.reshape(looked, (batch, parts, kernel, points, part))
    rows = b.transpose(flat, (0, 3, 1, 4, 2))  # batch, points, channels in two axes, kernel
    out, each = w.shape[:2]
    width = each * kernel
    rows = b.transpose(b.reshape(rows, (batch, points, groups, width)), (0, 2, 1, 3))
    columns = b.quotient((out,), (groups,))
    matrix = b.swap(b.reshape(w, (groups, columns, width)), 1, 2)
    result = b.transpose(b.op(nn.matmul, rows, matrix), (0, 2, 1, 3))
    return b.reshape(result, (batch, *size, out))


OPERATORS: Mapping[str, Importer] = {"DeformConv": deform_conv}
