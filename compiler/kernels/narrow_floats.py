"""Floats of less than 32 bits: from the integers that lie in memory to f32 and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from isthmus.ir.types import DType
from isthmus.kernels.builder import Builder, Expr
from isthmus.kernels.loops_math import hold
from isthmus.kernels.tir import tirx


@dataclass(frozen=True, slots=True)
class Format:
    """A float of a sign, the bit `sign`, an exponent less `bias`, and `mantissa` bits. `most` is the code of
    the largest number, `beyond` that of what is larger, with either sign; `nan` that of NaN. `one_zero`:
    what would be -0 is the only NaN, `nan` and `beyond`."""

    mantissa: int
    bias: int
    most: int
    beyond: int
    nan: int
    sign: int = 7
    one_zero: bool = False


FORMATS: Mapping[DType, Format] = {
    DType.F8E4M3: Format(mantissa=3, bias=7, most=0x7E, beyond=0x7F, nan=0x7F),
    DType.F8E5M2: Format(mantissa=2, bias=15, most=0x7B, beyond=0x7C, nan=0x7E),
    DType.F8E4M3FNUZ: Format(mantissa=3, bias=8, most=0x7F, beyond=0x80, nan=0x80, one_zero=True),
    DType.F8E5M2FNUZ: Format(mantissa=2, bias=16, most=0x7F, beyond=0x80, nan=0x80, one_zero=True),
    # NaN has no code: it becomes zero.
    DType.F4E2M1: Format(mantissa=1, bias=1, most=7, beyond=7, nan=0, sign=3),
}


def decode(k: Builder, stored: Expr, dtype: DType) -> Expr:
    """What integers in memory stand for, as narrow floats."""
    if dtype is DType.BF16:
        return _bf16_to_float(k, stored)
    if dtype is DType.F16:
        return _f16_to_float(k, stored)
    if dtype is DType.F8E8M0:
        return _power_to_float(k, stored)
    return _small_to_float(k, stored, FORMATS[dtype])


def encode(k: Builder, value: Expr, dtype: DType) -> Expr:
    """f32 rounded to the nearest, the even one of two, as integers for memory."""
    if dtype is DType.BF16:
        return _float_to_bf16(k, value)
    if dtype is DType.F16:
        return _float_to_f16(k, value)
    if dtype is DType.F8E8M0:
        return _float_to_power(k, value)
    return _float_to_small(k, value, FORMATS[dtype])


def _shift_left(k: Builder, a: Expr, bits: int) -> Expr:
    return tirx.shift_left(a, k.constant(bits, a))


def _shift_right(k: Builder, a: Expr, bits: int) -> Expr:
    return tirx.shift_right(a, k.constant(bits, a))


def _bf16_to_float(k: Builder, stored: Expr) -> Expr:
    return k.bits(_shift_left(k, k.cast(stored, "uint32"), 16), "float32")


def _float_to_bf16(k: Builder, value: Expr) -> Expr:
    bits = hold(k, "bits", k.bits(value, "uint32"))
    odd = tirx.bitwise_and(_shift_right(k, bits, 16), k.constant(1, bits))
    rounded = bits + odd + k.constant(0x7FFF, bits)
    quiet = tirx.bitwise_or(bits, k.constant(0x400000, bits))
    return k.cast(_shift_right(k, k.select(k.is_nan(value), quiet, rounded), 16), "uint16")


def _f16_to_float(k: Builder, stored: Expr) -> Expr:
    bits = hold(k, "bits", k.cast(stored, "uint32"))
    sign = _shift_left(k, tirx.bitwise_and(bits, k.constant(0x8000, bits)), 16)
    size = hold(k, "size", _shift_left(k, tirx.bitwise_and(bits, k.constant(0x7FFF, bits)), 13))
    scaled = k.bits(rescaled(k, size, 112), "uint32")
    endless = tirx.bitwise_or(size, k.constant(0x7F800000, size))
    special = size >= k.constant(0x7C00 << 13, size)
    return hold(k, "half", k.bits(tirx.bitwise_or(sign, k.select(special, endless, scaled)), "float32"))


def _float_to_f16(k: Builder, value: Expr) -> Expr:
    """Round to nearest even; adding a power of two lets the float adder round the subnormals."""
    bits = hold(k, "bits", k.bits(value, "uint32"))
    sign = _shift_right(k, tirx.bitwise_and(bits, k.constant(0x80000000, bits)), 16)
    size = hold(k, "size", tirx.bitwise_and(bits, k.constant(0x7FFFFFFF, bits)))
    odd = tirx.bitwise_and(_shift_right(k, size, 13), k.constant(1, size))
    # Signed: below 2^-14, where it is not used, this is negative.
    raised = k.bits(size + odd, "int32")
    normal = k.bits(_shift_right(k, raised + k.constant(0xFFF - (112 << 23), raised), 13), "uint32")
    half_unit = k.constant(0.5, value)  # its mantissa's last bit weighs 2^-24, as a subnormal's does
    small = k.bits(k.bits(size, "float32") + half_unit, "uint32") - k.bits(half_unit, "uint32")
    finite = hold(k, "finite", k.select(size < k.constant(113 << 23, size), small, normal))
    # From 65520 on, halfway beyond the greatest number, to infinity.
    large = hold(k, "large", k.select(size >= k.constant(0x477FF000, size), k.constant(0x7C00, size), finite))
    encoded = k.select(size > k.constant(0x7F800000, size), k.constant(0x7E00, size), large)
    return k.cast(tirx.bitwise_or(encoded, sign), "uint16")


def rescaled(k: Builder, bits: Expr, bias: int) -> Expr:
    """The f32 whose sign, exponent and mantissa stand in `bits`, uint32, where f32 has them, but for an
    exponent that is less by `bias`."""
    if not k.target.vector.flushes:
        small = k.bits(bits, "float32")
        return small * k.constant(2.0**bias, small)
    # Numbers without a leading one get it with the least exponent, and lose it again by a subtraction.
    sign = tirx.bitwise_and(bits, k.constant(0x80000000, bits))
    size = tirx.bitwise_and(bits, k.constant(0x7FFFFFFF, bits))
    raised = hold(k, "raised", k.bits(size + k.constant(bias << 23, size), "float32"))
    below = tirx.Sub(raised, k.constant(2.0 ** (bias + 1 - 127), raised))
    found = tirx.Add(raised, tirx.Min(below, k.constant(0, raised)))
    return k.bits(tirx.bitwise_or(k.bits(found, "uint32"), sign), "float32")


def _small_to_float(k: Builder, stored: Expr, form: Format) -> Expr:
    bits = hold(k, "bits", k.cast(stored, "uint32"))
    sign = _shift_left(k, tirx.bitwise_and(bits, k.constant(1 << form.sign, bits)), 31 - form.sign)
    code = hold(k, "code", tirx.bitwise_and(bits, k.constant((1 << form.sign) - 1, bits)))
    size = _shift_left(k, code, 23 - form.mantissa)
    both = hold(k, "both", tirx.bitwise_or(sign, size))
    scaled = hold(k, "scaled", rescaled(k, both, 127 - form.bias))
    if form.one_zero:
        none = tirx.EQ(bits, k.constant(form.nan, bits))
        return k.select(none, k.constant(math.nan, scaled), scaled)
    endless = k.bits(tirx.bitwise_or(both, k.constant(0x7F800000, both)), "float32")
    return k.select(code > k.constant(form.most, code), endless, scaled)


def _float_to_small(k: Builder, value: Expr, form: Format) -> Expr:
    """As for f16; what is larger than the largest number is not that number, but infinite or NaN."""
    shift = 23 - form.mantissa
    bits = hold(k, "bits", k.bits(value, "uint32"))
    sign = _shift_right(k, tirx.bitwise_and(bits, k.constant(0x80000000, bits)), 31 - form.sign)
    size = hold(k, "size", tirx.bitwise_and(bits, k.constant(0x7FFFFFFF, bits)))
    odd = tirx.bitwise_and(_shift_right(k, size, shift), k.constant(1, size))
    raised = k.bits(size + odd, "int32")
    down = (1 << shift - 1) - 1 - (127 - form.bias << 23)
    normal = k.bits(_shift_right(k, raised + k.constant(down, raised), shift), "uint32")
    # A number whose mantissa's last bit weighs what that of a subnormal does.
    unit = k.constant(2.0 ** (24 - form.bias - form.mantissa), value)
    small = k.bits(k.bits(size, "float32") + unit, "uint32") - k.bits(unit, "uint32")
    finite = hold(k, "finite", k.select(size < k.constant(128 - form.bias << 23, size), small, normal))
    largest = k.constant(form.most, finite)
    code = hold(k, "code", k.select(finite > largest, k.constant(form.beyond, finite), finite))
    encoded = k.select(size > k.constant(0x7F800000, size), k.constant(form.nan, size), code)
    if form.one_zero:
        encoded = hold(k, "encoded", encoded)
        none = tirx.EQ(tirx.bitwise_and(encoded, k.constant(form.most, encoded)), k.constant(0, encoded))
        return k.cast(k.select(none, encoded, tirx.bitwise_or(encoded, sign)), "uint8")
    return k.cast(tirx.bitwise_or(encoded, sign), "uint8")


def _power_to_float(k: Builder, stored: Expr) -> Expr:
    """2^-127 is a subnormal number of f32, and 255 is NaN."""
    code = hold(k, "code", k.cast(stored, "uint32"))
    normal = _shift_left(k, code, 23)
    least = k.select(tirx.EQ(code, k.constant(0, code)), k.constant(0x400000, code), normal)
    return k.bits(
        k.select(tirx.EQ(code, k.constant(255, code)), k.constant(0x7FC00000, code), least), "float32"
    )


def _float_to_power(k: Builder, value: Expr) -> Expr:
    """The nearest power of two, of two the larger; NaN for what is not positive, and what is too large."""
    bits = hold(k, "bits", k.bits(value, "uint32"))
    normal = _shift_right(k, bits + k.constant(0x400000, bits), 23)
    # Below 2^-126, where numbers have no leading one, `ml_dtypes` rounds up.
    small = k.select(bits < k.constant(0x400001, bits), k.constant(0, bits), k.constant(1, bits))
    found = hold(k, "found", k.select(bits < k.constant(0x800000, bits), small, normal))
    none = tirx.Or(tirx.EQ(bits, k.constant(0, bits)), bits > k.constant(0x7F7FFFFF, bits))
    return k.cast(k.select(none, k.constant(255, found), found), "uint8")
