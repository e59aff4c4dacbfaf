"""Rows as bytes, and their scales, to the bit: halves, limits, zeros, NaN and infinities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from isthmus.codegen.native import Call
from isthmus.errors import CompilerBug
from isthmus.ir.types import Array
from isthmus.kernels import byte_rows, quantize_rows
from isthmus.kernels.kernel import Kernel
from isthmus.ops.integer import quantize_rows as op
from isthmus.ops.quantize import row_scale
from isthmus.target import Target

Compiled = Callable[[Kernel], Call]
GUARD = np.float32(12345.0)
WIDTHS = (1, 3, 15, 16, 17, 64, 100, 384)


def rows_of(x: Array, extra: int) -> Array:
    room = np.full((x.shape[0], x.shape[1] + extra), GUARD, np.float32)
    room[:, : x.shape[1]] = x
    return room


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_quantize(dtype: str, width: int, target: Target, compiled: Compiled) -> None:
    call = compiled(quantize_rows.kernel(target, dtype))
    rng = np.random.default_rng(width)
    for rows in (1, 4, 7):
        for zero in (0, 3, 127) if dtype == "uint8" else (-128, 0, 5):
            scale = rng.uniform(0.01, 1, (rows, 1)).astype(np.float32)
            if rows == 4:
                scale *= np.float32([[1e-25], [1e20], [1], [1]])
            x = rng.uniform(-150, 150, (rows, width)).astype(np.float32) * scale
            # Halves, of which every other one goes down, and what is beyond the limits.
            x[0] = (np.arange(width) - width // 2 + 0.5) * scale[0]
            x[-1, 0] = np.float32(1e30)
            for steps in (scale, scale[-1:, 0]):
                each = steps.ndim > 1
                y = np.full((rows, width + 2), 77, dtype)
                point = np.asarray([zero], dtype)
                given = rows_of(x, 3)
                call(given, steps, point, y, width, width + 3, int(each), width + 2, 0, rows)
                wanted = op.reference(x, steps if each else steps[0], point.reshape(()))
                np.testing.assert_array_equal(y[:, :width], wanted)
                assert (y[:, width:] == 77).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_scales(width: int, target: Target, compiled: Compiled) -> None:
    call = compiled(quantize_rows.scale_kernel(target))
    rng = np.random.default_rng(width)
    x = (rng.standard_normal((11, width)) * 10.0 ** rng.integers(-6, 6, (11, 1))).astype(np.float32)
    x[3], x[5, 0], x[6, -1], x[7] = 0, np.nan, -np.inf, -0.0
    y = np.full((11, 2), GUARD, np.float32)
    call(rows_of(x, 5), y, width, width + 5, 2, 0, 11)
    np.testing.assert_array_equal(y[:, :1], row_scale.reference(x))
    assert (y[:, 1] == GUARD).all()


def test_quotients_are_rounded_as_such(target: Target, compiled: Compiled) -> None:
    """x / scale at halves, and one rounding beside them: a product with 1 / scale is another number there."""
    call = compiled(quantize_rows.kernel(target, "int8"))
    rng = np.random.default_rng(1)
    scale = rng.uniform(1e-3, 10, (400, 1)).astype(np.float32)
    halves = (np.arange(-127, 127) + 0.5).astype(np.float32) * scale
    near = [halves, np.nextafter(halves, np.float32(np.inf)), np.nextafter(halves, np.float32(-np.inf))]
    x = np.ascontiguousarray(np.concatenate(near, 1))
    y = np.zeros(x.shape, np.int8)
    zero = np.zeros(1, np.int8)
    call(x, scale, zero, y, x.shape[1], x.shape[1], 1, x.shape[1], 0, len(x))
    wanted = op.reference(x, scale, zero.reshape(()))
    assert (wanted != np.rint(x * (1 / scale)).clip(-128, 127)).any(), "these numbers tell no difference"
    np.testing.assert_array_equal(y, wanted)


def test_there_is_no_other_type(target: Target) -> None:
    with pytest.raises(CompilerBug, match="int16"):
        quantize_rows.kernel(target, "int16")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_rows_at_their_own_scales(dtype: str, width: int, target: Target, compiled: Compiled) -> None:
    """What two kernels give, from one: of ordinary rows, of halves, and where a product is not enough."""
    call = compiled(byte_rows.kernel(target, dtype))
    rng = np.random.default_rng(width)
    x = (rng.standard_normal((41, width)) * 10.0 ** rng.integers(-6, 6, (41, 1))).astype(np.float32)
    x[3], x[5, 0], x[6, -1], x[7], x[8, 0] = 0, np.nan, -np.inf, -0.0, np.inf
    x[9] *= np.float32(1e-30)
    x[10] = np.float32(1e-45)
    x[11] *= np.float32(1e30)
    x[12:20] = rng.integers(-127, 128, (8, width)) / 2
    x[12:20, 0] = 63.5 * np.arange(1, 9)
    near = x[20:30]
    near[...] = (np.arange(width) % 253 - 126.5) * rng.uniform(1e-3, 10, (10, 1))
    near[5:] = np.nextafter(near[5:], np.float32(np.inf))
    scales = np.full((41, 2), GUARD, np.float32)
    found = np.full((41, width + 2), 77, dtype)
    call(rows_of(x, 3), scales, found, width, width + 3, 2, width + 2, 0, 41)
    wanted = row_scale.reference(x)
    np.testing.assert_array_equal(scales[:, :1], wanted)
    zero = np.asarray(byte_rows.MIDDLE[dtype], dtype)
    # What stands beside a scale of NaN or infinity is NaN, whatever the bytes are.
    usual = np.isfinite(wanted[:, 0])
    assert usual.sum() == 38
    np.testing.assert_array_equal(found[usual, :width], op.reference(x[usual], wanted[usual], zero))
    assert (found[:, width:] == 77).all()
    assert (scales[:, 1] == GUARD).all()
