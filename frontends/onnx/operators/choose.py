"""Choosing elements by their order, by a condition, or by a class."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.scatter import counted
from isthmus.ir.dims import Dim, product
from isthmus.ir.rewrite import splat
from isthmus.ir.types import DType
from isthmus.ops import lines, movement, pointwise


def top_k(node: Node) -> list[Tensor]:
    """The k first elements in order along an axis, and where they were."""
    x, b = node[0], node.b
    node.ignore("sorted")  # in order is one of the orders allowed
    axis = node.axis("axis", -1, x.rank)
    if node.opset < 10:
        count: Dim = node.integer("k", 1)
    else:
        count = node.dims(1, "how many are taken")[0]
    largest = bool(node.integer("largest", 1))
    b.must_reach(x.shape[axis] - count, 0)
    indices = b.op(lines.top_k, x, axis=axis, count=(b.facts.resolve(count),), descending=largest)
    return [b.op(movement.gather_elements, x, indices, axis=axis), indices]


def one_hot(node: Node) -> Tensor:
    b = node.b
    depth = node.dims(1, "its depth")[0]
    values = node[2]
    off, on = (b.reshape(b.cut(values, 0, i, 1), ()) for i in (0, 1))
    axis = node.axis("axis", -1, node[0].rank + 1)
    # Not a number of a class: nothing is hot.
    indices = counted(node, node[0], depth)
    wide = b.reshape(indices, (*indices.shape[:axis], 1, *indices.shape[axis:]))
    line = b.iota(tuple(depth if i == axis else 1 for i in range(wide.rank)), axis)
    return b.op(pointwise.where, b.op(pointwise.equal, wide, line), on, off)


def compress(node: Node) -> Tensor:
    """Elements along an axis, or of all, where a condition holds that does not depend on data."""
    x, b = node[0], node.b
    chosen = np.flatnonzero(node.contents(1, "which elements are taken").reshape(-1).astype(bool))
    if not node.has("axis"):
        x, axis = b.reshape(x, (product(x.shape),)), 0
    else:
        axis = node.axis("axis", 0, x.rank)
    return b.op(movement.gather, x, b.array(chosen.astype(np.int64)), axis=axis)


def non_zero(node: Node) -> Tensor:
    """Where the elements are not zero: [rank, how many]."""
    x, b = node[0], node.b
    number = splat(b.value(x)) if b.known(x) is None else None
    if number:
        # Nowhere zero: every place there is, in row order, whatever the sizes.
        return _every_place(node, x)
    if b.known(x) is None and x.rank:
        zero = b.op(pointwise.equal, x, b.number(0, x.dtype))
        meant = b.reshape(b.op(pointwise.logical_not, zero), (product(x.shape),))
        return b.places(_every_place(node, x), meant)
    known = node.contents(0, "how many elements are not zero")
    if known.dtype == object:
        raise node.data_dependent(0, "how many elements are not zero")
    return node.b.array(np.stack(np.nonzero(known)).astype(np.int64))


def _every_place(node: Node, x: Tensor) -> Tensor:
    """The indices of all elements in row order: [rank, elements]."""
    b, count = node.b, product(x.shape)
    return b.concat([b.reshape(b.iota(x.shape, axis), (1, count)) for axis in range(x.rank)], 0)


def unique(node: Node) -> list[Tensor]:
    """The distinct elements, or parts along an axis, of what does not depend on data."""
    b = node.b
    known = node.contents(0, "how many elements are distinct")
    if known.dtype == object:
        raise node.data_dependent(0, "how many elements are distinct")
    axis = node.axis("axis", 0, known.ndim) if node.has("axis") else None
    values, first, inverse, counts = np.unique(known, True, True, True, axis=axis)
    if not node.integer("sorted", 1):
        order = np.argsort(first)
        values = np.take(values, order, 0 if axis is None else axis)
        first, counts, inverse = first[order], counts[order], np.argsort(order)[inverse]
    rest = (first, inverse.reshape(-1), counts)
    return [b.array(values), *(b.array(part.astype(np.int64)) for part in rest)]


def reverse_sequence(node: Node) -> Tensor:
    """The first elements of each batch item backwards, as many as its length says."""
    x, b = node[0], node.b
    time, batch = node.integer("time_axis", 0), node.integer("batch_axis", 1)
    if {time, batch} != {0, 1} or x.rank < 2:
        raise node.error(Code.INVALID_GRAPH, f"{node.operator}: time_axis {time}, batch_axis {batch}")
    lengths = b.reshape(
        b.cast(node[1], DType.I64), tuple(x.shape[i] if i == batch else 1 for i in range(x.rank))
    )
    place = b.iota(tuple(x.shape[i] if i == time else 1 for i in range(x.rank)), time)
    last = b.op(pointwise.sub, lengths, node.like(1, lengths))
    turned = b.op(pointwise.sub, last, place)
    source = b.op(pointwise.where, b.op(pointwise.less, place, lengths), turned, place)
    return b.op(movement.gather_elements, x, b.broadcast(source, x.shape), axis=time)


OPERATORS: Mapping[str, Importer] = {
    "Compress": compress,
    "NonZero": non_zero,
    "OneHot": one_hot,
    "ReverseSequence": reverse_sequence,
    "TopK": top_k,
    "Unique": unique,
}
