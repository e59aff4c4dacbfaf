"""Movement that moves nothing, and movement after movement."""

from __future__ import annotations

from isthmus.ir.dims import Dim, Shape
from isthmus.ir.graph import Marker, Value
from isthmus.ir.rewrite import Match, Rule, named
from isthmus.ops.movement import concat, full, iota, pad, reshape, slice_, transpose
from isthmus.ops.pointwise import add

Perm = tuple[int, ...]

# Most transposes move something: a refusal that nobody wants to read about.
OBVIOUS = ""


def compose(first: Perm, second: Perm) -> Perm:
    """The permutation that transposing by `first` and then by `second` amounts to."""
    return tuple(first[axis] for axis in second)


def axis_groups(source: Shape, target: Shape) -> list[tuple[range, range]] | None:
    """The finest cut of two shapes into runs of axes with equal products, or None when there is none.

    A reshape from `source` to `target` moves nothing across these groups.
    """
    groups: list[tuple[range, range]] = []
    i = j = 0
    while i < len(source) and j < len(target):
        start_i, start_j = i, j
        left, right = source[i], target[j]
        i, j = i + 1, j + 1
        while left != right:
            if i < len(source) and (j == len(target) or _behind(left, right)):
                left, i = left * source[i], i + 1
            elif j < len(target):
                right, j = right * target[j], j + 1
            else:
                return None
        groups.append((range(start_i, i), range(start_j, j)))
    if any(dim != 1 for dim in (*source[i:], *target[j:])):
        return None
    # Ones at the end belong to the last group.
    last = groups.pop() if groups else (range(0), range(0))
    return [*groups, (range(last[0].start, len(source)), range(last[1].start, len(target)))]


def _behind(left: Dim, right: Dim) -> bool:
    """Which of two unequal products lacks factors; with names in them, the one with fewer."""
    return _factors(left) < _factors(right)


def _factors(dim: Dim) -> tuple[int, int]:
    if isinstance(dim, int):
        return 0, dim
    monomial, coefficient = dim.terms[0]
    return len(monomial), coefficient


def _keeps_order(m: Match) -> str | None:
    perm = m.attr("perm")
    assert isinstance(perm, tuple)
    shape = m.value("x").shape
    long = [axis for axis in perm if isinstance(axis, int) and shape[axis] != 1]
    return None if long == sorted(long) else OBVIOUS


def _is_merge(m: Match) -> str | None:
    """Each axis of the inner reshape is a run of axes of x: then the transpose may come first."""
    shape = m.value("x").shape
    groups = axis_groups(shape, m.value("merged").shape)
    if groups is None or any(len(target) != 1 for _, target in groups):
        return OBVIOUS
    # Dropping axes of one element makes the transpose simpler; that stays where it is.
    merges = any(sum(shape[axis] != 1 for axis in source) > 1 for source, _ in groups)
    return None if merges else OBVIOUS


def _transpose_first(m: Match) -> Value:
    x = m.value("x")
    perm = m.attr("perm")
    groups = axis_groups(x.shape, m.value("merged").shape)
    assert groups is not None and isinstance(perm, tuple)
    order = tuple(axis for target in perm if isinstance(target, int) for axis in groups[target][0])
    return reshape(transpose(x, perm=order), shape=m.root.shape)


def _full_slice(m: Match) -> str | None:
    steps = m.attr("steps")
    assert isinstance(steps, tuple)
    if m.value("x").shape != m.root.shape or any(s != 1 for s in steps):
        return OBVIOUS
    return None


def _slice_twice(m: Match) -> Value:
    inner, outer = m.value("inner"), m.root
    starts = tuple(
        a + b * step
        for a, b, step in zip(inner.attr("starts"), outer.attr("starts"), inner.attr("steps"), strict=True)
    )
    steps = tuple(a * b for a, b in zip(inner.attr("steps"), outer.attr("steps"), strict=True))
    return slice_(m.value("x"), starts=starts, sizes=outer.attr("sizes"), steps=steps)


def _long_axis(shape: Shape) -> int | None:
    """The only axis that is not 1, if there is just one."""
    long = [axis for axis, dim in enumerate(shape) if dim != 1]
    return long[0] if len(long) == 1 else None


def _iota_reshape(m: Match) -> Value:
    axis = _long_axis(m.root.shape)
    assert axis is not None
    return iota(shape=m.root.shape, axis=axis, dtype=m.root.dtype)


def _is_line(m: Match) -> str | None:
    shape = m.value("inner").shape
    if _long_axis(shape) == m.attr("axis") and _long_axis(m.root.shape) is not None:
        return None
    return OBVIOUS


def _iota_slice(m: Match) -> Value:
    inner, dtype = m.value("inner"), m.root.dtype
    axis = inner.attr("axis")
    start = m.root.attr("starts")[axis]
    count = iota(shape=m.root.shape, axis=axis, dtype=dtype)
    return add(count, full(shape=(), value=float(start), dtype=dtype)) if start else count


def _plain_slice(m: Match) -> str | None:
    axis = m.value("inner").attr("axis")
    if m.root.attr("steps")[axis] != 1 or not isinstance(m.root.attr("starts")[axis], int):
        return OBVIOUS
    return None


def _no_padding(m: Match) -> str | None:
    return None if m.value("x").shape == m.root.shape and _nothing(m.attr("before")) else OBVIOUS


def _nothing(amounts: object) -> bool:
    return isinstance(amounts, tuple) and all(a == 0 for a in amounts)


MOVEMENT = (
    Rule(
        "transpose-nothing",
        lambda x: transpose(x, perm=Marker("perm")),
        lambda x: x,
        unless=lambda m: None if m.attr("perm") == tuple(range(m.root.t.rank)) else OBVIOUS,
        examples=({"x": "f32[2,n]", "perm": (0, 1)}, {"x": "f32[]", "perm": ()}),
    ),
    Rule(
        "transpose-twice",
        lambda x: transpose(transpose(x, perm=Marker("first")), perm=Marker("second")),
        lambda x, first, second: transpose(x, perm=compose(first, second)),
        examples=(
            {"x": "f32[2,n,3]", "first": (1, 2, 0), "second": (1, 0, 2)},
            {"x": "f32[2,n,3,4]", "first": (0, 2, 3, 1), "second": (2, 0, 1, 3)},
        ),
    ),
    Rule(
        "transpose-of-ones",
        lambda x: transpose(x, perm=Marker("perm")),
        lambda m: reshape(m.value("x"), shape=m.root.shape),
        unless=_keeps_order,
        examples=({"x": "f32[2,1,n,1]", "perm": (1, 0, 3, 2)},),
    ),
    Rule(
        "reshape-nothing",
        lambda x: reshape(x, shape=Marker("shape")),
        lambda x: x,
        unless=lambda m: None if m.value("x").shape == m.root.shape else OBVIOUS,
        examples=({"x": "f32[2,n]", "shape": "2,n"},),
    ),
    Rule(
        "reshape-twice",
        lambda x: reshape(reshape(x, shape=Marker("inner")), shape=Marker("shape")),
        lambda x, shape: reshape(x, shape=shape),
        examples=({"x": "f32[2,n,6]", "inner": "2*n,6", "shape": "2,n,3,2"},),
    ),
    Rule(
        "merge-after-transpose",
        lambda x: transpose(named("merged", reshape(x, shape=Marker("shape"))), perm=Marker("perm")),
        _transpose_first,
        unless=_is_merge,
        examples=(
            {"x": "f32[b,4,s,3]", "shape": "4*b,s,3", "perm": (0, 2, 1)},
            {"x": "f32[2,3,5]", "shape": "2,15", "perm": (1, 0)},
        ),
    ),
    Rule(
        "slice-nothing",
        lambda x: slice_(x, starts=Marker("starts"), sizes=Marker("sizes"), steps=Marker("steps")),
        lambda x: x,
        unless=_full_slice,
        examples=({"x": "f32[2,n]", "starts": "0,0", "sizes": "2,n", "steps": (1, 1)},),
    ),
    Rule(
        "slice-twice",
        lambda x: slice_(
            named("inner", slice_(x, starts=Marker("a"), sizes=Marker("b"), steps=Marker("c"))),
            starts=Marker("starts"),
            sizes=Marker("sizes"),
            steps=Marker("steps"),
        ),
        _slice_twice,
        examples=(
            {  # every second element, backwards, and of those every second
                "x": "f32[9,n]",
                "a": "8,0",
                "b": "5,n",
                "c": (-2, 1),
                "starts": "1,0",
                "sizes": "2,n",
                "steps": (2, 1),
            },
        ),
    ),
    Rule(
        "concat-one",
        lambda x: concat(x, axis=Marker("axis")),
        lambda x: x,
        examples=({"x": "f32[2,n]", "axis": 1},),
    ),
    Rule(
        "pad-nothing",
        lambda x: pad(x, before=Marker("before"), after=Marker("after"), value=Marker("value")),
        lambda x: x,
        unless=_no_padding,
        examples=({"x": "f32[2,n]", "before": "0,0", "after": "0,0", "value": 1.0},),
    ),
    Rule(
        "iota-reshaped",
        lambda: reshape(
            named("inner", iota(shape=Marker("line"), axis=Marker("axis"), dtype=Marker("dtype"))),
            shape=Marker("shape"),
        ),
        _iota_reshape,
        unless=_is_line,
        examples=({"line": "n", "axis": 0, "dtype": "i64", "shape": "1,n,1"},),
    ),
    Rule(
        "iota-sliced",
        lambda: slice_(
            named("inner", iota(shape=Marker("whole"), axis=Marker("axis"), dtype=Marker("dtype"))),
            starts=Marker("starts"),
            sizes=Marker("sizes"),
            steps=Marker("steps"),
        ),
        _iota_slice,
        unless=_plain_slice,
        examples=(
            {
                "whole": "2,9",
                "axis": 1,
                "dtype": "i64",
                "starts": "1,3",
                "sizes": "1,4",
                "steps": (1, 1),
            },
        ),
    ),
)
