"""SmoothQuant, GPTQ and AWQ, each against what its paper says it does."""

from __future__ import annotations

import numpy as np
import pytest

from isthmus.passes.quantize import awq, smooth
from isthmus.passes.quantize.awq import round_by_awq
from isthmus.passes.quantize.gptq import round_by_gptq
from isthmus.passes.quantize.integers import round_to_grid
from isthmus.passes.quantize.options import Scheme
from isthmus.passes.quantize.statistics import Observed

RNG = np.random.default_rng(3)
DEPTH, COLUMNS = 96, 24
W = RNG.standard_normal((DEPTH, COLUMNS)).astype(np.float32)
# Rows whose columns depend on each other, as activations' do; three carry most of the size.
X = (RNG.standard_normal((500, 20)) @ RNG.standard_normal((20, DEPTH))).astype(np.float32)
X[:, [5, 40, 77]] *= 12
GRAM = (X.T @ X).astype(np.float64)
SCHEMES = (Scheme(4, 32), Scheme(4, 32, symmetric=False), Scheme(4), Scheme(8))


def loss(w: np.ndarray) -> float:
    """How far the product is off, relative to its size."""
    return float(np.linalg.norm(X @ (w - W)) / np.linalg.norm(X @ W))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_gptq_is_closer_than_rounding(scheme: Scheme) -> None:
    plain, made = round_to_grid(W, scheme), round_by_gptq(W, scheme, GRAM)
    assert made.q.shape == plain.q.shape and made.q.dtype == plain.q.dtype
    assert made.grid.low <= made.q.min() and made.q.max() <= made.grid.high
    assert loss(made.matrix(W.shape)) < 0.6 * loss(plain.matrix(W.shape))


def test_gptq_of_independent_rows_is_rounding() -> None:
    scheme = Scheme(4, 32)
    np.testing.assert_array_equal(round_by_gptq(W, scheme, np.eye(DEPTH)).q, round_to_grid(W, scheme).q)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_gptq_leaves_zeros_and_is_closer_than_rounding_all_the_same(scheme: Scheme) -> None:
    """Numbers that are left make up for each other."""
    sparse = np.where(np.arange(DEPTH)[:, None] % 2 == np.arange(COLUMNS) % 2, W, 0).astype(np.float32)
    plain, made = (
        found.matrix(W.shape)
        for found in (round_to_grid(sparse, scheme), round_by_gptq(sparse, scheme, GRAM))
    )
    assert (made[sparse == 0] == 0).all()
    off, on = (np.linalg.norm(X @ (found - sparse)) for found in (plain, made))
    assert on < 0.9 * off


def test_gptq_bears_columns_that_are_always_zero() -> None:
    x = X.copy()
    x[:, 10:30] = 0
    made = round_by_gptq(W, Scheme(4, 32), (x.T @ x).astype(np.float64))
    assert np.isfinite(made.matrix(W.shape)).all()


def test_awq_is_closer_than_rounding_and_its_factors_cancel() -> None:
    scheme = Scheme(4, 32)
    made, by = round_by_awq(W, scheme, np.abs(X).mean(0), GRAM)
    assert by is not None and by[[5, 40, 77]].min() > np.median(by)
    assert loss(made.matrix(W.shape) / by[:, None]) < 0.8 * loss(round_to_grid(W, scheme).matrix(W.shape))


def test_awq_without_anything_to_gain_needs_no_factors() -> None:
    assert (awq.factors(np.ones(5), 0.5) == 1).all()
    _, by = round_by_awq(W, Scheme(4, 32), np.ones(DEPTH), np.eye(DEPTH))
    assert by is None


def test_smoothing_evens_rows_and_matrix_out() -> None:
    largest = np.abs(X).max(0)
    by = smooth.factors(largest, W, 0.5)
    rows, matrix = largest / by, np.abs(W).max(1) * by
    # Equation 4 at 0.5 makes the two reach equally far, up to the common factor.
    np.testing.assert_allclose(rows / matrix, np.full(DEPTH, (rows / matrix)[0]), rtol=1e-4)
    assert rows.max() / np.median(rows) < 0.5 * largest.max() / np.median(largest)
    still = smooth.factors(np.where(np.arange(DEPTH) == 2, 0, largest), W, 0.5)
    assert still[2] == 1 and np.isfinite(still).all()


def test_outliers_are_found_and_nothing_else_is_touched() -> None:
    seen = Observed(DEPTH)
    seen.add(X)
    scheme = Scheme(activations="static", symmetric=False)
    by = smooth.found_factors(seen, W, scheme)
    assert by is not None and by[[5, 40, 77]].min() > 3 and np.median(by) < 1.5
    ones = np.ones(DEPTH, np.float32)
    losses = [smooth.expected_error(seen, W, factors, scheme) for factors in (by, ones)]
    assert losses[0] < 0.5 * losses[1]
    # What is expected is about what is found.
    grid = smooth.divided_grid(seen, ones, scheme)
    rows = grid.numbers(grid.integers(X))
    found = np.square(rows @ round_to_grid(W, scheme).matrix(W.shape) - X @ W).sum(1).mean()
    assert 0.5 < found / losses[1] < 2


def test_even_rows_need_no_factors() -> None:
    seen = Observed(DEPTH)
    seen.add(RNG.choice([-1.0, 1.0], (100, DEPTH)).astype(np.float32))
    assert smooth.found_factors(seen, W, Scheme(activations="static", symmetric=False)) is None
