"""Evaluation at import: ops on values whose contents are known, as numbers or as expressions over dims.

Contents are NumPy arrays: of the element type when every element is a number, of Python objects
(`Dim`) when some element is symbolic. A result is None when the dims' bounds do not decide it; then it
is computed at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from isthmus.ir.dims import (
    Bounds,
    Dim,
    Expr,
    divide_exactly,
    floordiv,
    interval,
    maximum,
    minimum,
    mod,
    simplify,
)
from isthmus.ir.graph import Attr, Op
from isthmus.ir.types import Array, DType, TensorType

# Larger results are left to the folding pass, or to run time.
MAX_ELEMENTS = 1 << 16
# An expression beyond this is no shape that anyone meant.
MAX_TERMS = 64

Pair = Callable[[Dim, Dim, Bounds], "Dim | bool | None"]


class _Undecided(Exception):
    """The bounds of the dims do not settle the result."""


def is_symbolic(array: Array) -> bool:
    return array.dtype == object


def is_static(attrs: Mapping[str, Attr]) -> bool:
    """Whether no attribute depends on a named dim."""
    for attr in attrs.values():
        if isinstance(attr, Expr) or (isinstance(attr, tuple) and any(isinstance(a, Expr) for a in attr)):
            return False
    return True


def evaluate(
    op: Op, arrays: list[Array], attrs: Mapping[str, Attr], type_: TensorType, bounds: Bounds
) -> Array | None:
    """The contents of `op` on known contents, or None when they are not known."""
    if not type_.is_static or not is_static(attrs):
        return None
    size = type_.size
    if not isinstance(size, int) or max(size, *(a.size for a in arrays), 0) > MAX_ELEMENTS:
        return None
    try:
        if not any(map(is_symbolic, arrays)):
            with np.errstate(all="ignore"):
                return np.asarray(op.reference(*arrays, **attrs), type_.dtype.numpy)
        rule = FLOAT_RULES.get(op.name) if type_.dtype.is_float else None
        rule = rule or RULES.get(op.name)
        if rule is None:
            return None
        result = np.asarray(rule(op, arrays, attrs, bounds))
        return settle(result, type_.dtype, bounds)
    except (_Undecided, OverflowError, ZeroDivisionError):
        return None


def settle(array: Array, dtype: DType, bounds: Bounds) -> Array | None:
    """`array` with its expressions simplified; plain numbers once none is left."""
    if array.dtype != object:
        return array.astype(dtype.numpy)
    flat = [simplify(d, bounds) if isinstance(d, Expr) else d for d in array.reshape(-1)]
    if any(isinstance(d, Expr) and len(d.terms) > MAX_TERMS for d in flat):
        return None
    if not any(isinstance(d, Expr) for d in flat):
        return np.array(flat, dtype=dtype.numpy).reshape(array.shape)
    return objects(flat).reshape(array.shape)


def objects(items: Iterable[object]) -> Array:
    """A vector of Python objects."""
    listed = list(items)
    array = np.empty(len(listed), object)
    array[:] = listed
    return array


def as_dims(array: Array) -> Array:
    """Numbers as Python integers; fractions are not dims."""
    if array.dtype == object:
        return array
    if array.dtype.kind not in "iub":
        if not np.isfinite(array.astype(np.float64)).all() or (array != np.floor(array)).any():
            raise _Undecided
        return objects(int(x) for x in array.reshape(-1)).reshape(array.shape)
    return array.astype(object)


# --- rules ---------------------------------------------------------------------------------------

Rule = Callable[[Op, list[Array], Mapping[str, Attr], Bounds], Array]


def _moved(op: Op, arrays: list[Array], attrs: Mapping[str, Attr], bounds: Bounds) -> Array:
    """Movement does not look at elements."""
    return np.asarray(op.reference(*map(as_dims, arrays), **attrs))


def _gathered(op: Op, arrays: list[Array], attrs: Mapping[str, Attr], bounds: Bounds) -> Array:
    if is_symbolic(arrays[1]):
        raise _Undecided
    return np.asarray(op.reference(as_dims(arrays[0]), arrays[1], **attrs))


def _chosen(op: Op, arrays: list[Array], attrs: Mapping[str, Attr], bounds: Bounds) -> Array:
    condition, a, b = arrays
    if is_symbolic(condition):
        raise _Undecided
    return np.where(condition, as_dims(a), as_dims(b))


def _cast(op: Op, arrays: list[Array], attrs: Mapping[str, Attr], bounds: Bounds) -> Array:
    if attrs["dtype"] is DType.BOOL:
        return _pairs(_not_equal)(op, [arrays[0], np.zeros((), object)], attrs, bounds)
    return arrays[0]


def _pairs(combine: Pair) -> Rule:
    """Element by element, with broadcasting; undecided as soon as one element is."""

    def rule(op: Op, arrays: list[Array], attrs: Mapping[str, Attr], bounds: Bounds) -> Array:
        left, right = np.broadcast_arrays(*map(as_dims, arrays))
        combined = [combine(a, b, bounds) for a, b in zip(left.flat, right.flat, strict=True)]
        if any(c is None for c in combined):
            raise _Undecided
        return objects(combined).reshape(left.shape)

    return rule


def _reduced(combine: Pair) -> Rule:
    """Along the axes in `axes`, which stay with size 1."""

    def rule(op: Op, arrays: list[Array], attrs: Mapping[str, Attr], bounds: Bounds) -> Array:
        array = as_dims(arrays[0])
        axes = attrs["axes"]
        assert isinstance(axes, tuple)
        for axis in axes:
            assert isinstance(axis, int)
            lines = [array.take([i], axis) for i in range(array.shape[axis])]
            if not lines:
                raise _Undecided
            total = lines[0]
            for line in lines[1:]:
                total = _pairs(combine)(op, [total, line], attrs, bounds)
            array = total
        return array

    return rule


def _cumulated(op: Op, arrays: list[Array], attrs: Mapping[str, Attr], bounds: Bounds) -> Array:
    axis = attrs["axis"]
    assert isinstance(axis, int)
    array = np.flip(arrays[0], axis) if attrs["reverse"] else arrays[0]
    total = np.cumsum(array, axis, dtype=object)
    total = total - array if attrs["exclusive"] else total
    return np.flip(total, axis) if attrs["reverse"] else total


def _add(a: Dim, b: Dim, bounds: Bounds) -> Dim:
    return a + b


def _sub(a: Dim, b: Dim, bounds: Bounds) -> Dim:
    return a - b


def _mul(a: Dim, b: Dim, bounds: Bounds) -> Dim:
    return a * b


def _divide(a: Dim, b: Dim, bounds: Bounds) -> Dim | None:
    """Integer division truncates; flooring is the same where neither side is negative."""
    if isinstance(a, int) and isinstance(b, int):
        quotient = abs(a) // abs(b) if b else 0
        return quotient if (a < 0) == (b < 0) else -quotient
    if (exact := divide_exactly(a, b)) is not None:
        return exact
    low, least = interval(a, bounds)[0], interval(b, bounds)[0]
    if low is None or low < 0 or least is None or least <= 0:
        return None
    return floordiv(a, b)


def _mod(a: Dim, b: Dim, bounds: Bounds) -> Dim | None:
    low = interval(b, bounds)[0]
    if isinstance(a, int) and isinstance(b, int):
        return a % b if b else 0
    return mod(a, b) if low is not None and low > 0 else None


def _min(a: Dim, b: Dim, bounds: Bounds) -> Dim:
    return simplify(minimum(a, b), bounds)


def _max(a: Dim, b: Dim, bounds: Bounds) -> Dim:
    return simplify(maximum(a, b), bounds)


def _less(a: Dim, b: Dim, bounds: Bounds) -> bool | None:
    low, high = interval(a - b, bounds)
    if high is not None and high < 0:
        return True
    return False if low is not None and low >= 0 else None


def _less_equal(a: Dim, b: Dim, bounds: Bounds) -> bool | None:
    reverse = _less(b, a, bounds)
    return None if reverse is None else not reverse


def _equal(a: Dim, b: Dim, bounds: Bounds) -> bool | None:
    low, high = interval(a - b, bounds)
    if low == high == 0:
        return True
    return False if (low is not None and low > 0) or (high is not None and high < 0) else None


def _not_equal(a: Dim, b: Dim, bounds: Bounds) -> bool | None:
    same = _equal(a, b, bounds)
    return None if same is None else not same


def _negated(op: Op, arrays: list[Array], attrs: Mapping[str, Attr], bounds: Bounds) -> Array:
    return np.asarray(as_dims(arrays[0]) * -1)


def _signs(array: Array, bounds: Bounds) -> Array:
    """1, 0 or -1 for each element."""
    zero = np.zeros((), object)
    result = []
    for dim in array.flat:
        if _less(0, dim, bounds):
            result.append(1)
        elif _less(dim, 0, bounds):
            result.append(-1)
        elif _equal(dim, 0, bounds):
            result.append(0)
        else:
            raise _Undecided
    return objects(result).reshape(array.shape) + zero


def _sign(op: Op, arrays: list[Array], attrs: Mapping[str, Attr], bounds: Bounds) -> Array:
    return _signs(as_dims(arrays[0]), bounds)


def _abs(op: Op, arrays: list[Array], attrs: Mapping[str, Attr], bounds: Bounds) -> Array:
    array = as_dims(arrays[0])
    return np.asarray(array * _signs(array, bounds))


def _same(op: Op, arrays: list[Array], attrs: Mapping[str, Attr], bounds: Bounds) -> Array:
    """Rounding a whole number."""
    return as_dims(arrays[0])


def _float_divide(a: Dim, b: Dim, bounds: Bounds) -> Dim | None:
    return divide_exactly(a, b)


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("reshape", "transpose", "broadcast", "slice", "concat", "pad"), _moved),
    **dict.fromkeys(("gather", "gather_elements", "gather_nd"), _gathered),
    **dict.fromkeys(("floor", "ceil", "round"), _same),
    "where": _chosen,
    "cast": _cast,
    "add": _pairs(_add),
    "sub": _pairs(_sub),
    "mul": _pairs(_mul),
    "div": _pairs(_divide),
    "mod": _pairs(_mod),
    "min": _pairs(_min),
    "max": _pairs(_max),
    "less": _pairs(_less),
    "less_equal": _pairs(_less_equal),
    "greater": _pairs(lambda a, b, bounds: _less(b, a, bounds)),
    "greater_equal": _pairs(lambda a, b, bounds: _less_equal(b, a, bounds)),
    "equal": _pairs(_equal),
    "neg": _negated,
    "abs": _abs,
    "sign": _sign,
    "reduce_sum": _reduced(_add),
    "reduce_prod": _reduced(_mul),
    "reduce_min": _reduced(_min),
    "reduce_max": _reduced(_max),
    "cumsum": _cumulated,
}

# Where whole numbers in floating point behave otherwise.
FLOAT_RULES: Mapping[str, Rule] = {"div": _pairs(_float_divide)}
