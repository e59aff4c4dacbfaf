"""How much a model may ask of us before we know anything about it.

A file is not believed: a few bytes of it can ask for any amount of memory and time. What is beyond these
limits is refused at once (E1107). No Transformer comes near them: of the models we know, the largest has
6,000 nodes in its file and becomes 2,300 values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx

from isthmus.errors import Code, ModelError, Problem
from isthmus.ir.dims import DimTooLarge
from isthmus.ir.types import MAX_RANK, TensorType

# Nodes in the file, those in functions and inside other nodes included.
MOST_NODES = 100_000
# Inputs and outputs.
MOST_PORTS = 10_000
# Nodes imported: one in a loop or in a function counts each time, and so does one that is imported again
# because something was learnt about sizes.
MOST_STEPS = 200_000
# Values in the program.
MOST_VALUES = 40_000
# Numbers computed while importing; an expression over sizes counts as EXPRESSION of them.
MOST_NUMBERS = 1 << 26
EXPRESSION = 32
# Bytes of one value: more than any machine maps.
LARGEST_TENSOR = 1 << 42

_HINT = (
    "simplify the model (constants folded, loops and functions of reasonable size), or compile it in parts"
)


class Exhausted(Exception):
    """A limit was reached: there is no point in going on to the next node."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)

    def refusal(self, where: str) -> ModelError:
        return ModelError(Problem(Code.TOO_LARGE, self.text, where, _HINT))


@dataclass(slots=True)
class Budget:
    """What importing a model has used up so far. Raises `Exhausted`."""

    steps: int = 0
    values: int = 0
    numbers: int = 0

    def restart(self) -> None:
        """The import begins again, with what it has learnt."""
        self.values = self.numbers = 0

    def step(self) -> None:
        self.steps += 1
        if self.steps > MOST_STEPS:
            text = f"after inlining functions and unrolling loops the model has more than {MOST_STEPS} nodes"
            raise Exhausted(text)

    def value(self) -> None:
        self.values += 1
        if self.values > MOST_VALUES:
            raise Exhausted(f"the model becomes more than {MOST_VALUES} values")

    def compute(self, size: int, symbolic: bool) -> None:
        self.numbers += size * (EXPRESSION if symbolic else 1)
        if self.numbers > MOST_NUMBERS:
            raise Exhausted(f"importing the model means computing more than {MOST_NUMBERS} constants")


def check_count(model: onnx.ModelProto, path: str) -> None:
    """Raises `ModelError` for a model with too many nodes, or inputs and outputs."""
    ports = len(model.graph.input) + len(model.graph.output)
    # Weights used to be inputs as well.
    ports -= min(len(model.graph.input), len(model.graph.initializer))
    if ports > MOST_PORTS:
        text = f"the model has {ports} inputs and outputs; at most {MOST_PORTS} are taken"
        raise ModelError(Problem(Code.TOO_LARGE, text, path))
    count = 0
    for found in _node_counts(model):
        count += found
        if count > MOST_NODES:
            text = f"the model has {count} nodes or more; at most {MOST_NODES} are taken"
            raise ModelError(Problem(Code.TOO_LARGE, text, path, _HINT))


def _node_counts(model: onnx.ModelProto) -> Iterator[int]:
    graphs: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    # The long lists first: looking into nodes takes time as well.
    yield from (len(graph.node) for graph in graphs)
    while graphs:
        for node in graphs.pop().node:
            for attribute in node.attribute:
                inner = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
                yield from (len(graph.node) for graph in inner)
                graphs += inner


def check_type(type_: TensorType, where: str) -> None:
    """Raises `ModelError` for a tensor that has too many dims, or that no machine could hold."""
    if type_.rank > MAX_RANK:
        text = f"a tensor of {type_.rank} dims; at most {MAX_RANK} are taken"
        raise ModelError(Problem(Code.TOO_LARGE, text, where))
    try:
        size = type_.nbytes
    except DimTooLarge as error:
        raise ModelError(Problem(Code.TOO_LARGE, f"a tensor of type {type_}: {error}", where)) from None
    if isinstance(size, int) and size > LARGEST_TENSOR:
        text = f"a tensor of type {type_} has {size} bytes; at most {LARGEST_TENSOR} are taken"
        raise ModelError(Problem(Code.TOO_LARGE, text, where))
