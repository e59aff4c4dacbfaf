"""Which batches can be cut: each item of a result must come from its own item of the inputs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import isthmus.targets
from isthmus.chips import discover
from isthmus.ir.dims import symbol
from isthmus.ir.graph import Graph, NamedDim, Program, Value, constant, graph_input
from isthmus.ir.types import DType, TensorType
from isthmus.lowering.lower import lower
from isthmus.lowering.plan import Parts
from isthmus.ops import movement, nn, pointwise, reduce
from isthmus.passes import pipeline

B, S = symbol("b"), symbol("s")
TARGET = discover(isthmus.targets)["x86-64-v3"]


def layer(x: Value, name: str) -> Value:
    rng = np.random.default_rng(len(name))
    return nn.matmul(x, constant(name, rng.standard_normal((8, 8)).astype(np.float32)))


def attended(x: Value) -> Value:
    """[b,s,8] to [b,s,8]: two heads, each of which looks at all positions."""
    heads = movement.transpose(movement.reshape(x, shape=(B, S, 2, 4)), perm=(0, 2, 1, 3))
    mixed = nn.attention(heads, heads, heads, scale=0.5)
    return movement.reshape(movement.transpose(mixed, perm=(0, 2, 1, 3)), shape=(B, S, 8))


def parts_of(finish: Callable[[Value], Value], low: int = 1) -> Parts | None:
    """Of a program of two chains of rows, and `finish` over its result of [b,s,8]."""
    x = graph_input("x", TensorType(DType.F32, (B, S, 8)))
    result = finish(layer(attended(layer(x, "first")), "second"))
    graph = Graph("tiny", (x,), (("y", result),))
    program = pipeline.run(Program("tiny", (graph,), (NamedDim("b", low), NamedDim("s"))), TARGET)
    return lower(program, program.main, TARGET).parts


APART: dict[str, Callable[[Value], Value]] = {
    "nothing": lambda y: y,
    "mean of positions": lambda y: reduce.reduce_mean(y, axes=(1,)),
    "first position": lambda y: movement.slice_(y, starts=(0, 0, 0), sizes=(B, 1, 8), steps=(1, 1, 1)),
    "rows of one matrix": lambda y: movement.reshape(y, shape=(B * S, 8)),
    "heads first within an item": lambda y: movement.transpose(y, perm=(0, 2, 1)),
    "beside itself": lambda y: movement.concat(y, y, axis=2),
    "running sum": lambda y: reduce.cumsum(y, axis=1),
    "positions added": lambda y: pointwise.add(
        y, pointwise.cast(movement.iota(shape=(S, 8), axis=0, dtype=DType.I64), dtype=DType.F32)
    ),
    "how many positions": lambda y: pointwise.mul(y, movement.dim_value(dim=(S,), dtype=DType.F32)),
}
TOGETHER: dict[str, Callable[[Value], Value]] = {
    "mean of items": lambda y: reduce.reduce_mean(y, axes=(0,)),
    "sum of items beside each": lambda y: pointwise.add(y, reduce.reduce_sum(y, axes=(0,))),
    "first item": lambda y: movement.slice_(y, starts=(0, 0, 0), sizes=(1, S, 8), steps=(1, 1, 1)),
    "items backwards": lambda y: movement.slice_(y, starts=(B - 1, 0, 0), sizes=(B, S, 8), steps=(-1, 1, 1)),
    "positions first": lambda y: movement.transpose(y, perm=(1, 0, 2)),
    "twice as many": lambda y: movement.concat(y, y, axis=0),
    "sum of items so far": lambda y: reduce.cumsum(y, axis=0),
    "how many items": lambda y: pointwise.mul(y, movement.dim_value(dim=(B,), dtype=DType.F32)),
    "number of the item": lambda y: pointwise.add(
        y, pointwise.cast(movement.iota(shape=(B, S, 8), axis=0, dtype=DType.I64), dtype=DType.F32)
    ),
    "items mixed": lambda y: movement.transpose(
        nn.softmax(movement.transpose(y, perm=(2, 1, 0))), perm=(2, 1, 0)
    ),
}


@pytest.mark.parametrize("name", APART)
def test_items_that_do_not_meet(name: str) -> None:
    parts = parts_of(APART[name])
    assert parts is not None
    assert (parts.dim, S in parts.rows) == ("b", True)


@pytest.mark.parametrize("name", TOGETHER)
def test_items_that_meet(name: str) -> None:
    assert parts_of(TOGETHER[name]) is None


def test_code_for_larger_batches_only_is_not_given_smaller_ones() -> None:
    assert parts_of(lambda y: y, low=2) is None


def test_one_chain_is_not_cut() -> None:
    x = graph_input("x", TensorType(DType.F32, (B, S, 8)))
    graph = Graph("tiny", (x,), (("y", layer(layer(x, "first"), "second")),))
    program = pipeline.run(Program("tiny", (graph,), (NamedDim("b"), NamedDim("s"))), TARGET)
    assert lower(program, program.main, TARGET).parts is None
