"""Products of f32 by matrices in f16 against their meaning: every height and tail, every number of f16."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from runners import CACHE, quick
from strict_c import CHECKED_C

from isthmus.codegen.native import Call, load
from isthmus.ir.encodings import Panels
from isthmus.kernels import gemm
from isthmus.kernels.arithmetic import HalfWeights
from isthmus.kernels.kernel import Kernel
from isthmus.machine import Machine
from isthmus.target import Target
from isthmus.targets import x86_64

GUARD = 777.0
# One chip for each way of widening: an instruction for 16 and for 8, integers in vectors of 4 and of 1.
CHIPS = tuple(
    {(t.vector, t.instruction("widen_f16")): t for t in x86_64.TARGETS if t.os == Machine.here().os}.values()
)
Build = Callable[[Kernel, Target], Call]


@pytest.fixture(scope="module", params=(*CHIPS, CHECKED_C), ids=lambda chip: chip.name)
def chip(request: pytest.FixtureRequest) -> Target:
    return quick(request.param)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """The function behind a kernel; each is compiled once."""
    calls: dict[tuple[str, str], Call] = {}

    def get(kernel: Kernel, chip: Target) -> Call:
        key = (chip.name, kernel.symbol)
        if key not in calls:
            calls[key] = load([kernel], chip, tmp_path_factory.mktemp("f16"), CACHE)[kernel.symbol]
        return calls[key]

    return get


def multiply(
    call: Call, chip: Target, x: np.ndarray, w: np.ndarray, bias: np.ndarray, residual: np.ndarray | None
) -> np.ndarray:
    """The kernel's answer for all rows of x[rows, k] by w[k, n]."""
    (rows, depth), columns, width = x.shape, w.shape[1], gemm.panel_width(chip)
    panels = Panels(width).encode(w)
    padded = np.zeros(panels.shape[0] * width, np.float32)
    padded[:columns] = bias
    y = np.full((rows, columns + 2), GUARD, np.float32)
    extra, pitch = ((residual,), (columns,)) if residual is not None else ((), ())
    sizes = (depth, columns, depth, *pitch, columns + 2, 0, rows, 0, panels.shape[0])
    call(x, panels.view(np.uint16), padded, *extra, y, *sizes)
    assert (y[:, columns:] == GUARD).all(), "wrote beyond n"
    return y[:, :columns]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("depth", [1, 15, 16, 97, 384])
def test_products_are_those_of_the_widened_matrix(
    depth: int, residual: bool, chip: Target, build: Build
) -> None:
    half = build(gemm.kernel(chip, None, residual, HalfWeights), chip)
    wide = build(gemm.kernel(chip, None, residual), chip)
    random = np.random.default_rng(depth)
    for rows in (1, 2, 7, 14, 33, 70):
        for columns in (1, 31, 33, 100):
            x, added = (random.standard_normal((rows, n)).astype(np.float32) for n in (depth, columns))
            w = (random.standard_normal((depth, columns)) / math.sqrt(depth)).astype(np.float16)
            bias = random.standard_normal(columns).astype(np.float32)
            extra = added if residual else None
            got = multiply(half, chip, x, w, bias, extra)
            want = x.astype(np.float64) @ w.astype(np.float64) + bias + (added if residual else 0)
            np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-5)
            same = x, w.astype(np.float32), bias
            width = gemm.panel_width(chip)
            panels = Panels(width).encode(same[1])
            padded = np.zeros(panels.shape[0] * width, np.float32)
            padded[:columns] = bias
            y = np.empty((rows, columns), np.float32)
            more, pitch = ((added,), (columns,)) if residual else ((), ())
            wide(x, panels, padded, *more, y, depth, columns, depth, *pitch, columns, 0, rows, 0, len(panels))
            np.testing.assert_array_equal(got, y, "the products of f32, to the bit")


def test_every_f16_is_widened_as_numpy_does(chip: Target, build: Build) -> None:
    """One step of K: each product is one number by one."""
    call = build(gemm.kernel(chip, None, False, HalfWeights), chip)
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)[None]
    got = multiply(call, chip, np.ones((1, 1), np.float32), numbers, np.zeros(1 << 16, np.float32), None)
    with np.errstate(invalid="ignore"):  # of NaN that signal
        np.testing.assert_array_equal(got, numbers.astype(np.float32))
