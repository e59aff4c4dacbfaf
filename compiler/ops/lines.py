"""Ops along one axis that are neither reductions nor movement: the first in order, and writing by index."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isthmus.ir.dims import Shape
from isthmus.ir.graph import Kind, Op, TypeMismatch
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ops import rules
from isthmus.ops.reduce import wide_type


def _top_k_infer(x: TensorType, *, axis: int, count: Shape, descending: bool) -> TensorType:
    rules.check_axis(axis, x.rank)
    rules.computing(x)
    if x.dtype is DType.BOOL or len(count) != 1:
        raise TypeMismatch(f"top_k takes numbers and one count, got {x} and {list(count)}")
    size, taken = x.shape[axis], count[0]
    rules.check_shape(count)
    if isinstance(size, int) and isinstance(taken, int) and taken > size:
        raise TypeMismatch(f"the first {taken} of {size} elements")
    return x.with_shape((*x.shape[:axis], taken, *x.shape[axis + 1 :])).with_dtype(DType.I64)


def _top_k_reference(x: Array, *, axis: int, count: tuple[int, ...], descending: bool) -> Array:
    wide = x.astype(wide_type(x.dtype))
    if descending:
        # Backwards twice, so that of equal elements the first stays first.
        turned = np.argsort(np.flip(wide, axis), axis, kind="stable")
        order = np.flip(x.shape[axis] - 1 - turned, axis)
    else:
        order = np.argsort(wide, axis, kind="stable")
    return np.asarray(np.take(order, np.arange(count[0]), axis))


top_k = Op(
    "top_k",
    _top_k_infer,
    _top_k_reference,
    (1, 1),
    {"axis": Kind.INT, "count": Kind.DIMS, "descending": Kind.BOOL},
    doc=(
        "Element i is where the i-th in order stands along the axis, for the first `count` of them; equals "
        "stay in order, NaN is largest."
    ),
)

# How an update joins what is there already; none: it takes its place.
JOINS: Mapping[str, np.ufunc | None] = {
    "none": None,
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}


def _scatter_infer(
    x: TensorType, indices: TensorType, updates: TensorType, *, axis: int, join: str
) -> TensorType:
    rules.check_axis(axis, x.rank)
    if join not in JOINS:
        raise TypeMismatch(f"no join {join!r}; known: {', '.join(JOINS)}")
    if not indices.dtype.is_integer or (x.dtype is DType.BOOL and join != "none"):
        raise TypeMismatch(f"scatter of {updates} at {indices} with {join!r}")
    rules.same_dtype(x, updates)
    if join != "none":
        rules.computing(x)
    expected = (*x.shape[:axis], *updates.shape[axis : axis + 1], *x.shape[axis + 1 :])
    if updates.shape != expected or rules.broadcast_shapes(indices.shape, expected) != expected:
        raise TypeMismatch(f"scatter of {updates} at {indices} into {x} along axis {axis}")
    return x.with_shape(x.shape)


def _scatter_reference(x: Array, indices: Array, updates: Array, *, axis: int, join: str) -> Array:
    result = x.astype(wide_type(x.dtype)) if join != "none" else x.copy()
    chosen = np.broadcast_to(indices.astype(np.int64), updates.shape)
    if ((chosen < -x.shape[axis]) | (chosen >= x.shape[axis])).any():
        raise IndexError("an index of scatter is out of range")
    grid: tuple[Array, ...] = np.indices(updates.shape, sparse=True)
    where = tuple(chosen if i == axis else own for i, own in enumerate(grid))
    ufunc = JOINS[join]
    if ufunc is None:
        result[where] = updates  # assigned in order, so that the last update of a place stays
    else:
        ufunc.at(result, where, updates.astype(result.dtype))
    return result


scatter = Op(
    "scatter",
    _scatter_infer,
    _scatter_reference,
    (3, 3),
    {"axis": Kind.INT, "join": Kind.TEXT},
    doc=(
        "x with element [.., i, ..] of the updates joined to element [.., index, ..], in order; the indices "
        "broadcast to the updates, negative ones count from the end, out of range is an error."
    ),
)

ALL = (top_k, scatter)
