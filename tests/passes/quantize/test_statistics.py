"""What is kept of data, and the ranges chosen from it."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from isthmus.errors import ModelError
from isthmus.passes.quantize.options import Observer
from isthmus.passes.quantize.ranges import range_of
from isthmus.passes.quantize.statistics import BINS, Histogram, Observed, check

RNG = np.random.default_rng(0)


def observed(*batches: np.ndarray) -> Observed:
    seen = Observed(batches[0].shape[-1])
    for batch in batches:
        seen.add(batch.astype(np.float32), wants_gram=True)
    return seen


def test_sums_are_those_of_all_rows() -> None:
    a, b = RNG.standard_normal((2, 3, 4)), RNG.standard_normal((5, 4)) * 30
    seen, rows = observed(a, b), np.concatenate([a.reshape(-1, 4), b])
    assert seen.rows == 11 and seen.gram is not None
    np.testing.assert_allclose(seen.gram, rows.T @ rows, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(seen.mean, rows.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen.squares, np.square(rows).sum(0), rtol=1e-5)
    np.testing.assert_allclose(seen.largest, np.abs(rows).max(0), rtol=1e-6)
    np.testing.assert_allclose((seen.low, seen.high), (rows.min(), rows.max()), rtol=1e-6)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_a_histogram_grows(order: tuple[int, ...]) -> None:
    parts = [np.asarray([0.1, -0.2, 0.3]), np.asarray([5.0, -7.9]), np.asarray([100.0, 0.0])]
    histogram = Histogram()
    for place in order:
        histogram.add(parts[place].astype(np.float32))
    assert histogram.reach == 128 and histogram.counts.sum() == 7
    numbers = np.repeat(histogram.centres, histogram.counts)
    np.testing.assert_allclose(numbers, np.sort(np.concatenate(parts)), atol=128 / BINS)


def test_observers_cut_what_is_rare() -> None:
    rows = RNG.standard_normal((40000, 8))
    rows[0, 0] = 40.0
    seen = observed(rows)
    ranges = {observer: range_of(seen, observer) for observer in get_args(Observer)}
    np.testing.assert_allclose(ranges["minmax"], (rows.min(), 40.0), rtol=1e-6)
    for observer in ("percentile", "mse", "entropy"):
        low, high = ranges[observer]
        assert -6 < low < -2.4 and 2.4 < high < 30, (observer, low, high)


def test_observers_leave_what_is_even() -> None:
    seen = observed(RNG.uniform(-1, 3, (4000, 8)))
    for observer in get_args(Observer):
        low, high = range_of(seen, observer)
        assert low == pytest.approx(-1, abs=0.1) and high == pytest.approx(3, abs=0.1), observer


def test_what_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        Observed(2).add(np.asarray([[1.0, np.nan]], np.float32))
    same = observed(np.full((3, 2), 4.0))
    with pytest.raises(ModelError) as caught:
        check({"/a": same, "/b": Observed(4), "/c": observed(np.eye(3))})
    assert [p.where for p in caught.value.problems] == ["/a", "/b"]
