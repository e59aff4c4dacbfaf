"""What passes a comparison, and what must not."""

from __future__ import annotations

import numpy as np
import pytest

from isthmus.tools.compare import Tolerance, compare, compare_all, cosine

EXACT = np.array([1, 2, 3], np.int64)
FLOATS = np.linspace(-2, 2, 101, dtype=np.float32)


def test_equal_passes() -> None:
    difference = compare("y", FLOATS, FLOATS, Tolerance())
    assert (difference.max_abs, difference.reason) == (0, "")
    assert difference.cosine == pytest.approx(1)


def test_the_tolerance_is_the_border() -> None:
    assert not compare("y", FLOATS + np.float32(0.9e-4), FLOATS, Tolerance(atol=1e-4 / 2)).reason
    far = compare("y", FLOATS + np.float32(3e-4), FLOATS, Tolerance(atol=1e-4))
    assert "differs by up to 0.0003" in far.reason


def test_tolerance_grows_with_the_reference() -> None:
    assert not compare("y", FLOATS * 1000 + np.float32(0.05), FLOATS * 1000, Tolerance(atol=1e-4)).reason
    assert compare("y", FLOATS / 1000 + np.float32(2e-4), FLOATS / 1000, Tolerance(atol=1e-4)).reason


def test_a_turned_vector_fails_though_every_element_is_near() -> None:
    tiny = np.array([1e-5, 0], np.float32)
    assert "cosine" in compare("y", tiny[::-1].copy(), tiny, Tolerance(atol=1e-4)).reason


def test_integers_must_be_equal() -> None:
    assert not compare("y", EXACT, EXACT, Tolerance(atol=10)).reason
    assert compare("y", EXACT + 1, EXACT, Tolerance(atol=10)).reason == "3 values differ"


@pytest.mark.parametrize("wrong", [FLOATS.astype(np.float64), FLOATS[:-1], FLOATS[None]])
def test_shape_and_dtype_must_be_equal(wrong: np.ndarray) -> None:
    assert "should be float32[101]" in compare("y", wrong, FLOATS, Tolerance()).reason


def test_nan_and_infinity_must_be_in_the_same_places() -> None:
    odd = np.array([np.nan, np.inf, -np.inf, 1], np.float32)
    assert not compare("y", odd, odd, Tolerance()).reason
    assert compare("y", odd[[1, 0, 2, 3]], odd, Tolerance()).reason
    assert compare("y", np.full(4, np.nan, np.float32), FLOATS[:4], Tolerance()).reason


def test_empty_outputs_are_equal() -> None:
    assert not compare("y", FLOATS[:0], FLOATS[:0], Tolerance()).reason


def test_a_missing_output_fails() -> None:
    first, second = compare_all({"b": FLOATS}, {"a": FLOATS, "b": FLOATS}, Tolerance())
    assert (first.reason, second.reason) == ("is missing", "")


def test_cosine() -> None:
    assert cosine(np.zeros(2), np.zeros(2)) == 1
    assert cosine(np.zeros(2), np.ones(2)) == 0
    assert cosine(np.array([1.0, 0]), np.array([1.0, 1])) == pytest.approx(2**-0.5)
