"""Pointwise ops: NumPy broadcasting, one element in, one element out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from isthmus.ir.graph import Kind, Op, Trait, TypeMismatch
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ops import rules
from isthmus.ops.rules import Infer

POINTWISE = frozenset({Trait.POINTWISE})
COMMUTATIVE = frozenset({Trait.POINTWISE, Trait.COMMUTATIVE})


def _unary(name: str, reference: Callable[..., Array], infer: Infer = rules.floating, doc: str = "") -> Op:
    return Op(name, infer, reference, (1, 1), traits=POINTWISE, doc=doc)


def _binary(
    name: str,
    reference: Callable[..., Array],
    infer: Infer = rules.numeric,
    commutes: bool = False,
    doc: str = "",
) -> Op:
    return Op(name, infer, reference, (2, 2), traits=COMMUTATIVE if commutes else POINTWISE, doc=doc)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def erf_reference(x: Array) -> Array:
    """The error function in f64, whatever the element type."""
    return np.asarray(_erf(np.asarray(x, np.float64)) if x.size else x)


def gelu_reference(x: Array) -> Array:
    """x * (1 + erf(x / sqrt 2)) / 2  (Hendrycks and Gimpel 2016)."""
    wide = np.asarray(x, np.float64)
    return np.asarray(wide * 0.5 * (1 + erf_reference(wide * math.sqrt(0.5))))


def gelu_tanh_reference(x: Array) -> Array:
    """The tanh approximation of GELU from the same paper."""
    wide = np.asarray(x, np.float64)
    return np.asarray(0.5 * wide * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))))


def sigmoid_reference(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-np.asarray(x, np.float64))))


def silu_reference(x: Array) -> Array:
    wide = np.asarray(x, np.float64)
    return np.asarray(wide / (1 + np.exp(-wide)))


def div_reference(a: Array, b: Array) -> Array:
    """Floating division, or integer division towards zero as ONNX has it; x / 0 is 0 for integers."""
    if a.dtype.kind not in "iu":
        return np.asarray(a / b)
    safe = np.where(b == 0, np.ones_like(b), b)
    floored = a // safe
    # Not by way of absolute values: the lowest integer has none.
    inexact = floored * safe != a
    quotient = floored + (inexact & ((a < 0) != (b < 0)))
    return np.where(b == 0, np.zeros_like(a), quotient).astype(a.dtype)


def mod_reference(a: Array, b: Array) -> Array:
    """Remainder with the sign of the divisor (ONNX Mod, fmod=0)."""
    return np.asarray(np.mod(a, np.where(b == 0, np.ones_like(b), b) if a.dtype.kind in "iu" else b))


def pow_reference(a: Array, b: Array) -> Array:
    """a to the power b, in f64; exact and wrapping for integers, where 1 / a^n is rounded towards zero."""
    if a.dtype.kind not in "iu":
        return np.power(a.astype(np.float64), b.astype(np.float64))
    whole = np.power(a, np.maximum(b, np.zeros_like(b)))
    # Only 1 and -1 have reciprocals.
    unit = np.where(np.abs(a) == 1, np.where(b % 2 == 0, np.ones_like(a), a), np.zeros_like(a))
    return np.where(b < 0, unit, whole).astype(a.dtype)


neg = _unary("neg", np.negative, rules.numeric)
absolute = _unary("abs", np.abs, rules.numeric)
sign = _unary("sign", np.sign, rules.numeric)
exp = _unary("exp", np.exp)
log = _unary("log", np.log)
sqrt = _unary("sqrt", np.sqrt)
reciprocal = _unary("reciprocal", np.reciprocal)
sin = _unary("sin", np.sin)
cos = _unary("cos", np.cos)
floor = _unary("floor", np.floor)
ceil = _unary("ceil", np.ceil)
round_even = _unary("round", np.rint, doc="Halves go to the even neighbour.")
erf = _unary("erf", erf_reference)
tanh = _unary("tanh", np.tanh)
sigmoid = _unary("sigmoid", sigmoid_reference)
relu = _unary("relu", lambda x: np.maximum(x, 0), rules.numeric, doc="NaN stays NaN.")
gelu = _unary("gelu", gelu_reference, doc="x * (1 + erf(x / sqrt 2)) / 2.")
gelu_tanh = _unary("gelu_tanh", gelu_tanh_reference, doc="GELU by its tanh approximation.")
silu = _unary("silu", silu_reference, doc="x * sigmoid(x).")
is_nan = _unary("is_nan", np.isnan, rules.with_dtype(rules.floating, DType.BOOL))
is_inf = _unary("is_inf", np.isinf, rules.with_dtype(rules.floating, DType.BOOL))
logical_not = _unary("not", np.logical_not, rules.logical)

add = _binary("add", np.add, commutes=True)
sub = _binary("sub", np.subtract)
mul = _binary("mul", np.multiply, commutes=True)
div = _binary("div", div_reference)
pow_ = _binary("pow", pow_reference)
minimum = _binary("min", np.minimum, rules.pointwise, commutes=True, doc="NaN wins.")
maximum = _binary("max", np.maximum, rules.pointwise, commutes=True, doc="NaN wins.")
mod = _binary("mod", mod_reference, doc="Remainder with the sign of the divisor.")
equal = _binary("equal", np.equal, rules.comparison, commutes=True)
less = _binary("less", np.less, rules.comparison)
less_equal = _binary("less_equal", np.less_equal, rules.comparison)
greater = _binary("greater", np.greater, rules.comparison)
greater_equal = _binary("greater_equal", np.greater_equal, rules.comparison)
logical_and = _binary("and", np.logical_and, rules.logical, commutes=True)
logical_or = _binary("or", np.logical_or, rules.logical, commutes=True)
logical_xor = _binary("xor", np.logical_xor, rules.logical, commutes=True)


def _shift_left_reference(a: Array, b: Array) -> Array:
    inside = (b >= 0) & (b < a.dtype.itemsize * 8)
    return np.where(inside, np.left_shift(a, np.where(inside, b, np.zeros_like(b))), np.zeros_like(a))


def _shift_right_reference(a: Array, b: Array) -> Array:
    inside = (b >= 0) & (b < a.dtype.itemsize * 8)
    far = np.where(a < 0, np.zeros_like(a) - 1, np.zeros_like(a))
    return np.where(inside, np.right_shift(a, np.where(inside, b, np.zeros_like(b))), far)


def _binary_bits(name: str, reference: Callable[..., Array], commutes: bool = False, doc: str = "") -> Op:
    return _binary(name, reference, rules.integral, commutes, doc)


bit_and = _binary_bits("bit_and", np.bitwise_and, True)
bit_or = _binary_bits("bit_or", np.bitwise_or, True)
bit_xor = _binary_bits("bit_xor", np.bitwise_xor, True)
shift_left = _binary_bits(
    "shift_left", _shift_left_reference, doc="By less than 0, or by as many bits as there are: 0."
)
shift_right = _binary_bits(
    "shift_right",
    _shift_right_reference,
    doc="The sign bit is repeated. By less than 0, or by as many bits as there are: -1 or 0.",
)


def _bitcast_infer(x: TensorType, *, dtype: DType) -> TensorType:
    if x.dtype.bits != dtype.bits or DType.BOOL in (x.dtype, dtype):
        raise TypeMismatch(f"the bits of {x} are no {dtype}")
    return x.with_dtype(dtype)


def _bitcast_reference(x: Array, *, dtype: DType) -> Array:
    return np.ascontiguousarray(x).reshape(x.shape).view(dtype.numpy)


bitcast = Op(
    "bitcast",
    _bitcast_infer,
    _bitcast_reference,
    (1, 1),
    {"dtype": Kind.DTYPE},
    traits=POINTWISE,
    doc="The same bits read as another type of the same width.",
)


def _cast_infer(x: TensorType, *, dtype: DType) -> TensorType:
    return x.with_dtype(dtype)


def _cast_reference(x: Array, *, dtype: DType) -> Array:
    if dtype.is_stored and DType.of(x.dtype).is_stored:
        # `ml_dtypes` knows no way from one to another. f32 holds all of them.
        x = x.astype(np.float32)
    return x.astype(dtype.numpy)


cast = Op("cast", _cast_infer, _cast_reference, (1, 1), {"dtype": Kind.DTYPE}, traits=POINTWISE)


def _where_infer(condition: TensorType, a: TensorType, b: TensorType) -> TensorType:
    if condition.dtype is not DType.BOOL:
        raise TypeMismatch(f"the condition must be bool, got {condition}")
    return TensorType(rules.same_dtype(a, b), rules.broadcast_shapes(condition.shape, a.shape, b.shape))


where = Op(
    "where", _where_infer, np.where, (3, 3), traits=POINTWISE, doc="a where the condition holds, else b."
)

ALL = (
    neg, absolute, sign, exp, log, sqrt, reciprocal, sin, cos, floor, ceil, round_even, erf, tanh, sigmoid,
    relu, gelu, gelu_tanh, silu, is_nan, is_inf, logical_not, add, sub, mul, div, pow_, minimum, maximum, mod,
    equal, less, less_equal, greater, greater_equal, logical_and, logical_or, logical_xor, cast, where,
    bit_and, bit_or, bit_xor, shift_left, shift_right, bitcast,
)  # fmt: skip
