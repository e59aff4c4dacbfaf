"""The products a program could compute in integers, by name, and those that better stay in float."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from isthmus.ir.graph import Graph, Trait, Value, walk, weight_of
from isthmus.ir.types import DType
from isthmus.ops.integer import integer_linear
from isthmus.ops.nn import attention, layer_norm, linear, matmul, rms_norm

FIRST = "it takes the model's inputs as they are"
LAST = "its result is an output of the model"
_HEAVY = (attention, layer_norm, linear, matmul, rms_norm)


@dataclass(frozen=True, slots=True)
class Layer:
    """A `linear` with a constant matrix. `fragile` says why it stays in float unless asked, else ''."""

    name: str
    value: Value
    fragile: str = ""

    @property
    def rows(self) -> Value:
        """What is multiplied with the matrix: [.., K]."""
        return self.value.args[0]

    @property
    def matrix(self) -> Value:
        """The constant [K, N]."""
        return self.value.args[1]


def products(graph: Graph) -> dict[str, Value]:
    """Every `linear`, of integers too, by its name, in the order in which they compute: its place in the
    model, with a number where one place holds several. Quantizing changes no name."""
    seen: dict[str, int] = {}
    found: dict[str, Value] = {}
    for node in graph.nodes():
        if node.op in (linear, integer_linear):
            place = node.loc or "linear"
            seen[place] = seen.get(place, 0) + 1
            found[place if seen[place] == 1 else f"{place}#{seen[place]}"] = node
    return found


def layers_of(graph: Graph) -> tuple[Layer, ...]:
    """The products of f32 with constant matrices."""
    last = set(_behind(tuple(value for _, value in graph.outputs))) - _needed(graph)
    return tuple(
        Layer(name, node, LAST if node in last else FIRST if _is_input(node.args[0]) else "")
        for name, node in products(graph).items()
        if weight_of(node.args[1]) is not None and node.dtype is DType.F32
    )


def _needed(graph: Graph) -> set[Value]:
    """What products, norms and attention are computed from: keys that are handed out for a cache, too."""
    heavy = tuple(arg for node in graph.nodes() if node.op in _HEAVY for arg in node.args)
    return set(walk(heavy))


def _behind(values: tuple[Value, ...]) -> Iterator[Value]:
    """What `values` are computed from through movement and elementwise arithmetic alone, and where that
    ends. A norm ends it: it takes a scale that is off out again."""
    seen: set[Value] = set()
    stack = list(values)
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        yield value
        if value.op.traits & {Trait.POINTWISE, Trait.MOVEMENT} or value.op.name == "softmax":
            stack.extend(value.args)


def _is_input(value: Value) -> bool:
    """Whether `value` is an input of the graph, moved, padded or scaled."""
    ends = [v for v in _behind((value,)) if not v.args and weight_of(v) is None and v.op.name != "full"]
    inner = [v for v in _behind((value,)) if v.args and not v.op.traits & {Trait.POINTWISE, Trait.MOVEMENT}]
    return not inner and any(v.op.name == "input" for v in ends)
