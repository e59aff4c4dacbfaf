"""The first elements in order, of lines along the first, a middle and the last axis."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from isthmus.codegen.native import load
from isthmus.ir.types import DType
from isthmus.kernels.loops_order import top
from isthmus.ops import OPS
from isthmus.target import Target

TYPES = (DType.F32, DType.F64, DType.F16, DType.BF16, DType.I32, DType.I64, DType.U8)


def array(dtype: DType, shape: tuple[int, ...]) -> np.ndarray:
    """Many equals, and what floats have besides numbers."""
    x = np.random.default_rng(7).integers(0, 9, shape).astype(dtype.numpy)
    if dtype.is_float:
        flat = x.reshape(-1)
        flat[::11], flat[3::17], flat[5::13] = np.nan, np.inf, -np.inf
    return x


def test_top(target: Target, tmp_path: Path) -> None:
    cases = list(itertools.product(TYPES, (False, True)))
    kernels = {(d, descending): top(d, target, descending=descending) for d, descending in cases}
    calls = load(list(kernels.values()), target, tmp_path)
    for (dtype, descending), kernel in kernels.items():
        for shape, axis in itertools.product([(3, 7, 5), (1, 130, 2), (2, 1, 1)], range(3)):
            x = array(dtype, shape)
            size = shape[axis]
            outer, inner = int(np.prod(shape[:axis])), int(np.prod(shape[axis + 1 :]))
            for count in {0, 1, size // 2, size}:
                expected = OPS["top_k"].reference(x, axis=axis, count=(count,), descending=descending)
                y = np.full(expected.shape, -1, np.int64)
                strides = (size * inner, inner, 1, count * inner, inner, 1)
                half = outer * inner // 2
                for begin, end in ((half, outer * inner), (0, half)):
                    calls[kernel.symbol](x, y, size, count, inner, *strides, begin, end)
                np.testing.assert_array_equal(y, expected, err_msg=f"{kernel.symbol} {shape} {axis} {count}")
