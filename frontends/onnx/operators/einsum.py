"""Einsum, as transposes, sums and matrix products."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.ir.dims import Dim, product
from isthmus.ops import nn, pointwise, reduce

# Axes that "..." stands for are named by digits, which an equation cannot contain.
ELLIPSIS = "0123456789"


def einsum(node: Node) -> Tensor:
    equation = node.text("equation", "")
    terms, result = _parsed(node, equation)
    if len(terms) != len(node.inputs):
        raise node.error(Code.INVALID_GRAPH, f"{node.operator}: {equation!r} for {len(node.inputs)} inputs")
    diagonals = [_diagonal(node, *each) for each in zip(terms, node.every(), strict=True)]
    terms, tensors = [labels for labels, _ in diagonals], [tensor for _, tensor in diagonals]
    labels, current = terms[0], tensors[0]
    for i, (other_labels, other) in enumerate(zip(terms[1:], tensors[1:], strict=True), 1):
        later = set(result).union(*terms[i + 1 :])
        labels, current = _joined(node, (labels, current), (other_labels, other), later)
    labels, current = _summed(node, labels, current, set(result))
    if sorted(labels) != sorted(result):
        raise node.error(Code.INVALID_GRAPH, f"{node.operator}: {equation!r} makes an axis from nothing")
    return node.b.transpose(current, [labels.index(x) for x in result])


def _parsed(node: Node, equation: str) -> tuple[list[str], str]:
    """Labels of every input and of the result, one character for each axis."""
    text = equation.replace(" ", "")
    if not re.fullmatch(r"[A-Za-z.,]*(->[A-Za-z.]*)?", text):
        raise node.error(Code.INVALID_GRAPH, f"{node.operator}: cannot read the equation {equation[:80]!r}")
    left, arrow, right = text.partition("->")
    inputs = left.split(",")
    ranks = [
        t.rank - len(x.replace("...", "")) for x, t in zip(inputs, node.every(), strict=False) if "..." in x
    ]
    width = max(ranks, default=0)
    if width > len(ELLIPSIS) or min(ranks, default=0) < 0:
        raise node.error(Code.INVALID_GRAPH, f"{node.operator}: {equation!r} does not fit the inputs")
    terms = []
    for labels, tensor in zip(inputs, node.every(), strict=False):
        own = tensor.rank - len(labels.replace("...", ""))
        terms.append(labels.replace("...", ELLIPSIS[width - own : width] if own > 0 else ""))
    if arrow:
        result = right.replace("...", ELLIPSIS[:width])
    else:
        once = sorted({x for x in left if x.isalpha() and left.count(x) == 1})
        result = ELLIPSIS[:width] + "".join(once)
    for labels, tensor in zip(terms, node.every(), strict=False):
        if len(labels) != tensor.rank:
            raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: {equation!r} for {tensor.type}")
    return terms + inputs[len(terms) :], result


def _diagonal(node: Node, labels: str, x: Tensor) -> tuple[str, Tensor]:
    """`x` where axes of one label have one index."""
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first, second = labels.index(label), labels.rindex(label)
            if x.shape[first] != x.shape[second]:
                raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: axes {label!r} of {x.type} differ")
            lines = [
                node.b.iota(tuple(d if i == at else 1 for i, d in enumerate(x.shape)), at)
                for at in (first, second)
            ]
            chosen = node.b.op(pointwise.equal, *lines)
            only = node.b.op(pointwise.where, chosen, x, node.like(0, x))
            x = node.b.op(reduce.reduce_sum, only, axes=(second,))
            x = node.b.reshape(x, (*x.shape[:second], *x.shape[second + 1 :]))
            labels = labels[:second] + labels[second + 1 :]
    return labels, x


def _summed(node: Node, labels: str, x: Tensor, kept: set[str]) -> tuple[str, Tensor]:
    """`x` without the axes that nobody needs."""
    axes = tuple(i for i, label in enumerate(labels) if label not in kept)
    if not axes:
        return labels, x
    total = node.b.op(reduce.reduce_sum, x, axes=axes)
    rest = [i for i in range(x.rank) if i not in axes]
    return "".join(labels[i] for i in rest), node.b.reshape(total, [x.shape[i] for i in rest])


def _joined(
    node: Node, left: tuple[str, Tensor], right: tuple[str, Tensor], later: set[str]
) -> tuple[str, Tensor]:
    """The product of two tensors, summed over the labels that nobody needs later."""
    a_labels, a = _summed(node, *left, later | set(right[0]))
    b_labels, b = _summed(node, *right, later | set(a_labels))
    shared = [x for x in a_labels if x in b_labels]
    summed = [x for x in shared if x not in later]
    batch = [x for x in shared if x in later]
    rows = [x for x in a_labels if x not in shared]
    columns = [x for x in b_labels if x not in shared]
    if not summed:
        return _multiplied(node, (a_labels, a), (b_labels, b))
    size = dict(zip(b_labels, b.shape, strict=True)) | dict(zip(a_labels, a.shape, strict=True))
    size |= {x: d for x, d in zip(b_labels, b.shape, strict=True) if size[x] == 1}
    a_part = _arranged(node, a_labels, a, batch, rows, summed)
    b_part = _arranged(node, b_labels, b, batch, summed, columns)
    result = node.b.op(nn.matmul, a_part, b_part)
    order = [*batch, *rows, *columns]
    return "".join(order), node.b.reshape(result, [size[x] for x in order])


def _arranged(
    node: Node, labels: str, x: Tensor, batch: Sequence[str], rows: Sequence[str], columns: Sequence[str]
) -> Tensor:
    """`x` as a batch of matrices: every batch axis its own, rows and columns merged."""
    turned = node.b.transpose(x, [labels.index(y) for y in (*batch, *rows, *columns)])
    count = len(batch)
    first: tuple[Dim, ...] = turned.shape[:count]
    middle, last = turned.shape[count : count + len(rows)], turned.shape[count + len(rows) :]
    return node.b.reshape(turned, (*first, product(middle), product(last)))


def _multiplied(node: Node, left: tuple[str, Tensor], right: tuple[str, Tensor]) -> tuple[str, Tensor]:
    """The product element by element, axes of both side by side."""
    (a_labels, a), (b_labels, b) = left, right
    labels = a_labels + "".join(x for x in b_labels if x not in a_labels)
    wide_a = node.b.reshape(a, (*a.shape, *(1,) * (len(labels) - a.rank)))
    present = [x for x in labels if x in b_labels]
    turned = node.b.transpose(b, [b_labels.index(x) for x in present])
    dims = dict(zip(present, turned.shape, strict=True))
    wide_b = node.b.reshape(turned, [dims.get(x, 1) for x in labels])
    return labels, node.b.op(pointwise.mul, wide_a, wide_b)


OPERATORS: Mapping[str, Importer] = {"Einsum": einsum}
