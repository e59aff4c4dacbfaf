"""Resampling that shrinks and looks at every element on the way: one matrix for each axis.

Weights as in the reference of ONNX's Resize (opset 18, antialias=1): the kernel is stretched by 1 / scale,
its weights sum to one, and places beyond an end count as that end, or not at all with exclude_outside.
"""

from __future__ import annotations

import math

import numpy as np

from isthmus.ir.types import Array


def matrix(at: Array, old: int, scale: float, mode: str, cubic: float, exclude_outside: bool) -> Array:
    """f64[new, old] such that matrix @ x is `x` at the coordinates `at`."""
    found = np.zeros((len(at), old))
    stretch = min(scale, 1.0)
    reach = 1 if mode == "linear" else 2
    start = math.floor(-reach / stretch) + 1
    offsets = np.arange(start, 2 - start)
    for row, place in enumerate(at.astype(np.float64)):
        # The element on the left counts as the base even when the place is on an element.
        base = math.ceil(place) - 1
        weights = _kernel((offsets - (place - base)) * stretch, mode, cubic)
        weights /= weights.sum()
        for offset, weight in zip(offsets, weights, strict=True):
            index = base + offset
            if not exclude_outside or 0 <= index < old:
                found[row, min(max(index, 0), old - 1)] += weight
    return np.asarray(found / found.sum(1, keepdims=True))


def _kernel(x: Array, mode: str, a: float) -> Array:
    """The triangle, or Keys's cubic (1981)."""
    x = np.abs(x)
    if mode == "linear":
        return np.asarray(np.maximum(1 - x, 0))
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
