"""Control flow that is decided at import."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node


def if_(node: Node) -> list[Tensor]:
    """The branch that is taken; the condition must not depend on data."""
    branches = node.graph("else_branch"), node.graph("then_branch")
    condition = node.known_scalar(node[0])
    if condition is None:
        text = f"{node.operator}: which branch is taken depends on data ({node.input_names[0]!r})"
        hint = "export the two cases as two models, or fix the dims the condition depends on"
        raise node.error(Code.DATA_DEPENDENT_SHAPE, text, hint)
    return node.subgraph(branches[bool(condition)], [])


OPERATORS: Mapping[str, Importer] = {"If": if_}
