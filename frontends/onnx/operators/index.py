"""Picking elements by index."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.indices import Linear
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.ir.dims import Dim, Shape
from isthmus.ir.types import Array, DType
from isthmus.ops import movement


def gather(node: Node) -> Tensor:
    x, indices = node[0], node[1]
    axis = node.axis("axis", 0, x.rank)
    dim = x.shape[axis]
    linear = node.b.linear(indices)
    if linear is not None:
        if linear.is_uniform and isinstance(linear.offset, int) and linear.offset < 0:
            linear = Linear(dim + linear.offset, linear.strides)  # counted from the end
        found = _rows(node, x, axis, linear, indices.shape)
        if found is not None:
            return found
    known = node.b.known(indices)
    outside = isinstance(dim, int) and known is not None and _outside(known, dim)
    if outside:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: an index outside an axis of size {dim}")
    return node.b.op(movement.gather, x, indices, axis=axis)


def _outside(indices: Array, size: int) -> bool:
    if indices.dtype == object or not indices.size:
        return False
    return int(indices.min()) < -size or int(indices.max()) >= size


def _rows(node: Node, x: Tensor, axis: int, linear: Linear, shape: Shape) -> Tensor | None:
    """Indices in steps along at most one axis are a slice, which is cheaper and works on shapes."""
    moving = [i for i, s in enumerate(linear.strides) if s != 0]
    if len(moving) > 1 or any(not isinstance(s, int) for s in linear.strides):
        return None
    if not linear.is_within(shape, x.shape[axis], node.b.facts.bounds):
        return None
    count = shape[moving[0]] if moving else 1
    step = linear.strides[moving[0]] if moving else 1
    starts: list[Dim] = [0] * x.rank
    sizes, steps = list(x.shape), [1] * x.rank
    starts[axis], sizes[axis], steps[axis] = linear.offset, count, step if isinstance(step, int) else 1
    cut = node.b.slice(x, starts, sizes, steps)
    narrow = tuple(d if i in moving else 1 for i, d in enumerate(shape))
    placed = node.b.reshape(cut, (*x.shape[:axis], *narrow, *x.shape[axis + 1 :]))
    return node.b.broadcast(placed, (*x.shape[:axis], *shape, *x.shape[axis + 1 :]))


def _uniform(node: Node, x: Tensor, shape: Shape) -> Tensor | None:
    """Wherever one looks in a tensor of equal elements, there is that element."""
    linear = node.b.linear(x)
    if linear is None or not linear.is_uniform or not isinstance(linear.offset, int):
        return None
    return node.b.full(shape, linear.offset, x.dtype)


def gather_elements(node: Node) -> Tensor:
    x = node[0]
    if (same := _uniform(node, x, node[1].shape)) is not None:
        node.ignore("axis")
        return same
    return node.b.op(movement.gather_elements, x, node[1], axis=node.axis("axis", 0, x.rank))


def gather_nd(node: Node) -> Tensor:
    x, indices = node[0], node.b.cast(node[1], DType.I64)
    batch_dims = node.integer("batch_dims", 0)
    if batch_dims == 0:
        found = _grid(node, x, indices)
        if found is not None:
            return found
    return node.b.op(movement.gather_nd, x, indices, batch_dims=batch_dims)


def _grid(node: Node, x: Tensor, indices: Tensor) -> Tensor | None:
    """Indices that run along one axis each: slices put in place, with no lookup at all."""
    columns = _columns(node, indices)
    if columns is None or len(columns) > x.rank:
        return None
    shape = indices.shape[:-1]
    starts: list[Dim] = [0] * x.rank
    sizes = list(x.shape)
    places = []
    for axis, linear in enumerate(columns):
        moving = [i for i, s in enumerate(linear.strides) if s != 0]
        is_line = len(moving) <= 1 and all(s in (0, 1) for s in linear.strides)
        if not is_line or not linear.is_within(shape, x.shape[axis], node.b.facts.bounds):
            return None
        starts[axis], sizes[axis] = linear.offset, shape[moving[0]] if moving else 1
        places += moving
    if len(set(places)) < len(places):
        return None
    # Axes of x in the order of the result's axes, those with a single index dropped by the reshape.
    moved = sorted(
        (i for i, c in enumerate(columns) if not c.is_uniform), key=lambda i: places_of(columns[i])
    )
    still = [i for i, c in enumerate(columns) if c.is_uniform]
    cut = node.b.slice(x, starts, sizes)
    turned = node.b.transpose(cut, (*still, *moved, *range(len(columns), x.rank)))
    rest = x.shape[len(columns) :]
    narrow = tuple(d if i in places else 1 for i, d in enumerate(shape))
    return node.b.broadcast(node.b.reshape(turned, (*narrow, *rest)), (*shape, *rest))


def places_of(linear: Linear) -> int:
    """The axis along which a column of indices runs."""
    return next(i for i, s in enumerate(linear.strides) if s != 0)


def _columns(node: Node, indices: Tensor) -> list[Linear] | None:
    """What each component of the last axis is, as a linear function of the others."""
    value = indices.value
    parts = [indices]
    if value is not None and value.op is movement.concat and value.attr("axis") == indices.rank - 1:
        parts = [Tensor(a.t, None, a) for a in value.args]
    found = []
    for part in parts:
        linear = node.b.linear(part)
        if linear is None or part.shape[-1] != 1:
            return None
        found.append(Linear(linear.offset, linear.strides[:-1]))
    return found


OPERATORS: Mapping[str, Importer] = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
}
