"""What becomes of each layer, decided in numbers: made once, and then only put in its place by the phase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from glob import escape

import numpy as np

from isthmus.errors import Code, ModelError, Problem, nearest
from isthmus.ir.graph import Program, weight_of
from isthmus.ir.types import Array
from isthmus.passes.constants import array_of, is_constant
from isthmus.passes.quantize import smooth
from isthmus.passes.quantize.awq import round_by_awq
from isthmus.passes.quantize.gptq import round_by_gptq
from isthmus.passes.quantize.integers import Grid, Integers, round_to_grid, rows_grid
from isthmus.passes.quantize.layers import Layer, layers_of
from isthmus.passes.quantize.options import Attention, Quantization, Scheme
from isthmus.passes.quantize.ranges import range_of
from isthmus.passes.quantize.statistics import Observed, Statistics


@dataclass(frozen=True, slots=True, eq=False)
class LayerRecipe:
    """One product in integers: linear(x / divide, matrix, bias).

    `divide` [K] is a vector the rows are divided by because the matrix was multiplied by it; `rows` is the
    grid of static rows, with scale and zero point of one number; `bias` [N] replaces the layer's.
    """

    scheme: Scheme
    matrix: Integers
    divide: Array | None = None
    rows: Grid | None = None
    bias: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """The layers that compute in integers, by name, and the reasons why the others do not. Those `narrow` are
    multiplied in bf16."""

    text: str
    layers: Mapping[str, LayerRecipe]
    kept: Mapping[str, str]
    attention: Attention = "int8"
    narrow: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The layers that are not in f32."""
        return (*self.layers, *self.narrow)

    @property
    def rounds(self) -> str:
        """What attention may round to: something only where rows are rounded before it anyway."""
        if any(layer.scheme.activations != "float" for layer in self.layers.values()):
            return ROUNDS[self.attention]
        return "bf16" if self.narrow and self.attention != "f32" else ""

    def __str__(self) -> str:
        return self.text

    def without(self, names: Sequence[str]) -> Recipe:
        """The same with some layers left in float."""
        layers = {name: layer for name, layer in self.layers.items() if name not in names}
        kept = {**self.kept, **dict.fromkeys(names, "restored")}
        narrow = tuple(name for name in self.narrow if name not in names)
        return Recipe(self.text, layers, kept, self.attention, narrow)


ASKED = "asked to"
# What attention of this precision rounds to, by its attribute.
ROUNDS: Mapping[Attention, str] = {"int8": "i8", "bf16": "bf16", "f32": ""}


@dataclass(frozen=True, slots=True)
class Choice:
    """A layer and how it shall compute; no scheme: in float, and why."""

    layer: Layer
    scheme: Scheme | None
    why: str = ""


def choose(program: Program, quantization: Quantization) -> tuple[Choice, ...]:
    """How each layer of `program`, which went through the phase `fuse`, shall compute.

    Raises ModelError for groups that do not divide a layer, for matrices with NaN or infinity, and for
    patterns that no layer's name fits: all of them at once.
    """
    choices = [_choice(layer, quantization) for layer in layers_of(program.main)]
    names = [choice.layer.name for choice in choices]
    problems = [
        Problem(Code.BAD_OPTION, f"no layer fits {pattern!r}", "Quantization", nearest(pattern, names))
        for pattern in quantization.layers
        if not any(fnmatchcase(name, pattern) for name in names)
    ]
    problems += [problem for choice in choices if (problem := _obstacle(choice)) is not None]
    if problems:
        raise ModelError(problems)
    return tuple(choices)


def _choice(layer: Layer, quantization: Quantization) -> Choice:
    if layer.fragile and quantization.protect and not quantization.names(layer.name):
        return Choice(layer, None, layer.fragile)
    scheme = quantization.wanted(layer.name)
    return Choice(layer, scheme, "" if scheme is not None else ASKED)


def where_possible(program: Program, quantization: Quantization) -> Quantization:
    """`quantization` with those layers left in float that cannot be as it says."""
    choices = [_choice(layer, quantization) for layer in layers_of(program.main)]
    stuck = [choice.layer.name for choice in choices if _obstacle(choice) is not None]
    return replace(quantization, layers={**quantization.layers, **{escape(name): "f32" for name in stuck}})


def _obstacle(choice: Choice) -> Problem | None:
    layer, scheme = choice.layer, choice.scheme
    if scheme is None:
        return None
    depth = layer.matrix.t.static_shape[0]
    if scheme.group and depth % scheme.group:
        text = f"columns of {depth} elements do not divide into groups of {scheme.group}"
        fitting = [str(g) for g in (128, 64, 32, 16, 8) if depth % g == 0]
        hint = f"groups of {' or '.join(fitting)} do; or keep" if fitting else "keep"
        return Problem(Code.BAD_GROUP, text, layer.name, f"{hint} this layer in f32")
    if not np.isfinite(array_of(layer.matrix)).all():
        return Problem(
            Code.BAD_OPTION, "a matrix with NaN or infinity has no scale", layer.name, "keep it in f32"
        )
    return None


def make_recipe(program: Program, quantization: Quantization, statistics: Statistics | None = None) -> Recipe:
    """Everything decided for `program` after the phase `fuse`.

    Raises ModelError as `choose` does, and for what needs data where there are no `statistics`.
    """
    choices = choose(program, quantization)
    if quantization.needs_data is not None and statistics is None:
        raise no_data(quantization.needs_data)
    layers = {
        c.layer.name: _decide(c.layer, c.scheme, quantization, (statistics or {}).get(c.layer.name))
        for c in choices
        if c.scheme is not None
    }
    kept = {c.layer.name: c.why for c in choices if c.scheme is None}
    return Recipe(str(quantization), layers, kept, quantization.attention)


def no_data(what: str) -> ModelError:
    """The refusal of what only data can tell."""
    hint = "give inputs like those the model will see: --calibration DATA, or calibration=... in Python"
    return ModelError(Problem(Code.NO_CALIBRATION, f"{what} cannot be chosen without data", "", hint))


def _decide(layer: Layer, scheme: Scheme, quantization: Quantization, seen: Observed | None) -> LayerRecipe:
    w = array_of(layer.matrix)
    if seen is None:
        return LayerRecipe(scheme, round_to_grid(w, scheme))
    by = _smoothing(w, scheme, quantization, seen)
    gram = seen.gram
    if by is not None:
        w = w * by[:, None]
        gram = None if gram is None else gram / np.outer(by, by)
    if quantization.method in (None, "gptq") and gram is not None:
        integers = round_by_gptq(w, scheme, gram)
    elif quantization.method == "awq" and gram is not None and scheme.activations == "float":
        integers, by = round_by_awq(w, scheme, seen.magnitude / seen.rows, gram)
        w = w if by is None else w * by[:, None]
    else:
        integers = round_to_grid(w, scheme, seen.squares / (1 if by is None else np.square(by)))
    rows = _static_rows(seen, by, quantization, scheme) if scheme.activations == "static" else None
    corrects = quantization.correct_bias
    if corrects is None:
        corrects = scheme.activations == "static"
    bias = corrected_bias(layer, w - integers.matrix(w.shape), seen, by) if corrects else None
    return LayerRecipe(scheme, integers, by, rows, bias)


def _smoothing(w: Array, scheme: Scheme, quantization: Quantization, seen: Observed) -> Array | None:
    if scheme.activations == "float" or quantization.smooth == 0:
        return None
    if quantization.smooth is None:
        return smooth.found_factors(seen, w, scheme) if scheme.activations == "static" else None
    return smooth.factors(seen.largest, w, quantization.smooth)


def _static_rows(seen: Observed, by: Array | None, quantization: Quantization, scheme: Scheme) -> Grid:
    if by is not None:
        return smooth.divided_grid(seen, by, scheme)
    return rows_grid(*range_of(seen, quantization.observer), scheme.symmetric)


def corrected_bias(layer: Layer, error: Array, seen: Observed, by: Array | None) -> Array | None:
    """The bias [N] with what the matrix, which is short of `error` [K, N], lacks on average.

    M. Nagel et al., "Data-Free Quantization" (arXiv 1906.04721), section 4.2, with the mean of real rows.
    """
    bias = bias_of(layer)
    mean = seen.mean if by is None else seen.mean / by
    return None if bias is None else np.asarray(bias + mean @ error, np.float32)


def bias_of(layer: Layer) -> Array | None:
    """The bias [N] of a layer, if it is a constant."""
    bias = layer.value.args[2]
    return array_of(bias) if is_constant(bias) else None


def weight_name(layer: Layer) -> str:
    weight = weight_of(layer.matrix)
    assert weight is not None
    return weight.name
