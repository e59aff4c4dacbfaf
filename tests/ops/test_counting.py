"""What index tensors are known to hold, held against what they do hold."""

from __future__ import annotations

import numpy as np
import pytest

from isthmus.ir.dims import symbol
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Graph, Value, graph_input
from isthmus.ir.read import parse_type
from isthmus.ir.types import DType
from isthmus.ops.counting import Run, as_run, writes_everything
from isthmus.ops.movement import broadcast, concat, full, iota, reshape, slice_, transpose
from isthmus.ops.pointwise import add, cast, mul

B, N = symbol("b"), symbol("n")
SIZES = {"b": 3, "n": 5}


def counting(*shape: object, axis: int) -> Value:
    return iota(shape=shape, axis=axis, dtype=DType.I64)


def zeros(*shape: object) -> Value:
    return full(shape=shape, value=0.0, dtype=DType.I64)


def array_of(value: Value) -> np.ndarray:
    sizes = graph_input("sizes", parse_type("bool[b,n]"))
    graph = Graph("g", (sizes,), (("y", value),))
    return evaluate(graph, {"sizes": np.zeros(tuple(SIZES.values()), bool)})["y"]


RUNS = {
    "iota": counting(B, N, axis=1),
    "shifted": add(counting(N, axis=0), full(shape=(), value=3.0, dtype=DType.I64)),
    "cast": cast(counting(N, axis=0), dtype=DType.I32),
    "broadcast": broadcast(counting(N, 1, axis=0), shape=(B, N, 4)),
    "slice": slice_(counting(B, N, axis=1), starts=(0, 1), sizes=(B, 2), steps=(1, 1)),
    "transpose": transpose(counting(B, N, axis=1), perm=(1, 0)),
    "reshape": reshape(counting(N, axis=0), shape=(1, N, 1)),
}


@pytest.mark.parametrize("name", RUNS)
def test_runs(name: str) -> None:
    run, array = as_run(RUNS[name]), array_of(RUNS[name])
    assert run is not None and isinstance(run.start, int)
    line = np.arange(array.shape[run.axis]) + run.start
    wanted = line.reshape([-1 if i == run.axis else 1 for i in range(array.ndim)])
    np.testing.assert_array_equal(array, np.broadcast_to(wanted, array.shape))


def test_what_does_not_count() -> None:
    count = counting(N, axis=0)
    for value in (zeros(N), mul(count, count), reshape(counting(B, N, axis=1), shape=(B * N,))):
        assert as_run(value) is None
    assert as_run(counting(B, N, axis=0)) == Run(0, 0)


def grid(*axes: int | None, lead: tuple[object, ...] = (B, 1, N)) -> Value:
    """Indices [*lead, components]; None is a component of zeros."""
    parts = [zeros(*lead, 1) if axis is None else counting(*lead, 1, axis=axis) for axis in axes]
    return concat(*parts, axis=len(lead)) if len(parts) > 1 else parts[0]


def test_grids_that_name_every_place() -> None:
    assert writes_everything(grid(0, None, 2), (B, 1, N))
    assert writes_everything(grid(0, None), (B, 1, 7)) is False  # fewer axes than the grid has
    assert writes_everything(grid(0, lead=(B,)), (B, 7))
    assert not writes_everything(grid(0, None, 2), (B, 1, 9))  # of which some places are not named
    assert not writes_everything(grid(2, None, 0), (B, 1, N))
    assert not writes_everything(grid(0, None, None), (B, 1, N))
