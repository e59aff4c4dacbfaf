"""Gathers whose indices are known to be one number or a range of numbers: they are slices and broadcasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from isthmus.ir.dims import Bounds, Dim, Expr, Shape, interval
from isthmus.ir.graph import Graph, Marker, NamedDim, Program, Value
from isthmus.ir.rewrite import Match, Rule, Watch, named, scalar, splat, such
from isthmus.ops import movement, pointwise
from isthmus.ops.counting import Run, as_run
from isthmus.ops.movement import broadcast, concat, gather, gather_nd, reshape, slice_, transpose
from isthmus.passes.steps import exhaust
from isthmus.target import Target

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
    return _broadcast(_picked(x, runs, indices.shape[:-1]), m.root.shape)


def _picked(x: Value, runs: tuple[Run, ...], lead: Shape) -> Value:
    """What a grid of `runs` over `lead` picks from the first axes of `x`; still 1 where no run counts."""
    cut = _slice_axes(x, {axis: (run.start, lead[run.axis]) for axis, run in enumerate(runs)})
    # Axes of x in the order in which the result has them.
    order = (*sorted(range(len(runs)), key=lambda a: runs[a].axis), *range(len(runs), x.t.rank))
    if order != tuple(range(x.t.rank)):
        cut = transpose(cut, perm=order)
    used = {run.axis for run in runs}
    line = tuple(d if a in used else 1 for a, d in enumerate(lead))
    return _reshape(cut, (*line, *x.shape[len(runs) :]))


# --- a grid of ranges into a matrix that was laid flat -------------------------------------------


def _flat_grid(indices: Value) -> tuple[Run, Run, Dim] | None:
    """For run * width + run, each along its own axis: both runs and the width."""
    if indices.op is not pointwise.add:
        return None
    for rows, columns in (indices.args, indices.args[::-1]):
        if rows.op is not pointwise.mul:
            continue
        for count, width in (rows.args, rows.args[::-1]):
            row, column = (_aligned(side, indices.t.rank) for side in (count, columns))
            size = _size(width)
            if row is not None and column is not None and size is not None and row.axis != column.axis:
                return row, column, size
    return None


def _aligned(value: Value, rank: int) -> Run | None:
    """How `value` counts when it is broadcast to `rank` axes."""
    run = as_run(value)
    return None if run is None else replace(run, axis=run.axis + rank - value.t.rank)


def _size(value: Value) -> Dim | None:
    if value.op is movement.dim_value:
        (dim,) = value.attr("dim")
        return dim if isinstance(dim, int | Expr) else None
    number = splat(value)
    return None if number is None else int(number)


def _flat_inside(bounds: Bounds) -> Callable[[Match], str | None]:
    def guard(m: Match) -> str | None:
        x, flat, indices = m.value("x").shape, m.value("flat").shape, m.value("i")
        found = _flat_grid(indices)
        if found is None or m.attr("axis") != 0 or len(x) < 2:
            return "the indices are not a grid of ranges"
        if found[2] != x[1] or flat[0] != x[0] * x[1] or _long(flat[1:]) != _long(x[2:]):
            return "the table is not a matrix laid flat"
        for run, length in zip(found[:2], x, strict=False):
            if not _inside(run.start, indices.shape[run.axis], length, bounds):
                return f"indices up to {run.start + indices.shape[run.axis]} may go beyond {length}"
        return None

    return guard


def _long(shape: Shape) -> Shape:
    return tuple(d for d in shape if d != 1)


def _gather_flat(m: Match) -> Value:
    x, indices = m.value("x"), m.value("i")
    found = _flat_grid(indices)
    assert found is not None
    picked = _picked(x, found[:2], indices.shape)
    rest = m.root.shape[indices.t.rank :]
    return _broadcast(_reshape(picked, (*picked.shape[: indices.t.rank], *rest)), m.root.shape)


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
        Rule(
            "gather-flat-grid",
            lambda x, i=such(lambda v: _flat_grid(v) is not None): gather(
                named("flat", reshape(x, shape=Marker("shape"))), i, axis=Marker("axis")
            ),
            _gather_flat,
            unless=_flat_inside(bounds),
            examples=(
                {"x": "f32[b,n]", "i": "i64[b,1,1,n] = flat(0,3)", "shape": "b*n,1", "axis": 0},
                {"x": "f32[b,n,3]", "i": "i64[n,1,b] = flat(2,0)", "shape": "b*n,3", "axis": 0},
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
