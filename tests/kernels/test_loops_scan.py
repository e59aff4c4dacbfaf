"""Running sums and positions of extremes, along the first, a middle and the last axis."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from isthmus.codegen.native import Call, load
from isthmus.errors import ModelError
from isthmus.ir.types import DType
from isthmus.kernels.loops_scan import arg_extreme, running
from isthmus.ops import OPS
from isthmus.target import Target

SHAPE = (3, 7, 5)
FOLDS: tuple[Literal["sum", "prod"], ...] = ("sum", "prod")
KINDS: tuple[Literal["argmax", "argmin"], ...] = ("argmax", "argmin")


def _array(dtype: DType) -> np.ndarray:
    x = np.random.default_rng(7).integers(0, 4, SHAPE).astype(dtype.numpy)
    if dtype.is_float:
        x[0, 2, 1] = x[0, 4, 1] = np.nan
        x[1, :, 2] = -np.inf
        x[2, 3, 3] = np.inf
    return x


def _lines(x: np.ndarray, axis: int) -> tuple[int, int, tuple[int, int, int]]:
    """Size of the axes before and after the axis, and the three strides."""
    outer, inner = int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis + 1 :]))
    return outer, inner, (x.shape[axis] * inner, inner, 1)


def _running(call: Call, x: np.ndarray, axis: int) -> np.ndarray:
    y = np.full_like(x, 77)
    outer, inner, strides = _lines(x, axis)
    half = outer * inner // 2
    for begin, end in ((half, outer * inner), (0, half)):
        call(x, y, x.shape[axis], inner, *strides, *strides, begin, end)
    return y


def test_running(target: Target, tmp_path: Path) -> None:
    types = (DType.F32, DType.F64, DType.F16, DType.I32, DType.I64, DType.U8)
    cases = list(itertools.product(FOLDS, types, (False, True), (False, True)))
    kernels = {(f, d, e, r): running(f, d, target, exclusive=e, reverse=r) for f, d, e, r in cases}
    calls = load(list(kernels.values()), target, tmp_path)
    for (fold, dtype, exclusive, reverse), kernel in kernels.items():
        x = np.random.default_rng(3).integers(0, 5, SHAPE).astype(dtype.numpy)
        for axis in range(3):
            expected = OPS[f"cum{fold}"].reference(x, axis=axis, exclusive=exclusive, reverse=reverse)
            np.testing.assert_array_equal(
                _running(calls[kernel.symbol], x, axis), expected, err_msg=kernel.symbol
            )


def test_cumsum_of_many_floats_stays_exact(target: Target, tmp_path: Path) -> None:
    kernel = running("sum", DType.F32, target)
    x = np.full((1, 300_000), 0.1, np.float32)
    got = _running(load([kernel], target, tmp_path)[kernel.symbol], x, 1)
    np.testing.assert_allclose(got, np.cumsum(x, 1, dtype=np.float64), rtol=1e-7)


def test_arg_extreme(target: Target, tmp_path: Path) -> None:
    types = (DType.F32, DType.F64, DType.BF16, DType.I32, DType.I64, DType.U8, DType.BOOL)
    cases = list(itertools.product(KINDS, types, (False, True)))
    kernels = {(kind, d, last): arg_extreme(kind, d, target, last=last) for kind, d, last in cases}
    calls = load(list(kernels.values()), target, tmp_path)
    for (kind, dtype, last), kernel in kernels.items():
        x = _array(dtype)
        for axis in range(3):
            expected = OPS[kind].reference(x, axis=axis, last=last)
            y = np.full(expected.shape, -1, np.int64)
            outer, inner, strides = _lines(x, axis)
            calls[kernel.symbol](x, y, x.shape[axis], inner, *strides, inner, 1, 0, outer * inner)
            np.testing.assert_array_equal(y, expected, err_msg=f"{kernel.symbol} along {axis}")


def test_no_running_sum_of_bool(target: Target) -> None:
    with pytest.raises(ModelError, match="cumsum of bool"):
        running("sum", DType.BOOL, target)
