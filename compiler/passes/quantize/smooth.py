"""Smoothing: what is hard to quantize in the rows is moved into the matrix.

Column j of the rows is divided, and row j of the matrix multiplied, by a factor:

- SmoothQuant (G. Xiao et al., arXiv 2211.10438), equation 4: max|x_j|^a / max|w_j|^(1 - a) for a strength a.
- Outlier Suppression+ (X. Wei et al., arXiv 2304.09145), section 4.2: max(1, max|x_j| / t), which leaves all
  but the outliers alone; here t and an exponent are those with the least error of the product.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from isthmus.ir.types import Array
from isthmus.passes.quantize.integers import Grid, round_to_grid, rows_grid
from isthmus.passes.quantize.options import Scheme
from isthmus.passes.quantize.statistics import Observed

# Factors further from 1 than this would make one channel all that the integers see.
MOST = 1e4
# What is an outlier: beyond the largest number of that part of the columns.
_PARTS, _EXPONENTS = (50, 75, 90), (0.5, 0.75, 1.0)


def factors(largest: Array, w: Array, strength: float) -> Array:
    """SmoothQuant's: f32 [K], for the `largest` [K] magnitudes of the rows and the matrix `w` [K, N]."""
    rows = largest.astype(np.float64)
    matrix = np.abs(w).max(1, initial=0).astype(np.float64)
    known = (rows > 0) & (matrix > 0)
    found = np.ones(len(rows))
    found[known] = rows[known] ** strength / matrix[known] ** (1 - strength)
    # A factor common to all changes nothing; without it none is extreme for its size alone.
    found[known] /= np.exp(np.mean(np.log(found[known]))) if known.any() else 1
    return np.clip(found, 1 / MOST, MOST).astype(np.float32)


def found_factors(seen: Observed, w: Array, scheme: Scheme) -> Array | None:
    """Those for outliers with the least error of a product whose rows have one scale: [K]; None: all 1."""
    best = min(_candidates(seen), key=lambda by: expected_error(seen, w, by, scheme))
    return None if (best == 1).all() else best


def _candidates(seen: Observed) -> Iterator[Array]:
    yield np.ones(seen.width, np.float32)
    reach = np.maximum(seen.largest, float(np.finfo(np.float32).tiny))
    for part in _PARTS:
        most = max(float(np.percentile(reach, part)), float(reach.max()) / MOST)
        for exponent in _EXPONENTS:
            yield np.asarray(np.maximum(1, reach / most) ** exponent, np.float32)


def divided_grid(seen: Observed, by: Array, scheme: Scheme) -> Grid:
    """The grid of rows divided by `by`: as far as they were seen to reach, since few outliers are left."""
    return rows_grid(float((seen.lows / by).min()), float((seen.highs / by).max()), scheme.symmetric)


def expected_error(seen: Observed, w: Array, by: Array, scheme: Scheme) -> float:
    """The mean square error of a row of the product, taking the roundings for independent of each other.

    A step s of the rows' grid is an error of s^2 / 12 in each column.
    """
    step = float(divided_grid(seen, by, scheme).scale)
    of_rows = step**2 / 12 * float(np.sum(np.square(by) * np.square(w).sum(1)))
    wide = w * by[:, None]
    error = (round_to_grid(wide, scheme).matrix(w.shape) - wide) / by[:, None]
    return of_rows + float(seen.squares / seen.rows @ np.square(error).sum(1))
