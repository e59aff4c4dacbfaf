"""Gathers whose indices are known to be one number or a range of numbers: they are slices and broadcasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from isthmus.ir.dims import Bounds, Dim, Expr, Shape, interval
from isthmus.ir.graph import Graph, Marker, NamedDim, Program, Value
from isthmus.ir.rewrite import Match, Rule, Watch, scalar, splat, such
from isthmus.ops import movement, pointwise
from isthmus.ops.movement import broadcast, concat, gather, gather_nd, reshape, slice_, transpose
from isthmus.passes.steps import exhaust
from isthmus.target import Target


@dataclass(frozen=True, slots=True)
class Run:
    """Integers that count up by one from `start` along `axis` and are the same along every other axis."""

    axis: int
    start: Dim


def as_run(value: Value, depth: int = 16) -> Run | None:
    """How `value` counts, if it does."""
    if depth == 0:
        return None
    op = value.op
    if op is movement.iota:
        return Run(value.attr("axis"), 0)
    if op is pointwise.add:
        return _shifted(value, depth)
    if op is pointwise.cast and value.dtype.is_integer and value.dtype.bits >= 32:
        return as_run(value.args[0], depth - 1) if value.args[0].dtype.is_integer else None
    if op is movement.broadcast:
        inner = as_run(value.args[0], depth - 1)
        axis = inner.axis + value.t.rank - value.args[0].t.rank if inner else 0
        fits = inner is not None and value.shape[axis] == value.args[0].shape[inner.axis]
        return Run(axis, inner.start) if inner and fits else None
    if op is movement.slice_:
        inner = as_run(value.args[0], depth - 1)
        if inner is None or value.attr("steps")[inner.axis] != 1:
            return None
        return Run(inner.axis, inner.start + value.attr("starts")[inner.axis])
    if op is movement.transpose:
        inner = as_run(value.args[0], depth - 1)
        return Run(value.attr("perm").index(inner.axis), inner.start) if inner else None
    if op is movement.reshape:
        return _reshaped(value, depth)
    return None


def _shifted(value: Value, depth: int) -> Run | None:
    for count, other in (value.args, value.args[::-1]):
        number = splat(other)
        inner = as_run(count, depth - 1) if number is not None and count.shape == value.shape else None
        if inner is not None and number is not None:
            return Run(inner.axis, inner.start + int(number))
    return None


def _reshaped(value: Value, depth: int) -> Run | None:
    """A reshape that only adds or removes axes of one element."""
    source, target = value.args[0].shape, value.shape
    long = [d for d in source if d != 1]
    inner = as_run(value.args[0], depth - 1)
    if inner is None or long != [d for d in target if d != 1] or source[inner.axis] == 1:
        return None
    place = sum(d != 1 for d in source[: inner.axis])
    axes = [axis for axis, d in enumerate(target) if d != 1]
    return Run(axes[place], inner.start)


# --- one number ----------------------------------------------------------------------------------


def _number_in_range(m: Match) -> str | None:
    length = m.value("x").shape[int(str(m.attr("axis")))]
    index = int(m.scalar("i"))
    if isinstance(length, int) and -length <= index < length:
        return None
    return f"index {index} may be outside 0..{length}-1"


def _pick_one(m: Match) -> Value:
    x, axis = m.value("x"), int(str(m.attr("axis")))
    length = x.shape[axis]
    index = int(m.scalar("i"))
    assert isinstance(length, int)
    row = _slice_axes(x, {axis: (index % length, 1)})
    indices = m.value("i").t.rank
    ones = (*x.shape[:axis], *(1,) * indices, *x.shape[axis + 1 :])
    return _broadcast(_reshape(row, ones), m.root.shape)


# --- a range -------------------------------------------------------------------------------------


def _slice_axes(x: Value, cuts: dict[int, tuple[Dim, Dim]]) -> Value:
    starts = tuple(cuts[a][0] if a in cuts else 0 for a in range(x.t.rank))
    sizes = tuple(cuts[a][1] if a in cuts else x.shape[a] for a in range(x.t.rank))
    if sizes == x.shape and not any(starts):
        return x
    return slice_(x, starts=starts, sizes=sizes, steps=(1,) * x.t.rank)


def _reshape(x: Value, shape: Shape) -> Value:
    return x if x.shape == shape else reshape(x, shape=shape)


def _broadcast(x: Value, shape: Shape) -> Value:
    return x if x.shape == shape else broadcast(x, shape=shape)


def _inside(start: Dim, size: Dim, length: Dim, bounds: Bounds) -> bool:
    """Whether start + size <= length for every size within the bounds, and start >= 0."""
    low, _ = interval(length - (start + size), bounds)
    first, _ = interval(start, bounds)
    return low is not None and low >= 0 and first is not None and first >= 0


def _gather_run(m: Match) -> Value:
    x, indices, axis = m.value("x"), m.value("i"), int(str(m.attr("axis")))
    run = as_run(indices)
    assert run is not None
    cut = _slice_axes(x, {axis: (run.start, indices.shape[run.axis])})
    line = tuple(d if a == run.axis else 1 for a, d in enumerate(indices.shape))
    return _broadcast(_reshape(cut, (*x.shape[:axis], *line, *x.shape[axis + 1 :])), m.root.shape)


def _run_inside(bounds: Bounds) -> Callable[[Match], str | None]:
    def guard(m: Match) -> str | None:
        x, indices = m.value("x"), m.value("i")
        run = as_run(indices)
        if run is None:
            return "the indices are not a range"
        length = x.shape[int(str(m.attr("axis")))]
        if not _inside(run.start, indices.shape[run.axis], length, bounds):
            return f"indices up to {run.start + indices.shape[run.axis]} may go beyond {length}"
        return None

    return guard


# --- a grid of ranges ----------------------------------------------------------------------------


def _grid(indices: Value) -> tuple[Run, ...] | None:
    """The ranges that an index tensor of gather_nd is put together from, one for each component."""
    parts = (
        indices.args if indices.op is concat and indices.attr("axis") == indices.t.rank - 1 else (indices,)
    )
    if any(p.shape[-1] != 1 for p in parts):
        return None
    runs = tuple(as_run(p) for p in parts)
    known = tuple(r for r in runs if r is not None and r.axis < indices.t.rank - 1)
    distinct = len({r.axis for r in known}) == len(runs)
    return known if len(known) == len(runs) and distinct else None


def _grid_inside(bounds: Bounds) -> Callable[[Match], str | None]:
    def guard(m: Match) -> str | None:
        x, indices = m.value("x"), m.value("i")
        runs = _grid(indices)
        if runs is None or m.attr("batch_dims") != 0:
            return "the indices are not a grid of ranges"
        for axis, run in enumerate(runs):
            if not _inside(run.start, indices.shape[run.axis], x.shape[axis], bounds):
                return f"indices up to {run.start + indices.shape[run.axis]} may go beyond {x.shape[axis]}"
        return None

    return guard


def _gather_grid(m: Match) -> Value:
    x, indices = m.value("x"), m.value("i")
    runs = _grid(indices)
    assert runs is not None
    lead = indices.shape[:-1]
    cut = _slice_axes(x, {axis: (run.start, lead[run.axis]) for axis, run in enumerate(runs)})
    # Axes of x in the order in which the result has them.
    order = (*sorted(range(len(runs)), key=lambda a: runs[a].axis), *range(len(runs), x.t.rank))
    if order != tuple(range(x.t.rank)):
        cut = transpose(cut, perm=order)
    used = {run.axis for run in runs}
    line = tuple(d if a in used else 1 for a, d in enumerate(lead))
    return _broadcast(_reshape(cut, (*line, *x.shape[len(runs) :])), m.root.shape)


GATHER_NUMBER = Rule(
    "gather-number",
    lambda x, i=scalar(): gather(x, i, axis=Marker("axis")),
    _pick_one,
    unless=_number_in_range,
    examples=(
        {"x": "f32[2,n]", "i": "i64[b,3] = 1", "axis": 0},
        {"x": "f32[n,2]", "i": "i64[] = -1", "axis": 1},
    ),
)


def run_rules(bounds: Bounds) -> tuple[Rule, ...]:
    """The rules for ranges, given what is known about named dims."""
    return (
        Rule(
            "gather-range",
            lambda x, i=such(lambda v: as_run(v) is not None): gather(x, i, axis=Marker("axis")),
            _gather_run,
            unless=_run_inside(bounds),
            examples=(
                {"x": "f32[8,3]", "i": "i64[4,5] = iota(1) + 2", "axis": 0},
                {"x": "f32[2,9]", "i": "i32[6] = iota(0) + 0", "axis": 1},
                {"x": "f32[n,3]", "i": "i64[1,n] = iota(1) + 0", "axis": 0},
            ),
        ),
        Rule(
            "gather-grid",
            lambda x, i=such(lambda v: _grid(v) is not None): gather_nd(
                x, i, batch_dims=Marker("batch_dims")
            ),
            _gather_grid,
            unless=_grid_inside(bounds),
            examples=(
                {"x": "f32[b,n,3]", "i": "i64[b,1,n,2] = grid(0,2)", "batch_dims": 0},
                {"x": "f32[b,n]", "i": "i64[n,1,b,2] = grid(2,0)", "batch_dims": 0},
                {"x": "f32[b,n]", "i": "i64[4,b,1] = grid(1)", "batch_dims": 0},
            ),
        ),
    )


@dataclass(frozen=True, slots=True)
class RangeGathers:
    """Gathers of ranges become slices; a table that a range walks through bounds the dim that is its length.

    A lookup beyond the table is an error of the model in every run, so a named dim that indexes a table of
    512 rows is at most 512: the bound is recorded, and runs are refused by it with a clear message.
    """

    @property
    def name(self) -> str:
        return "range-gathers"

    @property
    def rules(self) -> tuple[Rule, ...]:
        return run_rules({})

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        program = _tightened(program)
        rules = run_rules(program.bounds)
        return program.map_graphs(lambda graph: exhaust(graph, rules, watch, self.name))


def _tightened(program: Program) -> Program:
    highs: dict[str, int] = {}
    for graph in program.graphs:
        for name, high in _limits(graph):
            highs[name] = min(high, highs.get(name, high))
    dims = tuple(_limited(d, highs.get(d.name)) for d in program.dims)
    return program if dims == program.dims else replace(program, dims=dims)


def _limited(dim: NamedDim, high: int | None) -> NamedDim:
    if high is None or high < dim.low or (dim.high is not None and dim.high <= high):
        return dim
    return replace(dim, high=high)


def _limits(graph: Graph) -> list[tuple[str, int]]:
    """Named dims that are the length of a range of indices into a table of fixed length."""
    found: list[tuple[str, int]] = []
    for node in graph.nodes():
        if node.op is not gather:
            continue
        length = node.args[0].shape[node.attr("axis")]
        run = as_run(node.args[1])
        if run is None or not isinstance(length, int) or not isinstance(run.start, int):
            continue
        size = node.args[1].shape[run.axis]
        if isinstance(size, Expr) and str(size).isidentifier():
            found.append((str(size), length - run.start))
    return found
