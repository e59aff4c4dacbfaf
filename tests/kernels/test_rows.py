"""LayerNorm, RMSNorm and Softmax against NumPy in double precision."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from isthmus.codegen.native import Call
from isthmus.codegen.objects import assembly
from isthmus.kernels import byte_rows, layer_norm, rms_norm, softmax
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.row_results import Result
from isthmus.ops.integer import quantize_rows
from isthmus.ops.quantize import row_scale
from isthmus.target import Target

Compiled = Callable[[Kernel], Call]
GUARD = np.float32(12345.0)
WIDTHS = (1, 3, 15, 16, 17, 64, 100, 384)
EPS = 1e-5


def _pitched(values: np.ndarray, extra: int) -> np.ndarray:
    room = np.full((values.shape[0], values.shape[1] + extra), GUARD, np.float32)
    room[:, : values.shape[1]] = values
    return room


def _layer_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    centred = x - x.mean(axis=1, keepdims=True)
    result: np.ndarray = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + EPS) * scale + bias
    return result


def _softmax(x: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        powers = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    result: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return result


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
def test_layer_norm(width: int, residual: bool, target: Target, compiled: Compiled) -> None:
    random = np.random.default_rng(width)
    call = compiled(layer_norm.kernel(target, residual))
    scale, bias = random.standard_normal((2, width)).astype(np.float32)
    for rows in (1, 2, 4, 7):
        x = _pitched(random.standard_normal((rows, width)) * 3 + 10, 3)
        extra = _pitched(random.standard_normal((rows, width)), 5)
        y = _pitched(np.zeros((rows, width)), 1)
        operand, pitch = ((extra,), (width + 5,)) if residual else ((), ())
        call(x, *operand, scale, bias, y, EPS, width, width + 3, *pitch, width + 1, 0, rows)
        total = x[:, :width] + (extra[:, :width] if residual else 0)
        # A mean of 10 in float32 is known to 1e-6; a row of one is all rounding.
        tolerance = 1e-3 if width == 1 else 2e-5
        np.testing.assert_allclose(y[:, :width], _layer_norm(total, scale, bias), rtol=2e-5, atol=tolerance)
        assert (y[:, width:] == GUARD).all()


@pytest.mark.parametrize("aliased", ["x", "residual"])
def test_layer_norm_in_place(aliased: str, target: Target, compiled: Compiled) -> None:
    random = np.random.default_rng(0)
    x, extra = random.standard_normal((2, 9, 40)).astype(np.float32)
    scale, bias = random.standard_normal((2, 40)).astype(np.float32)
    expected = _layer_norm(x + extra, scale, bias)
    y = x if aliased == "x" else extra
    compiled(layer_norm.kernel(target, True))(x, extra, scale, bias, y, EPS, 40, 40, 40, 40, 0, 9)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    plain = x.copy() if aliased == "x" else extra.copy()
    expected = _layer_norm(plain, scale, bias)
    compiled(layer_norm.kernel(target, False))(plain, scale, bias, plain, EPS, 40, 40, 40, 0, 9)
    np.testing.assert_allclose(plain, expected, rtol=1e-5, atol=1e-5)


def test_layer_norm_ranges_nan_and_zero_variance(
    target: Target, compiled: Compiled, misaligned: Callable[[np.ndarray], np.ndarray]
) -> None:
    random = np.random.default_rng(0)
    x = misaligned(random.standard_normal((12, 33)).astype(np.float32))
    x[3, 32], x[5, 0], x[7] = np.nan, np.inf, 4.0
    scale, bias = (misaligned(random.standard_normal(33).astype(np.float32)) for _ in range(2))
    y = misaligned(np.full((12, 33), GUARD, np.float32))
    call = compiled(layer_norm.kernel(target, False))
    call(x, scale, bias, y, EPS, 33, 33, 33, 2, 9)
    assert (y[[0, 1, 9, 10, 11]] == GUARD).all()
    assert np.isnan(y[[3, 5]]).all()
    np.testing.assert_allclose(y[7], bias, atol=1e-4)
    clean = [2, 4, 6, 8]
    np.testing.assert_allclose(y[clean], _layer_norm(x[clean], scale, bias), rtol=1e-5, atol=1e-5)


def test_layer_norm_does_not_cancel(target: Target, compiled: Compiled) -> None:
    x = (1000 + np.random.default_rng(0).standard_normal((4, 384))).astype(np.float32)
    y, ones, zeros = np.empty_like(x), np.ones(384, np.float32), np.zeros(384, np.float32)
    compiled(layer_norm.kernel(target, False))(x, ones, zeros, y, EPS, 384, 384, 384, 0, 4)
    np.testing.assert_allclose(y, _layer_norm(x, ones, zeros), atol=1e-3)


@pytest.mark.parametrize("width", WIDTHS)
def test_rms_norm(width: int, target: Target, compiled: Compiled) -> None:
    random = np.random.default_rng(width)
    call = compiled(rms_norm.kernel(target))
    scale = random.standard_normal(width).astype(np.float32)
    for rows in (1, 2, 4, 7):
        x = _pitched(random.standard_normal((rows, width)) * 3, 3)
        y = _pitched(np.zeros((rows, width)), 1)
        call(x, scale, y, EPS, width, width + 3, width + 1, 0, rows)
        wide = x[:, :width].astype(np.float64)
        expected = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + EPS) * scale
        np.testing.assert_allclose(y[:, :width], expected, rtol=1e-5, atol=1e-6)
        assert (y[:, width:] == GUARD).all()


def test_rms_norm_in_place_over_a_range(target: Target, compiled: Compiled) -> None:
    x = np.random.default_rng(0).standard_normal((9, 40)).astype(np.float32)
    x[4] = 0
    expected = x / np.sqrt((x.astype(np.float64) ** 2).mean(axis=1, keepdims=True) + EPS)
    expected[[0, 8]] = x[[0, 8]]
    compiled(rms_norm.kernel(target))(x, np.ones(40, np.float32), x, EPS, 40, 40, 40, 1, 8)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


def test_norms_fetch_rows_that_come_next(level: Target) -> None:
    """Of four rows at a time: a line of each of the next ones (and of what is added), and of each result."""
    fetching = {
        layer_norm.kernel(level, False): 8,
        layer_norm.kernel(level, True): 12,
        rms_norm.kernel(level): 8,
    }
    for kernel, lines in fetching.items():
        assert len(re.findall(r"^\s+prefetch", assembly(kernel, level), re.MULTILINE)) >= lines


@pytest.mark.parametrize("width", WIDTHS)
def test_softmax(width: int, target: Target, compiled: Compiled) -> None:
    random = np.random.default_rng(width)
    call = compiled(softmax.kernel(target))
    for rows in (1, 2, 4, 7):
        x = _pitched(random.standard_normal((rows, width)) * 10, 3)
        y = _pitched(np.zeros((rows, width)), 1)
        call(x, y, width, width + 3, width + 1, 0, rows)
        np.testing.assert_allclose(y[:, :width], _softmax(x[:, :width]), rtol=5e-6, atol=1e-9)
        assert (y[:, width:] == GUARD).all()
        expected = y[:, :width].copy()
        call(x, x, width, width + 3, width + 3, 0, rows)
        np.testing.assert_array_equal(x[:, :width], expected)


def test_softmax_limits(target: Target, compiled: Compiled) -> None:
    x = np.random.default_rng(0).standard_normal((9, 37)).astype(np.float32)
    x[1, 5], x[2], x[3], x[4, 3] = np.nan, -np.inf, np.finfo(np.float32).min, np.inf
    x[5, ::2], x[6] = -np.inf, 3.4e38
    y = np.empty_like(x)
    compiled(softmax.kernel(target))(x, y, 37, 37, 37, 0, 9)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(y, _softmax(x), rtol=5e-6, atol=1e-9)
    assert np.isnan(y[[1, 2, 4]]).all()
    np.testing.assert_allclose(y[[3, 6]], 1 / 37, rtol=1e-6)


def _bytes(rows: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    scales = row_scale.reference(rows)
    return scales, quantize_rows.reference(rows, scales, np.asarray(byte_rows.MIDDLE[dtype], dtype))


@pytest.mark.parametrize("norm", ["layer", "layer with residual", "rms"])
@pytest.mark.parametrize("width", WIDTHS)
def test_rows_of_norms_as_bytes(width: int, norm: str, target: Target, compiled: Compiled) -> None:
    """The same y as without bytes, and beside it what a kernel of its own makes of that."""
    random = np.random.default_rng(width)
    residual = norm == "layer with residual"
    gains = random.standard_normal((1 if norm == "rms" else 2, width)).astype(np.float32)
    for dtype in ("int8", "uint8"):
        kinds: tuple[Result, ...] = ("f32", "uint8" if dtype == "uint8" else "int8")
        plain, both = (
            compiled(
                rms_norm.kernel(target, kind) if norm == "rms" else layer_norm.kernel(target, residual, kind)
            )
            for kind in kinds
        )
        for rows in (1, 4, 7):
            x, extra = (_pitched(random.standard_normal((rows, width)) * 3, pad) for pad in (3, 5))
            wanted, y = np.zeros((2, rows, width), np.float32)
            operands, pitches = ((extra,), (width + 5,)) if residual else ((), ())
            plain(x, *operands, *gains, wanted, EPS, width, width + 3, *pitches, width, 0, rows)
            scales, found = np.full((rows, 2), GUARD, np.float32), np.full((rows, width + 2), 77, dtype)
            ends = (width, 2, width + 2, 0, rows)
            both(x, *operands, *gains, y, scales, found, EPS, width, width + 3, *pitches, *ends)
            np.testing.assert_array_equal(y, wanted)
            np.testing.assert_array_equal(scales[:, :1], _bytes(y, dtype)[0])
            np.testing.assert_array_equal(found[:, :width], _bytes(y, dtype)[1])
            assert (found[:, width:] == 77).all()
            assert (scales[:, 1] == GUARD).all()
