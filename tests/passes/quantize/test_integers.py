"""Matrices as integers: how far off they may be, and which grid is chosen."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from isthmus.passes.quantize.integers import round_to_grid, rows_grid
from isthmus.passes.quantize.options import SCHEMES, Scheme

W = np.random.default_rng(0).standard_normal((64, 10)).astype(np.float32)
ALL = [scheme for scheme in dict.fromkeys(SCHEMES.values()) if scheme is not None and scheme.group <= 64]
ALL = [scheme for scheme in ALL if scheme.format == "integer"]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("scheme", ALL, ids=str)
def test_every_number_is_half_a_step_off_unless_cut(scheme: Scheme, symmetric: bool) -> None:
    scheme = Scheme(scheme.bits, scheme.group, scheme.activations, symmetric)
    integers = round_to_grid(W, scheme)
    grid = integers.grid
    inside = (integers.q > grid.low) & (integers.q < grid.high)
    parts = W.reshape(integers.q.shape)
    error = np.abs(grid.numbers(integers.q) - parts)
    assert inside.mean() > 0.5
    assert (error <= np.abs(np.broadcast_to(grid.scale, error.shape)) * 0.501)[inside].all()
    assert integers.q.dtype == (np.uint8 if scheme.has_zero_points else np.int8)
    assert (
        (integers.q.shape == (64 // scheme.group, scheme.group, 10)) if scheme.group else integers.q.ndim == 2
    )
    if scheme.group:
        assert (grid.scale == grid.scale.astype(np.float16)).all()


FLOATS = {
    "mxfp4": ml_dtypes.float4_e2m1fn,
    "nvfp4": ml_dtypes.float4_e2m1fn,
    "mxfp8": ml_dtypes.float8_e4m3fn,
    "fp8-e4m3": ml_dtypes.float8_e4m3fn,
    "fp8-e5m2": ml_dtypes.float8_e5m2,
}


@pytest.mark.parametrize("name", FLOATS)
def test_floats_are_the_nearest_of_all(name: str) -> None:
    scheme = SCHEMES[name]
    assert scheme is not None
    scheme = replace(scheme, group=min(scheme.group, 32))
    made = round_to_grid(W, scheme)
    parts, scale = W.reshape(-1, scheme.group, 10), made.grid.scale
    codes = np.arange(1 << scheme.bits).astype(np.uint8).view(FLOATS[name])
    values = codes.astype(np.float32)[np.isfinite(codes.astype(np.float32))]
    once = 2 if scheme.bits == 4 else 1
    nearest = np.min(np.abs(values * (once * scale[..., None]) - parts[..., None]), -1)
    np.testing.assert_allclose(np.abs(made.grid.numbers(made.q) - parts), nearest, atol=1e-6)
    # A power of two, or half of one; a number of f16; half of a float of 8 bits times one for all.
    if name.startswith("mx"):
        assert (np.frexp(scale)[0] == 0.5).all()
    elif name.startswith("fp8"):
        assert (scale.astype(np.float16) == scale).all()
    else:
        tensor = 2.0 ** np.ceil(np.log2(np.abs(W).max() / (6 * 448)))
        exact = 2 * scale / tensor
        assert (exact.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) == exact).all()
        assert exact.max() <= 448


def test_the_scale_of_the_specification_or_the_next() -> None:
    """7 is cut off to 6 with scale 1; 7.5, alone in its group, is nearer to 8 with scale 2."""
    w = np.zeros((64, 1), np.float32)
    w[0], w[32:] = 7.5, 0.5
    w[32] = 7
    scale = round_to_grid(w, Scheme(4, 32, format="mxfp4")).grid.scale.reshape(-1)
    np.testing.assert_array_equal(2 * scale, [2, 1])


def test_a_float_of_8_bits_saturates_or_takes_the_next_scale() -> None:
    """450 is cut off to 448 with scale 1; 470 is nearer to 480 with scale 2."""
    w = np.zeros((64, 1), np.float32)
    w[0], w[32] = 450, 470
    made = round_to_grid(w, Scheme(8, 32, format="mxfp8"))
    np.testing.assert_array_equal(made.grid.scale.reshape(-1), [1, 2])
    np.testing.assert_array_equal(made.matrix(w.shape)[[0, 32], 0], [448, 480])


def test_tiny_groups_of_floats_are_zeros() -> None:
    w = np.zeros((32, 2), np.float32)
    w[0], w[16] = 1, 1e-9
    made = round_to_grid(w, Scheme(4, 16, format="nvfp4"))
    assert np.isfinite(made.grid.scale).all() and not made.matrix(w.shape)[16].any()


def test_8_bits_by_hand() -> None:
    w = np.asarray([[1.0, -2.0], [-127.0, 1.0]], np.float32)
    integers = round_to_grid(w, Scheme())
    np.testing.assert_array_equal(integers.q, [[1, -127], [-127, 64]])  # 63.5 goes to the even neighbour
    np.testing.assert_allclose(integers.grid.scale, [1, 2 / 127], rtol=1e-6)
    np.testing.assert_allclose(integers.matrix((2, 2)), w, atol=2 / 127)


def test_columns_and_groups_of_zeros_stay_zero() -> None:
    for scheme in (Scheme(), Scheme(symmetric=False), Scheme(4, 32), Scheme(4, 32, symmetric=False)):
        w = W.copy()
        w[:, 3] = 0
        assert not round_to_grid(w, scheme).matrix(w.shape)[:, 3].any(), scheme


def test_a_zero_point_pays_where_numbers_lie_on_one_side() -> None:
    w = np.abs(W)
    errors = [
        np.square(round_to_grid(w, Scheme(4, 32, symmetric=s)).matrix(w.shape) - w).mean()
        for s in (True, False)
    ]
    assert errors[1] < 0.5 * errors[0]


def test_cutting_the_largest_off_pays_in_4_bits() -> None:
    parts = W.reshape(2, 32, 10)
    scale = np.max(np.abs(parts), 1, keepdims=True) / 7
    plain = np.clip(np.rint(parts / scale), -7, 7) * scale
    chosen = round_to_grid(W, Scheme(4, 32))
    size = np.abs(chosen.grid.scale)
    assert (size <= scale * 1.001).all() and (size < 0.85 * scale).mean() > 0.3
    assert np.square(chosen.matrix(W.shape) - W).sum() < 0.85 * np.square(plain.reshape(W.shape) - W).sum()


def test_the_sixteenth_number_is_on_the_side_of_the_largest() -> None:
    w = np.linspace(-0.5, 1, 32, dtype=np.float32)[:, None] * np.asarray([[1, -1]], np.float32)
    integers = round_to_grid(w, Scheme(4, 32))
    assert integers.grid.scale.reshape(-1).tolist()[0] < 0 < integers.grid.scale.reshape(-1).tolist()[1]
    assert integers.q.min() == -8 and np.abs(integers.matrix(w.shape) - w).max() < 0.07


def test_errors_count_by_importance() -> None:
    importance = np.ones(64)
    importance[:4] = 1e4
    errors = [
        np.abs(round_to_grid(W, Scheme(4, 32), i).matrix(W.shape) - W)[:4].mean() for i in (None, importance)
    ]
    assert errors[1] < errors[0]


def test_rows_reach_zero_and_both_ends() -> None:
    grid = rows_grid(-0.17, 5.0, symmetric=False)
    ends = grid.numbers(np.asarray([0, 255, int(grid.zero)], np.uint8))
    assert ends[0] <= -0.16 and ends[1] >= 4.98 and ends[2] == 0
    symmetric = rows_grid(-0.5, 2.0, symmetric=True)
    assert symmetric.zero is None and 2.0 <= 127 * float(symmetric.scale) < 2.001
    assert rows_grid(3.0, 3.5, symmetric=False).zero == 0
    assert float(rows_grid(0.0, 0.0, symmetric=True).scale) == 1


def test_ranges_that_differ_in_the_last_bits_give_one_scale() -> None:
    high = np.float32(3.1234)
    scales = {float(rows_grid(-1.0, float(high * (1 + k * 1e-7)), symmetric=False).scale) for k in range(5)}
    assert len(scales) == 1
