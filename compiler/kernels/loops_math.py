"""Elementary functions of float64, and those of float32 that need more than float32 inside.

The series are Taylor's after a reduction of the argument, so no coefficient needs fitting; these
functions are rare in models, and plain beats fast. Every function takes the builder and an expression of
any number of lanes. NaN in gives NaN out; infinities give the limits. Errors are checked against NumPy in
`tests/kernels/test_loops_math.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from isthmus.kernels.builder import Builder, Expr, dtype_of, element_type, lanes_of
from isthmus.kernels.math import absolute, floor, sqrt
from isthmus.kernels.tir import tirx

# Adding 1.5 * 2^52 leaves round-to-nearest(x) in the low bits of the mantissa, for |x| < 2^51.
ROUND = 6755399441055744.0
ROUND_BITS = 0x4338000000000000

# ln 2 and pi / 2 in pieces: the product of each piece but the last with the (integer) quotient is exact.
LN2 = (0.6931471804855391, 7.440617110012397e-11)
HALF_PI = (1.5707963109016418, 1.5893254712295857e-08, 6.123233995736766e-17)

EXP = [1 / math.factorial(i) for i in range(14)]
SIN = [(-1) ** i / math.factorial(2 * i + 1) for i in range(9)]
COS = [(-1) ** i / math.factorial(2 * i) for i in range(10)]
# ln((1 + s) / (1 - s)) / s, in s^2, for |s| <= 0.172.
LOG = [2 / (2 * i + 1) for i in range(12)]
# erf(x) / x, in x^2, for |x| <= 2.5; beyond, a continued fraction of this depth for 1 - erf.
ERF = [2 / math.sqrt(math.pi) * (-1) ** i / (math.factorial(i) * (2 * i + 1)) for i in range(42)]
ERF_NEAR = 2.5
ERF_DEPTH = 24
# tanh as a continued fraction (Lambert 1768) for |x| <= 1/2.
TANH_NEAR = 0.5
TANH_DEPTH = 6


def hold(k: Builder, name: str, value: Expr) -> Expr:
    """Compute `value` here, once, as `let` does; for values that are used more than once.

    TVM's simplifier puts the value of a variable in the place of its name, and so takes time exponential
    in the depth of shared expressions. It does not look through memory, which LLVM then removes.
    """
    if isinstance(value, tirx.IntImm | tirx.FloatImm | tirx.Var | tirx.Broadcast):
        return value
    dtype = element_type(dtype_of(value))
    if dtype == "bool":
        number = hold(k, name, k.select(value, 1, 0, "uint8"))
        return tirx.Not(tirx.EQ(number, k.constant(0, number)))
    return k.register(name, lanes_of(value), value, dtype).value


def number(k: Builder, value: float, like: Expr) -> Expr:
    """`value` in the type and lanes of `like`. (Python numbers beside operators may become float32.)"""
    return k.constant(value, like)


def _horner(k: Builder, x: Expr, coefficients: Sequence[float]) -> Expr:
    value = number(k, coefficients[-1], x)
    for coefficient in reversed(coefficients[:-1]):
        value = hold(k, "p", value * x + number(k, coefficient, x))
    return value


def _clamp(k: Builder, x: Expr, low: float, high: float) -> Expr:
    # The constant comes first: a comparison with NaN is false, and so x, even NaN, is taken.
    above = hold(k, "above", tirx.Max(number(k, low, x), x))
    return hold(k, "clamped", tirx.Min(number(k, high, x), above))


def _rounded(k: Builder, quotient: Expr) -> tuple[Expr, Expr]:
    """Round-to-nearest, as a float and as an int64."""
    shifted = hold(k, "shifted", quotient + number(k, ROUND, quotient))
    bits = k.bits(shifted, "int64")
    return hold(k, "whole", shifted - number(k, ROUND, quotient)), hold(
        k, "bits", bits - k.constant(ROUND_BITS, bits)
    )


def _power_of_two(k: Builder, exponent: Expr) -> Expr:
    """2^exponent for an int64 in -1022..1023."""
    biased = exponent + k.constant(1023, exponent)
    return k.bits(tirx.shift_left(biased, k.constant(52, biased)), "float64")


def exp(k: Builder, x: Expr) -> Expr:
    """e^x in f64: 1e-15 relative, right in the subnormals, inf above 709.79."""
    x = _clamp(k, x, -746.0, 710.0)
    whole, n = _rounded(k, x * number(k, math.log2(math.e), x))
    rest = hold(k, "rest", x - whole * number(k, LN2[0], x))
    rest = hold(k, "rest", rest - whole * number(k, LN2[1], x))
    # In two halves, since 2^n itself may be out of range when e^x is not.
    half = hold(k, "half", tirx.shift_right(n, k.constant(1, n)))
    scaled = _horner(k, rest, EXP) * _power_of_two(k, half)
    return hold(k, "exp", scaled * _power_of_two(k, n - half))


def log(k: Builder, x: Expr) -> Expr:
    """ln x in f64: 1e-15 relative; -inf at 0, NaN below."""
    x = hold(k, "x", x)
    zero = number(k, 0.0, x)
    tiny = x < number(k, 2.2250738585072014e-308, x)
    scaled = hold(k, "scaled", k.select(tiny, x * number(k, 2.0**54, x), x))
    # The exponent that brings the mantissa into [sqrt(1/2), sqrt(2)).
    bits = hold(k, "bits", k.bits(scaled, "int64"))
    above = bits - k.constant(0x3FE6A09E667F3BCD, bits)
    exponent = hold(k, "exponent", tirx.shift_right(above, k.constant(52, bits)))
    m = hold(k, "m", k.bits(bits - tirx.shift_left(exponent, k.constant(52, bits)), "float64"))
    # An int64 to a float without a conversion that not every vector unit has.
    counted = k.bits(exponent + k.constant(ROUND_BITS, bits), "float64") - number(k, ROUND, x)
    n = hold(k, "n", counted - k.select(tiny, number(k, 54.0, x), zero))
    one = number(k, 1.0, x)
    s = hold(k, "s", (m - one) / (m + one))
    series = _horner(k, hold(k, "square", s * s), LOG) * s
    value = hold(k, "log", n * number(k, LN2[0], x) + (series + n * number(k, LN2[1], x)))
    special = k.select(tirx.EQ(x, zero), number(k, -math.inf, x), number(k, math.nan, x))
    finite = k.select(x > zero, value, special)
    return hold(k, "log", k.select(tirx.EQ(x, number(k, math.inf, x)), x, finite))


def _sine(k: Builder, x: Expr, quarter: int) -> Expr:
    """sin(x + quarter * pi / 2) in f64."""
    x = hold(k, "x", x)
    whole, quotient = _rounded(k, x * number(k, 2 / math.pi, x))
    rest = x
    for part in HALF_PI:
        rest = hold(k, "rest", rest - whole * number(k, part, x))
    square = hold(k, "square", rest * rest)
    quadrant = hold(k, "quadrant", quotient + k.constant(quarter, quotient))
    zero = k.constant(0, quadrant)
    even = tirx.EQ(tirx.bitwise_and(quadrant, k.constant(1, quadrant)), zero)
    value = hold(k, "sine", k.select(even, _horner(k, square, SIN) * rest, _horner(k, square, COS)))
    upper = tirx.EQ(tirx.bitwise_and(quadrant, k.constant(2, quadrant)), zero)
    return hold(k, "sine", k.select(upper, value, number(k, 0.0, x) - value))


def sin(k: Builder, x: Expr) -> Expr:
    """sin x in f64: 1e-15 absolute for |x| <= 1e8, and useless beyond 1e15."""
    return _sine(k, x, 0)


def cos(k: Builder, x: Expr) -> Expr:
    """cos x in f64: 1e-15 absolute for |x| <= 1e8, and useless beyond 1e15."""
    return _sine(k, x, 1)


def tanh(k: Builder, x: Expr) -> Expr:
    """tanh x in f64: 1e-15 relative."""
    x = _clamp(k, x, -20.0, 20.0)
    one, two = number(k, 1.0, x), number(k, 2.0, x)
    square = hold(k, "square", x * x)
    fraction = number(k, 2.0 * TANH_DEPTH + 1, x)
    for i in range(TANH_DEPTH - 1, -1, -1):
        fraction = hold(k, "fraction", number(k, 2.0 * i + 1, x) + square / fraction)
    far = hold(k, "far", one - two / (exp(k, two * x) + one))
    near = absolute(k, x) < number(k, TANH_NEAR, x)
    return hold(k, "tanh", k.select(near, x / fraction, far))


def erf(k: Builder, x: Expr) -> Expr:
    """The error function in f64: 1e-13 relative (Abramowitz and Stegun, 7.1.5 and 7.1.14)."""
    x = _clamp(k, x, -6.5, 6.5)
    one = number(k, 1.0, x)
    size = absolute(k, x)
    square = hold(k, "square", x * x)
    near = _horner(k, square, ERF) * x
    # 1 - erf(x) = e^(-x^2) / sqrt(pi) / (x + (1/2) / (x + 1 / (x + (3/2) / (x + ...)))), kept off x = 0.
    far = hold(k, "far", tirx.Max(number(k, 1.0, x), size))
    fraction = far
    for i in range(ERF_DEPTH, 0, -1):
        fraction = hold(k, "fraction", far + number(k, i / 2, x) / fraction)
    rest = exp(k, number(k, 0.0, x) - square) * number(k, 1 / math.sqrt(math.pi), x) / fraction
    beyond = hold(k, "beyond", one - rest)
    signed = k.select(x < number(k, 0.0, x), number(k, 0.0, x) - beyond, beyond)
    # Not "size > 2.5": NaN takes this side, and stays one.
    return hold(k, "erf", k.select(size > number(k, ERF_NEAR, x), signed, near))


def sigmoid(k: Builder, x: Expr) -> Expr:
    """1 / (1 + e^-x) in f64."""
    one = number(k, 1.0, x)
    return hold(k, "sigmoid", one / (one + exp(k, number(k, 0.0, x) - x)))


def silu(k: Builder, x: Expr) -> Expr:
    """x / (1 + e^-x) in f64."""
    return hold(k, "silu", x / (number(k, 1.0, x) + exp(k, number(k, 0.0, x) - x)))


def gelu(k: Builder, x: Expr) -> Expr:
    """x (1 + erf(x / sqrt 2)) / 2 in f64."""
    spread = erf(k, x * number(k, math.sqrt(0.5), x))
    return hold(k, "gelu", x * number(k, 0.5, x) * (number(k, 1.0, x) + spread))


def gelu_tanh(k: Builder, x: Expr) -> Expr:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 in f64."""
    inner = x + number(k, 0.044715, x) * x * x * x
    spread = tanh(k, hold(k, "inner", inner * number(k, math.sqrt(2 / math.pi), x)))
    return hold(k, "gelu_tanh", x * number(k, 0.5, x) * (number(k, 1.0, x) + spread))


def power(k: Builder, x: Expr, y: Expr) -> Expr:
    """x^y in f64, special cases as C's `pow`: 2e-16 (1 + |y ln x|) relative; plain for y = 1/2, 1, 2, 3."""
    x, y = hold(k, "x", x), hold(k, "y", y)
    one, zero = number(k, 1.0, x), number(k, 0.0, x)
    infinity = number(k, math.inf, x)
    magnitude = absolute(k, x)
    size = exp(k, hold(k, "exponent", log(k, magnitude) * y))
    for special, value in (
        (1.0, magnitude),
        (2.0, x * x),
        (3.0, x * x * magnitude),
        (0.5, sqrt(k, magnitude)),
    ):
        size = hold(k, "size", k.select(tirx.EQ(y, number(k, special, y)), value, size))
    whole = tirx.EQ(floor(k, y), y)
    half = hold(k, "half", y * number(k, 0.5, y))
    odd = tirx.And(whole, tirx.Not(tirx.EQ(floor(k, half), half)))
    signed = k.select(odd, zero - size, size)
    allowed = tirx.Or(whole, tirx.Or(tirx.EQ(magnitude, infinity), tirx.EQ(magnitude, zero)))
    below = k.select(allowed, signed, number(k, math.nan, x))
    # -0.0 is not below 0; its odd powers alone are negative.
    value = k.select(tirx.LT(_sign(k, x), zero), below, size)
    # 1^y and x^0 are 1 whatever the other is, NaN included; so is (-1)^inf.
    endless = tirx.And(tirx.EQ(x, number(k, -1.0, x)), tirx.EQ(absolute(k, y), infinity))
    always_one = tirx.Or(tirx.Or(tirx.EQ(y, zero), tirx.EQ(x, one)), endless)
    return hold(k, "power", k.select(always_one, one, value))


def _sign(k: Builder, x: Expr) -> Expr:
    """-1 where the sign bit is set and x is not NaN, else 1."""
    negative = k.bits(x, "int64") < k.constant(0, k.bits(x, "int64"))
    return k.select(tirx.And(negative, tirx.EQ(x, x)), number(k, -1.0, x), number(k, 1.0, x))


# mantissa bits, integer type
FORMATS = {"float32": (23, "uint32"), "float64": (52, "uint64")}


def modulo(k: Builder, a: Expr, b: Expr) -> Expr:
    """NumPy's `mod` of f32 or f64: exact, with the sign of b. Long division, a bit of the quotient a turn."""
    a, b = hold(k, "a", a), hold(k, "b", b)
    precision, unsigned = FORMATS[element_type(dtype_of(a))]

    def parts(x: Expr) -> tuple[Expr, Expr]:
        bits = hold(k, "bits", k.bits(absolute(k, x), unsigned))
        exponent = hold(k, "exponent", tirx.shift_right(bits, k.constant(precision, bits)))
        mantissa = tirx.bitwise_and(bits, k.constant((1 << precision) - 1, bits))
        normal = tirx.bitwise_or(mantissa, k.constant(1 << precision, bits))
        is_normal = exponent > k.constant(0, bits)
        one = k.constant(1, bits)
        return hold(k, "mantissa", k.select(is_normal, normal, mantissa)), hold(
            k, "e", k.select(is_normal, exponent, one)
        )

    mantissa, exponent = parts(a)
    divisor, floor_exponent = parts(b)
    none = k.constant(0, mantissa)
    divisor = hold(k, "divisor", k.select(tirx.EQ(divisor, none), k.constant(1, divisor), divisor))
    smaller = exponent < floor_exponent
    turns = hold(k, "turns", k.cast(k.select(smaller, none, exponent - floor_exponent), "int64"))
    lanes = int(a.ty.dtype.lanes)
    rest = k.register("rest", lanes, tirx.Mod(mantissa, divisor), unsigned)
    with k.loop("turn", 0, k.reduce(turns, tirx.max)) as turn:
        twice = hold(k, "twice", rest.value + rest.value)
        less = k.select(twice >= divisor, twice - divisor, twice)
        rest.set(k.select(k.spread(turn, lanes) < turns, less, rest.value))
    left = k.cast(rest.value, element_type(dtype_of(a))) * number(k, 2.0**-precision, a)
    unit = k.bits(
        tirx.shift_left(floor_exponent, k.constant(precision, floor_exponent)), element_type(dtype_of(a))
    )
    left = hold(k, "left", k.select(smaller, absolute(k, a), left * unit))
    zero = number(k, 0.0, a)
    signed = hold(k, "signed", k.select(a < zero, zero - left, left))
    wrong = tirx.Or(tirx.And(signed < zero, b > zero), tirx.And(signed > zero, b < zero))
    value = hold(k, "value", k.select(wrong, signed + b, signed))
    undefined = tirx.Or(tirx.EQ(b, zero), tirx.EQ(absolute(k, a), number(k, math.inf, a)))
    undefined = tirx.Or(undefined, tirx.Or(k.is_nan(a), k.is_nan(b)))
    return hold(k, "mod", k.select(undefined, number(k, math.nan, a), value))
