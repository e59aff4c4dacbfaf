"""How far two answers are apart, in numbers; what passes is the bundle's own rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isthmus.bundle.selftest import Case, Tolerance, differences

Array = npt.NDArray[np.generic]
Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Difference:
    """One output against its reference; `reason` says why it does not pass, and is empty when it does."""

    output: str
    max_abs: float
    cosine: float
    reason: str = ""


def compare(
    found: Mapping[str, Array], wanted: Mapping[str, Array], tolerance: Tolerance, min_cosine: float = -1.0
) -> tuple[Difference, ...]:
    """One `Difference` for every output of the reference `wanted`, in its order.

    Floats pass within `tolerance` and with at least `min_cosine`; everything else has to be equal.
    """
    return tuple(
        _compare(name, found, reference, tolerance, min_cosine) for name, reference in wanted.items()
    )


def _compare(
    name: str, found: Mapping[str, Array], wanted: Array, tolerance: Tolerance, min_cosine: float
) -> Difference:
    reasons = differences(Case("", {}, {name: wanted}, tolerance), found)
    if name not in found or found[name].shape != wanted.shape:
        return Difference(name, float("inf"), 0.0, "; ".join(reasons))
    a, b = found[name].astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
    # What is not finite has to be the same (the rule above), and has no distance.
    finite = np.isfinite(a) & np.isfinite(b)
    worst = float(np.abs(a[finite] - b[finite]).max(initial=0.0))
    angle = cosine(a[finite], b[finite])
    if angle < min_cosine and wanted.dtype.kind == "f":
        reasons.append(f"output {name!r}: cosine {angle:.7f} is below {min_cosine}")
    return Difference(name, worst, angle, "; ".join(reasons))


def cosine(a: Vector, b: Vector) -> float:
    """Cosine of the angle between two vectors; 1 for two zero vectors, 0 for one."""
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    if 0.0 in norms:
        return 1.0 if norms[0] == norms[1] else 0.0
    return float(np.dot(a / norms[0], b / norms[1]))
