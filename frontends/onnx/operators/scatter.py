"""Writing elements to computed places, said as reading: each place looks for the update that names it.

Along an axis of n places and m updates that is n * m comparisons, in one loop nest without intermediate
results. Where several updates name a place and there is no reduction, the last one wins.
"""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.ir.dims import Dim, product
from isthmus.ir.graph import Op
from isthmus.ir.types import DType
from isthmus.ops import movement, pointwise, reduce

# Reduction: how updates are folded, how the result joins the old element, and what folds to nothing.
FOLDS: Mapping[str, tuple[Op, Op]] = {
    "add": (reduce.reduce_sum, pointwise.add),
    "mul": (reduce.reduce_prod, pointwise.mul),
    "max": (reduce.reduce_max, pointwise.maximum),
    "min": (reduce.reduce_min, pointwise.minimum),
}


def counted(node: Node, indices: Tensor, size: Dim) -> Tensor:
    """Indices as i64 counted from the front."""
    wide = node.b.cast(indices, DType.I64)
    behind = node.b.op(pointwise.add, wide, node.b.dim(size))
    negative = node.b.op(pointwise.less, wide, node.like(0, wide))
    return node.b.op(pointwise.where, negative, behind, wide)


def _reduction(node: Node) -> str:
    kind = node.text("reduction", "none")
    if kind != "none" and kind not in FOLDS:
        raise node.unsupported(f"reduction={kind!r}; known: none, {', '.join(FOLDS)}")
    return kind


def _neutral(kind: str, dtype: DType) -> float:
    if kind in ("add", "mul"):
        return 0 if kind == "add" else 1
    if dtype.is_float:
        return float("-inf") if kind == "max" else float("inf")
    low = -(2 ** (dtype.bits - 1)) if str(dtype).startswith("i") else 0
    return low if kind == "max" else low + 2**dtype.bits - 1


def _last(node: Node, hits: Tensor, axis: int, count: Dim) -> Tensor:
    """The last place along `axis` where `hits` holds, -1 where it holds nowhere; the axis is gone."""
    b = node.b
    places = b.iota(tuple(count if i == axis else 1 for i in range(hits.rank)), axis)
    marked = b.op(pointwise.where, hits, places, node.like(-1, DType.I64))
    found = b.op(reduce.reduce_max, marked, axes=(axis,))
    return b.reshape(found, (*found.shape[:axis], *found.shape[axis + 1 :]))


def scatter_elements(node: Node) -> Tensor:
    x = node[0]
    return scattered(node, x, node[1], node[2], node.axis("axis", 0, x.rank), _reduction(node))


def scattered(node: Node, x: Tensor, indices: Tensor, updates: Tensor, axis: int, kind: str) -> Tensor:
    """`x` with `updates` at `indices` along an axis; `kind` is none or a name of `FOLDS`."""
    b = node.b
    places, count = x.shape[axis], updates.shape[axis]
    indices = counted(node, indices, places)
    # Axes other than the one looked along may be shorter than those of x: nothing is written there.
    after = tuple(
        0 if i == axis else d - n for i, (d, n) in enumerate(zip(x.shape, updates.shape, strict=True))
    )
    if any(n != 0 for n in after):
        before = (0,) * x.rank
        indices = b.op(movement.pad, indices, before=before, after=after, value=-1.0)
        updates = b.op(movement.pad, updates, before=before, after=after, value=0.0)
    wanted = b.reshape(indices, (*indices.shape[: axis + 1], 1, *indices.shape[axis + 1 :]))
    lines = b.iota(tuple(places if i == axis + 1 else 1 for i in range(x.rank + 1)), axis + 1)
    hits = b.op(pointwise.equal, wanted, lines)
    if kind == "none":
        last = _last(node, hits, axis, count)
        none = b.op(pointwise.less, last, node.like(0, last))
        safe = b.op(pointwise.maximum, last, node.like(0, last))
        found = b.op(movement.gather_elements, updates, safe, axis=axis)
        return b.op(pointwise.where, none, x, found)
    wide = b.reshape(updates, wanted.shape)
    return _folded(node, kind, x, hits, wide, axis)


def _folded(node: Node, kind: str, x: Tensor, hits: Tensor, updates: Tensor, axis: int) -> Tensor:
    """x joined with all updates that hit a place, along `axis` of hits."""
    b = node.b
    fold, join = FOLDS[kind]
    chosen = b.op(pointwise.where, hits, updates, node.like(_neutral(kind, x.dtype), x))
    return b.op(join, x, b.reshape(b.op(fold, chosen, axes=(axis,)), x.shape))


def scatter_nd(node: Node) -> Tensor:
    x, indices, updates = node[0], node[1], node[2]
    b, kind = node.b, _reduction(node)
    depth = indices.shape[-1] if indices.rank else 0
    if not isinstance(depth, int) or not 1 <= depth <= x.rank:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator} of {x.type} at {indices.type}")
    rows, width = product(x.shape[:depth]), product(x.shape[depth:])
    count = product(indices.shape[:-1])
    line: Tensor | None = None
    for axis in range(depth):
        column = b.reshape(b.cut(indices, indices.rank - 1, axis, 1), (count,))
        column = counted(node, column, x.shape[axis])
        if line is not None:
            column = b.op(pointwise.add, b.op(pointwise.mul, line, b.dim(x.shape[axis])), column)
        line = column
    assert line is not None
    target, source = b.reshape(x, (rows, width)), b.reshape(updates, (count, width))
    hits = b.op(pointwise.equal, b.reshape(line, (count, 1)), b.iota((1, rows), 1))
    if kind != "none":
        flat = b.reshape(hits, (count, rows, 1))
        return b.reshape(_folded(node, kind, target, flat, b.reshape(source, (count, 1, width)), 0), x.shape)
    last = _last(node, hits, 0, count)
    none = b.reshape(b.op(pointwise.less, last, node.like(0, last)), (rows, 1))
    safe = b.op(pointwise.maximum, last, node.like(0, last))
    found = b.op(movement.gather, source, safe, axis=0)
    return b.reshape(b.op(pointwise.where, none, target, found), x.shape)


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
