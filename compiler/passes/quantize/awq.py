"""AWQ: channels that carry large activations are scaled up before rounding, and down again at run time.

J. Lin et al., "AWQ" (arXiv 2306.00978), section 3.2: the factors are powers of the mean magnitude of the
rows, and the exponent is the one with the least error of the product.
"""

from __future__ import annotations

import numpy as np

from isthmus.ir.types import Array
from isthmus.passes.quantize.integers import Integers, round_to_grid
from isthmus.passes.quantize.options import Scheme

EXPONENTS = tuple(i / 10 for i in range(11))


def round_by_awq(w: Array, scheme: Scheme, magnitude: Array, gram: Array) -> tuple[Integers, Array | None]:
    """Integers of `w` [K, N] times some factors, and the factors [K] to divide the rows by; None: all 1.

    `magnitude` [K] is the mean |x| of the rows, `gram` [K, K] the sum of x^T x.
    """
    candidates = [_try(w, scheme, factors(magnitude, exponent), gram) for exponent in EXPONENTS]
    # Of equal ones the first, which needs no factors.
    _, integers, found = min(candidates, key=lambda candidate: candidate[0])
    return integers, None if (found == 1).all() else found


def factors(magnitude: Array, exponent: float) -> Array:
    """The powers, centred so that the largest is as far from 1 as the smallest: f32 [K]."""
    powers = np.maximum(magnitude, 1e-4 * max(float(magnitude.max(initial=0)), 1e-30)) ** exponent
    return np.asarray(powers / np.sqrt(powers.max() * powers.min()), np.float32)


def _try(w: Array, scheme: Scheme, by: Array, gram: Array) -> tuple[float, Integers, Array]:
    integers = round_to_grid(w * by[:, None], scheme, np.diag(gram) / np.square(by))
    error = (integers.matrix(w.shape) / by[:, None] - w).astype(np.float64)
    return float(np.sum(error * (gram @ error))), integers, by
