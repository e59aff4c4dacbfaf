"""Picking elements by index."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.ir.types import DType
from isthmus.ops import movement


def gather(node: Node) -> Tensor:
    x, indices = node[0], node[1]
    axis = node.axis("axis", 0, x.rank)
    picked = node.known_scalar(indices)
    if picked is not None:
        # One element is a slice: cheaper, and it works on shapes.
        index = int(picked)
        dim = x.shape[axis]
        if isinstance(dim, int) and not -dim <= index < dim:
            raise IndexError(f"index {index} on an axis of size {dim}")
        one = node.b.cut(x, axis, index if index >= 0 else dim + index, 1)
        return node.b.reshape(one, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))
    return node.b.op(movement.gather, x, indices, axis=axis)


def gather_elements(node: Node) -> Tensor:
    x = node[0]
    return node.b.op(movement.gather_elements, x, node[1], axis=node.axis("axis", 0, x.rank))


def gather_nd(node: Node) -> Tensor:
    indices = node.b.cast(node[1], DType.I64)
    return node.b.op(movement.gather_nd, node[0], indices, batch_dims=node.integer("batch_dims", 0))


OPERATORS: Mapping[str, Importer] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
}
