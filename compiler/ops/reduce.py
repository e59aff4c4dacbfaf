"""Reductions, scans, and the position of extremes. Reduced axes stay with size 1."""

from __future__ import annotations

import numpy as np

from isthmus.ir.graph import Kind, Op, Trait, TypeMismatch
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ops import rules

REDUCTION = frozenset({Trait.REDUCTION})
AXES = {"axes": Kind.INTS}


def _sum_reference(x: Array, *, axes: tuple[int, ...]) -> Array:
    wide = np.float64 if x.dtype.kind not in "iub" else x.dtype
    return np.sum(x, axes, dtype=wide, keepdims=True)


def _mean_reference(x: Array, *, axes: tuple[int, ...]) -> Array:
    return np.mean(x, axes, dtype=np.float64, keepdims=True)


def _prod_reference(x: Array, *, axes: tuple[int, ...]) -> Array:
    return np.prod(x, axes, dtype=x.dtype, keepdims=True)


def _max_reference(x: Array, *, axes: tuple[int, ...]) -> Array:
    return np.max(x, axes, keepdims=True, initial=_lowest(x.dtype))


def _min_reference(x: Array, *, axes: tuple[int, ...]) -> Array:
    return np.min(x, axes, keepdims=True, initial=_highest(x.dtype))


def _lowest(dtype: np.dtype[np.generic]) -> object:
    return -np.inf if dtype.kind not in "iub" else (False if dtype.kind == "b" else np.iinfo(dtype).min)  # type: ignore[type-var]


def _highest(dtype: np.dtype[np.generic]) -> object:
    return np.inf if dtype.kind not in "iub" else (True if dtype.kind == "b" else np.iinfo(dtype).max)  # type: ignore[type-var]


reduce_sum = Op("reduce_sum", rules.reduction, _sum_reference, (1, 1), AXES, traits=REDUCTION)
reduce_mean = Op("reduce_mean", rules.reduction, _mean_reference, (1, 1), AXES, traits=REDUCTION)
reduce_max = Op("reduce_max", rules.reduction, _max_reference, (1, 1), AXES, traits=REDUCTION)
reduce_min = Op("reduce_min", rules.reduction, _min_reference, (1, 1), AXES, traits=REDUCTION)
reduce_prod = Op("reduce_prod", rules.reduction, _prod_reference, (1, 1), AXES, traits=REDUCTION)


def _cumsum_infer(x: TensorType, *, axis: int, exclusive: bool, reverse: bool) -> TensorType:
    rules.check_axis(axis, x.rank)
    if x.dtype is DType.BOOL:
        raise TypeMismatch("cumsum takes numbers")
    return x


def _cumsum_reference(x: Array, *, axis: int, exclusive: bool, reverse: bool) -> Array:
    x = np.flip(x, axis) if reverse else x
    total = np.cumsum(x, axis, dtype=x.dtype)
    total = total - x if exclusive else total
    return np.flip(total, axis) if reverse else total


cumsum = Op(
    "cumsum",
    _cumsum_infer,
    _cumsum_reference,
    (1, 1),
    {"axis": Kind.INT, "exclusive": Kind.BOOL, "reverse": Kind.BOOL},
    {"exclusive": False, "reverse": False},
)


def _arg_infer(x: TensorType, *, axis: int, last: bool) -> TensorType:
    return rules.reduction(x, axes=(axis,)).with_dtype(DType.I64)


def _argmax_reference(x: Array, *, axis: int, last: bool) -> Array:
    if not last:
        return np.argmax(x, axis, keepdims=True)
    return x.shape[axis] - 1 - np.argmax(np.flip(x, axis), axis, keepdims=True)


def _argmin_reference(x: Array, *, axis: int, last: bool) -> Array:
    if not last:
        return np.argmin(x, axis, keepdims=True)
    return x.shape[axis] - 1 - np.argmin(np.flip(x, axis), axis, keepdims=True)


_ARG = {"axis": Kind.INT, "last": Kind.BOOL}
argmax = Op("argmax", _arg_infer, _argmax_reference, (1, 1), _ARG, {"last": False})
argmin = Op("argmin", _arg_infer, _argmin_reference, (1, 1), _ARG, {"last": False})

ALL = (reduce_sum, reduce_mean, reduce_max, reduce_min, reduce_prod, cumsum, argmax, argmin)
