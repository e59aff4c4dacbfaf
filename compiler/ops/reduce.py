"""Reductions, scans, and the position of extremes. Reduced axes stay with size 1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from isthmus.ir.graph import Kind, Op, Trait, TypeMismatch
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ops import rules

REDUCTION = frozenset({Trait.REDUCTION})
AXES = {"axes": Kind.INTS}


def _is_float(dtype: np.dtype[np.generic]) -> bool:
    # NumPy counts bf16 among the void types.
    return dtype.kind not in "iub"


def wide_type(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """What sums are accumulated in: f64, or the integer type itself, which wraps."""
    return np.dtype(np.float64) if _is_float(dtype) else dtype


def _sum_reference(x: Array, *, axes: tuple[int, ...]) -> Array:
    return np.asarray(np.sum(x, axes, dtype=wide_type(x.dtype), keepdims=True))


def _mean_reference(x: Array, *, axes: tuple[int, ...]) -> Array:
    count = math.prod(x.shape[axis] for axis in axes)
    return np.asarray(np.sum(x, axes, dtype=np.float64, keepdims=True) / count)


def _prod_reference(x: Array, *, axes: tuple[int, ...]) -> Array:
    return np.asarray(np.prod(x, axes, dtype=wide_type(x.dtype), keepdims=True))


def _max_reference(x: Array, *, axes: tuple[int, ...]) -> Array:
    return np.asarray(np.max(x, axes, keepdims=True, initial=_lowest(x.dtype)))


def _min_reference(x: Array, *, axes: tuple[int, ...]) -> Array:
    return np.asarray(np.min(x, axes, keepdims=True, initial=_highest(x.dtype)))


def _lowest(dtype: np.dtype[Any]) -> float:
    if _is_float(dtype):
        return -math.inf
    return False if dtype.kind == "b" else int(np.iinfo(dtype).min)


def _highest(dtype: np.dtype[Any]) -> float:
    if _is_float(dtype):
        return math.inf
    return True if dtype.kind == "b" else int(np.iinfo(dtype).max)


reduce_sum = Op("reduce_sum", rules.numeric_reduction, _sum_reference, (1, 1), AXES, traits=REDUCTION)
reduce_mean = Op("reduce_mean", rules.numeric_reduction, _mean_reference, (1, 1), AXES, traits=REDUCTION)
reduce_max = Op("reduce_max", rules.reduction, _max_reference, (1, 1), AXES, traits=REDUCTION)
reduce_min = Op("reduce_min", rules.reduction, _min_reference, (1, 1), AXES, traits=REDUCTION)
reduce_prod = Op("reduce_prod", rules.numeric_reduction, _prod_reference, (1, 1), AXES, traits=REDUCTION)


def _running_infer(x: TensorType, *, axis: int, exclusive: bool, reverse: bool) -> TensorType:
    rules.check_axis(axis, x.rank)
    rules.computing(x)
    if x.dtype is DType.BOOL:
        raise TypeMismatch("running sums and products take numbers")
    return x.with_shape(x.shape)


def _running(name: str, ufunc: np.ufunc, neutral: int) -> Op:
    def reference(x: Array, *, axis: int, exclusive: bool, reverse: bool) -> Array:
        x = np.flip(x, axis) if reverse else x
        total = ufunc.accumulate(x, axis, dtype=wide_type(x.dtype))
        if exclusive:
            # Shifted rather than taking x out again, which infinities would turn into NaN.
            first = [slice(None)] * x.ndim
            first[axis] = slice(0, -1)
            widths = [(1, 0) if i == axis else (0, 0) for i in range(x.ndim)]
            shifted = np.pad(total[tuple(first)], widths, constant_values=neutral)
            total = shifted if x.shape[axis] else total
        return np.asarray(np.flip(total, axis) if reverse else total)

    return Op(
        name,
        _running_infer,
        reference,
        (1, 1),
        {"axis": Kind.INT, "exclusive": Kind.BOOL, "reverse": Kind.BOOL},
        {"exclusive": False, "reverse": False},
    )


cumsum = _running("cumsum", np.add, 0)
cumprod = _running("cumprod", np.multiply, 1)


def _arg_infer(x: TensorType, *, axis: int, last: bool) -> TensorType:
    return rules.reduction(x, axes=(axis,)).with_dtype(DType.I64)


def _argmax_reference(x: Array, *, axis: int, last: bool) -> Array:
    if not last:
        return np.asarray(np.argmax(x, axis, keepdims=True))
    return np.asarray(x.shape[axis] - 1 - np.argmax(np.flip(x, axis), axis, keepdims=True))


def _argmin_reference(x: Array, *, axis: int, last: bool) -> Array:
    if not last:
        return np.asarray(np.argmin(x, axis, keepdims=True))
    return np.asarray(x.shape[axis] - 1 - np.argmin(np.flip(x, axis), axis, keepdims=True))


_ARG = {"axis": Kind.INT, "last": Kind.BOOL}
argmax = Op("argmax", _arg_infer, _argmax_reference, (1, 1), _ARG, {"last": False})
argmin = Op("argmin", _arg_infer, _argmin_reference, (1, 1), _ARG, {"last": False})


ALL = (
    reduce_sum, reduce_mean, reduce_max, reduce_min, reduce_prod, cumsum, cumprod, argmax, argmin,
)  # fmt: skip
