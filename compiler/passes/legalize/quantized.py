"""Quantized numbers said in arithmetic, and integer products as exact products in f32.

A sum of products of whole numbers is exact in f32, in any order, while no partial sum exceeds 2^24. Numbers
of 8 bits less their zero points allow 256 terms at least; longer sums are cut, the pieces added as integers.
"""

from __future__ import annotations

from isthmus.ir.dims import Expr
from isthmus.ir.graph import Marker, Value, weight_of
from isthmus.ir.rewrite import Match, Rule
from isthmus.ir.types import DType
from isthmus.ops.movement import full, pad, reshape, slice_
from isthmus.ops.nn import linear, matmul
from isthmus.ops.pointwise import (
    absolute,
    add,
    cast,
    div,
    equal,
    maximum,
    minimum,
    mul,
    round_even,
    sub,
    where,
)
from isthmus.ops.quantize import dequantize, limits, quantize, row_scale, step
from isthmus.ops.reduce import reduce_max, reduce_sum
from isthmus.passes.constants import Computed, is_constant, name_of, weight_from

EXACT = 1 << 24


def _as(value: Value, dtype: DType) -> Value:
    return value if value.dtype is dtype else cast(value, dtype=dtype)


def _number(value: float, dtype: DType) -> Value:
    return full(shape=(), value=float(value), dtype=dtype)


def _dequantized(m: Match) -> Value:
    q, scale, *zero = m.root.args
    if not zero:
        distance = cast(q, dtype=DType.F32)
    elif zero[0].dtype is DType.I32:
        # Beyond 2^24 the difference has to be an integer's.
        distance = cast(sub(q, zero[0]), dtype=DType.F32)
    else:
        distance = sub(cast(q, dtype=DType.F32), _as(zero[0], DType.F32))
    return _as(mul(distance, _as(scale, DType.F32), loc=m.root.loc), scale.dtype)


def _quantized(m: Match) -> Value:
    x, scale, *zero = m.root.args
    dtype, bits = m.root.dtype, m.root.attr("bits")
    whole = round_even(div(_as(x, DType.F32), _as(scale, DType.F32)))
    if zero:
        whole = add(whole, cast(zero[0], dtype=DType.F32))
    least, most = limits(dtype, bits)
    clipped = minimum(maximum(whole, _number(least, DType.F32)), _number(most, DType.F32))
    return cast(clipped, dtype=dtype, loc=m.root.loc)


def _spread(m: Match) -> Value:
    low, high = m.root.args
    dtype = m.root.dtype
    width = div(sub(high, low), _number(255, dtype))
    return where(equal(high, low), _number(1, dtype), width, loc=m.root.loc)


def _largest_of_rows(m: Match) -> Value:
    (x,) = m.root.args
    largest = reduce_max(absolute(_as(x, DType.F32)), axes=(x.t.rank - 1,))
    # No element at all is -inf to a maximum.
    scale = div(maximum(largest, _number(0, DType.F32)), _number(127, DType.F32))
    return where(equal(scale, _number(0, DType.F32)), _number(1, DType.F32), scale, loc=m.root.loc)


_Q = {"x": "f32[b,n,6]", "s": "f32[]", "dtype": "u8", "bits": 0}

QUANTIZED = (
    Rule(
        "say-dequantize",
        lambda q, s: dequantize(q, s),
        _dequantized,
        examples=({"q": "i8[b,n]", "s": "f32[n]"}, {"q": "u8[b,n]", "s": "f16[]"}),
    ),
    Rule(
        "say-dequantize-shifted",
        lambda q, s, z: dequantize(q, s, z),
        _dequantized,
        examples=(
            {"q": "u8[b,n,6]", "s": "f32[n,1]", "z": "u8[n,1]"},
            {"q": "i32[b,n]", "s": "f32[]", "z": "i32[]"},
            {"q": "u8[b,n]", "s": "f32[n]", "z": "f32[n]"},
        ),
    ),
    Rule(
        "say-quantize",
        lambda x, s: quantize(x, s, dtype=Marker("dtype"), bits=Marker("bits")),
        _quantized,
        examples=(_Q, {**_Q, "s": "f32[6]", "dtype": "i8", "bits": 4}),
    ),
    Rule(
        "say-quantize-shifted",
        lambda x, s, z: quantize(x, s, z, dtype=Marker("dtype"), bits=Marker("bits")),
        _quantized,
        examples=({**_Q, "z": "u8[]"}, {**_Q, "s": "f32[n,1]", "z": "i16[n,1]", "dtype": "i16"}),
    ),
    Rule(
        "say-step",
        lambda low, high: step(low, high),
        _spread,
        examples=({"low": "f32[]", "high": "f32[]"}, {"low": "f32[n]", "high": "f32[n]"}),
    ),
    Rule(
        "say-row-scale",
        lambda x: row_scale(x),
        _largest_of_rows,
        # Rows of f32 have a kernel.
        unless=lambda m: "" if m.value("x").dtype is DType.F32 else None,
        examples=({"x": "f16[b,n,6]"}, {"x": "f64[n,4]"}, {"x": "f16[2,0]"}),
    ),
)


# --- integer products ----------------------------------------------------------------------------

# Ops that only hand elements on, those of their first argument.
_HANDS_ON = {
    "reshape", "transpose", "slice", "broadcast", "windows", "gather", "gather_elements", "gather_nd",
}  # fmt: skip
Interval = tuple[int, int]


def interval_of(value: Value) -> Interval:
    """The least and the greatest number that `value`, of integers, can hold, as far as its ops tell."""
    most = limits(value.dtype)
    found = _interval(value)
    return most if found is None else (max(found[0], most[0]), min(found[1], most[1]))


def _interval(value: Value) -> Interval | None:
    if is_constant_expression(value):
        array = Computed(value).read(value.t)
        return (int(array.min()), int(array.max())) if array.size else (0, 0)
    name = value.op.name
    if name in _HANDS_ON:
        return interval_of(value.args[0])
    if name == "cast" and value.args[0].dtype.is_integer:
        inner, own = interval_of(value.args[0]), limits(value.dtype)
        return inner if own[0] <= inner[0] and inner[1] <= own[1] else None
    if name in ("add", "sub"):
        (a, b), (c, d) = (interval_of(arg) for arg in value.args)
        low, high = (a + c, b + d) if name == "add" else (a - d, b - c)
        own = limits(value.dtype)
        return (low, high) if own[0] <= low and high <= own[1] else None
    if name in ("concat", "where"):
        parts = [interval_of(arg) for arg in value.args[name == "where" :]]
        return min(p[0] for p in parts), max(p[1] for p in parts)
    if value.op is pad:
        low, high = interval_of(value.args[0])
        filled = int(value.attr("value"))
        return min(low, filled), max(high, filled)
    return None


def is_constant_expression(value: Value) -> bool:
    """Whether everything `value` is computed from is a constant."""
    seen: set[Value] = set()
    stack = [value]
    while stack:
        node = stack.pop()
        if node in seen or is_constant(node):
            continue
        # From the top down: what depends on an input is mostly told by its own type.
        if not node.args or not _is_static(node):
            return False
        seen.add(node)
        stack.extend(node.args)
    return True


def _is_static(value: Value) -> bool:
    attrs = (a for _, attr in value.attrs for a in (attr if isinstance(attr, tuple) else (attr,)))
    return value.t.is_static and not any(isinstance(a, Expr) for a in attrs)


def terms_in_f32(a: Value, b: Value) -> int:
    """How many products of elements of `a` and `b` add up exactly in f32."""
    largest = [max(map(abs, interval_of(side))) for side in (a, b)]
    if max(largest) > EXACT:
        return 0
    return EXACT // max(largest[0] * largest[1], 1)


def _is_integer(m: Match) -> str | None:
    return None if m.root.dtype.is_integer else ""


def _product(m: Match) -> Value:
    a, b = m.value("a"), m.value("b")
    depth, terms = a.shape[-1], terms_in_f32(a, b)
    # Cutting finer than this costs more than the loop.
    if not isinstance(depth, int) or terms < min(depth, 32):
        return _loop(m.root)
    left, right = cast(a, dtype=DType.F32), _constant_f32(b)
    total: Value | None = None
    for start in range(0, depth, terms):
        size = min(terms, depth - start)
        # Through i32, which holds every exact sum: a float too large for fewer bits has no meaning there.
        part = _as(cast(_piece(left, right, start, size, m.root.loc), dtype=DType.I32), m.root.dtype)
        total = part if total is None else add(total, part)
    return _loop(m.root) if total is None else total


def _piece(left: Value, right: Value, start: int, size: int, loc: str) -> Value:
    """The products of some columns of `left` with the same rows of `right`."""
    if size != left.shape[-1]:
        left, right = _cut(left, left.t.rank - 1, start, size), _cut(right, right.t.rank - 2, start, size)
    if weight_of(right) is None and is_constant_expression(right):
        right = weight_from(right, f"{name_of(right)}.from{start}")
    if right.t.rank == 2 and weight_of(right) is not None:
        return linear(left, right, full(shape=right.shape[1:], value=0.0, dtype=DType.F32), loc=loc)
    return matmul(left, right, loc=loc)


def _cut(value: Value, axis: int, start: int, size: int) -> Value:
    starts = tuple(start if i == axis else 0 for i in range(value.t.rank))
    sizes = tuple(size if i == axis else d for i, d in enumerate(value.shape))
    return slice_(value, starts=starts, sizes=sizes, steps=(1,) * value.t.rank)


def _constant_f32(value: Value) -> Value:
    wide = cast(value, dtype=DType.F32)
    return weight_from(wide, f"{name_of(wide)}.f32") if is_constant_expression(wide) else wide


def _loop(product: Value) -> Value:
    """One loop of the integers themselves: slow, and right whatever they are."""
    a, b = product.args
    *rows, depth = a.shape
    *batch, _, columns = b.shape
    left = reshape(a, shape=(*rows, depth, 1))
    right = reshape(b, shape=(*batch, 1, depth, columns))
    total = reduce_sum(mul(left, right), axes=(product.t.rank - 1,))
    return reshape(total, shape=product.shape, loc=product.loc)


PRODUCTS = (
    Rule(
        "integer-product",
        lambda a, b: matmul(a, b),
        _product,
        unless=_is_integer,
        examples=(
            {"a": "i32[b,n,6]", "b": "i32[6,s]"},
            {"a": "i8[b,n,6]", "b": "i8[b,6,s]"},
            {"a": "i32[n,s]", "b": "i32[s,t]"},
        ),
    ),
)
