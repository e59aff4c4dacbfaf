"""What each layer may become, what that costs, and in which order it pays.

A way is one scheme for all layers that can have it. What a layer costs is declared, as latency or as bytes;
what it loses is measured, the noise that it makes by itself. Steps lead each layer from f32 to what costs
least, by ways each of which saves less for the noise that it adds than the one before: the lower hull of
noise and cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from isthmus.driver import Options
from isthmus.ir.graph import Program
from isthmus.ir.types import DType
from isthmus.passes.quantize.layers import Layer, layers_of
from isthmus.passes.quantize.options import Quantization
from isthmus.passes.quantize.recipe import Recipe, choose, make_recipe, where_possible
from isthmus.passes.sparsify.costs import FEWEST_ROWS, MEMORY_BYTES, MEMORY_ROWS, step_of
from isthmus.quantizer.calibrate import observe
from isthmus.quantizer.report import bytes_of
from isthmus.target import Target
from isthmus.tools.costs import ORDINARY
from isthmus.tools.data import Request

Save: TypeAlias = Literal["latency", "size"]

BF16 = "bf16"
# What `auto` chooses among, and bf16 where the chip multiplies it: matrices in half, a quarter, an eighth of
# the bytes; rows in bytes for latency. Others can be named, one at a time.
AUTO_SCHEMES = ("int8", "int4")
# What a multiply-add takes of that in f32 where weights of few bits become floats as they are read, for many
# rows: 1.5 as measured with 16 of them (benchmarks/README.md, mxfp4); and for one, of which three digits are
# multiplied as bytes.
WIDENED, ONE_ROW = 1.5, 0.75
# What is saved besides is worth this part: layers that save nothing of what is asked for follow the others.
BESIDES = 1e-3
# Noise that is none, over the signal.
LEAST_NOISE = 1e-16


@dataclass(frozen=True, slots=True, eq=False)
class Menu:
    """Recipes by the names of their schemes, and the rows of each layer in a request."""

    ways: Mapping[str, Recipe]
    rows: Mapping[str, float]

    @property
    def layers(self) -> tuple[str, ...]:
        """Those that may become something else, once each."""
        return tuple(dict.fromkeys(name for recipe in self.ways.values() for name in recipe.names))

    def recipe(self, choice: Mapping[str, str]) -> Recipe:
        """Each layer in the scheme that `choice` has for it, the others in f32."""
        first, *others = self.ways.values()
        layers = {
            name: self.ways[choice[name]].layers[name]
            for name in self.layers
            if choice.get(name) not in (None, BF16)
        }
        narrow = tuple(name for name in self.layers if choice.get(name) == BF16)
        kept = {**first.kept, **{n: "it would cost too much" for n in self.layers if n not in choice}}
        text = " or ".join(self.ways) if others else first.text
        return Recipe(text, layers, kept, first.attention, narrow)


@dataclass(frozen=True, slots=True)
class Step:
    """A layer takes on a scheme, from f32 or from the step before, and saves so much for the noise."""

    layer: str
    scheme: str
    gain: float


def one_way(recipe: Recipe) -> Menu:
    """A single scheme for each layer, or f32."""
    return Menu({recipe.text: recipe}, {})


def menu_of(fused: Program, requests: Sequence[Request], target: Target, options: Options) -> Menu:
    """What `auto` chooses among for `fused`, a program after the phase `fuse`, from one pass over `requests`.

    Layers that a scheme does not suit, because of its groups or for numbers without a scale, do without it.
    """
    options.progress(f"calibration ({len(requests)} requests)")
    possible = where_possible(fused, Quantization())
    seen = observe(fused, possible, requests, options)
    ways: dict[str, Recipe] = {}
    if target.multiplies_bf16:
        free = [choice for choice in choose(fused, possible) if choice.scheme]
        ways[BF16] = Recipe(BF16, {}, {}, narrow=tuple(choice.layer.name for choice in free))
    for name in AUTO_SCHEMES:
        options.progress(f"matrices in {name}")
        ways[name] = replace(make_recipe(fused, where_possible(fused, Quantization(name)), seen), text=name)
    first = AUTO_SCHEMES[0]
    kept = ways[first].kept
    ways = {n: replace(way, kept=kept) for n, way in ways.items() if way.names or n == first}
    return Menu(ways, {name: found.rows / len(requests) for name, found in seen.items()})


def slots_of(layer: Layer, recipe: Recipe, rows: float, target: Target) -> float:
    """The time of one request in the layer, in multiplications of vectors: of arithmetic or of reading."""
    size = math.prod(layer.matrix.t.static_shape)
    stored = bytes_of(layer, recipe)
    waits = MEMORY_ROWS if stored >= MEMORY_BYTES else FEWEST_ROWS
    each = _slots_each(layer.name, recipe, rows, target)
    return max(rows * size * each, waits * stored / 4) / target.vector.lanes()


def _slots_each(name: str, recipe: Recipe, rows: float, target: Target) -> float:
    """Slots of one multiply-add in each lane. Bytes are multiplied as such where rows are bytes too."""
    chosen = recipe.layers.get(name)
    if chosen is not None and (chosen.scheme.activations == "float" or chosen.scheme.group):
        return ONE_ROW if rows <= 1 and target.byte_products is not None else WIDENED
    narrow = DType.BF16 if name in recipe.narrow else DType.F32
    step = step_of(DType.I8 if chosen is not None else narrow, target)
    return step.dense / step.group if step is not None else 1.0


def costs_of(layer: Layer, menu: Menu, target: Target, save: Save) -> dict[str, float]:
    """What `layer` costs in f32 ("") and in its schemes: slots or bytes, and a little of the other."""
    rows = menu.rows.get(layer.name, ORDINARY)
    f32 = Recipe("", {}, {})
    ways = {"": f32, **{name: way for name, way in menu.ways.items() if layer.name in way.names}}
    slots = {name: slots_of(layer, way, rows, target) for name, way in ways.items()}
    sizes = {name: float(bytes_of(layer, way)) for name, way in ways.items()}
    asked, besides = (slots, sizes) if save == "latency" else (sizes, slots)
    worth = BESIDES * asked[""] / besides[""]
    return {name: asked[name] + worth * besides[name] for name in ways}


def steps_of(costs: Mapping[str, Mapping[str, float]], noise: Mapping[tuple[str, str], float]) -> list[Step]:
    """Steps of all layers, those first that save most for the noise they add; a layer's are in their order.

    `costs` are those of each layer in f32 ("") and in its schemes; `noise` is that of layers in schemes.
    """
    found: list[Step] = []
    for layer, of_schemes in costs.items():
        now, most = "", math.inf
        while True:
            gains = {
                scheme: (of_schemes[now] - cost)
                / max(_noise(noise, layer, scheme) - _noise(noise, layer, now), LEAST_NOISE)
                for scheme, cost in of_schemes.items()
                if cost < of_schemes[now]
            }
            if not gains:
                break
            now = max(gains, key=lambda scheme: gains[scheme])
            most = min(most, gains[now])  # also where rounding has it otherwise
            found.append(Step(layer, now, most))
    return sorted(found, key=lambda step: -step.gain)


def _noise(noise: Mapping[tuple[str, str], float], layer: str, scheme: str) -> float:
    """A layer that is not on the ladder of a scheme loses nothing in it."""
    return noise.get((layer, scheme), 0.0)


def after(steps: Sequence[Step], start: Mapping[str, str] | None = None) -> dict[str, str]:
    """The scheme of each layer when all of `steps` are taken; a later one takes the place of an earlier."""
    return {**(start or {}), **{step.layer: step.scheme for step in steps}}


def layers_by_name(fused: Program, names: Sequence[str]) -> dict[str, Layer]:
    """The layers of `fused` called so."""
    return {layer.name: layer for layer in layers_of(fused.main) if layer.name in names}
