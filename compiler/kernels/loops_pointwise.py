"""Each pointwise op on values of each element type, as `isthmus.ops.pointwise` defines it.

Inside an expression bool is `bool` (one bit a lane) and narrow floats are float32, rounded after every op;
in memory bool is a byte and narrow floats are integers of their size. Nothing here traps:
divisors are made safe first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from isthmus.errors import Code, CompilerBug, ModelError, Problem
from isthmus.ir.types import DType
from isthmus.kernels import loops_math, narrow_floats
from isthmus.kernels import math as kmath
from isthmus.kernels.builder import Builder, Expr, dtype_of, element_type, lanes_of
from isthmus.kernels.loops_math import hold
from isthmus.kernels.tir import tirx

Function: TypeAlias = Callable[..., Expr]


def value_type(dtype: DType) -> str:
    """TVM's name of the type that values have inside an expression."""
    if dtype.is_narrow:
        return "float32"
    return "bool" if dtype is DType.BOOL else dtype.numpy.name


def memory_type(dtype: DType) -> str:
    """TVM's name of the type that elements have in memory."""
    if dtype.is_narrow:
        return f"uint{dtype.bits}"
    return "uint8" if dtype is DType.BOOL else dtype.numpy.name


def apply(k: Builder, op: str, dtype: DType, args: Sequence[Expr], types: Sequence[DType]) -> Expr:
    """The op's value, of type `dtype`, for arguments of equal lanes and of element types `types`."""
    if op == "cast":
        return convert(k, args[0], types[0], dtype)
    if op == "bitcast":
        return _reread(k, args[0], types[0], dtype)
    if op == "where":
        return k.select(args[0], args[1], args[2])
    return round_to(k, _table(types[0])[op](k, *args), dtype)


def check_op(op: str, dtype: DType) -> None:
    """Raises ModelError (not-on-target) when arguments of type `dtype` make no sense to `op`."""
    if op not in ("cast", "where", "bitcast") and op not in _table(dtype):
        raise ModelError(Problem(Code.NOT_ON_TARGET, f"no kernel for {op} of {dtype}"))


def convert(k: Builder, value: Expr, source: DType, wanted: DType) -> Expr:
    """Cast: floats are truncated towards zero, bool is 0 and 1, anything but 0 is true."""
    if source is wanted:
        return value
    if wanted is DType.BOOL:
        # TVM's != is false for NaN.
        return tirx.Not(tirx.EQ(value, k.constant(0, value)))
    if wanted.is_narrow and source is DType.F64:
        # Rounding twice is right when the first step has more than twice the bits and rounds to odd;
        # here it may be off by one unit in the last place of a double's exact tie.
        return round_to(k, k.cast(value, "float32"), wanted)
    return round_to(k, k.cast(value, value_type(wanted)), wanted)


def _reread(k: Builder, value: Expr, source: DType, wanted: DType) -> Expr:
    """The bits of an element in memory as another type's."""
    if source is wanted:
        return value
    stored = hold(k, "stored", encode(k, value, source))
    return decode(k, k.bits(stored, memory_type(wanted)), wanted)


def round_to(k: Builder, value: Expr, dtype: DType) -> Expr:
    """A float32 rounded to a narrow type that is kept in float32; others unchanged."""
    if not dtype.is_narrow:
        return value
    return decode(k, encode(k, hold(k, "wide", value), dtype), dtype)


# Memory


def decode(k: Builder, stored: Expr, dtype: DType) -> Expr:
    """What the elements in memory stand for."""
    if dtype is DType.BOOL:
        return tirx.Not(tirx.EQ(stored, k.constant(0, stored)))
    return narrow_floats.decode(k, stored, dtype) if dtype.is_narrow else stored


def encode(k: Builder, value: Expr, dtype: DType) -> Expr:
    """How values are put into memory."""
    if dtype is DType.BOOL:
        return k.cast(value, "uint8")
    return narrow_floats.encode(k, value, dtype) if dtype.is_narrow else value


# Floats


def _wide(narrow: Function, wide: Function) -> Function:
    """One function for float32, another for float64."""

    def function(k: Builder, *args: Expr) -> Expr:
        return (narrow if element_type(dtype_of(args[0])) == "float32" else wide)(k, *args)

    return function


def _through_double(function: Function) -> Function:
    """`function` of float64 for either float type."""

    def through(k: Builder, *args: Expr) -> Expr:
        value = function(k, *(hold(k, "wide", k.cast(a, "float64")) for a in args))
        return k.cast(value, element_type(dtype_of(args[0])))

    return through


def _negative(k: Builder, x: Expr) -> Expr:
    return tirx.Mul(x, k.constant(-1, x))


def _float_sign(k: Builder, x: Expr) -> Expr:
    zero = k.constant(0, x)
    below = k.select(x < zero, k.constant(-1, x), x)
    return k.select(x > zero, k.constant(1, x), below)


def _is_inf(k: Builder, x: Expr) -> Expr:
    return tirx.EQ(kmath.absolute(k, x), k.constant(float("inf"), x))


def _relu(k: Builder, x: Expr) -> Expr:
    # The constant first: a comparison with NaN is false, and then the second is taken.
    return tirx.Max(k.constant(0, x), x)


# Comparisons hold for every type but bool.
COMPARISONS: Mapping[str, Function] = {
    "equal": lambda k, a, b: tirx.EQ(a, b),
    "less": lambda k, a, b: tirx.LT(a, b),
    "less_equal": lambda k, a, b: tirx.LE(a, b),
    "greater": lambda k, a, b: tirx.GT(a, b),
    "greater_equal": lambda k, a, b: tirx.GE(a, b),
}

# The nodes themselves, not Python's operators: those drop `* 0.0` and `+ 0.0`.
FLOAT: Mapping[str, Function] = {
    **COMPARISONS,
    "neg": _negative,
    "abs": kmath.absolute,
    "sign": _float_sign,
    "exp": _wide(kmath.exp, loops_math.exp),
    "log": _wide(kmath.log, loops_math.log),
    "sqrt": kmath.sqrt,
    "reciprocal": lambda k, x: tirx.Div(k.constant(1, x), x),
    "sin": _through_double(loops_math.sin),
    "cos": _through_double(loops_math.cos),
    "floor": kmath.floor,
    "ceil": kmath.ceil,
    "round": kmath.round_even,
    "erf": _wide(kmath.erf, loops_math.erf),
    "tanh": _wide(kmath.tanh, loops_math.tanh),
    "sigmoid": _wide(kmath.sigmoid, loops_math.sigmoid),
    "relu": _relu,
    "gelu": _wide(kmath.gelu, loops_math.gelu),
    "gelu_tanh": _wide(kmath.gelu_tanh, loops_math.gelu_tanh),
    "silu": _wide(kmath.silu, loops_math.silu),
    "is_nan": lambda k, x: k.is_nan(x),
    "is_inf": _is_inf,
    "add": lambda k, a, b: tirx.Add(a, b),
    "sub": lambda k, a, b: tirx.Sub(a, b),
    "mul": lambda k, a, b: tirx.Mul(a, b),
    "div": lambda k, a, b: tirx.Div(a, b),
    "pow": _through_double(loops_math.power),
    "min": kmath.minimum,
    "max": kmath.maximum,
    "mod": loops_math.modulo,
}


# Integers


def _wrapping(name: str) -> Function:
    """Arithmetic that wraps: in twice the bits, of which the lower half is kept.

    TVM tells LLVM that 32- and 64-bit arithmetic, unsigned too, never overflows; LLVM narrows this back.
    """

    def function(k: Builder, a: Expr, b: Expr) -> Expr:
        node = getattr(tirx, name)
        kind, bits = element_type(dtype_of(a)), int(a.ty.dtype.bits)
        if bits < 32:
            return node(a, b)
        # Only products need the one bit more that an unsigned type has, and only differences the sign.
        unsigned = kind.startswith("u") and name == "Mul"
        wide = f"{'uint' if unsigned else 'int'}{2 * bits}"
        return k.cast(node(k.cast(a, wide), k.cast(b, wide)), kind)

    return function


wrapping_add = _wrapping("Add")
wrapping_sub = _wrapping("Sub")
wrapping_mul = _wrapping("Mul")


def _is_signed(x: Expr) -> bool:
    return element_type(dtype_of(x)).startswith("int")


def _integer_negative(k: Builder, x: Expr) -> Expr:
    return wrapping_sub(k, k.constant(0, x), x)


def _integer_absolute(k: Builder, x: Expr) -> Expr:
    return k.select(x < k.constant(0, x), _integer_negative(k, x), x) if _is_signed(x) else x


def _integer_sign(k: Builder, x: Expr) -> Expr:
    zero = k.constant(0, x)
    below = k.select(x < zero, k.constant(-1, x), zero) if _is_signed(x) else zero
    return k.select(x > zero, k.constant(1, x), below)


def _safe_divisor(k: Builder, b: Expr) -> tuple[Expr, Expr, Expr]:
    """b with 0 and -1 replaced by 1, and whether it was 0, and -1: neither x / 0 nor least / -1 may trap."""
    zero = hold(k, "is_zero", tirx.EQ(b, k.constant(0, b)))
    minus = zero
    if _is_signed(b):
        minus = hold(k, "is_minus", tirx.EQ(b, k.constant(-1, b)))
    return hold(k, "safe", k.select(tirx.Or(zero, minus), k.constant(1, b), b)), zero, minus


def _integer_divide(k: Builder, a: Expr, b: Expr) -> Expr:
    a = hold(k, "a", a)
    safe, zero, minus = _safe_divisor(k, b)
    quotient = tirx.Div(a, safe)
    if _is_signed(a):
        quotient = k.select(minus, _integer_negative(k, a), quotient)
    return k.select(zero, k.constant(0, a), quotient)


def _integer_modulo(k: Builder, a: Expr, b: Expr) -> Expr:
    safe, _, _ = _safe_divisor(k, b)
    rest = hold(k, "rest", tirx.Mod(a, safe))
    if not _is_signed(a):
        return rest
    zero = k.constant(0, rest)
    wrong = tirx.Or(tirx.And(rest < zero, b > zero), tirx.And(rest > zero, b < zero))
    return k.select(wrong, wrapping_add(k, rest, b), rest)


def _integer_power(k: Builder, a: Expr, b: Expr) -> Expr:
    """By squaring, wrapping; a negative exponent gives 1 / a^-b truncated, and 0 for a = 0."""
    kind, lanes, bits = element_type(dtype_of(a)), lanes_of(a), int(a.ty.dtype.bits)
    a, b = hold(k, "a", a), hold(k, "b", b)
    one = k.constant(1, a)
    result = k.register("power", lanes, one, kind)
    square = k.register("square", lanes, a, kind)
    exponent = k.register("exponent", lanes, b, kind)
    with k.loop("bit", 0, bits):
        odd = tirx.Not(tirx.EQ(tirx.bitwise_and(exponent.value, one), k.constant(0, a)))
        result.set(k.select(odd, wrapping_mul(k, result.value, square.value), result.value))
        square.set(wrapping_mul(k, square.value, square.value))
        exponent.set(tirx.shift_right(exponent.value, one))
    if not _is_signed(a):
        return hold(k, "power", result.value)
    # The sign bit stays in an arithmetic shift: for b < 0 the loop's value is not used.
    odd = tirx.Not(tirx.EQ(tirx.bitwise_and(b, one), k.constant(0, a)))
    minus = k.select(tirx.EQ(a, k.constant(-1, a)), k.select(odd, k.constant(-1, a), one), k.constant(0, a))
    inverse = k.select(tirx.EQ(a, one), one, minus)
    return hold(k, "power", k.select(b < k.constant(0, b), inverse, result.value))


def _shift(k: Builder, node: Function, a: Expr, b: Expr) -> Expr:
    """Shifting by as many bits as there are, or by less than 0, is undefined to LLVM."""
    a, b = hold(k, "a", a), hold(k, "by", b)
    last = k.constant(int(a.ty.dtype.bits) - 1, b)
    outside = b > last
    if _is_signed(b):
        outside = tirx.Or(outside, b < k.constant(0, b))
    outside = hold(k, "outside", outside)
    shifted = node(a, k.select(outside, last, b))
    # All bits but the sign are gone at the last place; it stays when shifting right.
    if node is tirx.shift_right and _is_signed(a):
        return shifted
    return k.select(outside, k.constant(0, a), shifted)


INTEGER: Mapping[str, Function] = {
    **COMPARISONS,
    "neg": _integer_negative,
    "abs": _integer_absolute,
    "sign": _integer_sign,
    "relu": lambda k, x: tirx.Max(x, k.constant(0, x)),
    "add": wrapping_add,
    "sub": wrapping_sub,
    "mul": wrapping_mul,
    "div": _integer_divide,
    "mod": _integer_modulo,
    "pow": _integer_power,
    "bit_and": lambda k, a, b: tirx.bitwise_and(a, b),
    "bit_or": lambda k, a, b: tirx.bitwise_or(a, b),
    "bit_xor": lambda k, a, b: tirx.bitwise_xor(a, b),
    "shift_left": lambda k, a, b: _shift(k, tirx.shift_left, a, b),
    "shift_right": lambda k, a, b: _shift(k, tirx.shift_right, a, b),
    "min": lambda k, a, b: tirx.Min(a, b),
    "max": lambda k, a, b: tirx.Max(a, b),
}


# Bool


def _and(k: Builder, a: Expr, b: Expr) -> Expr:
    return tirx.And(a, b)


def _or(k: Builder, a: Expr, b: Expr) -> Expr:
    return tirx.Or(a, b)


def _xor(k: Builder, a: Expr, b: Expr) -> Expr:
    # TVM compares bool as if it were floating-point.
    return tirx.Or(tirx.And(a, tirx.Not(b)), tirx.And(tirx.Not(a), b))


BOOL: Mapping[str, Function] = {
    "not": lambda k, a: tirx.Not(a),
    "and": _and,
    "or": _or,
    "xor": _xor,
    "add": _or,
    "mul": _and,
    "max": _or,
    "min": _and,
    "abs": lambda k, a: a,
    "relu": lambda k, a: a,
    "equal": lambda k, a, b: tirx.Not(_xor(k, a, b)),
    "less": lambda k, a, b: tirx.And(tirx.Not(a), b),
    "less_equal": lambda k, a, b: tirx.Or(tirx.Not(a), b),
    "greater": lambda k, a, b: tirx.And(a, tirx.Not(b)),
    "greater_equal": lambda k, a, b: tirx.Or(a, tirx.Not(b)),
}


def _table(dtype: DType) -> Mapping[str, Function]:
    if dtype is DType.BOOL:
        return BOOL
    return FLOAT if dtype.is_float else INTEGER


# Folds


def identity(fold: str, dtype: DType) -> float | int:
    """The fold of no elements, as held in an accumulator (`accumulator_type`)."""
    if fold in ("sum", "prod"):
        return 0 if fold == "sum" else 1
    if dtype.is_float:
        return float("-inf") if fold == "max" else float("inf")
    if dtype is DType.BOOL:
        return 0 if fold == "max" else 1
    signed = not str(dtype).startswith("u")
    low = -(1 << (dtype.bits - 1)) if signed else 0
    return low if fold == "max" else (1 << (dtype.bits - signed)) - 1


def accumulator_type(dtype: DType) -> str:
    """TVM's name of the type in which values of `dtype` are folded."""
    return "uint8" if dtype is DType.BOOL else value_type(dtype)


def combine(k: Builder, fold: str, dtype: DType, a: Expr, b: Expr) -> Expr:
    """One step of a fold, on accumulators."""
    if dtype is DType.BOOL:
        return tirx.Max(a, b) if fold in ("sum", "max") else tirx.Min(a, b)
    names = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}
    if fold not in names:
        raise CompilerBug(f"no fold {fold!r}")
    return _table(dtype)[names[fold]](k, a, b)
