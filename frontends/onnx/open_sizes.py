"""Sizes that data decides, where nothing that leaves the model depends on them.

The places that `NonZero` finds are as many as data says. While importing, that size is a name like any
other. Afterwards the name is taken out again: every place there is is taken, in the same order, and beside
them stands which of them are meant. That says the same as long as rows of different places never meet, and
what is made of them ends in a write by index; there, rows that are not meant are written to a place of their
own, which is cut off. A mixture of experts, exported as a loop over its experts, is of that kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from isthmus.errors import Code, ModelError, Problem
from isthmus.frontends.onnx.facts import Facts
from isthmus.ir.dims import Dim, Shape, names, product, substitute
from isthmus.ir.graph import Attr, Kind, Trait, Value, walk
from isthmus.ir.types import DType
from isthmus.ops import lines, movement, nn, pointwise


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A size called `name`: `leaf` stands for the places found, `places` holds all there are, and `meant`
    says which of these count. `where` is the node."""

    name: str
    leaf: Value
    places: Value
    meant: Value
    where: str

    @property
    def most(self) -> Dim:
        """How many places there are."""
        return self.meant.shape[0]

    def axis(self, shape: Shape) -> int | None:
        """The axis of this size."""
        return next((i for i, d in enumerate(shape) if str(d) == self.name), None)


class _Refused(Exception):
    """Why rows of different places meet."""


def closed(outputs: Sequence[Value], opened: Sequence[Opened]) -> tuple[list[Value], list[Problem]]:
    """`outputs` without opened sizes, or what is in the way."""
    problems: list[Problem] = []
    values = list(outputs)
    # One that was opened later may be made of an earlier one.
    for one in reversed(opened):
        try:
            values = _without(values, one)
        except _Refused as refused:
            problems.append(_problem(one, str(refused)))
    return values, problems


def without_opened(facts: Facts, opened: Sequence[Opened], where: str) -> Facts:
    """`facts` for a new start. Raises `ModelError` when one is about an opened size, which is never known."""
    for one in opened:
        bound = facts.bounds.get(one.name)
        others = (names(d) for d in facts.equal.values())
        if bound != (0, None) or any(one.name in found for found in others):
            raise ModelError(_problem(one, f"{where} needs that number to fit another size"))
    bounds = {n: b for n, b in facts.bounds.items() if n not in {one.name for one in opened}}
    return replace(facts, bounds=bounds)


def _problem(one: Opened, why: str) -> Problem:
    text = f"how many places NonZero finds depends on data, and {why}"
    hint = "leave this part out of the model, or export it with a fixed size"
    return Problem(Code.DATA_DEPENDENT_SHAPE, text, one.where, hint)


def _without(outputs: Sequence[Value], one: Opened) -> list[Value]:
    made: dict[Value, Value] = {one.leaf: one.places}
    for value in walk(tuple(outputs), frozenset({one.leaf})):
        args = [made[a] for a in value.args]
        if not _depends(value, one):
            same = all(new is old for new, old in zip(args, value.args, strict=True))
            made[value] = value if same else value.op(*args, loc=value.loc, **dict(value.attrs))
            continue
        _check(value, one)
        attrs = {name: _closed(value.op.attrs[name], attr, one) for name, attr in value.attrs}
        made[value] = _applied(value, args, attrs, one)
    for value in outputs:
        if one.axis(value.shape) is not None:
            raise _Refused("an output of the model has that size")
    return [made[value] for value in outputs]


def _depends(value: Value, one: Opened) -> bool:
    shapes = [value.shape, *(a.shape for a in value.args)]
    dims = [d for shape in shapes for d in shape]
    for name, attr in value.attrs:
        if value.op.attrs[name] is Kind.DIMS and isinstance(attr, tuple):
            dims += attr
    return any(one.name in names(d) for d in dims)


def _closed(kind: Kind, attr: Attr, one: Opened) -> Attr:
    if kind is not Kind.DIMS:
        return attr
    assert isinstance(attr, tuple)
    return tuple(substitute(d, {one.name: one.most}) if not isinstance(d, int | str) else d for d in attr)


def _applied(value: Value, args: Sequence[Value], attrs: Mapping[str, Attr], one: Opened) -> Value:
    """The op on all places; an index of a place that is not meant may be anything, and reads element 0."""
    if value.op is movement.gather and (axis := one.axis(value.args[1].shape)) is not None:
        index = args[1]
        nothing = movement.full(shape=(), value=0.0, dtype=index.dtype)
        args = [args[0], pointwise.where(_along(one, axis, index.t.rank), index, nothing, loc=value.loc)]
    if value.op is lines.scatter and one.axis(value.args[2].shape) == value.attr("axis"):
        return _scattered(value, args, one)
    return value.op(*args, loc=value.loc, **attrs)


def _along(one: Opened, axis: int, rank: int) -> Value:
    shape = tuple(one.most if i == axis else 1 for i in range(rank))
    return movement.reshape(one.meant, shape=shape, loc=one.where)


def _scattered(value: Value, args: Sequence[Value], one: Opened) -> Value:
    """Rows that are not meant go behind the last place."""
    x, indices, updates = args
    axis, loc = value.attr("axis"), value.loc
    count = x.shape[axis]
    behind = tuple(int(i == axis) for i in range(x.t.rank))
    wide = movement.pad(x, before=(0,) * x.t.rank, after=behind, value=0.0, loc=loc)
    index = indices if indices.dtype is DType.I64 else pointwise.cast(indices, dtype=DType.I64, loc=loc)
    last = movement.dim_value(dim=(count,), dtype=DType.I64, loc=loc)
    zero = movement.full(shape=(), value=0.0, dtype=DType.I64)
    # There is one place more now, so that negative indices have to be counted from the old end.
    front = pointwise.where(pointwise.less(index, zero), pointwise.add(index, last), index, loc=loc)
    chosen = pointwise.where(_along(one, axis, index.t.rank), front, last, loc=loc)
    written = lines.scatter(wide, chosen, updates, axis=axis, join=value.attr("join"), loc=loc)
    return movement.slice_(written, starts=(0,) * x.t.rank, sizes=x.shape, steps=(1,) * x.t.rank, loc=loc)


# --- whether rows of different places meet -------------------------------------------------------


def _check(value: Value, one: Opened) -> None:
    """Raises `_Refused` unless each row of the result is made of the same row of the arguments."""
    name = value.op.name
    for shape in (value.shape, *(a.shape for a in value.args)):
        if sum(one.name in names(d) for d in shape) > 1 or any(
            one.name in names(d) and str(d) != one.name for d in shape
        ):
            raise _Refused(f"{name} ({value.loc}) computes with that number")
    if Trait.POINTWISE in value.op.traits or name in _FREE:
        return
    if name not in _CHECKS or not _CHECKS[name](value, one):
        raise _Refused(f"{name} ({value.loc}) takes what it finds as one")


def _not_along(value: Value, one: Opened) -> bool:
    axis = one.axis(value.args[0].shape)
    given = value.attr("axes") if "axes" in value.op.attrs else (value.attr("axis"),)
    return axis not in given


def _not_last(value: Value, one: Opened) -> bool:
    axis = one.axis(value.args[0].shape)
    others = all(one.axis(a.shape) is None for a in value.args[1:] if a.t.rank == 1)
    return axis != value.args[0].t.rank - 1 and others


def _matmul(value: Value, one: Opened) -> bool:
    a, b = value.args
    return one.axis(a.shape) != a.t.rank - 1 and one.axis(b.shape) != b.t.rank - 2


def _linear(value: Value, one: Opened) -> bool:
    x, w, bias = value.args[:3]
    return one.axis(x.shape) != x.t.rank - 1 and one.axis(w.shape) is None and one.axis(bias.shape) is None


def _reshape(value: Value, one: Opened) -> bool:
    before, after = one.axis(value.args[0].shape), one.axis(value.shape)
    if before is None or after is None:
        return False
    return product(value.args[0].shape[:before]) == product(value.shape[:after])


def _slice(value: Value, one: Opened) -> bool:
    axis = one.axis(value.args[0].shape)
    if axis is None or one.axis(value.shape) != axis:
        return False
    return bool(value.attr("starts")[axis] == 0 and value.attr("steps")[axis] == 1)


def _pad(value: Value, one: Opened) -> bool:
    axis = one.axis(value.args[0].shape)
    return axis is not None and value.attr("before")[axis] == 0 == value.attr("after")[axis]


def _gather(value: Value, one: Opened) -> bool:
    x, indices = (one.axis(a.shape) for a in value.args)
    return x is None or (indices is None and x != value.attr("axis"))


def _scatter(value: Value, one: Opened) -> bool:
    x, _, updates = value.args
    return one.axis(x.shape) is None and bool(one.axis(updates.shape) == value.attr("axis"))


def _iota(value: Value, one: Opened) -> bool:
    return bool(one.axis(value.shape) != value.attr("axis"))


_FREE = ("transpose", "broadcast", "full")
_CHECKS: Mapping[str, Callable[[Value, Opened], bool]] = {
    **dict.fromkeys(("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod"), _not_along),
    **dict.fromkeys(("cumsum", "cumprod", "argmax", "argmin", "top_k", "concat"), _not_along),
    **dict.fromkeys((nn.softmax.name, nn.layer_norm.name, nn.rms_norm.name), _not_last),
    "gather": _gather,
    "iota": _iota,
    "linear": _linear,
    "matmul": _matmul,
    "pad": _pad,
    "reshape": _reshape,
    "scatter": _scatter,
    "slice": _slice,
}
