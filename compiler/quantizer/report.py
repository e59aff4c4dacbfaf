"""What quantizing did to a model, as data: for report.json of the bundle, and for `isthmus accuracy`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from isthmus.ir.graph import Program
from isthmus.passes.constants import array_of
from isthmus.passes.integers import fits_f16
from isthmus.passes.quantize.layers import Layer, layers_of
from isthmus.passes.quantize.recipe import LayerRecipe, Recipe
from isthmus.quantizer.ladder import Distance, Ladder

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"


def about(
    fused: Program, recipe: Recipe, calibrated: int, ladder: Ladder | None, kept_bytes: int = 4
) -> dict[str, Json]:
    """The section `quantization` of report.json. `calibrated` counts requests; no ladder: none were given. A
    number of the layers that are not quantized takes `kept_bytes`."""
    layers = layers_of(fused.main)
    rungs = {} if ladder is None else {rung.name: rung for rung in ladder.rungs}
    rows: list[Json] = []
    for layer in layers:
        row: dict[str, Json] = {"name": layer.name}
        chosen = recipe.layers.get(layer.name)
        if chosen is not None:
            row["scheme"] = str(chosen.scheme)
            row["matrix_sqnr"] = number(of_matrix(layer, chosen).sqnr, 1)
            row["outliers_moved"] = chosen.divide is not None
        elif layer.name in recipe.narrow:
            row["scheme"] = "bf16"
        else:
            rows.append({**row, "kept": recipe.kept.get(layer.name, "")})
            continue
        if layer.name in rungs:
            rung = rungs[layer.name]
            row |= {"alone_sqnr": number(rung.alone.sqnr, 1), **as_json(rung.together)}
        rows.append(row)
    return {
        "asked": recipe.text,
        "calibrated_on": calibrated,
        "measured_on": 0 if ladder is None else ladder.requests,
        "matrix_bytes": {
            "f32": sum(
                layer.matrix.t.static_shape[0] * layer.matrix.t.static_shape[1] * 4 for layer in layers
            ),
            "stored": stored_bytes(layers, recipe, kept_bytes),
        },
        "layers": rows,
        "outputs": {} if ladder is None else {name: as_json(found) for name, found in ladder.outputs.items()},
    }


def as_json(found: Distance) -> dict[str, Json]:
    """SQNR in dB, cosine and largest error, with the digits that mean something."""
    return {
        "sqnr": number(found.sqnr, 1),
        "cosine": number(found.cosine, 6),
        "max_error": float(f"{found.largest:.3g}"),
    }


def number(value: float, digits: int) -> float | None:
    """Rounded; None for what JSON has no number for: no noise at all, or no number."""
    return round(value, digits) if math.isfinite(value) else None


def of_matrix(layer: Layer, recipe: LayerRecipe) -> Distance:
    """The matrix in integers against the exact one."""
    exact, found = array_of(layer.matrix), recipe.matrix.matrix(layer.matrix.t.static_shape)
    distance = Distance()
    distance.add(found if recipe.divide is None else found / recipe.divide[:, None], exact)
    return distance


def stored_bytes(layers: Sequence[Layer], recipe: Recipe, kept_bytes: int = 4) -> int:
    """What matrices take with their scales and zero points; those kept in float as such."""
    return sum(bytes_of(layer, recipe, kept_bytes) for layer in layers)


def bytes_of(layer: Layer, recipe: Recipe, kept_bytes: int = 4) -> int:
    """The same of one layer."""
    chosen = recipe.layers.get(layer.name)
    if chosen is None:
        return math.prod(layer.matrix.t.static_shape) * (2 if layer.name in recipe.narrow else kept_bytes)
    bits, grid = chosen.scheme.bits, chosen.matrix.grid
    scales = grid.scale.size * (2 if chosen.scheme.group and fits_f16(grid.scale) else 4)
    zeros = 0 if grid.zero is None else -(-grid.zero.size * bits // 8)
    return -(-chosen.matrix.q.size * bits // 8) + scales + zeros
