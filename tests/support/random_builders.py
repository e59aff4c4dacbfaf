"""What random programs are made of: builders that add a value of some kind to those there are."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from hypothesis import strategies as st

from isthmus.ir.dims import Dim, product, symbol
from isthmus.ir.graph import Value, constant
from isthmus.ir.types import DType
from isthmus.ops import lines, movement, nn, pointwise, reduce

T = TypeVar("T")
DIMS = ("batch", "seq")
# Indices are below this, and whatever they index has at least as many elements.
INDEX_LIMIT = 4
LOCS = ("", "", "/encoder/layer.0/Add_1", "Add 12", 'a"b\\c', "größe", "x;y,z)", "tab\there")


class Chooser(Protocol):
    """Where decisions come from."""

    def integer(self, low: int, high: int) -> int: ...
    def choice(self, items: Sequence[T]) -> T: ...


class Seeded:
    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)

    def choice(self, items: Sequence[T]) -> T:
        return items[self._random.randrange(len(items))]


class Drawn:
    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def choice(self, items: Sequence[T]) -> T:
        return items[self._draw(st.integers(0, len(items) - 1))]


Builder = Callable[[Chooser, list[Value]], Value | None]


def _pick(c: Chooser, pool: Iterable[Value], wanted: Callable[[Value], bool]) -> Value | None:
    found = [v for v in pool if wanted(v)]
    return c.choice(found) if found else None


def _is_float(value: Value) -> bool:
    return value.dtype.is_float


def _is_bool(value: Value) -> bool:
    return value.dtype is DType.BOOL


def _loc(c: Chooser) -> str:
    return c.choice(LOCS)


def _weight(c: Chooser, shape: tuple[int, ...], dtype: DType = DType.F32) -> Value:
    rng = np.random.default_rng(c.integer(0, 1000))
    array = np.asarray(rng.standard_normal(shape)).astype(dtype.numpy)
    return constant(c.choice(("w", "layer.0.weight", "größe", "a b")), array)


def _static(value: Value) -> list[int]:
    """The axes whose size is an integer."""
    return [i for i, d in enumerate(value.shape) if isinstance(d, int)]


# --- builders that keep numbers tame -------------------------------------------------------------


def _unary(c: Chooser, pool: list[Value]) -> Value | None:
    x = _pick(c, pool, _is_float)
    ops = (pointwise.tanh, pointwise.sigmoid, pointwise.relu, pointwise.gelu, pointwise.gelu_tanh)
    more = (pointwise.silu, pointwise.erf, pointwise.neg, pointwise.absolute, pointwise.sin, pointwise.cos)
    return None if x is None else c.choice(ops + more)(x, loc=_loc(c))


def _binary(c: Chooser, pool: list[Value]) -> Value | None:
    a = _pick(c, pool, _is_float)
    if a is None:
        return None
    b = _pick(c, pool, lambda v: v.dtype is a.dtype and _broadcasts(v, a))
    ops = (pointwise.add, pointwise.sub, pointwise.minimum, pointwise.maximum, pointwise.mul)
    # Products of bounded factors only: squares of squares overflow.
    op = c.choice(ops)
    if op is pointwise.mul:
        return op(pointwise.tanh(a), b or a, loc=_loc(c)) if c.integer(0, 1) else op(a, _scalar(c, a))
    args = (a, b or a) if c.integer(0, 1) else (b or a, a)
    return op(*args, loc=_loc(c))


def _broadcasts(a: Value, b: Value) -> bool:
    pairs = zip(reversed(a.shape), reversed(b.shape), strict=False)
    return all(x == y or 1 in (x, y) for x, y in pairs)


def _scalar(c: Chooser, like: Value) -> Value:
    number = c.choice((0.5, -1.25, 0.1, 1.0, 2.0))
    if c.integer(0, 1):
        return movement.full(shape=(), value=number, dtype=like.dtype)
    return constant("c", np.asarray(number, np.float64).astype(like.dtype.numpy))


def _transpose(c: Chooser, pool: list[Value]) -> Value | None:
    x = _pick(c, pool, lambda v: v.t.rank >= 2)
    if x is None:
        return None
    perm = list(range(x.t.rank))
    for i in reversed(perm):
        j = c.integer(0, i)
        perm[i], perm[j] = perm[j], perm[i]
    return movement.transpose(x, perm=tuple(perm), loc=_loc(c))


def _reshape(c: Chooser, pool: list[Value]) -> Value | None:
    x = _pick(c, pool, lambda v: v.t.rank >= 1)
    if x is None:
        return None
    axis = c.integer(0, x.t.rank - 1)
    head, size, tail = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    match c.integer(0, 2):
        case 0 if tail:
            shape = (*head, size * tail[0], *tail[1:])
        case 1 if isinstance(size, int) and size % 2 == 0:
            shape = (*head, 2, size // 2, *tail)
        case _:
            shape = (*head, size, 1, *tail)
    return movement.reshape(x, shape=shape, loc=_loc(c)) if len(shape) <= 5 else None


def _broadcast(c: Chooser, pool: list[Value]) -> Value | None:
    x = _pick(c, pool, lambda v: v.t.rank <= 3 and len(v.shape) > 0)
    if x is None:
        return None
    shape = tuple(c.choice((d, 3, symbol("seq"))) if d == 1 else d for d in x.shape)
    return movement.broadcast(x, shape=(c.choice((2, symbol("batch"))), *shape))


def _slice(c: Chooser, pool: list[Value]) -> Value | None:
    x = _pick(c, pool, lambda v: v.t.rank >= 1)
    if x is None:
        return None
    starts: list[Dim] = [0] * x.t.rank
    sizes = list(x.shape)
    steps = [1] * x.t.rank
    axis = c.integer(0, x.t.rank - 1)
    length = sizes[axis]
    if isinstance(length, int) and length > 0 and c.integer(0, 1):
        start = c.integer(0, length - 1)
        steps[axis] = c.choice((1, 2))
        starts[axis], sizes[axis] = start, c.integer(1, (length - 1 - start) // steps[axis] + 1)
    else:
        starts[axis], steps[axis] = length - 1, -1
    return movement.slice_(x, starts=tuple(starts), sizes=tuple(sizes), steps=tuple(steps), loc=_loc(c))


def _concat(c: Chooser, pool: list[Value]) -> Value | None:
    x = _pick(c, pool, lambda v: v.t.rank >= 1)
    if x is None:
        return None
    y = _pick(c, pool, lambda v: v.t == x.t) or x
    return movement.concat(*(x, y, x)[: c.integer(1, 3)], axis=c.integer(0, x.t.rank - 1), loc=_loc(c))


def _pad(c: Chooser, pool: list[Value]) -> Value | None:
    x = _pick(c, pool, lambda v: _is_float(v) and v.t.rank >= 1)
    if x is None:
        return None
    before, after = (tuple(c.integer(0, 1) for _ in x.shape) for _ in range(2))
    return movement.pad(x, before=before, after=after, value=c.choice((0.0, -1.5)), loc=_loc(c))


def _reduction(c: Chooser, pool: list[Value]) -> Value | None:
    x = _pick(c, pool, lambda v: _is_float(v) and v.t.rank >= 1)
    if x is None:
        return None
    op = c.choice((reduce.reduce_mean, reduce.reduce_sum, reduce.reduce_max, reduce.reduce_min))
    axes = tuple(i for i in range(x.t.rank) if c.integer(0, 1)) or (x.t.rank - 1,)
    return op(x, axes=axes, loc=_loc(c))


def _softmax(c: Chooser, pool: list[Value]) -> Value | None:
    x = _pick(c, pool, lambda v: _is_float(v) and v.t.rank >= 1)
    return None if x is None else nn.softmax(x, loc=_loc(c))


def _layer_norm(c: Chooser, pool: list[Value]) -> Value | None:
    x = _pick(c, pool, lambda v: _is_float(v) and v.t.rank >= 1 and isinstance(v.shape[-1], int))
    if x is None:
        return None
    width = x.t.shape[-1]
    assert isinstance(width, int)
    rest = [_pick(c, pool, lambda v: v.t == x.t) or x] if c.integer(0, 1) else []
    vectors = (_weight(c, (width,), x.dtype), _weight(c, (width,), x.dtype))
    return nn.layer_norm(x, *vectors, *rest, epsilon=1e-3, loc=_loc(c))


def _rms_norm(c: Chooser, pool: list[Value]) -> Value | None:
    x = _pick(c, pool, lambda v: _is_float(v) and v.t.rank >= 1 and isinstance(v.shape[-1], int))
    if x is None:
        return None
    width = x.t.shape[-1]
    assert isinstance(width, int)
    return nn.rms_norm(x, _weight(c, (width,), x.dtype), epsilon=1e-3, loc=_loc(c))


def _linear(c: Chooser, pool: list[Value]) -> Value | None:
    x = _pick(c, pool, lambda v: _is_float(v) and v.t.rank >= 1 and isinstance(v.shape[-1], int))
    if x is None:
        return None
    width = x.t.shape[-1]
    assert isinstance(width, int)
    columns = c.integer(1, 6)
    activation = c.choice(("none", *nn.ACTIVATIONS))
    y = nn.linear(
        x, _weight(c, (width, columns), x.dtype), _weight(c, (columns,), x.dtype), activation=activation
    )
    if c.integer(0, 1):
        return y
    return nn.linear(
        x, _weight(c, (width, columns), x.dtype), _weight(c, (columns,), x.dtype), y, loc=_loc(c)
    )


def _matmul(c: Chooser, pool: list[Value]) -> Value | None:
    a = _pick(c, pool, lambda v: _is_float(v) and v.t.rank >= 2)
    if a is None:
        return None
    perm = (*range(a.t.rank - 2), a.t.rank - 1, a.t.rank - 2)
    return nn.matmul(pointwise.tanh(a), movement.transpose(pointwise.tanh(a), perm=perm), loc=_loc(c))


def _attention(c: Chooser, pool: list[Value]) -> Value | None:
    x = _pick(c, pool, lambda v: _is_float(v) and v.t.rank == 3 and isinstance(v.shape[-1], int))
    if x is None:
        return None
    batch, length, width = x.shape
    heads = c.choice([h for h in (1, 2, 3) if width % h == 0])
    split = movement.reshape(x, shape=(batch, length, heads, width // heads))
    q = movement.transpose(split, perm=(0, 2, 1, 3))
    mask = [movement.full(shape=(1, 1, 1, length), value=-0.5, dtype=x.dtype)] if c.integer(0, 1) else []
    flags = {"safe": bool(c.integer(0, 1)), "causal": bool(c.integer(0, 1))}
    return nn.attention(q, pointwise.tanh(q), q, *mask, scale=0.5, **flags, loc=_loc(c))


def _gather(c: Chooser, pool: list[Value]) -> Value | None:
    ids = _pick(c, pool, lambda v: v.op.name == "input" and v.dtype.is_integer)
    if ids is None:
        return None
    table = _pick(c, pool, lambda v: _is_float(v) and any(v.shape[i] >= INDEX_LIMIT for i in _static(v)))
    if table is None or c.integer(0, 1):
        table = _weight(c, (c.integer(INDEX_LIMIT, 9), 6))
    axes = [i for i in _static(table) if table.shape[i] >= INDEX_LIMIT]
    return movement.gather(table, ids, axis=c.choice(axes), loc=_loc(c)) if table.t.rank <= 3 else None


def _where(c: Chooser, pool: list[Value]) -> Value | None:
    x = _pick(c, pool, _is_float)
    if x is None:
        return None
    mask = _pick(c, pool, lambda v: _is_bool(v) and _broadcasts(v, x))
    if mask is None:
        mask = pointwise.greater(x, movement.full(shape=(), value=0.25, dtype=x.dtype))
    return pointwise.where(mask, x, _scalar(c, x), loc=_loc(c))


def _counting(c: Chooser, pool: list[Value]) -> Value | None:
    dtype = c.choice((DType.F32, DType.I64, DType.I32))
    dim = symbol(c.choice(DIMS))
    if c.integer(0, 1):
        return movement.dim_value(dim=(dim * c.integer(1, 3) + c.integer(0, 2),), dtype=dtype)
    return movement.iota(shape=(2, dim), axis=c.integer(0, 1), dtype=dtype)


def _constant(c: Chooser, pool: list[Value]) -> Value | None:
    return _weight(c, tuple(c.integer(1, 4) for _ in range(c.integer(0, 3))))


# --- builders of the rest ------------------------------------------------------------------------


def _wild_unary(c: Chooser, pool: list[Value]) -> Value | None:
    x = _pick(c, pool, _is_float)
    ops = (pointwise.exp, pointwise.log, pointwise.sqrt, pointwise.reciprocal, pointwise.sign)
    more = (pointwise.floor, pointwise.ceil, pointwise.round_even, pointwise.is_nan, pointwise.is_inf)
    return None if x is None else c.choice(ops + more)(x, loc=_loc(c))


def _wild_binary(c: Chooser, pool: list[Value]) -> Value | None:
    a = _pick(c, pool, lambda v: not _is_bool(v))
    if a is None:
        return None
    b = _pick(c, pool, lambda v: v.dtype is a.dtype and _broadcasts(v, a)) or a
    arithmetic = (pointwise.div, pointwise.mod, pointwise.pow_, pointwise.mul)
    comparisons = (pointwise.equal, pointwise.less, pointwise.less_equal, pointwise.greater)
    return c.choice(arithmetic + comparisons + (pointwise.greater_equal,))(a, b, loc=_loc(c))


def _logical(c: Chooser, pool: list[Value]) -> Value | None:
    a = _pick(c, pool, _is_bool)
    if a is None:
        return None
    b = _pick(c, pool, lambda v: _is_bool(v) and _broadcasts(v, a)) or a
    op = c.choice((pointwise.logical_and, pointwise.logical_or, pointwise.logical_xor, pointwise.logical_not))
    return op(*(a, b)[: op.arity[0]], loc=_loc(c))


def _cast(c: Chooser, pool: list[Value]) -> Value | None:
    x = _pick(c, pool, lambda v: True)
    # Out of range is undefined, so floats go to floats or bool.
    known = (DType.F32, DType.F64, DType.F16, DType.BF16, DType.BOOL)
    more = () if _is_float(x) else (DType.I32, DType.I64, DType.U8)
    return pointwise.cast(x, dtype=c.choice(known + more), loc=_loc(c))


def _scan(c: Chooser, pool: list[Value]) -> Value | None:
    x = _pick(c, pool, lambda v: not _is_bool(v) and v.t.rank >= 1)
    if x is None:
        return None
    axis = c.integer(0, x.t.rank - 1)
    flags = [bool(c.integer(0, 1)) for _ in range(2)]
    match c.integer(0, 4):
        case 4:
            return reduce.cumprod(x, axis=axis, exclusive=flags[0], reverse=flags[1], loc=_loc(c))
        case 0:
            return reduce.argmax(x, axis=axis, last=flags[0], loc=_loc(c))
        case 1:
            return reduce.argmin(x, axis=axis, last=flags[0])
        case 2:
            return reduce.reduce_prod(x, axes=(axis,))
        case _:
            return reduce.cumsum(x, axis=axis, exclusive=flags[0], reverse=flags[1], loc=_loc(c))


def _gather_more(c: Chooser, pool: list[Value]) -> Value | None:
    ids = _pick(c, pool, lambda v: v.op.name == "input" and v.dtype.is_integer)
    if ids is None:
        return None
    if c.integer(0, 1):
        table = movement.concat(*[ids] * INDEX_LIMIT, axis=1)
        return movement.gather_elements(table, ids, axis=1, loc=_loc(c))
    if c.integer(0, 1):
        count = product(ids.shape)
        updates = movement.broadcast(_weight(c, (1, 3)), shape=(count, 3))
        rows, join = movement.reshape(ids, shape=(count, 1)), c.choice(tuple(lines.JOINS))
        return lines.scatter(_weight(c, (INDEX_LIMIT, 3)), rows, updates, axis=0, join=join, loc=_loc(c))
    indices = movement.reshape(ids, shape=(*ids.shape, 1))
    return movement.gather_nd(_weight(c, (INDEX_LIMIT, 3)), indices, batch_dims=0, loc=_loc(c))


FINITE: tuple[Builder, ...] = (
    _unary, _binary, _transpose, _reshape, _broadcast, _slice, _concat, _pad, _reduction, _softmax,
    _layer_norm, _rms_norm, _linear, _matmul, _attention, _gather, _where, _counting, _constant, _binary,
    _unary,
)  # fmt: skip
ALL: tuple[Builder, ...] = (
    *FINITE,
    _wild_unary,
    _wild_binary,
    _logical,
    _cast,
    _scan,
    _gather_more,
    _wild_binary,
)
