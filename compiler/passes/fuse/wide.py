"""Several products of the same rows with different matrices are one with a wide matrix: Q, K and V."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from isthmus.ir.dims import Dim
from isthmus.ir.graph import Graph, Program, Value, weight_of
from isthmus.ir.rewrite import Event, Rule, Watch
from isthmus.ops.movement import concat, slice_
from isthmus.ops.nn import linear
from isthmus.passes.constants import is_constant, name_of, weight_from
from isthmus.passes.integers import FLOATS, joined, kind_of
from isthmus.target import Target


@dataclass(frozen=True, slots=True)
class WideLinear:
    """Linears of one x, with one activation and without residual, become one linear and a slice for each.

    x is read once and there is one call instead of several; the slices are views of rows, which cost
    nothing. Weights are concatenated when they are written out. A linear that is an output of the graph
    stays alone: its slice would have to be copied.
    """

    @property
    def name(self) -> str:
        return "wide-linear"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        return program.map_graphs(lambda graph: self._graph(graph, watch))

    def _graph(self, graph: Graph, watch: Watch) -> Graph:
        groups: dict[Hashable, list[Value]] = {}
        for node in graph.nodes():
            if node.op is linear and len(node.args) == 3:
                key = node.args[0], node.attr("activation"), kind_of(node.args[1])
                groups.setdefault(key, []).append(node)
        outputs = {v for _, v in graph.outputs}
        parts: dict[Value, list[Value]] = {}
        for group in (g for g in groups.values() if len(g) > 1):
            suitable = []
            for node in group:
                if (reason := _unsuitable(node, outputs)) is None:
                    suitable.append(node)
                else:
                    watch(Event(self.name, node, reason))
            if len(suitable) > 1:
                parts.update((node, suitable) for node in suitable)
        if not parts:
            return graph
        return _rebuild(graph, parts, watch, self.name)


def _unsuitable(node: Value, outputs: set[Value]) -> str | None:
    """Why a linear stays alone."""
    known = weight_of(node.args[1]) is not None or kind_of(node.args[1]) != FLOATS
    if not known or not is_constant(node.args[2]):
        return "its matrix or bias is not a constant"
    return "it is an output of the graph" if node in outputs else None


def _rebuild(graph: Graph, parts: dict[Value, list[Value]], watch: Watch, name: str) -> Graph:
    done: dict[Value, Value] = {}
    for node in graph.nodes():
        if node in done:
            continue
        args = tuple(done.get(a, a) for a in node.args)
        same = all(a is b for a, b in zip(args, node.args, strict=True))
        if node not in parts:
            done[node] = node if same else replace(node, args=args)
            continue
        # Constants are the same before and after, so the whole group can be made at its first member.
        group = parts[node]
        done.update(zip(group, _widen(args[0], group), strict=True))
        for member in group:
            watch(Event(name, member, made=done[member]))
    return graph.with_outputs(tuple(done.get(v, v) for _, v in graph.outputs))


def _widen(x: Value, group: Sequence[Value]) -> list[Value]:
    first = group[0]
    matrices = [v.args[1] for v in group]
    w = _joined(matrices, 1) if kind_of(matrices[0]) == FLOATS else joined(matrices)
    bias = _joined([v.args[2] for v in group], 0)
    wide = linear(x, w, bias, activation=first.attr("activation"), loc=first.loc)
    slices: list[Value] = []
    offset: Dim = 0
    for member in group:
        starts = (*(0 for _ in member.shape[:-1]), offset)
        slices.append(
            slice_(wide, starts=starts, sizes=member.shape, steps=(1,) * wide.t.rank, loc=member.loc)
        )
        offset = offset + member.shape[-1]
    return slices


def _joined(parts: Sequence[Value], axis: int) -> Value:
    whole = concat(*parts, axis=axis)
    return weight_from(whole, f"{name_of(whole)}.wide")
