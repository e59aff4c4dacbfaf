"""Floats of 4 bits (E2M1 of the OCP Microscaling Formats specification 1.0, table 5), as whole numbers.

A code is a sign, two bits of exponent and one of mantissa, and stands for 0, 0.5, 1, 1.5, 2, 3, 4 or 6. Twice
that is an integer, and so tensors hold it: i8, one of `NUMBERS` with either sign; scales are halved for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# Twice what the codes 0..7 stand for; with 8 added to the code it is negative.
NUMBERS = (0, 1, 2, 3, 4, 6, 8, 12)
MOST = NUMBERS[-1]
_SIGNED = np.asarray([*NUMBERS, *(-n for n in NUMBERS)], np.int8)
_MAGNITUDES = _SIGNED[:8].astype(np.float32)
_MIDDLES = (_MAGNITUDES[1:] + _MAGNITUDES[:-1]) / 2
# A number between two codes goes to the even one: up, if the lower one is odd.
_BOUNDS = np.where(np.arange(7) % 2 == 1, np.nextafter(_MIDDLES, np.float32(0)), _MIDDLES)


def nearest(x: npt.NDArray[np.float32]) -> npt.NDArray[np.int8]:
    """The nearest numbers; halves go to the even code, and what is beyond the largest saturates."""
    size = _SIGNED[np.searchsorted(_BOUNDS, np.abs(x), side="left")]
    return np.where(x < 0, -size, size).astype(np.int8)


def are_numbers(q: npt.NDArray[Any]) -> bool:
    """Whether each element is such a number."""
    return bool(np.isin(q, _SIGNED).all())


def to_codes(q: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Numbers as codes of 4 bits, in the range -8..7. Raises ValueError for others."""
    if not are_numbers(q):
        raise ValueError("these are not all floats of 4 bits")
    code = np.searchsorted(_SIGNED[:8], np.abs(q)) + 8 * (q < 0)
    return np.asarray((code ^ 8) - 8, np.int8)


def from_codes(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """The numbers that codes of 4 bits, in the range -8..7, stand for."""
    return np.asarray(_SIGNED[codes & 15], np.int8)
