"""Elementary functions of float32 as polynomials: never a library call, the same lanes in as out.

Every function takes the builder and a float32 expression of any number of lanes. NaN in gives NaN out,
infinities give the limits, unless said otherwise. The coefficients are minimax fits of our own (Lawson's
reweighted least squares on Chebyshev nodes, in double, rounded to float32); the reductions are those of
W. J. Cody and W. Waite, "Software Manual for the Elementary Functions" (1980). The errors claimed here
are checked against double precision in `tests/kernels/test_math.py`.

Constants come first in `_clamp_*` because a comparison with NaN is false, so that x, even NaN, is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from isthmus.kernels.builder import Builder, Expr
from isthmus.kernels.tir import tirx

LOG2_E = 1.4426950408889634

# Adding 1.5 * 2^23 leaves round-to-nearest(x) in the low bits of the mantissa, for |x| < 2^22.
ROUND = 12582912.0
ROUND_BITS = 0x4B400000

# ln 2 and pi / 2 in pieces: the leading ones have so few bits that their product with the (integer)
# quotient is exact.
LN2 = (0.693359375, -2.1219444e-4)
HALF_PI = (1.5703125, 4.837512969970703125e-4, 7.549789948768648e-8)

# 2^f on [-1/2, 1/2], 1.5e-7 relative; exact at 0.
EXP2 = (
    1.0,
    0.6931470036506653,
    0.24022242426872253,
    0.05550733581185341,
    0.009671512991189957,
    0.001326472731307149,
)

# e^r on [-ln2/2, ln2/2], 1e-7 relative; exact at 0.
EXP = (
    1.0,
    1.0,
    0.5,
    0.16666430234909058,
    0.04166800156235695,
    0.00837415549904108,
    0.0013843653723597527,
)

# (ln(1 + f) - f + f^2 / 2) / f^3 on [sqrt(1/2) - 1, sqrt(2) - 1].
LOG = (
    0.3333333134651184,
    -0.2500081956386566,
    0.20001226663589478,
    -0.16623356938362122,
    0.14201758801937103,
    -0.13160182535648346,
    0.1276157647371292,
    -0.07634493708610535,
)

# (sin x - x) / x^3 and (cos x - 1 + x^2 / 2) / x^4, in x^2, on [-pi/4, pi/4].
SIN = (-0.16666655242443085, 0.00833216030150652, -0.0001951528392964974)
COS = (0.04166664555668831, -0.0013887316454201937, 2.44331567955669e-05)

# tanh(x) / x = TANH_OVER(x^2) / TANH_UNDER(x^2) on [-9.1, 9.1], where float32 tanh has reached 1.
TANH_LIMIT = 9.1
TANH_OVER = (
    1.0,
    0.1337447613477707,
    0.0034878114238381386,
    2.0481191313592717e-05,
    1.3177528401797645e-08,
)
TANH_UNDER = (
    1.0,
    0.4670778810977936,
    0.025847390294075012,
    0.0003272920730523765,
    7.704048812229303e-07,
)


@dataclass(frozen=True, slots=True)
class OddSaturating:
    """An odd function that is constant beyond +-limit: g * P(2 g^2 - 1) with g = x / limit, clamped to +-1.

    In the variable 2 g^2 - 1, which runs over [-1, 1], the polynomial does not cancel as it does in
    x^2. P(1) == end holds exactly in float32, evaluated by Horner's rule, so the ends meet exactly.
    """

    limit: float
    coefficients: Sequence[float]

    def __call__(self, k: Builder, x: Expr) -> Expr:
        g = k.let("g", clamp(k, x * (1.0 / self.limit), -1.0, 1.0))
        u = k.let("u", (g + g) * g - 1.0)
        return k.let("odd", polynomial(k, u, self.coefficients) * g)


# erf(x): 5e-7 relative.
ERF = OddSaturating(
    3.8,
    (
        1.4140093326568604,
        -0.7054342031478882,
        0.5233680605888367,
        -0.422575443983078,
        0.3458595871925354,
        -0.2749733030796051,
        0.20494435727596283,
        -0.1500387042760849,
        0.11384867131710052,
        -0.06614676117897034,
        0.01937100663781166,
        -0.015394063666462898,
        0.022518718615174294,
        -0.009357254020869732,
    ),
)

# erf(x / sqrt 2) / 2, fitted so that x * (1/2 + this) is within 4.5e-6 of gelu(x).
GELU = OddSaturating(
    4.8,
    (
        0.7066214084625244,
        -0.3503028452396393,
        0.2539396286010742,
        -0.19471651315689087,
        0.14746032655239105,
        -0.10649987310171127,
        0.06654633581638336,
        -0.03572874143719673,
        0.025885144248604774,
        -0.020133867859840393,
        0.006929036695510149,
    ),
)

# tanh(sqrt(2 / pi) (x + 0.044715 x^3)) / 2, so that x * (1/2 + this) is within 3.5e-6 of gelu_tanh(x).
GELU_TANH = OddSaturating(
    4.6,
    (
        0.7064324021339417,
        -0.34898319840431213,
        0.24960623681545258,
        -0.18566454946994781,
        0.13359995186328888,
        -0.09023353457450867,
        0.05261601135134697,
        -0.02676888182759285,
        0.019770590588450432,
        -0.01589217036962509,
        0.00551714887842536,
    ),
)


def polynomial(k: Builder, x: Expr, coefficients: Sequence[float]) -> Expr:
    """coefficients[0] + coefficients[1] x + ..., by Horner's rule: one FMA a term."""
    value = k.constant(coefficients[-1], x)
    for coefficient in reversed(coefficients[:-1]):
        value = k.let("p", value * x + coefficient)
    return value


def _larger_or_nan(k: Builder, bound: float, x: Expr) -> Expr:
    return tirx.max(k.constant(bound, x), x)


def _smaller_or_nan(k: Builder, bound: float, x: Expr) -> Expr:
    return tirx.min(k.constant(bound, x), x)


def clamp(k: Builder, x: Expr, low: float, high: float) -> Expr:
    """x limited to [low, high]; a NaN stays."""
    above = k.let("above", _larger_or_nan(k, low, x))
    return k.let("clamped", _smaller_or_nan(k, high, above))


def maximum(k: Builder, a: Expr, b: Expr) -> Expr:
    """The larger, as NumPy's `maximum`: NaN when either is."""
    return k.select(tirx.Or(a > b, k.is_nan(a)), a, b)


def minimum(k: Builder, a: Expr, b: Expr) -> Expr:
    """The smaller, as NumPy's `minimum`: NaN when either is."""
    return k.select(tirx.Or(a < b, k.is_nan(a)), a, b)


def quotient(k: Builder, x: Expr, divisor: Expr, inverse: Expr) -> Expr:
    """x / divisor, rounded as a division is, of which `inverse` is the rounded 1 / divisor.

    With a fused multiply-add that takes a third of a division's time: the first quotient is off by less than
    two units in the last place, the second by less than one, and what a correction makes of such a one, with
    its remainder exact, is the rounded quotient (P. Markstein, IBM J. Res. Dev. 34, 1990). That is so while
    neither remainder nor inverse leaves the range of normal numbers.
    """
    negative = k.let("negative", -divisor)
    value = k.let("quotient", x * inverse)
    for _ in range(2):
        rest = k.let("rest", k.fused(negative, value, x))
        value = k.let("quotient", k.fused(rest, inverse, value))
    return value


def _rounded(k: Builder, quotient: Expr) -> tuple[Expr, Expr]:
    """Round-to-nearest of a small number, as a float and as the bits that hold it: ROUND_BITS + it."""
    shifted = k.let("shifted", quotient + ROUND)
    return k.let("whole", shifted - ROUND), k.let("bits", k.bits(shifted, "uint32"))


def power_of_two(k: Builder, biased: Expr) -> Expr:
    """2^(biased - 127) for an unsigned integer whose upper bits do not matter; 0 for biased = 0."""
    return k.bits(biased << 23, "float32")


def exp_negative(k: Builder, x: Expr) -> Expr:
    """e^x for x <= 0 (a softmax): 2e-7 + 7e-8 |x| relative (2e-8 with FMA), exact at 0, 0 below -87.68."""
    x = k.let("x", _larger_or_nan(k, -88.0, x))
    # 127 more, and the low bits are the exponent field as it is stored: 0 at the clamp, and so is the factor.
    shifted = k.let("shifted", x * LOG2_E + (ROUND + 127.0))
    whole = k.let("whole", shifted - (ROUND + 127.0))
    fraction = k.let("fraction", x * LOG2_E - whole)
    return k.let("exp", polynomial(k, fraction, EXP2) * power_of_two(k, k.bits(shifted, "uint32")))


def exp(k: Builder, x: Expr) -> Expr:
    """e^x: 2e-7 relative where the result is normal, right in the subnormals, inf above 88.73."""
    x = clamp(k, x, -105.0, 90.0)
    whole, bits = _rounded(k, x * LOG2_E)
    rest = k.let("rest", x - whole * LN2[0])
    rest = k.let("rest", rest - whole * LN2[1])
    # The exponent in two halves, since 2^n itself may be out of range when e^x is not. 256 keeps n positive.
    n = k.let("n", bits - (ROUND_BITS - 256))
    half = k.let("half", n >> 1)
    scaled = polynomial(k, rest, EXP) * power_of_two(k, half - 1)
    return k.let("exp", scaled * power_of_two(k, n - half - 1))


def log(k: Builder, x: Expr) -> Expr:
    """ln x: 3e-7 relative (1e-7 absolute around 1); -inf at 0, NaN below."""
    tiny = x < 1.1754943508222875e-38
    scaled = k.let("scaled", k.select(tiny, x * 8388608.0, x))
    # The exponent that brings the mantissa into [sqrt(1/2), sqrt(2)).
    bits = k.let("bits", k.bits(scaled, "uint32"))
    exponent = k.let("exponent", k.bits(bits - 0x3F3504F3, "int32") >> 23)
    f = k.let("f", k.bits(bits - (k.bits(exponent, "uint32") << 23), "float32") - 1.0)
    n = k.let("n", k.cast(exponent, "float32") - k.select(tiny, k.constant(23.0, x), k.constant(0.0, x)))
    square = k.let("square", f * f)
    series = polynomial(k, f, LOG) * f * square + n * LN2[1]
    value = k.let("log", (series - square * 0.5 + f) + n * LN2[0])
    special = k.select(k.equal(x, 0.0), k.constant(-math.inf, x), k.constant(math.nan, x))
    finite = k.select(x > 0.0, value, special)
    return k.let("log", k.select(k.equal(x, math.inf), x, finite))


def power(k: Builder, x: Expr, y: Expr) -> Expr:
    """x^y = e^(y ln |x|), with the sign of an odd integer y for x < 0: 2e-7 (1 + |y ln x|) relative."""
    x, y = k.let("x", x), k.let("y", y)
    size = exp(k, log(k, absolute(k, x)) * y)
    whole = k.equal(floor(k, y), y)
    half = k.let("half", y * 0.5)
    odd = tirx.And(whole, tirx.Not(k.equal(floor(k, half), half)))
    signed = k.select(odd, -size, size)
    negative = k.select(tirx.Or(whole, k.equal(x, -math.inf)), signed, k.constant(math.nan, x))
    # 1^y and x^0 are 1 whatever the other is, NaN included; so is (-1)^inf.
    endless = tirx.And(k.equal(x, -1.0), k.equal(absolute(k, y), math.inf))
    one = tirx.Or(tirx.Or(k.equal(y, 0.0), k.equal(x, 1.0)), endless)
    return k.let("power", k.select(one, k.constant(1.0, x), k.select(x < 0.0, negative, size)))


def tanh(k: Builder, x: Expr) -> Expr:
    """tanh x: 3e-7 relative, never beyond +-1."""
    x = clamp(k, x, -TANH_LIMIT, TANH_LIMIT)
    square = k.let("square", x * x)
    over = polynomial(k, square, TANH_OVER) * x
    ratio = k.let("ratio", over / polynomial(k, square, TANH_UNDER))
    return clamp(k, ratio, -1.0, 1.0)


def erf(k: Builder, x: Expr) -> Expr:
    """The error function: 6e-7 relative."""
    return ERF(k, x)


def sigmoid(k: Builder, x: Expr) -> Expr:
    """1 / (1 + e^-x): 4e-7 relative."""
    return k.let("sigmoid", 1.0 / (1.0 + exp(k, -x)))


def silu(k: Builder, x: Expr) -> Expr:
    """x / (1 + e^-x): 4e-7 relative."""
    return k.let("silu", x / (1.0 + exp(k, -x)))


def softplus(k: Builder, x: Expr) -> Expr:
    """ln(1 + e^x): 4e-7 absolute or relative."""
    x = k.let("x", x)
    small = log(k, 1.0 + exp_negative(k, -absolute(k, x)))
    return k.let("softplus", _larger_or_nan(k, 0.0, x) + small)


def relu(k: Builder, x: Expr) -> Expr:
    """max(x, 0)."""
    return _larger_or_nan(k, 0.0, x)


def gelu(k: Builder, x: Expr) -> Expr:
    """x (1 + erf(x / sqrt 2)) / 2: 5e-6 absolute, and exactly 0 or x beyond +-4.8."""
    x = k.let("x", x)
    return k.let("gelu", x * (GELU(k, x) + 0.5))


def gelu_tanh(k: Builder, x: Expr) -> Expr:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2: 4e-6 absolute, and exactly 0 or x beyond +-4.6."""
    x = k.let("x", x)
    return k.let("gelu_tanh", x * (GELU_TANH(k, x) + 0.5))


def _sine(k: Builder, x: Expr, quarter: int) -> Expr:
    """sin(x + quarter * pi / 2)."""
    x = k.let("x", x)
    quotient, bits = _rounded(k, x * (2.0 / math.pi))
    rest = x
    for part in HALF_PI:
        rest = k.let("rest", rest - quotient * part)
    square = k.let("square", rest * rest)
    sine = polynomial(k, square, SIN) * square * rest + rest
    cosine = polynomial(k, square, COS) * square * square - square * 0.5 + 1.0
    quadrant = k.let("quadrant", bits + quarter)
    value = k.let("sine", k.select(k.equal(quadrant & 1, 0), sine, cosine))
    return k.let("sine", k.select(k.equal(quadrant & 2, 0), value, -value))


def sin(k: Builder, x: Expr) -> Expr:
    """sin x: 2e-7 absolute for |x| <= 8192, and useless beyond 1e6."""
    return _sine(k, x, 0)


def cos(k: Builder, x: Expr) -> Expr:
    """cos x: 2e-7 absolute for |x| <= 8192, and useless beyond 1e6."""
    return _sine(k, x, 1)


def _llvm(k: Builder, name: str, x: Expr) -> Expr:
    return k.let(name.removeprefix("llvm."), k.intrinsic(x.ty.dtype, name, x))


def sqrt(k: Builder, x: Expr) -> Expr:
    """The square root, correctly rounded; NaN below 0."""
    return _llvm(k, "llvm.sqrt", x)


def absolute(k: Builder, x: Expr) -> Expr:
    """|x|."""
    return _llvm(k, "llvm.fabs", x)


def magnitude_bits(k: Builder, x: Expr) -> Expr:
    """|x| of f32 as i32: its bits without the sign, which are ordered as magnitudes are, NaN above all."""
    bits = k.bits(x, "int32")
    return tirx.bitwise_and(bits, k.constant(0x7FFFFFFF, bits))


def floor(k: Builder, x: Expr) -> Expr:
    """The largest integer <= x."""
    return _llvm(k, "llvm.floor", x)


def ceil(k: Builder, x: Expr) -> Expr:
    """The smallest integer >= x."""
    return _llvm(k, "llvm.ceil", x)


def truncate(k: Builder, x: Expr) -> Expr:
    """x without its fraction."""
    return _llvm(k, "llvm.trunc", x)


def round_even(k: Builder, x: Expr) -> Expr:
    """The nearest integer, the even one of two (ONNX Round, NumPy rint)."""
    return _llvm(k, "llvm.rint", x)


Function = Callable[[Builder, Expr], Expr]

# By the names that the operators of the IR have.
ACTIVATIONS: dict[str, Function] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "relu": relu,
    "sigmoid": sigmoid,
    "silu": silu,
    "tanh": tanh,
}
