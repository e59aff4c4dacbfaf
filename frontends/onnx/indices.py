"""Tensors of indices: elements that are a linear function of where they stand.

Exporters write positions and masks as `Range`, `Expand`, `Add` and `GatherND` over sizes. Their contents
have no fixed size, but are still known: `offset + sum(stride * index)`. Knowing that turns a lookup of
consecutive rows into a slice, and a comparison that holds everywhere into a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isthmus.frontends.onnx.symbolic import is_symbolic
from isthmus.ir.dims import Bounds, Dim, Expr, Shape, interval
from isthmus.ir.graph import Attr, Op
from isthmus.ir.types import Array, DType, TensorType


@dataclass(frozen=True, slots=True)
class Linear:
    """Element [i, j, ...] is offset + strides[0] * i + strides[1] * j + ...; booleans are 0 and 1."""

    offset: Dim
    strides: tuple[Dim, ...]

    @property
    def is_uniform(self) -> bool:
        return all(s == 0 for s in self.strides)

    def on(self, shape: Shape) -> Linear:
        """The same tensor in its one way of writing: axes of size 1 have stride 0."""
        pairs = zip(self.strides, shape, strict=True)
        return Linear(self.offset, tuple(0 if d == 1 else s for s, d in pairs))

    def ends(self, shape: Shape, bounds: Bounds) -> tuple[Dim, Dim] | None:
        """The least and the greatest element; None when the sign of a stride is not known."""
        low = high = self.offset
        for stride, dim in zip(self.strides, shape, strict=True):
            if stride == 0:
                continue
            reach = stride * (dim - 1)
            least, most = interval(reach, bounds)
            if least is not None and least >= 0:
                high = high + reach
            elif most is not None and most <= 0:
                low = low + reach
            else:
                return None
        return low, high

    def extent(self, shape: Shape, bounds: Bounds) -> tuple[int | None, int | None]:
        """Bounds of the elements, as numbers."""
        ends = self.ends(shape, bounds)
        return (None, None) if ends is None else (interval(ends[0], bounds)[0], interval(ends[1], bounds)[1])

    def is_within(self, shape: Shape, size: Dim, bounds: Bounds) -> bool:
        """Whether every element is certainly an index into an axis of `size`."""
        ends = self.ends(shape, bounds)
        if ends is None:
            return False
        room = interval(size - 1 - ends[1], bounds)[0]
        low = interval(ends[0], bounds)[0]
        return low is not None and low >= 0 and room is not None and room >= 0


def from_contents(array: Array) -> Linear | None:
    """Known contents as a linear function, if they are one."""
    if array.size == 0 or (is_symbolic(array) and array.size > 1):
        return None
    first = array.reshape(-1)[0]
    if array.size == 1:
        offset = first if isinstance(first, Expr) else _whole(first)
        return None if offset is None else Linear(offset, (0,) * array.ndim)
    if array.dtype.kind == "f" and not (array == first).all():
        return None
    start = _whole(first)
    if start is None:
        return None
    wide = array.astype(np.int64)
    origin = (0,) * array.ndim
    strides = tuple(
        int(wide[(*origin[:i], 1, *origin[i + 1 :])]) - start if n > 1 else 0
        for i, n in enumerate(array.shape)
    )
    grid = np.full((), start, np.int64)
    for i, stride in enumerate(strides):
        line = stride * np.arange(array.shape[i])
        grid = grid + line.reshape([-1 if j == i else 1 for j in range(array.ndim)])
    return Linear(start, strides) if np.array_equal(np.broadcast_to(grid, array.shape), wide) else None


def _whole(number: object) -> int | None:
    value = float(number)  # type: ignore[arg-type]
    return int(number) if np.isfinite(value) and value == int(value) and abs(value) < 2**53 else None  # type: ignore[call-overload]


# --- ops -----------------------------------------------------------------------------------------

Arguments = Sequence[tuple[Linear, Shape]]
Rule = Callable[[Arguments, Mapping[str, Attr], Shape, Bounds], "Linear | None"]


def derive(
    op: Op, arguments: Arguments, attrs: Mapping[str, Attr], type_: TensorType, bounds: Bounds
) -> Linear | None:
    """What `op` gives on linear arguments, if that is linear as well."""
    rule = RULES.get(op.name)
    if rule is None:
        return None
    found = rule(arguments, attrs, type_.shape, bounds)
    return None if found is None else found.on(type_.shape)


def _spread(arguments: Arguments, shape: Shape) -> list[Linear]:
    """Arguments with the axes that broadcasting adds."""
    return [Linear(a.offset, (0,) * (len(shape) - len(s)) + a.on(s).strides) for a, s in arguments]


def _iota(arguments: Arguments, attrs: Mapping[str, Attr], shape: Shape, bounds: Bounds) -> Linear:
    return Linear(0, tuple(int(i == attrs["axis"]) for i in range(len(shape))))


def _full(arguments: Arguments, attrs: Mapping[str, Attr], shape: Shape, bounds: Bounds) -> Linear | None:
    value = _whole(attrs["value"])
    return None if value is None else Linear(value, (0,) * len(shape))


def _dim_value(arguments: Arguments, attrs: Mapping[str, Attr], shape: Shape, bounds: Bounds) -> Linear:
    dim = attrs["dim"]
    assert isinstance(dim, tuple)
    return Linear(dim[0], ())


def _broadcast(arguments: Arguments, attrs: Mapping[str, Attr], shape: Shape, bounds: Bounds) -> Linear:
    return _spread(arguments, shape)[0]


def _reshape(arguments: Arguments, attrs: Mapping[str, Attr], shape: Shape, bounds: Bounds) -> Linear | None:
    """Only axes of size 1 may come and go, unless all elements are equal."""
    linear, old = arguments[0]
    if linear.is_uniform:
        return Linear(linear.offset, (0,) * len(shape))
    kept = [(d, s) for d, s in zip(old, linear.strides, strict=True) if d != 1]
    if [d for d, _ in kept] != [d for d in shape if d != 1]:
        return None
    strides = iter(s for _, s in kept)
    return Linear(linear.offset, tuple(0 if d == 1 else next(strides) for d in shape))


def _transpose(arguments: Arguments, attrs: Mapping[str, Attr], shape: Shape, bounds: Bounds) -> Linear:
    perm = attrs["perm"]
    assert isinstance(perm, tuple)
    linear = arguments[0][0]
    return Linear(linear.offset, tuple(linear.strides[p] for p in perm if isinstance(p, int)))


def _slice(arguments: Arguments, attrs: Mapping[str, Attr], shape: Shape, bounds: Bounds) -> Linear:
    linear = arguments[0][0]
    starts, steps = attrs["starts"], attrs["steps"]
    assert isinstance(starts, tuple)
    assert isinstance(steps, tuple)
    offset = linear.offset
    for start, stride in zip(starts, linear.strides, strict=True):
        offset = offset + start * stride
    return Linear(offset, tuple(s * stride for s, stride in zip(steps, linear.strides, strict=True)))


def _cast(arguments: Arguments, attrs: Mapping[str, Attr], shape: Shape, bounds: Bounds) -> Linear | None:
    if attrs["dtype"] is DType.BOOL:
        return _decided(arguments, shape, bounds, lambda low, high: _nonzero(low, high))
    return arguments[0][0]


def _add(arguments: Arguments, attrs: Mapping[str, Attr], shape: Shape, bounds: Bounds) -> Linear:
    a, b = _spread(arguments, shape)
    return Linear(a.offset + b.offset, tuple(s + t for s, t in zip(a.strides, b.strides, strict=True)))


def _negative(linear: Linear) -> Linear:
    return Linear(linear.offset * -1, tuple(s * -1 for s in linear.strides))


def _neg(arguments: Arguments, attrs: Mapping[str, Attr], shape: Shape, bounds: Bounds) -> Linear:
    return _negative(arguments[0][0])


def _sub(arguments: Arguments, attrs: Mapping[str, Attr], shape: Shape, bounds: Bounds) -> Linear:
    (a, s), (b, t) = arguments
    return _add([(a, s), (_negative(b), t)], attrs, shape, bounds)


def _mul(arguments: Arguments, attrs: Mapping[str, Attr], shape: Shape, bounds: Bounds) -> Linear | None:
    a, b = _spread(arguments, shape)
    if not b.is_uniform:
        a, b = b, a
    return Linear(a.offset * b.offset, tuple(s * b.offset for s in a.strides)) if b.is_uniform else None


Interval = tuple[int | None, int | None]


def _difference(arguments: Arguments, shape: Shape, bounds: Bounds) -> Interval:
    return _sub(arguments, {}, shape, bounds).on(shape).extent(shape, bounds)


def _decided(
    arguments: Arguments, shape: Shape, bounds: Bounds, decide: Callable[..., bool | None]
) -> Linear | None:
    linear = arguments[0][0] if len(arguments) == 1 else _sub(arguments, {}, shape, bounds)
    answer = decide(*linear.on(shape).extent(shape, bounds))
    return None if answer is None else Linear(int(answer), (0,) * len(shape))


def _positive(low: int | None, high: int | None) -> bool | None:
    """Whether everything in [low, high] is above 0."""
    if low is not None and low > 0:
        return True
    return False if high is not None and high <= 0 else None


def _nonzero(low: int | None, high: int | None) -> bool | None:
    if low == high == 0:
        return False
    return True if (low is not None and low > 0) or (high is not None and high < 0) else None


def _opposite(answer: bool | None) -> bool | None:
    return None if answer is None else not answer


def _mirrored(low: int | None, high: int | None) -> Interval:
    return (None if high is None else -high), (None if low is None else -low)


def _comparison(decide: Callable[[int | None, int | None], bool | None]) -> Rule:
    def rule(arguments: Arguments, attrs: Mapping[str, Attr], shape: Shape, bounds: Bounds) -> Linear | None:
        return _decided(arguments, shape, bounds, decide)

    return rule


def _extreme(larger: bool) -> Rule:
    def rule(arguments: Arguments, attrs: Mapping[str, Attr], shape: Shape, bounds: Bounds) -> Linear | None:
        low, high = _difference(arguments, shape, bounds)
        a, b = _spread(arguments, shape)
        if low is not None and low >= 0:
            return a if larger else b
        return (b if larger else a) if high is not None and high <= 0 else None

    return rule


def _logic(table: Callable[[int, int], int]) -> Rule:
    def rule(arguments: Arguments, attrs: Mapping[str, Attr], shape: Shape, bounds: Bounds) -> Linear | None:
        if not all(a.is_uniform and isinstance(a.offset, int) for a, _ in arguments):
            return None
        values = [a.offset for a, _ in arguments if isinstance(a.offset, int)]
        return Linear(table(values[0], values[-1]), (0,) * len(shape))

    return rule


RULES: Mapping[str, Rule] = {
    "iota": _iota,
    "full": _full,
    "dim_value": _dim_value,
    "broadcast": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "slice": _slice,
    "cast": _cast,
    "add": _add,
    "sub": _sub,
    "neg": _neg,
    "mul": _mul,
    "min": _extreme(larger=False),
    "max": _extreme(larger=True),
    "greater": _comparison(_positive),
    "less": _comparison(lambda low, high: _positive(*_mirrored(low, high))),
    "less_equal": _comparison(lambda low, high: _opposite(_positive(low, high))),
    "greater_equal": _comparison(lambda low, high: _opposite(_positive(*_mirrored(low, high)))),
    "equal": _comparison(lambda low, high: _opposite(_nonzero(low, high))),
    "and": _logic(lambda a, b: a & b),
    "or": _logic(lambda a, b: a | b),
    "not": _logic(lambda a, b: 1 - a),
}
