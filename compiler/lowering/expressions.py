"""From values to one loop nest: pointwise ops, gathers and the movement between them become an expression.

The expression is built from the wanted value backwards. Each argument is read where an index map says:
for every axis of the argument, which loop walks it, from where and in what steps. Whatever already lies
in memory becomes an operand with strides; nothing in between is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from isthmus.errors import CompilerBug
from isthmus.ir.dims import Dim, Shape, product
from isthmus.ir.graph import Trait, Value
from isthmus.ir.types import DType
from isthmus.kernels import loops
from isthmus.lowering.plan import Pointer
from isthmus.lowering.views import View


@dataclass(frozen=True, slots=True)
class Axis:
    """The index along one axis of a value: start + step * (the variable of `loop`); no loop: just start."""

    start: Dim
    loop: int | None
    step: int


AxisMap = tuple[Axis, ...]

# Ops made from indices and attributes alone: computing them again is cheaper than storing them.
GENERATORS = ("iota", "full", "dim_value")
GATHERS = ("gather", "gather_elements", "gather_nd")
VIEWS = ("reshape", "transpose", "slice", "broadcast", "windows")


def is_expression(value: Value) -> bool:
    """Whether `value` can be computed inside a nest."""
    return Trait.POINTWISE in value.op.traits or value.op.name in (*GENERATORS, *GATHERS, *VIEWS)


@dataclass(slots=True)
class _Read:
    """An operand: where it starts, its stride along each loop, (extent, stride) per gather index."""

    view: View
    offset: Dim
    strides: list[Dim]
    gathers: tuple[tuple[Dim, Dim], ...]
    dtype: DType

    def key(self) -> tuple[object, ...]:
        return (self.view.buffer, self.offset, tuple(self.strides), self.gathers)


@dataclass(frozen=True, slots=True)
class BuiltNest:
    """A nest and what to pass to its kernel: addresses, extents, strides, and whether it can fault."""

    nest: loops.Nest
    operands: tuple[Pointer, ...]
    output: Pointer
    extents: Shape
    strides: Shape
    units: Dim
    gathers: bool


class NestBuilder:
    """Builds one nest over `extents`.

    `view_of` gives the memory of a value, making it if it has none yet; `stored` says whether it has any.
    """

    def __init__(
        self, extents: Shape, view_of: Callable[[Value], View], stored: Callable[[Value], bool]
    ) -> None:
        self.rank = len(extents)
        # A single element is one loop that runs once.
        self.extents = list(extents) or [1]
        self.view_of = view_of
        self.stored = stored
        self.reads: list[_Read] = []
        self.parameters: list[Dim] = []
        self.indexed: set[int] = set()  # loops whose variable appears as a number

    def identity(self) -> AxisMap:
        return tuple(Axis(0, i, 1) for i in range(self.rank))

    def node(self, value: Value, where: AxisMap) -> loops.Node:
        """The expression for the element of `value` at `where`."""
        name = value.op.name
        if value.is_leaf or self.stored(value):
            return self._load(self.view_of(value), where)
        if Trait.POINTWISE in value.op.traits:
            args = tuple(self.node(a, _align(where, value.shape, a.shape)) for a in value.args)
            return loops.Apply(name, args, value.dtype)
        if name in VIEWS:
            return self._through_view(value, where)
        if name in GATHERS:
            return self._gather(value, where)
        if name == "full":
            return loops.Scalar(_number(value.attr("value"), value.dtype), value.dtype)
        if name == "dim_value":
            return self.size(value.attr("dim")[0], value.dtype)
        if name == "iota":
            return self._iota(where[value.attr("axis")], value.dtype)
        return self._load(self.view_of(value), where)

    def load(self, view: View) -> loops.Node:
        """The element of `view` at the loops themselves."""
        return self._load(view, self.identity())

    def _through_view(self, value: Value, where: AxisMap) -> loops.Node:
        (source,) = value.args
        moved = _move(value, where)
        return self._load(self.view_of(value), where) if moved is None else self.node(source, moved)

    def _load(self, view: View, where: AxisMap) -> loops.Node:
        offset, strides = self._address(view, where)
        return loops.Load(self._operand(_Read(view, offset, strides, (), view.buffer.dtype)))

    def _address(self, view: View, where: AxisMap) -> tuple[Dim, list[Dim]]:
        offset = view.offset
        strides: list[Dim] = [0] * len(self.extents)
        for axis, stride in zip(where, view.strides, strict=True):
            offset = offset + axis.start * stride
            if axis.loop is not None:
                strides[axis.loop] = strides[axis.loop] + stride * axis.step
        # A loop that runs once has no stride that matters.
        return offset, [0 if e == 1 else s for e, s in zip(self.extents, strides, strict=True)]

    def _operand(self, read: _Read) -> int:
        for i, known in enumerate(self.reads):
            if known.key() == read.key():
                return i
        self.reads.append(read)
        return len(self.reads) - 1

    def _gather(self, value: Value, where: AxisMap) -> loops.Node:
        source, indices = value.args
        view = self.view_of(source)
        if value.op.name == "gather":
            axis, rank = value.attr("axis"), indices.t.rank
            picked = {axis: self.node(indices, where[axis : axis + rank])}
            rest = (*where[:axis], Axis(0, None, 0), *where[axis + rank :])
        elif value.op.name == "gather_elements":
            axis = value.attr("axis")
            picked = {axis: self.node(indices, where)}
            rest = tuple(Axis(0, None, 0) if i == axis else a for i, a in enumerate(where))
        else:
            batch, depth = value.attr("batch_dims"), indices.shape[-1]
            assert isinstance(depth, int)
            lead = where[: indices.t.rank - 1]
            picked = {batch + i: self.node(indices, (*lead, Axis(i, None, 0))) for i in range(depth)}
            rest = (*where[:batch], *(Axis(0, None, 0) for _ in range(depth)), *where[indices.t.rank - 1 :])
        offset, strides = self._address(view, rest)
        steps = tuple((view.shape[axis], view.strides[axis]) for axis in picked)
        operand = self._operand(_Read(view, offset, strides, steps, view.buffer.dtype))
        return loops.Gather(operand, tuple(picked.values()))

    def size(self, dim: Dim, dtype: DType) -> loops.Node:
        if isinstance(dim, int):
            return loops.Scalar(_number(dim, dtype), dtype)
        if dim not in self.parameters:
            self.parameters.append(dim)
        return loops.Parameter(self.parameters.index(dim), dtype)

    def _iota(self, axis: Axis, dtype: DType) -> loops.Node:
        if axis.loop is None:
            return self.size(axis.start, dtype)
        self.indexed.add(axis.loop)
        node: loops.Node = loops.Index(axis.loop, DType.I64)
        if axis.step != 1:
            node = loops.Apply("mul", (node, loops.Scalar(axis.step, DType.I64)), DType.I64)
        if axis.start != 0:
            node = loops.Apply("add", (node, self.size(axis.start, DType.I64)), DType.I64)
        if dtype is DType.I64:
            return node
        return loops.Apply("cast", (node,), dtype)

    def finish(
        self,
        body: loops.Node,
        output: View,
        reduced: frozenset[int] = frozenset(),
        fold: loops.Fold | None = None,
        last: loops.Node | None = None,
    ) -> BuiltNest:
        """The nest that writes `body` to `output`, whose axes are the loops that are not reduced, in order.

        `last` is applied to the folded value; it may use parameters, no loops.
        """
        kept = [i for i in range(self.rank) if i not in reduced]
        order = _loop_order(len(self.extents), reduced)
        out_strides: list[Dim] = [0] * len(self.extents)
        for loop, stride in zip(kept, output.strides, strict=True):
            out_strides[loop] = 0 if self.extents[loop] == 1 else stride
        columns = [*(r.strides for r in self.reads), out_strides]
        order = [i for i in order if self.extents[i] != 1] or order[-1:]
        groups = self._collapse(order, columns, reduced)
        body = _renumber(body, {old: new for new, group in enumerate(groups) for old in group})
        extents = [product(tuple(self.extents[i] for i in group)) for group in groups]
        inner = [[column[group[-1]] for group in groups] for column in columns]
        kinds: tuple[loops.Loop, ...] = tuple("reduced" if g[-1] in reduced else "kept" for g in groups)
        operands = tuple(
            loops.Operand(r.dtype, _inner(s[-1])) for r, s in zip(self.reads, inner[:-1], strict=True)
        )
        if "reduced" not in kinds:
            # Every reduced axis has one element: folding it changes nothing.
            body, fold, last = _substitute_reduced(last, body) if last is not None else body, None, None
        nest = loops.Nest(
            operands=operands,
            output=loops.Operand(output.buffer.dtype, _inner(inner[-1][-1])),
            loops=kinds,
            body=body,
            fold=fold,
            finish=last,
        )
        flat: list[Dim] = []
        for read, strides in zip(self.reads, inner[:-1], strict=True):
            flat.extend(strides)
            for extent, stride in read.gathers:
                flat.extend((extent, stride))
        flat.extend(inner[-1])
        outer = [e for e, k in zip(extents, kinds, strict=True) if k == "kept"]
        units = product(tuple(outer[:-1] if kinds[-1] == "kept" else outer))
        return BuiltNest(
            nest,
            tuple(Pointer(r.view.buffer, r.offset) for r in self.reads),
            Pointer(output.buffer, output.offset),
            (*extents, *self.parameters),
            tuple(flat),
            units,
            any(r.gathers for r in self.reads),
        )

    def _collapse(
        self, order: list[int], columns: list[list[Dim]], reduced: frozenset[int]
    ) -> list[list[int]]:
        """Neighbouring loops that every operand walks as one, merged; the innermost stays on its own if it is
        long enough to be a vector loop, so that the outer ones can be shared among threads."""
        groups = [[order[0]]]
        for loop in order[1:]:
            last = groups[-1][-1]
            mergeable = (
                (loop in reduced) == (last in reduced)
                and not {loop, last} & self.indexed
                and all(c[last] == c[loop] * self.extents[loop] for c in columns)
            )
            short = isinstance(self.extents[loop], int) and self.extents[loop] < 64  # type: ignore[operator]
            if mergeable and (loop != order[-1] or short or loop in reduced):
                groups[-1].append(loop)
            else:
                groups.append([loop])
        return groups


def _loop_order(rank: int, reduced: frozenset[int]) -> list[int]:
    """Kept loops, then reduced ones, then the last axis if it is kept: it is the one to vectorise."""
    kept = [i for i in range(rank) if i not in reduced]
    if not reduced or rank - 1 in reduced:
        return [*kept, *sorted(reduced)]
    return [*kept[:-1], *sorted(reduced), kept[-1]]


def _inner(stride: Dim) -> loops.Inner:
    if stride == 1:
        return "unit"
    return "zero" if stride == 0 else "any"


def _number(value: object, dtype: DType) -> float | int | bool:
    if dtype is DType.BOOL:
        return bool(value)
    assert isinstance(value, int | float)
    return float(value) if dtype.is_float else int(value)


def _align(where: AxisMap, shape: Shape, arg: Shape) -> AxisMap:
    """NumPy broadcasting: the last axes line up, and an axis of size 1 stays at its only element."""
    lead = len(shape) - len(arg)
    return tuple(
        Axis(0, None, 0) if size == 1 and full != 1 else axis
        for axis, size, full in zip(where[lead:], arg, shape[lead:], strict=True)
    )


def _move(value: Value, where: AxisMap) -> AxisMap | None:
    """Where the element of a movement op comes from, or None where one axis is walked by two loops: windows,
    and a reshape that mixes axes."""
    (source,) = value.args
    if value.op.name == "windows":
        return None
    if value.op.name == "transpose":
        perm = value.attr("perm")
        return tuple(where[perm.index(i)] for i in range(len(perm)))
    if value.op.name == "broadcast":
        return _align(where, value.shape, source.shape)
    if value.op.name == "slice":
        parts = zip(where, value.attr("starts"), value.attr("steps"), strict=True)
        return tuple(
            Axis(start + axis.start * step, axis.loop, axis.step * step) for axis, start, step in parts
        )
    old = [i for i, d in enumerate(source.shape) if d != 1]
    new = [i for i, d in enumerate(value.shape) if d != 1]
    if [source.shape[i] for i in old] != [value.shape[i] for i in new]:
        return None
    origin = dict(zip(old, new, strict=True))
    return tuple(where[origin[i]] if i in origin else Axis(0, None, 0) for i in range(source.t.rank))


def _substitute_reduced(node: loops.Node, body: loops.Node) -> loops.Node:
    match node:
        case loops.Reduced():
            return body
        case loops.Apply(args=args):
            return replace(node, args=tuple(_substitute_reduced(a, body) for a in args))
    return node


def _renumber(node: loops.Node, loop_of: dict[int, int]) -> loops.Node:
    """`node` with loop numbers replaced; a loop that runs once and is gone reads as 0."""
    match node:
        case loops.Index(loop=loop, dtype=dtype):
            return loops.Index(loop_of[loop], dtype) if loop in loop_of else loops.Scalar(0, dtype)
        case loops.Apply(args=args):
            return replace(node, args=tuple(_renumber(a, loop_of) for a in args))
        case loops.Gather(indices=indices):
            return replace(node, indices=tuple(_renumber(i, loop_of) for i in indices))
        case loops.Load() | loops.Scalar() | loops.Parameter():
            return node
    raise CompilerBug(f"cannot renumber {node}")
