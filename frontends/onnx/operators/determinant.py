"""Det: Gaussian elimination with row exchanges, unrolled."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.ops import movement, pointwise, reduce

# One step for each row.
LARGEST = 64


def det(node: Node) -> Tensor:
    x = node[0]
    size = x.shape[-1] if x.rank >= 2 else None
    if not isinstance(size, int) or x.shape[-2] != size or not 1 <= size <= LARGEST:
        text = f"{node.operator} of {x.type}; matrices have at most {LARGEST} rows, a number that is known"
        raise node.error(Code.SHAPE_MISMATCH, text)
    total: Tensor | None = None
    while True:
        factor, rest = _eliminated(node, x)
        total = factor if total is None else node.b.op(pointwise.mul, total, factor)
        if rest is None:
            return node.b.reshape(total, x.shape[:-2])
        x = rest


def _eliminated(node: Node, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """det x = factor * det rest, where rest is one smaller."""
    b, rows, columns, size = node.b, x.rank - 2, x.rank - 1, int(x.type.shape[-1])  # type: ignore[arg-type]
    column = b.cut(x, columns, 0, 1)
    if size == 1:
        return column, None
    # The row with the largest first element changes places with the first row.
    chosen = b.op(reduce.argmax, b.op(pointwise.absolute, column), axis=rows)
    every = b.broadcast(chosen, (*x.shape[:-2], 1, size))
    pivot_row = b.op(movement.gather_elements, x, every, axis=rows)
    first = b.cut(x, rows, 0, 1)
    place = b.iota(tuple(size if i == rows else 1 for i in range(x.rank)), rows)
    x = b.op(pointwise.where, b.op(pointwise.equal, place, chosen), first, x)
    still = b.op(pointwise.equal, chosen, node.like(0, chosen))
    pivot = b.cut(pivot_row, columns, 0, 1)
    factor = b.op(pointwise.where, still, pivot, b.op(pointwise.neg, pivot))
    rest = b.cut(x, rows, 1, size - 1)
    # A column of zeros makes the determinant 0, whatever comes after.
    zero = b.op(pointwise.equal, pivot, node.like(0, pivot))
    divisor = b.op(pointwise.where, zero, node.like(1, pivot), pivot)
    share = b.op(pointwise.div, b.cut(rest, columns, 0, 1), divisor)
    taken = b.op(pointwise.mul, share, b.cut(pivot_row, columns, 1, size - 1))
    return factor, b.op(pointwise.sub, b.cut(rest, columns, 1, size - 1), taken)


OPERATORS: Mapping[str, Importer] = {"Det": det}
