"""Calibration: what the rows of each layer are like on real requests."""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.driver import Options
from isthmus.errors import Code, ModelError, Problem
from isthmus.ir.graph import Program, Value
from isthmus.passes.quantize.layers import Layer
from isthmus.passes.quantize.options import Quantization
from isthmus.passes.quantize.recipe import choose
from isthmus.passes.quantize.statistics import Observed, Statistics, check
from isthmus.quantizer.native import running, watched
from isthmus.tools.data import Request


def observe(
    fused: Program, quantization: Quantization, requests: Sequence[Request], options: Options
) -> Statistics:
    """What flows into each layer that is to compute in integers, in one pass over `requests`.

    Raises ModelError (bad-calibration) for layers that see NaN, nothing, or one number.
    """
    layers = [choice.layer for choice in choose(fused, quantization) if choice.scheme is not None]
    # GPTQ is the default.
    statistics = observe_layers(fused, layers, requests, options, wants_gram=quantization.method != "round")
    check(statistics)
    return statistics


def observe_layers(
    fused: Program,
    layers: Sequence[Layer],
    requests: Sequence[Request],
    options: Options,
    *,
    wants_gram: bool,
) -> Statistics:
    """What flows into each of `layers`. Raises ModelError (bad-calibration) for NaN."""
    # Layers may share their rows.
    rows = list(dict.fromkeys(layer.rows for layer in layers))
    seen = {value: Observed(_width(value)) for value in rows}
    names = {layer.rows: layer.name for layer in layers}
    with running(watched(fused, rows), options) as run:
        for number, request in enumerate(requests):
            outputs = run(request)
            for place, value in enumerate(rows):
                try:
                    seen[value].add(outputs[str(place)], wants_gram)
                except ValueError as error:
                    text = f"request {number} brings {error} into this layer"
                    raise ModelError(Problem(Code.BAD_CALIBRATION, text, names[value])) from None
    return {layer.name: seen[layer.rows] for layer in layers}


def _width(value: Value) -> int:
    width = value.shape[-1]
    assert isinstance(width, int), "the rows of a constant matrix have a known width"
    return width
