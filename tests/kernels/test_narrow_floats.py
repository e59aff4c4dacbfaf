"""Floats of 8 bits in memory: every code and what lies between two of them, as `ml_dtypes` has them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from isthmus.codegen.native import Call
from isthmus.ir.types import Array, DType
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.loops import Apply, Load, Nest, Operand, kernel
from isthmus.target import Target

Compiled = Callable[[Kernel], Call]
STORED = tuple(d for d in DType if d.is_stored)


def cast(x: Array, source: DType, wanted: DType, target: Target, compiled: Compiled) -> Array:
    body = Apply("cast", (Load(0),), wanted)
    nest = Nest((Operand(source, "unit"),), Operand(wanted, "unit"), ("kept",), body)
    y, fault = np.empty(x.size, wanted.numpy), np.zeros(1, np.int32)
    call = compiled(kernel(nest, target))
    call(x, y, np.array([x.size], np.int64), np.ones(2, np.int64), fault, 1, 0, 1)
    return y


def same(a: Array, b: Array) -> Array:
    """By their bits, but for NaN."""
    both = np.isnan(a.astype(np.float32)) & np.isnan(b.astype(np.float32))
    return np.asarray((a.view(np.uint8) == b.view(np.uint8)) | both)


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_every_code(dtype: DType, target: Target, compiled: Compiled) -> None:
    codes = np.arange(256, dtype=np.uint8).view(dtype.numpy)
    wide = cast(codes, dtype, DType.F32, target, compiled)
    np.testing.assert_array_equal(wide, codes.astype(np.float32))
    np.testing.assert_array_equal(np.signbit(wide), np.signbit(codes.astype(np.float32)))
    assert same(cast(wide, DType.F32, dtype, target, compiled), codes).all()


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_rounding(dtype: DType, target: Target, compiled: Compiled) -> None:
    """To the nearest: halfway between two codes, next to that, and anywhere, beyond the largest as well."""
    with np.errstate(all="ignore"):
        known = np.unique(np.arange(256, dtype=np.uint8).view(dtype.numpy).astype(np.float32))
        known = known[np.isfinite(known)]
        middle = (known[1:] + known[:-1]) / 2
        beside = [np.nextafter(middle, np.float32(to)) for to in (-np.inf, np.inf)]
        bits = np.random.default_rng(0).integers(0, 1 << 32, 100_000, dtype=np.uint32)
        ends = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 448, 464, 465, 61439, 61440])
        x = np.concatenate([middle, *beside, -middle, 1.1 * known, ends, bits.view(np.float32)])
        x = np.float32(x)
        wanted = x.astype(dtype.numpy)
    got = cast(x, DType.F32, dtype, target, compiled)
    wrong = np.flatnonzero(~same(got, wanted))
    assert not wrong.size, [(float(x[i]), got[i], wanted[i]) for i in wrong[:5]]
