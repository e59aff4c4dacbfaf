"""Casts that do nothing, and casts through a type that loses nothing."""

from __future__ import annotations

from itertools import product

from isthmus.ir.graph import Marker
from isthmus.ir.rewrite import Match, Rule, named, scalar
from isthmus.ir.types import DType
from isthmus.ops.pointwise import cast, equal, logical_not, where

_INTEGERS = {
    DType.BOOL: (0, 1),
    **{d: (-(1 << d.bits - 1), (1 << d.bits - 1) - 1) for d in (DType.I8, DType.I16, DType.I32, DType.I64)},
    **{d: (0, (1 << d.bits) - 1) for d in (DType.U8, DType.U16, DType.U32, DType.U64)},
}
# Integers up to this size are exact.
_EXACT_UP_TO = {DType.BF16: 1 << 8, DType.F16: 1 << 11, DType.F32: 1 << 24, DType.F64: 1 << 53}
_SMALL = (DType.F8E4M3, DType.F8E5M2, DType.F8E4M3FNUZ, DType.F8E5M2FNUZ, DType.F4E2M1)
_WIDER_FLOATS = {
    (DType.F16, DType.F32),
    (DType.BF16, DType.F32),
    (DType.F32, DType.F64),
    (DType.F16, DType.F64),
    (DType.BF16, DType.F64),
    *product(_SMALL, (DType.F16, DType.BF16, DType.F32, DType.F64)),
    *product((DType.F8E8M0,), (DType.BF16, DType.F32, DType.F64)),
}


def exact(source: DType, target: DType) -> bool:
    """Whether every value of `source` is a value of `target`, bool being 0 and 1."""
    if source is target or (source, target) in _WIDER_FLOATS:
        return True
    if source.is_float or target is DType.BOOL:
        return False
    low, high = _INTEGERS[source]
    if target.is_float:
        return max(-low, high) <= _EXACT_UP_TO.get(target, 0)
    least, most = _INTEGERS[target]
    return least <= low and high <= most


def _exact_inner(m: Match) -> str | None:
    source, middle = m.value("x").dtype, m.value("inner").dtype
    return None if exact(source, middle) else f"{source} loses something in {middle}"


def _casts_nothing(m: Match) -> str | None:
    return None if m.value("x").dtype is m.root.dtype else ""


def _from_bool(m: Match) -> str | None:
    return None if m.value("x").dtype is DType.BOOL else ""


CASTS = (
    Rule(
        "cast-nothing",
        lambda x: cast(x, dtype=Marker("dtype")),
        lambda x: x,
        unless=_casts_nothing,
        examples=({"x": "f32[2,n]", "dtype": "f32"},),
    ),
    Rule(
        "cast-twice",
        lambda x: cast(named("inner", cast(x, dtype=Marker("middle"))), dtype=Marker("dtype")),
        lambda x, dtype: cast(x, dtype=dtype),
        unless=_exact_inner,
        examples=(
            {"x": "bool[2,n]", "middle": "i32", "dtype": "f32"},
            {"x": "i32[2,n]", "middle": "i64", "dtype": "i32"},
            {"x": "f32[2,n]", "middle": "f64", "dtype": "bool"},
        ),
    ),
    Rule(
        "cast-of-where",
        lambda x, a=scalar(), b=scalar(): cast(where(x, a, b), dtype=Marker("dtype")),
        lambda x, a, b, dtype: where(x, cast(a, dtype=dtype), cast(b, dtype=dtype)),
        examples=({"x": "bool[2,n]", "a": 1.0, "b": 0.0, "dtype": "i64"},),
    ),
    Rule(
        "bool-is-not-zero",
        lambda x, c=scalar(0.0): logical_not(equal(cast(x, dtype=Marker("dtype")), c)),
        lambda x: x,
        unless=_from_bool,
        examples=({"x": "bool[2,n]", "dtype": "i64", "c": "i64[] = 0"},),
    ),
    Rule(
        "bool-is-zero",
        lambda x, c=scalar(0.0): equal(cast(x, dtype=Marker("dtype")), c),
        lambda x: logical_not(x),
        unless=_from_bool,
        examples=({"x": "bool[2,n]", "dtype": "i64", "c": "i64[] = 0"},),
    ),
)
