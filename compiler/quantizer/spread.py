"""One share of zeros for a whole model, spread over its layers by sensitivity.

Every layer is pruned to each of some shares, and the noise that this makes in its products is found from the
second moments of what flows into it: of x w' - x w, over that of x w, without bias and residual. For a noise
t each layer takes the share that makes t, between those shares as if the noise's root were a line; t is the
one for which all layers together lose the share that was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from isthmus.driver import Options
from isthmus.ir.graph import Program, weight_of
from isthmus.ir.types import Array
from isthmus.passes.quantize.layers import layers_of
from isthmus.passes.sparsify.options import Sparsity
from isthmus.passes.sparsify.phase import Matrices, Prune
from isthmus.quantizer.prune import kept_layers, matrices, observed
from isthmus.tools.data import Request

# Noise is known at these shares of zeros; no layer loses more than the last, or what was asked for.
SHARES = (0.3, 0.5, 0.7, 0.85, 0.95)
# Halvings of an interval of noise: more than floats tell apart.
HALVINGS = 100

# Shares of one layer, rising, and the noise over signal that each makes.
Curve = tuple[Sequence[float], Sequence[float]]


def spread_pass(fused: Program, asked: Sparsity, requests: Sequence[Request], options: Options) -> Prune:
    """The pass that prunes `fused`, a program after the phase `fuse`: of all matrices together the share that
    is asked for, of each as much as makes the same noise on `requests`. Raises as `prune_pass`."""
    seen = observed(fused, asked, requests, options)
    exact = {layer.name: weight_of(layer.matrix) for layer in layers_of(fused.main)}
    shares = sorted({*SHARES, asked.ratio} - {0.0})
    noise: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    for share in shares:
        rung = replace(asked, ratio=share, spread=False)
        options.progress(f"sensitivity to {rung}")
        for name, matrix in matrices(fused, rung, seen).items():
            weight, gram = exact[name], seen[name].gram
            assert weight is not None and gram is not None
            noise.setdefault(name, []).append(noise_of(weight.read(), matrix.read(), gram))
            sizes[name] = int(np.prod(matrix.type.static_shape))
    ratios = shares_of({name: (shares, levels) for name, levels in noise.items()}, sizes, asked.ratio)
    options.progress("pruning")
    return Prune(Matrices(str(asked), matrices(fused, asked, seen, ratios), kept_layers(fused)))


def noise_of(exact: Array, pruned: Array, gram: Array) -> float:
    """|x pruned - x exact|^2 over |x exact|^2 for all x whose sum of x^T x is `gram` [K, K]."""
    w, lost = exact.astype(np.float64), exact.astype(np.float64) - pruned
    noise, signal = (float(np.sum(part * (gram @ part))) for part in (lost, w))
    return noise / (signal or 1.0)


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
