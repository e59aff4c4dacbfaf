"""Common subexpressions: what is computed twice is computed once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from isthmus.ir.graph import Attr, Graph, Program, Trait, Value, weight_of
from isthmus.ir.rewrite import Event, Rule, Watch
from isthmus.ir.weights import Weight
from isthmus.target import Target


@dataclass(frozen=True, slots=True)
class Share:
    """Values with the same op, arguments and attributes become one; weights by their contents.

    The first in graph order stays, with its location. All graphs of a program share weights.
    """

    @property
    def name(self) -> str:
        return "share"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        weights = _same_weights([w for g in program.graphs for w in g.weights()])
        nodes: dict[Weight, Value] = {}
        return program.map_graphs(lambda graph: _share(graph, weights, nodes, watch, self.name))


def _share(
    graph: Graph, weights: dict[Weight, Weight], nodes: dict[Weight, Value], watch: Watch, name: str
) -> Graph:
    done: dict[Value, Value] = {}
    first: dict[Hashable, Value] = {}
    numbers: dict[Value, int] = {v: i for i, v in enumerate(graph.inputs)}
    for node in graph.nodes():
        args = tuple(done.get(a, a) for a in node.args)
        weight = weight_of(node)
        if weight is not None:
            kept = nodes.setdefault(weights[weight], node)
        else:
            order = [numbers[a] for a in args]
            if Trait.COMMUTATIVE in node.op.traits:
                order.sort()
            key = (node.op.name, tuple(order), tuple(map(_exactly, node.attrs)), node.type)
            kept = first.get(key) or _with_args(node, args)
            first[key] = kept
            if kept.op is node.op and kept.loc != node.loc:
                watch(Event(name, node, made=kept))
        numbers.setdefault(kept, len(numbers))
        done[node] = kept
    return graph.with_outputs(tuple(done.get(v, v) for _, v in graph.outputs))


def _exactly(attr: tuple[str, Attr]) -> Hashable:
    """An attribute as a key: 0.0 and -0.0 are equal as numbers and yet not the same."""
    name, value = attr
    return (name, value.hex()) if isinstance(value, float) else attr


def _with_args(node: Value, args: tuple[Value, ...]) -> Value:
    same = all(a is b for a, b in zip(args, node.args, strict=True))
    return node if same else replace(node, args=args)


def _same_weights(weights: Sequence[Weight]) -> dict[Weight, Weight]:
    """Each weight's representative: the first with the same type and contents.

    Bytes are hashed only where two weights have one type.
    """
    by_type: dict[Hashable, dict[Weight, None]] = {}
    for weight in weights:
        by_type.setdefault(weight.type, {})[weight] = None
    found: dict[Weight, Weight] = {}
    for group in by_type.values():
        first: dict[Hashable, Weight] = {}
        for weight in group:
            if len(group) == 1:
                found[weight] = weight
            else:
                found[weight] = first.setdefault(weight.digest, weight)
    return found
