"""One share of zeros for a whole model, spread over its layers by sensitivity.

Every layer is pruned to each of some shares, and the noise that this makes in its products is found from the
second moments of what flows into it: of x w' - x w, over that of x w, without bias and residual. Between
those shares its root is taken for a line. The layers' shares are those with the least noise in all: one
number more costs as much everywhere, a price that is found by halving.
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
# Halvings of an interval of prices: more than floats tell apart. Steps of a share from 0 to the largest.
HALVINGS = 100
STEPS = 200

# Shares of one layer, rising, and the noise over signal that each makes.
Curve = tuple[Sequence[float], Sequence[float]]


def spread_pass(fused: Program, asked: Sparsity, requests: Sequence[Request], options: Options) -> Prune:
    """The pass that prunes `fused`, a program after the phase `fuse`: of all matrices together the share that
    is asked for, of each as much as makes the least noise in all on `requests`. Raises as `prune_pass`."""
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
    """The share of each layer: together they lose `total` of their numbers, and make the least noise."""
    whole = sum(sizes.values())
    lines = {name: _line(curve) for name, curve in curves.items()}

    def at(price: float) -> dict[str, float]:
        return {
            name: float(shares[np.argmin(noise - price * sizes[name] / whole * shares)])
            for name, (shares, noise) in lines.items()
        }

    def lost(found: Mapping[str, float]) -> float:
        return sum(sizes[name] * share for name, share in found.items()) / (whole or 1)

    low, high = 0.0, 1.0
    while lost(at(high)) < min(total, lost({name: shares[-1] for name, (shares, _) in lines.items()})):
        high *= 2
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if lost(at(middle)) < total else (low, middle)
    # Where a price makes a layer jump, all go part of the way.
    less, more = at(low), at(high)
    part = (total - lost(less)) / (lost(more) - lost(less)) if lost(more) > lost(less) else 1.0
    return {name: less[name] + min(part, 1.0) * (more[name] - less[name]) for name in lines}


def _line(curve: Curve) -> tuple[Array, Array]:
    """Shares in small steps, and the noise at each."""
    shares, levels = curve
    fine = np.linspace(0, shares[-1], STEPS + 1)
    return fine, np.interp(fine, [0.0, *shares], [0.0, *np.sqrt(levels)]) ** 2
