"""Resampling, one axis after the other: a few neighbours of each point, weighted.

Formulas: ONNX's Resize (opset 19) and, for the edges that it leaves open, onnxruntime. Coordinates are
computed in f32, as there; where sizes are known that happens at import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.antialias import matrix
from isthmus.frontends.onnx.operators.spatial import across
from isthmus.ir.dims import Dim, Expr, divide_exactly, floordiv
from isthmus.ir.types import DType
from isthmus.ops import movement, nn, pointwise

MODES = ("nearest", "linear", "cubic")
COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
    "tf_half_pixel_for_nn", "tf_crop_and_resize",
)  # fmt: skip
ROUNDING = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclass(frozen=True, slots=True)
class Settings:
    """How to resample, the same for every axis."""

    mode: str
    coordinates: str
    rounding: str
    cubic: float
    exclude_outside: bool
    extrapolation: float
    antialias: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """Old and new size of an axis, new / old as given (None: as the sizes say), and the part to look at."""

    index: int
    old: Dim
    new: Dim
    scale: float | None
    roi: tuple[float, float]


def resize(node: Node) -> Tensor:
    x = node[0]
    node.ignore("antialias")
    mode = node.text("mode", "nearest")
    if mode not in MODES:
        raise node.unsupported(f"mode={mode!r}; known: {', '.join(MODES)}")
    if node.opset < 11:
        settings = Settings(mode, "asymmetric", "floor", -0.75, False, 0.0)
        return resampled(node, x, _by_scales(node, x, 1, tuple(range(x.rank)), ()), settings)
    coordinates = node.text("coordinate_transformation_mode", "half_pixel")
    rounding = node.text("nearest_mode", "round_prefer_floor")
    if coordinates not in COORDINATES:
        raise node.unsupported(
            f"coordinate_transformation_mode={coordinates!r}; known: {', '.join(COORDINATES)}"
        )
    if rounding not in ROUNDING:
        raise node.unsupported(f"nearest_mode={rounding!r}; known: {', '.join(ROUNDING)}")
    settings = Settings(
        mode,
        coordinates,
        rounding,
        node.number("cubic_coeff_a", -0.75),
        bool(node.integer("exclude_outside", 0)),
        node.number("extrapolation_value", 0.0),
        bool(node.integer("antialias", 0)) and mode != "nearest",
    )
    axes = _axes(node, x, coordinates == "tf_crop_and_resize")
    return resampled(node, x, axes, settings)


def _shrinks(axis: Axis) -> bool:
    if axis.scale is not None:
        return axis.scale < 1
    return not (isinstance(axis.old, int) and isinstance(axis.new, int) and axis.new >= axis.old)


def _axes(node: Node, x: Tensor, cropped: bool) -> list[Axis]:
    given = node.integers("axes")
    axes = tuple(range(x.rank)) if given is None else tuple(node.normal(a, x.rank) for a in given)
    roi: tuple[float, ...] = ()
    if cropped:
        roi = tuple(float(r) for r in node.contents(1, "the region of interest").reshape(-1))
        if len(roi) != 2 * len(axes):
            raise node.error(
                Code.SHAPE_MISMATCH, f"{node.operator}: {len(roi)} numbers in roi for {len(axes)} axes"
            )
    scales = node.get(2)
    if scales is not None and scales.type.size != 0:
        node.ignore("keep_aspect_ratio_policy")
        return _by_scales(node, x, 2, axes, roi)
    sizes = node.dims(3, "the new size")
    if len(sizes) != len(axes):
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: {len(sizes)} sizes for {len(axes)} axes")
    policy = node.text("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        return _in_proportion(node, x, axes, sizes, policy)
    return [
        Axis(a, x.shape[a], s, None, _roi(roi, i)) for i, (a, s) in enumerate(zip(axes, sizes, strict=True))
    ]


def _roi(roi: Sequence[float], i: int) -> tuple[float, float]:
    return (roi[i], roi[len(roi) // 2 + i]) if roi else (0.0, 1.0)


def _in_proportion(
    node: Node, x: Tensor, axes: Sequence[int], sizes: Sequence[Dim], policy: str
) -> list[Axis]:
    """One scale for all axes: the smallest or the largest that the sizes ask for."""
    if policy not in ("not_larger", "not_smaller"):
        raise node.unsupported(
            f"keep_aspect_ratio_policy={policy!r}; known: stretch, not_larger, not_smaller"
        )
    ratios = []
    for axis, size in zip(axes, sizes, strict=True):
        old = x.shape[axis]
        if not isinstance(old, int) or not isinstance(size, int):
            raise node.unsupported(f"keep_aspect_ratio_policy={policy!r} where sizes are open")
        ratios.append(np.float32(size) / np.float32(old))
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    found = []
    for axis in axes:
        old = x.shape[axis]
        assert isinstance(old, int)
        found.append(
            Axis(
                axis, old, int(np.floor(scale * np.float32(old) + np.float32(0.5))), float(scale), (0.0, 1.0)
            )
        )
    return found


def _by_scales(node: Node, x: Tensor, position: int, axes: Sequence[int], roi: Sequence[float]) -> list[Axis]:
    scales = node.contents(position, "the scales").reshape(-1)
    if len(scales) != len(axes):
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: {len(scales)} scales for {len(axes)} axes")
    return [
        _scaled(node, a, x.shape[a], s, _roi(roi, i))
        for i, (a, s) in enumerate(zip(axes, scales, strict=True))
    ]


def _scaled(node: Node, axis: int, old: Dim, scale: float | Expr, roi: tuple[float, float]) -> Axis:
    if isinstance(scale, Expr):
        return Axis(axis, old, node.b.facts.resolve(old * scale), None, roi)
    factor = np.float32(scale)
    if factor <= 0:
        raise node.error(Code.INVALID_GRAPH, f"{node.operator}: a scale of {factor}")
    if isinstance(old, int):
        extent = np.float32(old) * (np.float32(roi[1]) - np.float32(roi[0]))
        return Axis(axis, old, int(extent * factor), float(factor), roi)
    ratio = Fraction(float(factor)).limit_denominator(1 << 10)
    if roi != (0.0, 1.0) or np.float32(float(ratio)) != factor:
        raise node.unsupported(
            f"a scale of {factor} of an axis of {old} elements", "fix the dim with --dim NAME=SIZE"
        )
    return Axis(axis, old, floordiv(old * ratio.numerator, ratio.denominator), float(factor), roi)


def resampled(node: Node, x: Tensor, axes: Sequence[Axis], settings: Settings) -> Tensor:
    """`x` with each of `axes` resampled; those that keep their size are left alone."""
    changing = [a for a in axes if a.old != a.new or a.roi != (0.0, 1.0)]
    wide = x if settings.mode == "nearest" or x.dtype.is_float else node.b.cast(x, DType.F32)
    # The axis before the resampled ones, usually channels, is walked innermost.
    inner = min((a.index for a in changing), default=0) - 1
    moved = inner > 0 and max(a.index for a in changing) == x.rank - 1
    if moved:
        wide = node.b.transpose(wide, (*range(inner), *range(inner + 1, x.rank), inner))
    for axis in changing:
        wide = _along(node, wide, axis.index - moved, axis, settings)
    if moved:
        wide = node.b.transpose(wide, (*range(inner), x.rank - 1, *range(inner, x.rank - 1)))
    return node.b.cast(wide, x.dtype)


def _along(node: Node, x: Tensor, place: int, axis: Axis, settings: Settings) -> Tensor:
    if settings.mode == "nearest" and settings.coordinates == "asymmetric" and settings.rounding == "floor":
        times = divide_exactly(axis.new, axis.old)
        if isinstance(times, int) and axis.scale in (None, float(times)):
            return _repeated(node, x, place, times)
    at = _coordinates(node, axis, settings.coordinates, settings.mode)
    outside = None
    if settings.coordinates == "tf_crop_and_resize":
        last = node.b.dim(axis.old - 1, DType.F32)
        outside = node.b.op(
            pointwise.logical_or,
            node.b.op(pointwise.less, at, node.like(0, at)),
            node.b.op(pointwise.greater, at, last),
        )
    if settings.antialias and _shrinks(axis):
        return _antialiased(node, x, place, axis, at, settings)
    result = _SAMPLERS[settings.mode](node, x, place, axis.old, at, settings)
    if outside is None:
        return result
    mask = node.b.reshape(outside, across(outside.shape, place, x.rank))
    return node.b.op(pointwise.where, mask, node.like(settings.extrapolation, x), result)


def _antialiased(node: Node, x: Tensor, place: int, axis: Axis, at: Tensor, settings: Settings) -> Tensor:
    places = node.b.known(at)
    if places is None or not isinstance(axis.old, int) or not isinstance(axis.new, int):
        raise node.unsupported("antialias=1 where sizes are open", "fix the dims with --dim NAME=SIZE")
    scale = axis.new / axis.old if axis.scale is None else axis.scale
    weights = matrix(places, axis.old, scale, settings.mode, settings.cubic, settings.exclude_outside)
    rows = node.b.swap(x, place, x.rank - 1)
    result = node.b.op(nn.matmul, rows, node.b.array(weights.T.astype(x.dtype.numpy)))
    return node.b.swap(result, place, x.rank - 1)


def _repeated(node: Node, x: Tensor, place: int, times: int) -> Tensor:
    apart = node.b.reshape(x, (*x.shape[: place + 1], 1, *x.shape[place + 1 :]))
    wide = node.b.broadcast(apart, (*x.shape[: place + 1], times, *x.shape[place + 1 :]))
    return node.b.reshape(wide, (*x.shape[:place], x.shape[place] * times, *x.shape[place + 1 :]))


# --- coordinates ---------------------------------------------------------------------------------


def _coordinates(node: Node, axis: Axis, mode: str, sampling: str) -> Tensor:
    """Where on the old axis each element of the new one lies, f32[new]."""
    b, f32 = node.b, DType.F32
    index = b.cast(b.iota((axis.new,), 0), f32)
    half = b.number(0.5, f32)
    old, new = b.dim(axis.old, f32), b.dim(axis.new, f32)
    scale = b.op(pointwise.div, new, old) if axis.scale is None else b.number(axis.scale, f32)
    if mode == "align_corners":
        if axis.new == 1:
            return b.op(pointwise.mul, index, b.number(0.0, f32))
        steps = b.op(pointwise.maximum, b.op(pointwise.sub, new, b.number(1.0, f32)), b.number(1.0, f32))
        span = b.op(pointwise.sub, old, b.number(1.0, f32))
        return b.op(pointwise.div, b.op(pointwise.mul, index, span), steps)
    if mode == "asymmetric":
        return b.op(pointwise.div, index, scale)
    if mode == "tf_half_pixel_for_nn":
        return b.op(pointwise.div, b.op(pointwise.add, index, half), scale)
    if mode == "tf_crop_and_resize":
        return _cropped(node, axis, index)
    centres = b.op(pointwise.div, b.op(pointwise.add, index, half), scale)
    at = b.op(pointwise.sub, centres, half)
    if mode == "half_pixel_symmetric":
        # The centre stays the centre although the new size was rounded.
        adjusted = b.op(pointwise.div, new, b.op(pointwise.mul, scale, old))
        centre = b.op(pointwise.mul, old, half)
        shift = b.op(pointwise.mul, centre, b.op(pointwise.sub, b.number(1.0, f32), adjusted))
        return b.op(pointwise.sub, b.op(pointwise.add, shift, centres), half)
    if mode == "pytorch_half_pixel":
        many = b.op(pointwise.greater, b.dim(axis.new), b.number(1, DType.I64))
        return b.op(pointwise.where, many, at, b.number(0.0, f32))
    return at


def _cropped(node: Node, axis: Axis, index: Tensor) -> Tensor:
    b, f32 = node.b, DType.F32
    start, end = axis.roi
    last = b.dim(axis.old - 1, f32)
    if axis.new == 1:
        return b.broadcast(b.op(pointwise.mul, last, b.number((start + end) / 2, f32)), (1,))
    step = b.op(
        pointwise.div, b.op(pointwise.mul, last, b.number(end - start, f32)), b.dim(axis.new - 1, f32)
    )
    first = b.op(pointwise.mul, last, b.number(start, f32))
    return b.op(pointwise.add, first, b.op(pointwise.mul, index, step))


# --- samples -------------------------------------------------------------------------------------


def _picked(node: Node, x: Tensor, place: int, index: Tensor, old: Dim) -> Tensor:
    """Elements along an axis; an index beyond either end is that end."""
    low, high = node.b.number(0, DType.I64), node.b.dim(old - 1)
    whole = node.b.cast(index, DType.I64)
    inside = node.b.op(pointwise.minimum, node.b.op(pointwise.maximum, whole, low), high)
    return node.b.op(movement.gather, x, inside, axis=place)


def _weighted(node: Node, x: Tensor, place: int, weight: Tensor) -> Tensor:
    along = node.b.reshape(node.b.cast(weight, x.dtype), across(weight.shape, place, x.rank))
    return node.b.op(pointwise.mul, x, along)


def _nearest(node: Node, x: Tensor, place: int, old: Dim, at: Tensor, settings: Settings) -> Tensor:
    half = node.like(0.5, at)
    match settings.rounding:
        case "round_prefer_floor":
            at = node.b.op(pointwise.ceil, node.b.op(pointwise.sub, at, half))
        case "round_prefer_ceil":
            at = node.b.op(pointwise.floor, node.b.op(pointwise.add, at, half))
        case "floor":
            at = node.b.op(pointwise.floor, at)
        case _:
            at = node.b.op(pointwise.ceil, at)
    return _picked(node, x, place, at, old)


def _linear(node: Node, x: Tensor, place: int, old: Dim, at: Tensor, settings: Settings) -> Tensor:
    last = node.b.dim(old - 1, DType.F32)
    at = node.b.op(pointwise.minimum, node.b.op(pointwise.maximum, at, node.like(0, at)), last)
    low = node.b.op(pointwise.floor, at)
    right = node.b.op(pointwise.sub, at, low)
    left = node.b.op(pointwise.sub, node.like(1, at), right)
    high = node.b.op(pointwise.add, low, node.like(1, at))
    parts = [
        _weighted(node, _picked(node, x, place, index, old), place, weight)
        for index, weight in ((low, left), (high, right))
    ]
    return node.b.op(pointwise.add, *parts)


def cubic_weights(node: Node, t: Tensor, a: float) -> list[Tensor]:
    """Weights of the neighbours at -1, 0, 1, 2 of a point at fraction `t` (Keys 1981)."""

    def polynomial(x: Tensor, *coefficients: float) -> Tensor:
        total = node.like(coefficients[0], x)
        for c in coefficients[1:]:
            total = node.b.op(pointwise.add, node.b.op(pointwise.mul, total, x), node.like(c, x))
        return total

    one = node.like(1, t)
    rest = node.b.op(pointwise.sub, one, t)
    near = (a + 2, -(a + 3), 0.0, 1.0)
    far = (a, -5 * a, 8 * a, -4 * a)
    return [
        polynomial(node.b.op(pointwise.add, t, one), *far),
        polynomial(t, *near),
        polynomial(rest, *near),
        polynomial(node.b.op(pointwise.add, rest, one), *far),
    ]


def _cubic(node: Node, x: Tensor, place: int, old: Dim, at: Tensor, settings: Settings) -> Tensor:
    low = node.b.op(pointwise.floor, at)
    weights = cubic_weights(node, node.b.op(pointwise.sub, at, low), settings.cubic)
    indices = [node.b.op(pointwise.add, low, node.like(i - 1, at)) for i in range(4)]
    if settings.exclude_outside:
        weights = _inside_only(node, weights, indices, old)
    parts = [
        _weighted(node, _picked(node, x, place, index, old), place, weight)
        for index, weight in zip(indices, weights, strict=True)
    ]
    return _sum(node, parts)


def _inside_only(node: Node, weights: list[Tensor], indices: list[Tensor], old: Dim) -> list[Tensor]:
    """No weight beyond the ends; the others sum to one."""
    last = node.b.dim(old - 1, DType.F32)
    kept = []
    for weight, index in zip(weights, indices, strict=True):
        inside = node.b.op(
            pointwise.logical_and,
            node.b.op(pointwise.greater_equal, index, node.like(0, index)),
            node.b.op(pointwise.less_equal, index, last),
        )
        kept.append(node.b.op(pointwise.where, inside, weight, node.like(0, weight)))
    total = _sum(node, kept)
    return [node.b.op(pointwise.div, weight, total) for weight in kept]


def _sum(node: Node, parts: Sequence[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = node.b.op(pointwise.add, total, part)
    return total


_SAMPLERS = {"nearest": _nearest, "linear": _linear, "cubic": _cubic}


def upsample(node: Node) -> Tensor:
    """Resize before opset 10: nearest or linear, from the left edge."""
    x, mode = node[0], node.text("mode", "nearest")
    if mode not in ("nearest", "linear"):
        raise node.unsupported(f"mode={mode!r}; known: nearest, linear")
    settings = Settings(mode, "asymmetric", "floor", -0.75, False, 0.0)
    if node.opset < 9:
        scales = node.numbers("scales") or ()
        if len(scales) != x.rank:
            raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: {len(scales)} scales for {x.type}")
        axes = [
            _scaled(node, a, d, s, (0.0, 1.0)) for a, (d, s) in enumerate(zip(x.shape, scales, strict=True))
        ]
    else:
        axes = _by_scales(node, x, 1, tuple(range(x.rank)), ())
    return resampled(node, x, axes, settings)


OPERATORS: Mapping[str, Importer] = {"Resize": resize, "Upsample": upsample}
