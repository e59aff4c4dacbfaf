"""Cross-layer equalisation: products with nothing between them but ReLU reach equally far in each channel.

M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721),
section 4.1: what goes through a positive factor s_i allows column i of the first matrix, and its bias, to be
divided, and row i of the second to be multiplied by s_i = sqrt(r1_i / r2_i), the largest magnitudes of that
column and row. The factors here are powers of two: the model in f32 stays the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from isthmus.ir.graph import Graph, Program, Value, constant, use_counts
from isthmus.ir.rewrite import Rule, Watch
from isthmus.ir.types import Array
from isthmus.passes.constants import array_of, is_constant, name_of
from isthmus.passes.quantize.layers import Layer, layers_of
from isthmus.passes.steps import mapped
from isthmus.target import Target

# A product in the middle of a chain belongs to two pairs: one may upset what the other evened out.
MOST_ROUNDS = 20
# Of a factor, so that nothing leaves the normal numbers.
MOST_POWER = 20
HOMOGENEOUS = ("none", "relu")


@dataclass(frozen=True, slots=True)
class Equalize:
    """Even out every pair of products of which only the second reads the first, which has no residual."""

    @property
    def name(self) -> str:
        return "equalize-layers"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        pairs = tuple(_pairs(program.main))
        names = {layer.value: layer.name for pair in pairs for layer in pair}
        found: dict[Value, tuple[Array, Array]] = {}
        for _ in range(MOST_ROUNDS):
            changed = [_even_out(first.value, second.value, found) for first, second in pairs]
            if not any(changed):
                break

        def evened(node: Value, new: Value) -> Value | None:
            if node not in found:
                return None
            matrix, bias = found[node]
            made = constant(name_of(node.args[1]), matrix), constant(f"{names[node]}.bias", bias)
            return replace(new, args=(new.args[0], *made, *new.args[3:]))

        return program.with_main(mapped(program.main, evened, watch, self.name)) if found else program


def _pairs(graph: Graph) -> Iterator[tuple[Layer, Layer]]:
    uses = use_counts(graph)
    layers = {layer.value: layer for layer in layers_of(graph)}

    def its_own(layer: Layer) -> bool:
        """Whether nobody else has its matrix, and both constants are numbers."""
        constants = layer.value.args[1:3]
        known = all(is_constant(a) and np.isfinite(array_of(a)).all() for a in constants)
        return known and uses.get(layer.matrix, 1) == 1

    for second in layers.values():
        first = layers.get(second.rows)
        if first is None or len(first.value.args) > 3 or uses.get(first.value, 1) > 1:
            continue
        if first.value.attr("activation") in HOMOGENEOUS and its_own(first) and its_own(second):
            yield first, second


def factors(first: Array, second: Array) -> Array:
    """Powers of two, f32 [C], for matrices [K, C] and [C, N]; 1 where either has nothing but zeros."""
    reach = (np.abs(m).max(axis, initial=0).astype(np.float64) for m, axis in ((first, 0), (second, 1)))
    one, other = reach
    known = (one > 0) & (other > 0)
    power = np.zeros(len(one))
    power[known] = np.log2(one[known] / other[known]) / 2
    # A factor common to all changes nothing.
    power[known] -= power[known].mean() if known.any() else 0
    return np.asarray(np.exp2(np.clip(np.rint(power), -MOST_POWER, MOST_POWER)), np.float32)


def _even_out(first: Value, second: Value, found: dict[Value, tuple[Array, Array]]) -> bool:
    """Put matrix and bias of both into `found`, if there is anything to even out."""
    (before, bias), (after, other) = (
        found.get(node) or (array_of(node.args[1]), array_of(node.args[2])) for node in (first, second)
    )
    by = factors(before, after)
    if (by == 1).all():
        return False
    found[first] = (before / by, bias / by)
    found[second] = (after * by[:, None], other)
    return True
