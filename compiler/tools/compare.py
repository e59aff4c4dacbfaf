"""How far two answers are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What passes: |a - b| <= atol * max(1, max|b|) + rtol * |b| everywhere, and cosine(a, b) >= cosine.

    Integers and booleans have to be equal.
    """

    atol: float = 1e-4
    rtol: float = 0.0
    cosine: float = 0.99999


@dataclass(frozen=True, slots=True)
class Difference:
    """One output against its reference. `reason` is empty when it passes."""

    output: str
    max_abs: float
    cosine: float
    reason: str = ""


def compare(name: str, found: Array, wanted: Array, tolerance: Tolerance) -> Difference:
    """Measure `found` against the reference `wanted`; NaN equals NaN, and infinities equal themselves."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        shapes = f"is {found.dtype}{list(found.shape)}, should be {wanted.dtype}{list(wanted.shape)}"
        return Difference(name, float("inf"), 0.0, shapes)
    if wanted.size == 0:
        return Difference(name, 0.0, 1.0)
    exact = not np.issubdtype(wanted.dtype, np.inexact)
    a, b = found.astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
    special = ~np.isfinite(b)
    if not np.array_equal(a[special], b[special], equal_nan=True) or not np.isfinite(a[~special]).all():
        return Difference(name, float("inf"), 0.0, "NaN or infinity in other places")
    a, b = a[~special], b[~special]
    gap = np.abs(a - b)
    worst, angle = float(gap.max(initial=0.0)), cosine(a, b)
    if exact:
        return Difference(name, worst, angle, "" if worst == 0 else f"{np.count_nonzero(gap)} values differ")
    scale = max(1.0, float(np.abs(b).max(initial=0.0)))
    reasons = []
    if (gap > tolerance.atol * scale + tolerance.rtol * np.abs(b)).any():
        reasons.append(f"differs by up to {worst:.3g}")
    if angle < tolerance.cosine:
        reasons.append(f"cosine {angle:.7f} is below {tolerance.cosine}")
    return Difference(name, worst, angle, ", ".join(reasons))


def compare_all(
    found: Mapping[str, Array], wanted: Mapping[str, Array], tolerance: Mapping[str, Tolerance] | Tolerance
) -> tuple[Difference, ...]:
    """One `Difference` for every output of the reference, in its order; a missing output does not pass."""
    return tuple(
        compare(
            name, found[name], reference, tolerance if isinstance(tolerance, Tolerance) else tolerance[name]
        )
        if name in found
        else Difference(name, float("inf"), 0.0, "is missing")
        for name, reference in wanted.items()
    )


def cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Cosine of the angle between two vectors; 1 for two zero vectors, 0 for one."""
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if 0.0 in norms:
        return 1.0 if norms[0] == norms[1] else 0.0
    return float(np.dot(a / norms[0], b / norms[1]))
