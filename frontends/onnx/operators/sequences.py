"""Sequences of tensors, all of whose tensors are known at import: nothing of them is left at run time."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor, sequence
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.ir.dims import Dim


def construct(node: Node) -> Tensor:
    return sequence(node.every())


def empty(node: Node) -> Tensor:
    node.ignore("dtype")
    return sequence(())


def _position(node: Node, index: int, count: int) -> int:
    """A place in a sequence, counted from the front. Raises `ModelError`."""
    place = node.ints(index, "a place in the sequence")[0]
    if not -count <= place < count:
        raise node.error(Code.INVALID_GRAPH, f"{node.operator}: place {place} of {count}")
    return place % count


def at(node: Node) -> Tensor:
    items = node.items(0)
    return items[_position(node, 1, len(items))]


def length(node: Node) -> Tensor:
    return node.b.dim(len(node.items(0)))


def insert(node: Node) -> Tensor:
    items = list(node.items(0))
    # One place more than there are: behind the last.
    place = len(items) if node.get(2) is None else node.ints(2, "a place in the sequence")[0]
    if not -len(items) <= place <= len(items):
        raise node.error(Code.INVALID_GRAPH, f"{node.operator}: place {place} of {len(items)}")
    items.insert(place, node[1])
    return sequence(items)


def erase(node: Node) -> Tensor:
    items = list(node.items(0))
    del items[len(items) - 1 if node.get(1) is None else _position(node, 1, len(items))]
    return sequence(items)


def concat(node: Node) -> Tensor:
    """All tensors along one axis, or along a new one."""
    items = node.items(0)
    if not items:
        raise node.error(Code.INVALID_GRAPH, f"{node.operator}: the sequence is empty")
    rank, is_new = items[0].rank, bool(node.integer("new_axis", 0))
    axis = node.normal(node.integer("axis", 0), rank + is_new)
    if is_new:
        items = tuple(node.b.reshape(t, (*t.shape[:axis], 1, *t.shape[axis:])) for t in items)
    return node.b.concat(items, axis)


def split(node: Node) -> Tensor:
    """Parts of given sizes along an axis; by default of one element each, and then without the axis."""
    x, b = node[0], node.b
    axis = node.axis("axis", 0, x.rank)
    keep = bool(node.integer("keepdims", 1))
    total = x.shape[axis]
    given = node.get(1)
    if given is not None and given.rank == 1:
        sizes: tuple[Dim, ...] = node.dims(1, "the sizes of the parts")
    else:
        each = 1 if given is None else node.ints(1, "the size of a part")[0]
        if not isinstance(total, int) or each < 1:
            text = f"{node.operator}: how many parts of {each} there are in {total}"
            raise node.error(Code.DATA_DEPENDENT_SHAPE, text, "fix the dim with --dim NAME=SIZE")
        sizes = tuple(min(each, total - start) for start in range(0, total, each))
    parts = []
    start: Dim = 0
    for size in sizes:
        part = b.cut(x, axis, start, size)
        if given is None and not keep:
            part = b.reshape(part, (*x.shape[:axis], *x.shape[axis + 1 :]))
        parts.append(part)
        start = start + size
    b.must_equal(start, total, f"{node.operator}: the sizes of the parts")
    return sequence(parts)


OPERATORS: Mapping[str, Importer] = {
    "ConcatFromSequence": concat,
    "SequenceAt": at,
    "SequenceConstruct": construct,
    "SequenceEmpty": empty,
    "SequenceErase": erase,
    "SequenceInsert": insert,
    "SequenceLength": length,
    "SplitToSequence": split,
}
