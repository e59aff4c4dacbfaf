"""Causal attention: a mask that hides every later position becomes an attribute, and half of the work goes.

Query i of S and key j of T are at one position when j = i + T - S: the queries are the last of the keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from isthmus.ir.dims import Dim, interval, names
from isthmus.ir.graph import Marker, Value
from isthmus.ir.rewrite import Match, Rule, splat
from isthmus.ir.types import Array
from isthmus.ops.nn import attention
from isthmus.passes.constants import array_of, is_constant
from isthmus.passes.fuse.attention import LOW_ENOUGH

Test = Callable[[Array], Array]

# Each of these with its arguments exchanged.
_MIRRORED = {"greater_equal": "less_equal", "greater": "less"}
# What is true where these are not.
_OPPOSITE = {
    "less_equal": "greater",
    "less": "greater_equal",
    "greater": "less_equal",
    "greater_equal": "less",
}


def _sees(condition: Value, offset: Dim, wanted: bool) -> bool:
    """Whether `condition` equals `wanted` exactly for keys j <= i + offset."""
    name, args = condition.op.name, condition.args
    if name == "not":
        return _sees(args[0], offset, not wanted)
    if name == "slice":
        return _is_table(condition, offset, lambda a: a == wanted, lambda a: a != wanted)
    if name == "equal" and args[0].op.name == "slice" and (number := splat(args[1])) is not None:
        return _is_table(
            args[0], offset, lambda a: (a == number) == wanted, lambda a: (a == number) != wanted
        )
    if name not in _OPPOSITE:
        return False
    name = name if wanted else _OPPOSITE[name]
    if name in _MIRRORED:
        name, args = _MIRRORED[name], args[::-1]
    key, query = _position(args[0], 1), _position(args[1], 2)
    return key is not None and query is not None and query - key - (name == "less") == offset


def _position(value: Value, from_end: int) -> Dim | None:
    """d if `value` is the index along one axis, counted from the end, plus d."""
    if value.op.name == "iota":
        return 0 if value.attr("axis") == value.t.rank - from_end else None
    if value.op.name == "add":
        for one, other in (value.args, value.args[::-1]):
            start, added = _position(one, from_end), _number(other)
            if start is not None and added is not None:
                return start + added
    if value.op.name == "reshape":
        # Axes of one element come and go; the one that is counted along stays where it is, or gets there.
        (source,) = value.args
        long = [axis for axis, d in enumerate(source.shape) if d != 1]
        if len(long) == 1 and [d for d in value.shape if d != 1] == [source.shape[long[0]]]:
            place = next(axis for axis, d in enumerate(value.shape) if d != 1)
            return _position(source, source.t.rank - long[0]) if place == value.t.rank - from_end else None
    return None


def _number(value: Value) -> Dim | None:
    if value.op.name == "dim_value":
        dim: Dim = value.attr("dim")[0]
        return dim
    number = splat(value)
    return int(number) if number is not None and number == int(number) else None


def _is_table(part: Value, offset: Dim, seen: Test, hidden: Test) -> bool:
    """Whether `part` of a table, queries by keys, passes `seen` up to the diagonal and `hidden` beyond it."""
    (table,) = part.args
    if not is_constant(table) or set(part.attr("steps")) != {1} or set(table.shape[:-2]) - {1}:
        return False
    starts = part.attr("starts")
    if starts[-2] - starts[-1] != offset:
        return False
    array = array_of(table).reshape(table.t.static_shape[-2:])
    lower: Array = np.tri(*array.shape, dtype=bool)
    return bool(np.all(seen(array[lower])) and np.all(hidden(array[~lower])))


def _hides(mask: Value, offset: Dim) -> bool:
    """Whether the mask is 0 for keys j <= i + offset, and so low that no score shows for all others."""
    if mask.op.name == "slice":
        return _is_table(mask, offset, lambda a: a == 0, lambda a: a <= LOW_ENOUGH)
    if mask.op.name != "where":
        return False
    condition, *values = mask.args
    then, otherwise = map(splat, values)
    if then == 0:
        return otherwise is not None and otherwise <= LOW_ENOUGH and _sees(condition, offset, True)
    return otherwise == 0 and then is not None and then <= LOW_ENOUGH and _sees(condition, offset, False)


def _hides_among_others(mask: Value, offset: Dim) -> bool:
    """Whether the mask is -inf for all keys j > i + offset, whatever it is for others."""
    if mask.op.name == "add":
        return any(_hides_among_others(a, offset) for a in mask.args)
    if mask.op.name != "where":
        return False
    condition, *values = mask.args
    if splat(values[1]) == -math.inf:
        return any(_sees(part, offset, True) for part in _both(condition))
    return splat(values[0]) == -math.inf and _sees(condition, offset, False)


def _both(condition: Value) -> list[Value]:
    if condition.op.name == "and":
        return [part for a in condition.args for part in _both(a)]
    return [condition]


def _offset(m: Match) -> Dim:
    q, k = m.value("q"), m.value("k")
    return k.shape[2] - q.shape[2]


def _not_alone(m: Match) -> str | None:
    offset = _offset(m)
    if not _hides(m.value("mask"), offset):
        return ""
    low, _ = interval(offset, dict.fromkeys(names(offset), (0, None)))
    if low is None or low < 0:
        # Were there a query before the first key, all scores would be masked, and equal.
        return f"there may be more queries than keys: keys - queries is {offset}"
    return None


def _not_among_others(m: Match) -> str | None:
    return None if _hides_among_others(m.value("mask"), _offset(m)) else ""


def _with_mask(q: Value, k: Value, v: Value, mask: Value) -> Value:
    return attention(q, k, v, mask, scale=Marker("scale"), safe=Marker("safe"))


_QKV = {"q": "f32[b,2,s,4]", "k": "f32[b,2,s,4]", "v": "f32[b,2,s,3]", "scale": 0.5, "safe": False}
_PAST = {**_QKV, "k": "f32[b,2,n+s,4]", "v": "f32[b,2,n+s,3]"}

CAUSAL = (
    Rule(
        "causal",
        _with_mask,
        lambda q, k, v, scale, safe: attention(q, k, v, scale=scale, safe=safe, causal=True),
        unless=_not_alone,
        examples=(
            {**_QKV, "mask": "f32[1,1,s,s] = causal(-3.4e38)"},
            {**_PAST, "mask": "f32[s,n+s] = causal(-3.4e38)"},
            {**_QKV, "mask": "f32[s,s] = causal table(-1e30)"},
        ),
    ),
    Rule(
        "causal-and-masked",
        _with_mask,
        lambda q, k, v, mask, scale, safe: attention(q, k, v, mask, scale=scale, safe=safe, causal=True),
        unless=_not_among_others,
        examples=(
            {**_QKV, "mask": "f32[b,1,s,s] = causal and kept"},
            {**_PAST, "mask": "f32[b,1,s,n+s] = causal and kept"},
        ),
    ),
)
