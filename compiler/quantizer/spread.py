"""One share of zeros for a whole model, spread over its layers by sensitivity.

Every layer is pruned to each of some shares, and the noise that this makes in its result by itself is
measured, as within a budget. For a noise t each layer takes the share that makes t, between measured shares
as if the noise's root were a line; t is the one for which all layers together lose the share that was asked
for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from isthmus.driver import Options
from isthmus.ir.graph import Program
from isthmus.passes.sparsify.options import Sparsity
from isthmus.passes.sparsify.phase import Matrices, Prune
from isthmus.quantizer.ladder import climb
from isthmus.quantizer.prune import kept_layers, matrices, observed
from isthmus.target import Target
from isthmus.tools.data import Request

# Noise is measured at these shares of zeros; no layer loses more than the last, or what was asked for.
SHARES = (0.3, 0.5, 0.7, 0.85, 0.95)
# Halvings of an interval of noise: more than floats tell apart.
HALVINGS = 100

# Shares of one layer, rising, and the noise over signal that each makes.
Curve = tuple[Sequence[float], Sequence[float]]


def spread_pass(
    fused: Program, asked: Sparsity, requests: Sequence[Request], target: Target, options: Options
) -> Prune:
    """The pass that prunes `fused`, a program after the phase `fuse`: of all matrices together the share that
    is asked for, of each as much as makes the same noise on `requests`. Raises as `prune_pass`."""
    seen = observed(fused, asked, requests, options)
    noise: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    shares = sorted({*SHARES, asked.ratio} - {0.0})
    for share in shares:
        rung = replace(asked, ratio=share, spread=False)
        options.progress(f"sensitivity to {rung}")
        made = matrices(fused, rung, seen)
        low = Prune(Matrices(str(rung), made, kept_layers(fused)))(fused, target, lambda _: None)
        found = {
            r.name: r.alone.noise / (r.alone.signal or 1) for r in climb(fused, low, requests, options).rungs
        }
        for name, matrix in made.items():
            noise.setdefault(name, []).append(found.get(name, 0.0))
            sizes[name] = int(np.prod(matrix.type.static_shape))
    curves = {name: (shares, levels) for name, levels in noise.items()}
    ratios = shares_of(curves, sizes, asked.ratio)
    return Prune(Matrices(str(asked), matrices(fused, asked, seen, ratios), kept_layers(fused)))


def shares_of(curves: Mapping[str, Curve], sizes: Mapping[str, int], total: float) -> dict[str, float]:
    """The share of each layer, with which all make the same noise, and together lose `total` of their
    numbers."""
    whole = sum(sizes.values())
    low, high = 0.0, max((max(levels) for _, levels in curves.values()), default=0.0)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        lost = sum(sizes[name] * share_at(curve, middle) for name, curve in curves.items())
        low, high = (middle, high) if lost < total * whole else (low, middle)
    return {name: share_at(curve, high) for name, curve in curves.items()}


def share_at(curve: Curve, noise: float) -> float:
    """The share of a layer that makes so much noise; the largest measured, where even that makes less."""
    shares, levels = curve
    # Noise that falls where more is lost is none that can be had: the larger share costs the less.
    rising = np.minimum.accumulate(np.asarray(levels, np.float64)[::-1])[::-1]
    return float(np.interp(np.sqrt(noise), [0.0, *np.sqrt(rising)], [0.0, *shares]))
