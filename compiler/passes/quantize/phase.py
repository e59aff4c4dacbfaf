"""The passes of the phase `quantize`: none, unless integers are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from isthmus.ir.encodings import Halves, Packed, Powers, SmallFloats
from isthmus.ir.graph import Graph, Program, Value, constant, use_counts, weight_value
from isthmus.ir.rewrite import Event, Rule, Watch
from isthmus.ir.types import Array, DType, Encoding
from isthmus.ir.weights import Weight
from isthmus.ops.movement import full, reshape
from isthmus.ops.nn import attention, layer_norm, linear
from isthmus.ops.pointwise import cast, mul
from isthmus.ops.quantize import dequantize, quantize, row_scale
from isthmus.passes.constants import array_of, is_constant, name_of, weight_from
from isthmus.passes.integers import fits_e8m0, fits_f16
from isthmus.passes.quantize.layers import Layer, layers_of
from isthmus.passes.quantize.recipe import LayerRecipe, Recipe, weight_name
from isthmus.passes.steps import Pass
from isthmus.target import Target

QUANTIZE_PASSES: tuple[Pass, ...] = ()


@dataclass(frozen=True, slots=True)
class Quantize:
    """Say the layers of `recipe` in integers: linear(dequantize(quantize(x)), dequantize(w), bias); those
    that are narrow in bf16: linear(cast(x), cast(w), bias).

    Groups are an axis of their own, [K/g, g, N], so that a grouped matrix is the reshape of what its
    integers stand for.
    """

    recipe: Recipe

    @property
    def name(self) -> str:
        return "quantize-linear"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        return program.with_main(self._graph(program.main, watch))

    def _graph(self, graph: Graph, watch: Watch) -> Graph:
        layers = {layer.value: layer for layer in layers_of(graph)}
        uses = use_counts(graph)
        done: dict[Value, Value] = {}
        rounded: dict[Value, Value] = {}
        for node in graph.nodes():
            args = tuple(done.get(a, a) for a in node.args)
            same = all(a is b for a, b in zip(args, node.args, strict=True))
            new = node if same else replace(node, args=args)
            layer = layers.get(node)
            if layer is not None and (recipe := self.recipe.layers.get(layer.name)) is not None:
                new = _in_integers(new, layer, recipe, uses.get(node.args[0], 1) == 1)
                watch(Event(self.name, node, made=new))
            elif layer is not None and layer.name in self.recipe.narrow:
                new = _in_bf16(new, layer, rounded)
                watch(Event(self.name, node, made=new))
            elif layer is not None:
                watch(Event(self.name, node, self.recipe.kept.get(layer.name, "it is not in the recipe")))
            elif node.op is attention and self.recipe.rounds and not node.attr("mixed"):
                new = attention(*args, loc=node.loc, **{**dict(node.attrs), "rounds": self.recipe.rounds})
            done[node] = new
        return graph.with_outputs(tuple(done.get(v, v) for _, v in graph.outputs))


def _in_integers(node: Value, layer: Layer, recipe: LayerRecipe, only_user: bool) -> Value:
    x, _, bias, *rest = node.args
    if (by := _divisor(recipe)) is not None:
        x = divided(x, by, only_user, layer.name)
    if recipe.bias is not None:
        bias = constant(f"{layer.name}.bias", recipe.bias.astype(np.float32))
    return linear(
        _rows(x, recipe, layer.name),
        _matrix(layer, recipe),
        bias,
        *rest,
        activation=node.attr("activation"),
        loc=node.loc,
    )


def _in_bf16(node: Value, layer: Layer, rounded: dict[Value, Value]) -> Value:
    """`node` with rows and matrix rounded to bf16; `rounded` has the rows that others read so as well."""
    x, _, *rest = node.args
    if x not in rounded:
        rounded[x] = cast(x, dtype=DType.BF16, loc=x.loc)
    matrix = cast(layer.matrix, dtype=DType.BF16, loc=layer.matrix.loc)
    return replace(node, args=(rounded[x], weight_from(matrix, name_of(layer.matrix)), *rest))


def _divisor(recipe: LayerRecipe) -> Array | None:
    """What the columns of the rows are divided by. The scale of static rows is part of it: a product with a
    constant rounds to nearly what a division does, and is there already, or goes into a norm."""
    if recipe.rows is None:
        return recipe.divide
    columns = np.ones(len(recipe.matrix.q)) if recipe.divide is None else recipe.divide
    return np.asarray(columns * np.float64(recipe.rows.scale))


def divided(x: Value, by: Array, only_user: bool, name: str) -> Value:
    """`x` with its columns divided: by the norm that makes it if nobody else sees that, else by a product."""
    factor = (1 / by).astype(np.float32)
    if x.op is layer_norm and only_user and all(is_constant(a) for a in x.args[1:3]):
        scale, shift = (array_of(a) * factor for a in x.args[1:3])
        pair = (constant(f"{name}.norm.scale", scale), constant(f"{name}.norm.bias", shift))
        return replace(x, args=(x.args[0], *pair, *x.args[3:]))
    return mul(x, constant(f"{name}.factor", factor), loc=x.loc)


def _rows(x: Value, recipe: LayerRecipe, name: str) -> Value:
    if recipe.scheme.activations == "float":
        return x
    if recipe.rows is None:
        scale = row_scale(x, loc=x.loc)
        return dequantize(quantize(x, scale, dtype=DType.I8, loc=x.loc), scale, loc=x.loc)
    grid = recipe.rows
    one, step = (full(shape=(), value=v, dtype=DType.F32) for v in (1.0, float(grid.scale)))
    if grid.zero is None:
        return dequantize(quantize(x, one, dtype=DType.I8, loc=x.loc), step, loc=x.loc)
    zero = full(shape=(), value=float(grid.zero), dtype=DType.U8)
    return dequantize(quantize(x, one, zero, dtype=DType.U8, loc=x.loc), step, zero, loc=x.loc)


def _matrix(layer: Layer, recipe: LayerRecipe) -> Value:
    scheme, grid, name = recipe.scheme, recipe.matrix.grid, weight_name(layer)
    packed: Encoding | None = Packed(scheme.bits) if scheme.bits < 8 else None
    if grid.element == "e2m1":
        packed = SmallFloats()
    q = _weight(f"{name}.q{scheme.bits}", recipe.matrix.q, packed)
    parts = [_weight(f"{name}.scale", grid.scale, _scales(grid.scale) if scheme.group else None)]
    if grid.zero is not None:
        parts.append(_weight(f"{name}.zero", grid.zero, packed))
    whole = dequantize(q, *parts, loc=layer.matrix.loc)
    return reshape(whole, shape=layer.matrix.shape, loc=layer.matrix.loc) if scheme.group else whole


def _scales(scale: Array) -> Encoding | None:
    """How scales of groups take least."""
    if fits_e8m0(scale):
        return Powers()
    return Halves() if fits_f16(scale) else None


def _weight(name: str, array: Array, encoding: Encoding | None) -> Value:
    plain = Weight.of(name, array)
    return weight_value(plain if encoding is None else plain.encoded(encoding))
