"""Pooling over regions of an image that another tensor gives: RoiAlign and MaxRoiPool."""

from __future__ import annotations

import math
from collections.abc import Mapping

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.grid_sample import Tap, sampled
from isthmus.frontends.onnx.operators.spatial import channels_last
from isthmus.ir.dims import Dim
from isthmus.ir.types import DType
from isthmus.ops import movement, pointwise, reduce

HALF, PLAIN = "half_pixel", "output_half_pixel"


def _check(node: Node, x: Tensor, rois: Tensor, columns: int) -> None:
    if x.rank != 4 or rois.rank != 2 or rois.shape[1] != columns:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator} of {x.type} in {rois.type}")


def _column(node: Node, rois: Tensor, index: int) -> Tensor:
    return node.b.cut(rois, 1, index, 1)


# --- RoiAlign ------------------------------------------------------------------------------------


def roi_align(node: Node) -> Tensor:
    """The mean or the largest of samples in each bin of a region, each between four elements."""
    x, rois, b = node[0], node[1], node.b
    _check(node, x, rois, 4)
    mode, samples = node.text("mode", "avg"), node.integer("sampling_ratio", 0)
    convention = node.text("coordinate_transformation_mode", PLAIN if node.opset < 16 else HALF)
    if mode not in ("avg", "max") or convention not in (HALF, PLAIN):
        raise node.unsupported(f"mode={mode!r}, coordinate_transformation_mode={convention!r}")
    if samples < 1:
        hint = "export the model with sampling_ratio=2"
        raise node.error(
            Code.DATA_DEPENDENT_SHAPE,
            f"{node.operator}: with sampling_ratio 0 the number of samples depends on data",
            hint,
        )
    sizes = node.integer("output_height", 1), node.integer("output_width", 1)
    regions, rows, columns = rois.shape[0], sizes[0] * samples, sizes[1] * samples
    shape = (1, regions, rows, columns)
    batch = b.broadcast(b.reshape(b.cast(node[2], DType.I64), (1, regions, 1, 1)), shape)
    taps: list[list[Tap]] = [[((batch, None), None)]]
    for axis, first in ((0, 1), (1, 0)):
        at = _sample_places(node, rois, first, sizes[axis], samples, convention == HALF)
        at = b.reshape(at, (1, regions, rows, 1) if axis == 0 else (1, regions, 1, columns))
        every = [[b.broadcast(t, shape) for t in tap] for tap in _clamped(node, at, x.shape[2 + axis])]
        taps.append([((i, inside), weight) for i, inside, weight in every])
    image = channels_last(node, x)
    image = b.reshape(image, (1, *image.shape))
    found = sampled(node, image, taps) if mode == "avg" else _largest(node, image, taps)
    return _pooled(node, found, regions, sizes, samples, mode)


def _largest(node: Node, image: Tensor, taps: list[list[Tap]]) -> Tensor:
    """The largest of the four weighted neighbours, which is what onnx and onnxruntime take here."""
    total: Tensor | None = None
    for row in taps[1]:
        for column in taps[2]:
            part = sampled(node, image, [taps[0], [row], [column]])
            total = part if total is None else node.b.op(pointwise.maximum, total, part)
    assert total is not None
    return total


def _pooled(
    node: Node, found: Tensor, regions: Dim, sizes: tuple[int, int], samples: int, mode: str
) -> Tensor:
    """[1, regions, rows, columns, channels] with samples of a bin as one: [regions, channels, ...]."""
    b, channels = node.b, found.shape[-1]
    bins = b.reshape(found, (regions, sizes[0], samples, sizes[1], samples, channels))
    fold = reduce.reduce_mean if mode == "avg" else reduce.reduce_max
    result = b.reshape(b.op(fold, bins, axes=(2, 4)), (regions, *sizes, channels))
    return b.transpose(result, (0, 3, 1, 2))


def _sample_places(node: Node, rois: Tensor, first: int, size: int, samples: int, half: bool) -> Tensor:
    """Coordinates along one axis: [regions, size * samples]."""
    b = node.b
    scale = node.like(node.number("spatial_scale", 1.0), rois)
    start = b.op(pointwise.mul, _column(node, rois, first), scale)
    end = b.op(pointwise.mul, _column(node, rois, first + 2), scale)
    if half:
        offset = node.like(0.5, rois)
        start, end = b.op(pointwise.sub, start, offset), b.op(pointwise.sub, end, offset)
    length = b.op(pointwise.sub, end, start)
    if not half:
        length = b.op(pointwise.maximum, length, node.like(1, rois))
    bins = b.op(pointwise.div, length, node.like(size, rois))
    count = size * samples
    steps = b.op(pointwise.add, b.iota((1, count), 1, rois.dtype), node.like(0.5, rois))
    within = b.op(pointwise.div, b.op(pointwise.mul, steps, bins), node.like(samples, rois))
    return b.op(pointwise.add, start, within)


def _clamped(node: Node, at: Tensor, dim: Dim) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(element, whether the sample is inside, weight) of the two neighbours along an axis."""
    b = node.b
    size, zero, one = b.dim(dim, at.dtype), node.like(0, at), node.like(1, at)
    inside = b.op(
        pointwise.logical_and,
        b.op(pointwise.greater_equal, at, node.like(-1, at)),
        b.op(pointwise.less_equal, at, size),
    )
    last = b.op(pointwise.sub, size, one)
    kept = b.op(pointwise.minimum, b.op(pointwise.maximum, at, zero), last)
    low = b.op(pointwise.floor, kept)
    part = b.op(pointwise.sub, kept, low)
    high = b.op(pointwise.minimum, b.op(pointwise.add, low, one), last)
    rest = b.op(pointwise.sub, one, part)
    return [(b.cast(low, DType.I64), inside, rest), (b.cast(high, DType.I64), inside, part)]


# --- MaxRoiPool ----------------------------------------------------------------------------------


def max_roi_pool(node: Node) -> Tensor:
    """The largest element of each bin, bins cut at whole elements; an empty bin gives 0."""
    x, rois, b = node[0], node[1], node.b
    _check(node, x, rois, 5)
    pooled = node.integers("pooled_shape") or ()
    if len(pooled) != 2:
        raise node.error(Code.INVALID_GRAPH, f"{node.operator}: pooled_shape {list(pooled)}")
    regions = rois.shape[0]
    batch = b.reshape(b.cast(_column(node, rois, 0), DType.I64), (regions,))
    # [regions, channels, height, width], then one bin for each of an axis, the last axis first.
    found = b.op(movement.gather, x, batch, axis=0)
    for axis, first in ((1, 1), (0, 2)):
        inside = _bins(node, rois, first, pooled[axis], x.shape[2 + axis])
        dim = 2 + axis
        wide = b.reshape(found, (*found.shape[:dim], 1, *found.shape[dim:]))
        own = [1] * wide.rank
        shape = tuple(
            {0: regions, dim: pooled[axis], dim + 1: x.shape[dim]}.get(i, n) for i, n in enumerate(own)
        )
        taken = b.op(pointwise.where, b.reshape(inside, shape), wide, node.like(-math.inf, x))
        best = b.op(reduce.reduce_max, taken, axes=(dim + 1,))
        found = b.reshape(best, (*best.shape[: dim + 1], *best.shape[dim + 2 :]))
    nothing = b.op(pointwise.equal, found, node.like(-math.inf, x))
    return b.op(pointwise.where, nothing, node.like(0, x), found)


def _bins(node: Node, rois: Tensor, first: int, count: int, dim: Dim) -> Tensor:
    """Whether an element of an axis lies in a bin: bool [regions, count, dim]."""
    b = node.b
    scale = node.like(node.number("spatial_scale", 1.0), rois)

    def edge(index: int) -> Tensor:
        scaled = b.op(pointwise.mul, _column(node, rois, index), scale)
        # Halves away from zero, as C rounds.
        up = b.op(pointwise.floor, b.op(pointwise.add, scaled, node.like(0.5, rois)))
        down = b.op(pointwise.ceil, b.op(pointwise.sub, scaled, node.like(0.5, rois)))
        return b.op(pointwise.where, b.op(pointwise.less, scaled, node.like(0, rois)), down, up)

    start, end = edge(first), edge(first + 2)
    length = b.op(pointwise.add, b.op(pointwise.sub, end, start), node.like(1, rois))
    length = b.op(pointwise.maximum, length, node.like(1, rois))
    size = b.op(pointwise.div, length, node.like(count, rois))
    number = b.iota((1, count), 1, rois.dtype)
    low = b.op(pointwise.floor, b.op(pointwise.mul, number, size))
    after = b.op(pointwise.add, number, node.like(1, rois))
    high = b.op(pointwise.ceil, b.op(pointwise.mul, after, size))
    place = b.iota((1, 1, dim), 2, rois.dtype)
    edges = [b.op(pointwise.add, e, start) for e in (low, high)]
    lows, highs = (b.reshape(e, (*e.shape, 1)) for e in edges)
    return b.op(
        pointwise.logical_and,
        b.op(pointwise.greater_equal, place, lows),
        b.op(pointwise.less, place, highs),
    )


OPERATORS: Mapping[str, Importer] = {"MaxRoiPool": max_roi_pool, "RoiAlign": roi_align}
