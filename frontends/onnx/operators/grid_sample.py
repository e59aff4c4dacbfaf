"""GridSample: an image read at points that another tensor gives."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product as choices

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.resize import cubic_weights
from isthmus.frontends.onnx.operators.spatial import channels_first, channels_last, check_image
from isthmus.ir.dims import Dim
from isthmus.ir.types import DType
from isthmus.ops import movement, pointwise

# Opset 16 had other names.
MODES = {"bilinear": "linear", "bicubic": "cubic", "linear": "linear", "cubic": "cubic", "nearest": "nearest"}
PADDING = ("zeros", "border", "reflection")
CUBIC = -0.75


def grid_sample(node: Node) -> Tensor:
    x, grid = node[0], node[1]
    check_image(node, x)
    rank = x.rank - 2
    if grid.rank != x.rank or grid.shape[-1] != rank:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator} of {x.type} at {grid.type}")
    node.b.must_equal(x.shape[0], grid.shape[0], f"{node.operator}: the batch of {x.type} and {grid.type}")
    mode, padding = node.text("mode", "linear"), node.text("padding_mode", "zeros")
    if mode not in MODES:
        raise node.unsupported(f"mode={mode!r}; known: {', '.join(MODES)}")
    if padding not in PADDING:
        raise node.unsupported(f"padding_mode={padding!r}; known: {', '.join(PADDING)}")
    corners = bool(node.integer("align_corners", 0))
    # The last coordinate of a point belongs to the first spatial axis.
    taps = []
    for axis in range(rank):
        place = rank - 1 - axis
        at = node.b.reshape(node.b.cut(grid, grid.rank - 1, place, 1), grid.shape[:-1])
        dim = x.shape[2 + axis]
        taps.append(
            [
                (element_at(node, i, dim, padding, corners), w)
                for i, w in _taps(node, at, dim, MODES[mode], corners)
            ]
        )
    return channels_first(node, sampled(node, channels_last(node, x), taps))


Tap = tuple[tuple[Tensor, Tensor | None], Tensor | None]


def sampled(node: Node, image: Tensor, taps: list[list[Tap]]) -> Tensor:
    """[batch, points ..., channels] of `image` [batch, ..., channels]: for each axis of the image, elements
    (with whether they are inside) and their weights, each [batch, points ...]."""
    total: Tensor | None = None
    for chosen in choices(*taps):
        part = _sample(
            node, image, [i for (i, _), _ in chosen], [m for (_, m), _ in chosen], [w for _, w in chosen]
        )
        total = part if total is None else node.b.op(pointwise.add, total, part)
    assert total is not None
    return total


def _taps(node: Node, at: Tensor, dim: Dim, mode: str, corners: bool) -> list[tuple[Tensor, Tensor | None]]:
    """Places along one axis and their weights, for coordinates in -1..1."""
    size = node.b.dim(dim, at.dtype)
    one, half = node.like(1, at), node.like(0.5, at)
    shifted = node.b.op(pointwise.add, at, one)
    if corners:
        at = node.b.op(
            pointwise.mul, node.b.op(pointwise.mul, shifted, half), node.b.op(pointwise.sub, size, one)
        )
    else:
        at = node.b.op(
            pointwise.mul, node.b.op(pointwise.sub, node.b.op(pointwise.mul, shifted, size), one), half
        )
    if mode == "nearest":
        return [(node.b.op(pointwise.round_even, at), None)]
    if mode == "linear":
        return neighbours(node, at)
    low = node.b.op(pointwise.floor, at)
    part = node.b.op(pointwise.sub, at, low)
    weights = cubic_weights(node, part, CUBIC)
    return [(node.b.op(pointwise.add, low, node.like(i - 1, at)), w) for i, w in enumerate(weights)]


def neighbours(node: Node, at: Tensor) -> list[tuple[Tensor, Tensor | None]]:
    """The two places around a coordinate, and their weights."""
    one, low = node.like(1, at), node.b.op(pointwise.floor, at)
    part = node.b.op(pointwise.sub, at, low)
    return [(low, node.b.op(pointwise.sub, one, part)), (node.b.op(pointwise.add, low, one), part)]


def element_at(
    node: Node, place: Tensor, dim: Dim, padding: str, corners: bool
) -> tuple[Tensor, Tensor | None]:
    """The element that stands for a place, and, where zeros are outside, whether it is inside."""
    b = node.b
    index = b.cast(place, DType.I64)
    zero, one, last = b.number(0, DType.I64), b.number(1, DType.I64), b.dim(dim - 1)
    inside = None
    if padding == "zeros":
        low, high = b.op(pointwise.greater_equal, index, zero), b.op(pointwise.less_equal, index, last)
        inside = b.op(pointwise.logical_and, low, high)
    if padding == "reflection":
        # At the centres of the outermost elements, or at their outer edges.
        period = b.op(pointwise.maximum, b.dim(2 * dim - 2 if corners else 2 * dim), one)
        index = b.op(pointwise.mod, index, period)
        mirrored = b.op(pointwise.sub, period, index if corners else b.op(pointwise.add, index, one))
        index = b.op(pointwise.minimum, index, mirrored)
    return b.op(pointwise.minimum, b.op(pointwise.maximum, index, zero), last), inside


def _sample(
    node: Node,
    image: Tensor,
    indices: list[Tensor],
    insides: list[Tensor | None],
    weights: list[Tensor | None],
) -> Tensor:
    """[batch, points ..., channels]: one neighbour of each point, times its weight."""
    b = node.b
    joined = b.concat([b.reshape(i, (*i.shape, 1)) for i in indices], indices[0].rank)
    picked = b.op(movement.gather_nd, image, joined, batch_dims=1)
    factor: Tensor | None = None
    for weight in weights:
        if weight is not None:
            factor = weight if factor is None else b.op(pointwise.mul, factor, weight)
    for inside in insides:
        if inside is None:
            continue
        if factor is None:
            factor = b.cast(inside, image.dtype)
        else:
            factor = b.op(pointwise.where, inside, factor, node.like(0, factor))
    if factor is None:
        return picked
    return b.op(pointwise.mul, picked, b.cast(b.reshape(factor, (*factor.shape, 1)), image.dtype))


OPERATORS: Mapping[str, Importer] = {"GridSample": grid_sample}
