"""Matrices as integers with scales: for each column, or for groups of its elements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from isthmus.ir import small_floats
from isthmus.ir.types import Array, DType
from isthmus.passes.quantize.options import Format, Scheme

Element: TypeAlias = Literal["integer", "e2m1", "e4m3", "e5m2"]
# Parts of the full range that are tried for 4 bits: without the few largest numbers all others are finer.
REACHES_4_BITS = tuple(sign * (1 - 0.025 * i) for i in range(17) for sign in (1, -1))
REACHES_8_BITS = (1.0,)
# The largest number of a group becomes 6, less than that, or 4: floats are finer there.
REACHES_E4M3 = (*(1 - 0.025 * i for i in range(17)), 1.25, 1.5)
# Powers of two: the one the specification takes, at which numbers may be cut off, and the next.
REACHES_E8M0 = (1.0, 2.0)
# Parts of the whole range of a float, which is finer below each power of two: what is scaled shifts that.
REACHES_FP8 = tuple(2.0 ** (-i / 8) for i in range(8))
# The largest number of each kind of float.
MOST: Mapping[Element, int] = {"e2m1": 6, "e4m3": 448, "e5m2": 57344}
_DTYPES: Mapping[Element, DType] = {
    "integer": DType.I8,
    "e2m1": DType.I8,
    "e4m3": DType.F8E4M3,
    "e5m2": DType.F8E5M2,
}
# What the numbers of each format are.
_ELEMENTS: Mapping[Format, Element] = {
    "integer": "integer",
    "fp8-e4m3": "e4m3",
    "fp8-e5m2": "e5m2",
    "mxfp8": "e4m3",
    "mxfp4": "e2m1",
    "nvfp4": "e2m1",
}
# Powers of two that are scales stay normal numbers of f32, also when halved.
_LEAST_EXPONENT = -125
# A scale in f16 is neither zero nor infinite.
_LEAST, _MOST = float(np.finfo(np.float16).tiny), float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The numbers a matrix [K, N] may be made of: low..high, less the zero point, times the scale.

    scale and zero are [K/g, 1, N] for groups of g, and [N] for whole columns; no zero: symmetric. `element`:
    only those numbers that floats of 8 bits have, or twice those of 4 bits (`ir.small_floats`).
    """

    scale: Array
    zero: Array | None
    low: int
    high: int
    element: Element = "integer"

    @property
    def dtype(self) -> DType:
        """What the numbers are stored in."""
        return _DTYPES[self.element] if self.zero is None else DType.U8

    def integers(self, w: Array) -> Array:
        """`w`, arranged as the scales want it, to the nearest of these numbers, which are of `dtype`."""
        if self.element == "e2m1":
            return small_floats.nearest(np.asarray(w / self.scale, np.float32))
        if self.element != "integer":
            # What is beyond the largest number would be NaN or infinite.
            return np.clip(w / self.scale, self.low, self.high).astype(self.dtype.numpy)
        whole = np.rint(w / self.scale)
        if self.zero is not None:
            whole = whole + self.zero
        return np.clip(whole, self.low, self.high).astype(self.dtype.numpy)

    def numbers(self, q: Array) -> Array:
        """What `q` stands for, in f32."""
        distance = q.astype(np.float32)
        if self.zero is not None:
            distance = distance - self.zero.astype(np.float32)
        return distance * self.scale

    def part(self, group: int) -> Grid:
        """The grid of one group, for rows [g, N]."""
        zero = None if self.zero is None else self.zero[group]
        return replace(self, scale=self.scale[group], zero=zero)


@dataclass(frozen=True, slots=True, eq=False)
class Integers:
    """A matrix on its grid: [K/g, g, N] for groups of g, else [K, N]."""

    q: Array
    grid: Grid

    def matrix(self, shape: tuple[int, ...]) -> Array:
        """What it stands for: f32 [K, N]."""
        return self.grid.numbers(self.q).reshape(shape)


def arranged(w: Array, scheme: Scheme) -> Array:
    """`w` [K, N] with groups as an axis of their own, where there are any."""
    return w.reshape(w.shape[0] // scheme.group, scheme.group, w.shape[1]) if scheme.group else w


def round_to_grid(w: Array, scheme: Scheme, importance: Array | None = None) -> Integers:
    """`w` f32 [K, N] to the nearest numbers of the grid that fits it best.

    `importance` [K]: how much an error in each row of `w` counts, such as the mean square of what is
    multiplied with it.
    """
    grid = fit(w, scheme, importance)
    return Integers(grid.integers(arranged(w, scheme)), grid)


def fit(w: Array, scheme: Scheme, importance: Array | None = None) -> Grid:
    """The grid, among those that cut off more or less of the range, with the least square error over `w`."""
    parts = arranged(np.asarray(w, np.float32), scheme)
    weights = np.ones(w.shape[0], np.float32) if importance is None else importance.astype(np.float32)
    counts = arranged(np.broadcast_to(weights[:, None], w.shape), scheme)
    axis = 1 if scheme.group else 0
    best: Grid | None = None
    least: Array | None = None
    for reach in _reaches(scheme):
        if reach < 0 and scheme.has_zero_points:
            continue
        grid = _grid(parts, scheme, reach, axis)
        error = np.sum(np.square(grid.numbers(grid.integers(parts)) - parts) * counts, axis, keepdims=True)
        error = error if scheme.group else error[0]
        if best is None or least is None:
            best, least = grid, error
            continue
        better = error < least
        zero = None if best.zero is None or grid.zero is None else np.where(better, grid.zero, best.zero)
        best = replace(best, scale=np.where(better, grid.scale, best.scale), zero=zero)
        least = np.minimum(error, least)
    assert best is not None
    return best


def _reaches(scheme: Scheme) -> tuple[float, ...]:
    match scheme.format:
        case "integer":
            return REACHES_4_BITS if scheme.bits == 4 else REACHES_8_BITS
        case "fp8-e4m3" | "fp8-e5m2":
            return REACHES_FP8
        case "mxfp8" | "mxfp4":
            return REACHES_E8M0
        case "nvfp4":
            return REACHES_E4M3


def _grid_of_floats(parts: Array, scheme: Scheme, reach: float, axis: int) -> Grid:
    """Numbers of E2M1 are twice what they stand for: that is half the scale."""
    element = _ELEMENTS[scheme.format]
    most, times = MOST[element], 2 if element == "e2m1" else 1
    largest = np.max(np.abs(parts), axis, keepdims=True, initial=0)
    if scheme.format in ("mxfp8", "mxfp4"):
        # OCP MX 1.0, section 6.3: the largest power of two in a group, less that of the largest number.
        # The exponent of a product of a float is exact; what has none is all zeros.
        exponent = np.frexp(np.where(largest > 0, largest, 1))[1] - 1 - int(np.log2(most))
        scale = np.ldexp(np.float32(reach / times), np.maximum(exponent, _LEAST_EXPONENT))
    elif scheme.format == "nvfp4":
        whole = float(largest.max(initial=0)) / (most * MOST["e4m3"])
        tensor = np.float32(2.0 ** np.ceil(np.log2(whole))) if whole else np.float32(1)
        wanted = np.minimum(largest * np.float32(reach / most) / tensor, MOST["e4m3"])
        scale = wanted.astype(DType.F8E4M3.numpy).astype(np.float32) * (tensor / 2)
    else:
        # Scales in f16 are too large for numbers that use up what E5M2 reaches further.
        scale = _stored(largest * np.float32(1 / (MOST["e4m3"] * reach)), scheme)
    # A group that is too small for a scale is all zeros at any.
    scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
    return Grid(scale if scheme.group else scale[0], None, -most * times, most * times, element)


def _grid(parts: Array, scheme: Scheme, reach: float, axis: int) -> Grid:
    """The grid that reaches that part of the way to the largest numbers, for each scale of its own."""
    if scheme.format != "integer":
        return _grid_of_floats(parts, scheme, reach, axis)
    if not scheme.has_zero_points:
        most = (1 << scheme.bits - 1) - 1
        # Kernels of 8 bits want -127..127. In 4 bits the 16th number counts: a negative scale puts it above.
        low = -most if scheme.bits == 8 else -most - 1
        largest = np.max(np.abs(parts), axis, keepdims=True, initial=0)
        scale = _stored(largest * np.float32(-reach / low), scheme)
        return Grid(scale if scheme.group else scale[0], None, low, most)
    most = (1 << scheme.bits) - 1
    low_end = np.min(parts, axis, keepdims=True, initial=0) * np.float32(reach)
    high_end = np.max(parts, axis, keepdims=True, initial=0) * np.float32(reach)
    scale = _stored((high_end - low_end) / np.float32(most), scheme)
    zero = np.clip(np.rint(-low_end / scale), 0, most).astype(np.uint8)
    return Grid(scale, zero, 0, most) if scheme.group else Grid(scale[0], zero[0], 0, most)


def _stored(scale: Array, scheme: Scheme) -> Array:
    """Scales as they will be stored: f16 for groups, f32 for columns; 1 for what is all zeros."""
    scale = np.where(scale != 0, scale, np.float32(1)).astype(np.float32)
    if not scheme.group:
        return scale
    size = np.clip(np.abs(scale), _LEAST, _MOST).astype(np.float16).astype(np.float32)
    return np.copysign(size, scale)


def rows_grid(low: float, high: float, symmetric: bool) -> Grid:
    """The grid of 8 bits for static rows between `low` and `high`, which reaches zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        return Grid(_one(max(-low, high) / 127), None, -127, 127)
    scale = _one((high - low) / 255)
    return Grid(scale, np.asarray(np.clip(np.rint(-low / scale), 0, 255), np.uint8), 0, 255)


def _one(scale: float) -> Array:
    """A scale in f32, rounded up to 12 digits of its mantissa.

    Which of several nearly equal ranges a processor measured shows no more.
    """
    mantissa, exponent = np.frexp(np.float64(scale) if scale > 0 else 1.0)
    return np.asarray(np.ldexp(np.ceil(mantissa * 4096) / 4096, exponent), np.float32)
