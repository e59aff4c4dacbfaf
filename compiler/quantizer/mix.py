"""One model in several precisions at once: each product taken from the program that has it as wanted.

Programs are those after the phase `quantize`: they name their products alike and differ in nothing else that
their outputs depend on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from isthmus.errors import Code, ModelError, Problem
from isthmus.ir.graph import INPUT, Graph, Value, walk
from isthmus.ops.pointwise import cast
from isthmus.passes.quantize.layers import products


class Flow:
    """The values of one program, where some products were replaced by others."""

    def __init__(self, graph: Graph, inputs: Mapping[str, Value]) -> None:
        self.products = products(graph)
        self.outputs = graph.outputs
        self._inputs = inputs
        self._made: dict[Value, Value] = {}

    def value(self, original: Value) -> Value:
        """What became of a value of the program."""
        for node in walk((original,), frozenset(self._made)):
            if node.op is INPUT:
                self._made[node] = self._inputs[node.attr("name")]
                continue
            args = tuple(self._made[a] for a in node.args)
            same = all(a is b for a, b in zip(args, node.args, strict=True))
            self._made[node] = node if same else replace(node, args=args)
        return self._made[original]

    def put(self, name: str, value: Value) -> None:
        """`value` in the place of the product called `name`, which this program may have rounded."""
        product = self.products[name]
        same = value.dtype is product.dtype
        self._made[product] = value if same else cast(value, dtype=product.dtype, loc=product.loc)


def flows(graphs: Sequence[Graph]) -> tuple[Flow, ...]:
    """A flow for each of `graphs`, over the first one's inputs. Raises ModelError for two models."""
    first = graphs[0]
    inputs = {value.attr("name"): value for value in first.inputs}
    for graph in graphs[1:]:
        others = {value.attr("name"): value.type for value in graph.inputs}
        if others != {name: value.type for name, value in inputs.items()}:
            text = "the two programs do not take the same inputs"
            raise ModelError(Problem(Code.BAD_OPTION, text, "--against"))
        if products(graph).keys() != products(first).keys():
            text = "the two programs do not have the same products with constant matrices"
            raise ModelError(Problem(Code.BAD_OPTION, text, "--against", "is it the same model?"))
    return tuple(Flow(graph, inputs) for graph in graphs)


def mixed(graphs: Sequence[Graph], choice: Mapping[str, int]) -> tuple[Graph, dict[str, Value]]:
    """The model with each product as `graphs[choice[name]]` has it, else the first; and those products."""
    made = flows(graphs)
    found: dict[str, Value] = {}
    for name in made[0].products:
        flow = made[choice.get(name, 0)]
        found[name] = flow.value(flow.products[name])
        for each in made:
            each.put(name, found[name])
    outputs = tuple((name, made[0].value(value)) for name, value in made[0].outputs)
    return replace(graphs[0], outputs=outputs), found


def alone(exact: Graph, low: Graph) -> dict[str, Value]:
    """Each product as it is in `low`, of the rows it has in `exact`."""
    first, second = flows((exact, low))
    found: dict[str, Value] = {}
    for name, original in first.products.items():
        found[name] = second.value(second.products[name])
        second.put(name, original)
    return found
