"""The pass that puts pruned matrices in the place of those of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from isthmus.ir.graph import Graph, Program, Value, weight_value
from isthmus.ir.rewrite import Event, Rule, Watch
from isthmus.ir.weights import Weight
from isthmus.passes.quantize.layers import layers_of
from isthmus.passes.steps import mapped
from isthmus.target import Target


@dataclass(frozen=True, slots=True)
class Matrices:
    """Matrices by the name of their layer, why others stay as they are, and how they were made."""

    asked: str
    made: Mapping[str, Weight] = field(repr=False)
    kept: Mapping[str, str] = field(repr=False)

    def __str__(self) -> str:
        return self.asked


@dataclass(frozen=True, slots=True)
class Prune:
    """Give the layers of `matrices` theirs."""

    matrices: Matrices

    @property
    def name(self) -> str:
        return "prune-linear"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        return program.with_main(self._graph(program.main, watch))

    def _graph(self, graph: Graph, watch: Watch) -> Graph:
        layers = {layer.value: layer for layer in layers_of(graph)}

        def pruned(node: Value, new: Value) -> Value | None:
            layer = layers.get(node)
            if layer is None:
                return None
            matrix = self.matrices.made.get(layer.name)
            if matrix is None:
                watch(Event(self.name, node, self.matrices.kept.get(layer.name, "it was not asked for")))
                return None
            return replace(new, args=(new.args[0], weight_value(matrix, layer.matrix.loc), *new.args[2:]))

        return mapped(graph, pruned, watch, self.name)
