"""Writing elements to places that other elements name. The last of several updates of a place stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.ir.dims import Dim, product
from isthmus.ir.types import DType
from isthmus.ops import lines, movement, pointwise
from isthmus.ops.counting import writes_everything


def counted(node: Node, indices: Tensor, size: Dim) -> Tensor:
    """Indices as i64 counted from the front."""
    wide = node.b.cast(indices, DType.I64)
    behind = node.b.op(pointwise.add, wide, node.b.dim(size))
    negative = node.b.op(pointwise.less, wide, node.like(0, wide))
    return node.b.op(pointwise.where, negative, behind, wide)


def _join(node: Node) -> str:
    join = node.text("reduction", "none")
    if join not in lines.JOINS:
        raise node.unsupported(f"reduction={join!r}; known: {', '.join(lines.JOINS)}")
    return join


def scatter_elements(node: Node) -> Tensor:
    """Axes other than the one written along may be longer in x: what is beyond the updates stays."""
    x, updates = node[0], node[2]
    axis = node.axis("axis", 0, x.rank)
    reached = [x.shape[i] if i == axis else d for i, d in enumerate(updates.shape)]
    part = node.b.slice(x, (0,) * x.rank, reached)
    written = scattered(node, part, node[1], updates, axis, _join(node))
    return _with_rest(node, written, x)


def _with_rest(node: Node, part: Tensor, x: Tensor) -> Tensor:
    """`x` with its first elements along every axis replaced by `part`."""
    for axis in reversed(range(x.rank)):
        rest = node.b.facts.resolve(x.shape[axis] - part.shape[axis])
        if rest != 0:
            starts = tuple(part.shape[axis] if i == axis else 0 for i in range(x.rank))
            sizes = tuple(rest if i == axis else d for i, d in enumerate(part.shape))
            part = node.b.concat([part, node.b.slice(x, starts, sizes)], axis)
    return part


def scattered(node: Node, x: Tensor, indices: Tensor, updates: Tensor, axis: int, join: str) -> Tensor:
    """`x` with `updates` at `indices` along an axis; indices may be one for many updates."""
    if join == "none" or x.dtype not in (DType.F16, DType.BF16):
        return node.b.op(lines.scatter, x, indices, updates, axis=axis, join=join)
    # What many updates come to is rounded once.
    wide = (node.b.cast(t, DType.F32) for t in (x, updates))
    target, source = wide
    result = node.b.op(lines.scatter, target, indices, source, axis=axis, join=join)
    return node.b.cast(result, x.dtype)


def scatter_nd(node: Node) -> Tensor:
    x, indices, updates = node[0], node[1], node[2]
    depth = indices.shape[-1] if indices.rank else 0
    if not isinstance(depth, int) or not 1 <= depth <= x.rank:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator} of {x.type} at {indices.type}")
    join = _join(node)
    if join == "none" and indices.value is not None and writes_everything(indices.value, x.shape):
        return node.b.reshape(updates, x.shape)  # x[...] = updates, as exporters write it
    line = _row_numbers(node, indices, x.shape[:depth])
    return scattered_rows(node, x, line, updates, depth, join)


def scattered_rows(
    node: Node, x: Tensor, line: Tensor, updates: Tensor, depth: int = 1, join: str = "none"
) -> Tensor:
    """`x`, a table whose first `depth` axes count its rows, with `updates` at the rows `line`."""
    b = node.b
    rows, width = product(x.shape[:depth]), product(x.shape[depth:])
    (count,) = line.shape
    target, source = b.reshape(x, (rows, width)), b.reshape(updates, (count, width))
    return b.reshape(scattered(node, target, b.reshape(line, (count, 1)), source, 0, join), x.shape)


def _row_numbers(node: Node, indices: Tensor, sizes: Sequence[Dim]) -> Tensor:
    """Indices into axes of these sizes, in the last axis, as i64 numbers of rows: [count]."""
    b = node.b
    count = product(indices.shape[:-1])
    line: Tensor | None = None
    for axis, size in enumerate(sizes):
        column = b.reshape(b.cut(indices, indices.rank - 1, axis, 1), (count,))
        column = counted(node, column, size)
        if line is not None:
            column = b.op(pointwise.add, b.op(pointwise.mul, line, b.dim(size)), column)
        line = column
    assert line is not None
    return line


def tensor_scatter(node: Node) -> Tensor:
    """Update a cache in place: rows from `write_indices` of each batch item on, wrapping if circular."""
    x, update, b = node[0], node[1], node.b
    mode = node.text("mode", "linear")
    if mode not in ("linear", "circular"):
        raise node.unsupported(f"mode={mode!r}; known: linear, circular")
    axis = node.axis("axis", -2, x.rank)
    length, count = x.shape[axis], update.shape[axis]
    place = b.iota(tuple(length if i == axis else 1 for i in range(x.rank)), axis)
    start = node.get(2)
    if start is not None:
        first = b.reshape(b.cast(start, DType.I64), (x.shape[0], *(1,) * (x.rank - 1)))
        place = b.op(pointwise.sub, place, first)
    if mode == "circular":
        place = b.op(pointwise.mod, place, b.dim(length))
    inside = b.op(
        pointwise.logical_and,
        b.op(pointwise.greater_equal, place, node.like(0, place)),
        b.op(pointwise.less, place, b.dim(count)),
    )
    safe = b.op(pointwise.where, inside, place, node.like(0, place))
    shape = tuple(length if i == axis else d for i, d in enumerate(x.shape))
    found = b.op(movement.gather_elements, update, b.broadcast(safe, shape), axis=axis)
    return b.op(pointwise.where, inside, found, x)


def max_unpool(node: Node) -> Tensor:
    """Each element back to where MaxPool found it (an index into the whole output), zeros elsewhere."""
    x, indices, b = node[0], node[1], node.b
    rank = x.rank - 2
    kernel = node.integers("kernel_shape") or (1,) * rank
    strides = node.integers("strides") or (1,) * rank
    pads = node.integers("pads") or (0,) * (2 * rank)
    if not len(kernel) == len(strides) == rank or len(pads) != 2 * rank:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator} of {x.type} with kernel {list(kernel)}")
    own = [
        (d - 1) * s + k - pads[i] - pads[rank + i]
        for i, (d, s, k) in enumerate(zip(x.shape[2:], strides, kernel, strict=True))
    ]
    shape = (*x.shape[:2], *own)
    target = node.dims(2, "the shape") if node.get(2) is not None else shape
    # Indices count in the shape that the pooling had; a larger one is filled with zeros behind.
    line = b.full((product(shape),), 0, x.dtype)
    flat = (product(x.shape),)
    put = scattered(node, line, b.reshape(indices, flat), b.reshape(x, flat), 0, "none")
    after = tuple(t - d for t, d in zip(target, shape, strict=True))
    image = b.reshape(put, shape)
    if not any(n != 0 for n in after):
        return image
    return b.op(movement.pad, image, before=(0,) * x.rank, after=after, value=0.0)


OPERATORS: Mapping[str, Importer] = {
    "MaxUnpool": max_unpool,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "TensorScatter": tensor_scatter,
}
