"""What passes a comparison, and what must not."""

from __future__ import annotations

import numpy as np
import pytest

from isthmus.bundle.selftest import Tolerance
from isthmus.tools.compare import Difference, compare, cosine

EXACT = np.array([1, 2, 3], np.int64)
FLOATS = np.linspace(-2, 2, 101, dtype=np.float32)


def one(found: np.ndarray, wanted: np.ndarray, atol: float = 1e-4, min_cosine: float = 0.99999) -> Difference:
    (difference,) = compare({"y": found}, {"y": wanted}, Tolerance(atol), min_cosine)
    return difference


def test_equal_passes() -> None:
    difference = one(FLOATS, FLOATS)
    assert (difference.max_abs, difference.reason) == (0, "")
    assert difference.cosine == pytest.approx(1)


def test_the_tolerance_is_the_border() -> None:
    assert not one(FLOATS + np.float32(0.9e-4), FLOATS).reason
    far = one(FLOATS + np.float32(3e-4), FLOATS)
    assert far.max_abs == pytest.approx(3e-4, rel=1e-2)
    assert "'y': 101 of 101 elements are too far off" in far.reason


def test_a_turned_vector_fails_though_every_element_is_near() -> None:
    tiny = np.array([1e-5, 0], np.float32)
    assert "cosine 0.0000000 is below 0.99999" in one(tiny[::-1].copy(), tiny).reason


def test_integers_must_be_equal() -> None:
    assert not one(EXACT, EXACT, atol=10).reason
    assert "3 of 3 elements differ" in one(EXACT + 1, EXACT, atol=10).reason


@pytest.mark.parametrize("wrong", [FLOATS.astype(np.float64), FLOATS[:-1], FLOATS[None]])
def test_shape_and_dtype_must_be_equal(wrong: np.ndarray) -> None:
    assert "expected float32[101]" in one(wrong, FLOATS).reason


def test_nan_and_infinity_must_be_in_the_same_places() -> None:
    odd = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    assert not one(odd, odd).reason
    assert one(odd[[1, 0, 2, 3]], odd).reason
    assert one(np.full(4, np.nan, np.float32), FLOATS[:4]).reason


def test_empty_outputs_are_equal() -> None:
    assert not one(FLOATS[:0], FLOATS[:0]).reason


def test_a_missing_output_fails() -> None:
    first, second = compare({"b": FLOATS}, {"a": FLOATS, "b": FLOATS}, Tolerance(0.0))
    assert (first.reason, second.reason) == ("output 'a' is missing", "")


def test_cosine() -> None:
    assert cosine(np.zeros(2), np.zeros(2)) == 1
    assert cosine(np.zeros(2), np.ones(2)) == 0
    assert cosine(np.array([1.0, 0]), np.array([1.0, 1])) == pytest.approx(2**-0.5)
