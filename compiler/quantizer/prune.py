"""From what sparsity was asked for to the pass that makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from isthmus.driver import Options
from isthmus.errors import Code, ModelError, Problem
from isthmus.ir.graph import Program, weight_of
from isthmus.ir.rewrite import Event
from isthmus.ir.weights import Weight
from isthmus.passes.quantize.layers import Layer, layers_of
from isthmus.passes.quantize.statistics import Statistics, check
from isthmus.passes.sparsify.options import Sparsity
from isthmus.passes.sparsify.phase import Matrices, Prune
from isthmus.passes.sparsify.prune import pruned
from isthmus.passes.sparsify.shrink import Lengths, Shrink
from isthmus.passes.steps import Pass
from isthmus.quantizer.calibrate import observe_layers
from isthmus.target import Target
from isthmus.tools.data import Request


def prune_pass(
    fused: Program, asked: Sparsity, requests: Sequence[Request], target: Target, options: Options
) -> Pass:
    """The pass that prunes `fused`, a program after the phase `fuse`, as `asked`; for every target the same.

    Layers that the quantizer would rather leave alone stay as they are. Raises ModelError for weights that
    are NaN or infinite and for channels and heads that nowhere can go (bad-sparsity), and for data about
    which layers say nothing (bad-calibration).
    """
    seen = observed(fused, asked, requests, options)
    options.progress("pruning")
    if asked.structured:
        lengths = Lengths({name: np.sqrt(found.squares) for name, found in seen.items()})
        shrink = Shrink(asked.form, asked.ratio, lengths if seen else None)
        _require_change(fused, shrink, target)
        return shrink
    return Prune(Matrices(str(asked), matrices(fused, asked, seen), kept_layers(fused)))


def observed(fused: Program, asked: Sparsity, requests: Sequence[Request], options: Options) -> Statistics:
    """What the method looks at: nothing, or what flows into each layer. Raises as `prune_pass`."""
    layers = _touched(fused)
    _refuse_odd(layers)
    if asked.method == "magnitude" and not asked.spread:
        return {}
    options.progress(f"calibration ({len(requests)} requests)")
    seen = observe_layers(fused, layers, requests, options, wants_gram=not asked.structured)
    check(seen)
    return seen


def matrices(
    fused: Program, asked: Sparsity, seen: Statistics, ratios: Mapping[str, float] | None = None
) -> dict[str, Weight]:
    """The matrix of each layer as `asked`, by the name of the layer; `ratios`: with shares of their own."""
    made = {}
    for layer in _touched(fused):
        weight = weight_of(layer.matrix)
        assert weight is not None
        gram = seen[layer.name].gram if seen else None
        own = asked if ratios is None else replace(asked, ratio=ratios[layer.name])
        made[layer.name] = Weight.of(f"{weight.name}.pruned", pruned(weight.read(), own, gram))
    return made


def kept_layers(fused: Program) -> dict[str, str]:
    """The layers that stay as they are, and why."""
    return {layer.name: layer.fragile for layer in layers_of(fused.main) if layer.fragile}


def _touched(fused: Program) -> list[Layer]:
    return [layer for layer in layers_of(fused.main) if not layer.fragile]


def _require_change(fused: Program, shrink: Shrink, target: Target) -> None:
    """Raise ModelError (bad-sparsity), with the reasons, where a share was asked for and nothing can go."""
    events: list[Event] = []
    if not shrink.ratio or shrink(fused, target, events.append) is not fused:
        return
    text = f"no layer of the model lets {shrink.what} go"
    problems = [Problem(Code.BAD_SPARSITY, f"{text}: {e.reason}", e.at.loc or "linear") for e in events]
    raise ModelError(problems or [Problem(Code.BAD_SPARSITY, f"{text}: it has none", "--sparsity")])


def _refuse_odd(layers: Sequence[Layer]) -> None:
    problems = []
    for layer in layers:
        weight = weight_of(layer.matrix)
        if weight is not None and not np.isfinite(weight.read()).all():
            text = "a matrix with NaN or infinity cannot be pruned"
            problems.append(Problem(Code.BAD_SPARSITY, text, layer.name, "export the model anew"))
    if problems:
        raise ModelError(problems)
