"""What looks like a part of a fusion and is none: told to whoever watches, changed by nobody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isthmus.ir.graph import Graph, Program, Value
from isthmus.ir.rewrite import Event, Rule, Watch, splat
from isthmus.ops.movement import reshape, transpose
from isthmus.ops.nn import matmul, softmax
from isthmus.ops.pointwise import add, erf, is_nan, mul, where
from isthmus.target import Target


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Say why a softmax between two products is not attention, and which error functions belong to no GELU.

    Rules tell of their own near misses; this tells of what none of them comes near to.
    """

    @property
    def name(self) -> str:
        return "leftovers"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        for graph in program.graphs:
            _tell(graph, watch)
        return program


def _tell(graph: Graph, watch: Watch) -> None:
    for node in graph.nodes():
        if node.op is matmul and (weights := _weights(node.args[0])) is not None:
            watch(Event("attention", node, _unexpected(weights.args[0])))
        elif node.op is erf:
            watch(Event("gelu", node, "this erf is not multiplied as in x * (1 + erf(x / sqrt 2)) / 2"))


def _weights(value: Value) -> Value | None:
    """The softmax that `value` is, under reshapes and the guard against NaN."""
    while value.op in (reshape, transpose) or (value.op is where and value.args[0].op is is_nan):
        value = value.args[-1]
    return value if value.op is softmax else None


def _unexpected(scores: Value) -> str:
    """What stands where q k^T, a factor and a mask are expected."""
    path = []
    value = scores
    while value.op is not matmul:
        path.append(value.op.name)
        if value.op is add or (value.op is mul and splat(value.args[1]) is None):
            inner = [a for a in value.args if _leads_to_matmul(a)]
        elif value.op is where:
            inner = [a for a in value.args[1:] if _leads_to_matmul(a)]
        else:
            inner = list(value.args[:1])
        if not inner:
            return f"its scores are no product of q and k: {' of '.join(path)}"
        value = inner[0]
    found = ", ".join(path) or "nothing"
    return f"between softmax and q k^T stand {found}; expected at most a mask and a factor"


def _leads_to_matmul(value: Value, depth: int = 12) -> bool:
    while depth and value.op is not matmul and value.args:
        if value.op in (add, where):
            return any(_leads_to_matmul(a, depth - 1) for a in value.args)
        value, depth = value.args[0], depth - 1
    return value.op is matmul
