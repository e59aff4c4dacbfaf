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


def codes_of(dtype: DType) -> Array:
    return np.arange(16 if dtype is DType.F4E2M1 else 256, dtype=np.uint8).view(dtype.numpy)


def same(a: Array, b: Array, dtype: DType) -> Array:
    """By their bits, but for NaN, which f4e2m1 does not have: there it is a zero of any sign."""
    one, other = a.astype(np.float32), b.astype(np.float32)
    none = np.isnan(one) & np.isnan(other)
    if dtype is DType.F4E2M1:
        none |= (one == 0) & (other == 0)
    return np.asarray((a.view(np.uint8) == b.view(np.uint8)) | none)


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_every_code(dtype: DType, target: Target, compiled: Compiled) -> None:
    codes = codes_of(dtype)
    wide = cast(codes, dtype, DType.F32, target, compiled)
    np.testing.assert_array_equal(wide, codes.astype(np.float32))
    numbers = ~np.isnan(wide)
    np.testing.assert_array_equal(np.signbit(wide[numbers]), np.signbit(codes.astype(np.float32)[numbers]))
    assert same(cast(wide, DType.F32, dtype, target, compiled), codes, dtype).all()


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_rounding(dtype: DType, target: Target, compiled: Compiled) -> None:
    """To the nearest: halfway between two codes, next to that, and anywhere, beyond the largest as well."""
    with np.errstate(all="ignore"):
        known = np.unique(codes_of(dtype).astype(np.float32))
        known = known[np.isfinite(known)]
        middle = (known[1:] + known[:-1]) / 2
        beside = [np.nextafter(middle, np.float32(to)) for to in (-np.inf, np.inf)]
        bits = np.random.default_rng(0).integers(0, 1 << 32, 100_000, dtype=np.uint32)
        ends = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 3e38, -3e38, 448, 464, 465, 61439, 61440])
        x = np.concatenate([middle, *beside, -middle, 1.1 * known, ends, bits.view(np.float32)])
        x = np.float32(x)
        wanted = x.astype(dtype.numpy)
    got = cast(x, DType.F32, dtype, target, compiled)
    wrong = np.flatnonzero(~same(got, wanted, dtype))
    assert not wrong.size, [(float(x[i]), got[i], wanted[i]) for i in wrong[:5]]
