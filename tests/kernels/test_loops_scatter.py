"""Updates written to named places, in both forms, with places named twice, negative and out of range."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from isthmus.codegen.native import load
from isthmus.ir.types import DType
from isthmus.kernels.loops_scatter import scatter
from isthmus.ops import OPS
from isthmus.ops.lines import JOINS
from isthmus.target import Target

TYPES = (DType.F32, DType.F64, DType.I32, DType.I64, DType.U8)
PLACES = 6


def test_scatter_of_lines(target: Target, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    cases = list(itertools.product((*TYPES, DType.BF16, DType.BOOL), (DType.I64, DType.I32), JOINS))
    cases = [(d, i, j) for d, i, j in cases if j == "none" or d in TYPES]
    kernels = {(d, i, j): scatter(d, i, j, target, rows=False) for d, i, j in cases}
    calls = load(list(kernels.values()), target, tmp_path)
    for (dtype, picks, join), kernel in kernels.items():
        for axis in range(3):
            shape = [3, 7, 5]
            updates = rng.integers(0, 5, shape).astype(dtype.numpy)
            indices = rng.integers(-PLACES, PLACES, shape).astype(picks.numpy)
            x = rng.integers(0, 5, [PLACES if i == axis else d for i, d in enumerate(shape)])
            x = x.astype(dtype.numpy)
            expected = OPS["scatter"].reference(x, indices, updates, axis=axis, join=join)
            outer, inner = int(np.prod(shape[:axis])), int(np.prod(shape[axis + 1 :]))
            own, there = (n * inner for n in (shape[axis], PLACES))
            sizes = (shape[axis], PLACES, inner, own, inner, 1, own, inner, 1, there, inner, 1)
            fault = np.zeros(1, np.int32)
            half = outer * inner // 2
            for begin, end in ((half, outer * inner), (0, half)):
                calls[kernel.symbol](updates, indices, x, *sizes, fault, 9, begin, end)
            np.testing.assert_array_equal(x, expected.astype(dtype.numpy), err_msg=f"{kernel.symbol} {axis}")
            assert not fault.any()


def test_scatter_of_rows(target: Target, tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    kernels = {(d, j): scatter(d, DType.I64, j, target, rows=True) for d in TYPES for j in JOINS}
    calls = load(list(kernels.values()), target, tmp_path)
    for (dtype, join), kernel in kernels.items():
        for width in (1, 5, 67):
            updates = rng.integers(0, 5, (9, width)).astype(dtype.numpy)
            indices = rng.integers(-PLACES, PLACES, (9, 1))
            x = rng.integers(0, 5, (PLACES, width)).astype(dtype.numpy)
            expected = OPS["scatter"].reference(x, indices, updates, axis=0, join=join)
            sizes = (9, PLACES, width, 0, width, 1, 0, 1, 0, 0, width, 1)
            fault = np.zeros(1, np.int32)
            half = width // 2
            for begin, end in ((half, width), (0, half)):
                calls[kernel.symbol](updates, indices, x, *sizes, fault, 9, begin, end)
            np.testing.assert_array_equal(x, expected.astype(dtype.numpy), err_msg=f"{kernel.symbol} {width}")
            assert not fault.any()


def test_out_of_range_is_told_and_writes_nothing(target: Target, tmp_path: Path) -> None:
    kernels = [scatter(DType.F32, DType.I64, "none", target, rows=rows) for rows in (False, True)]
    calls = load(kernels, target, tmp_path)
    for kernel in kernels:
        for wrong in (PLACES, -PLACES - 1, 1 << 40):
            x, before = np.zeros((PLACES, 3), np.float32), np.zeros((PLACES, 3), np.float32)
            fault = np.zeros(1, np.int32)
            indices, updates = np.full((1, 3), wrong), np.ones((1, 3), np.float32)
            steps = (0, 1, 0) if kernel.symbol.endswith("rows") else (3, 3, 1)
            sizes = (1, PLACES, 3, 3, 3, 1, *steps, 3 * PLACES, 3, 1)
            calls[kernel.symbol](updates, indices, x, *sizes, fault, 9, 0, 3)
            assert fault[0] == 9
            np.testing.assert_array_equal(x, before)
