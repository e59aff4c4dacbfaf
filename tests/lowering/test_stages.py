"""From calls to stages: what belongs together stays together."""

from __future__ import annotations

import numpy as np

import isthmus.targets
from isthmus.chips import discover
from isthmus.ir.dims import symbol
from isthmus.ir.graph import Graph, NamedDim, Program, constant, graph_input
from isthmus.ir.types import DType, TensorType
from isthmus.lowering.lower import lower
from isthmus.lowering.plan import BatchStage
from isthmus.ops import movement, nn, pointwise
from isthmus.passes import pipeline


def test_a_product_with_a_constant_stays_in_one_stage() -> None:
    """Packing the constant needs nothing from the layer before it, but hands on memory of the thread."""
    target = discover(isthmus.targets)["x86-64-v3"]
    rng = np.random.default_rng(0)
    x = graph_input("x", TensorType(DType.F32, (symbol("b"), symbol("s"), 8)))
    layer = nn.matmul(x, constant("w", rng.standard_normal((8, 8)).astype(np.float32)))
    heads = movement.reshape(layer, shape=(symbol("b"), symbol("s"), 2, 4))
    heads = movement.transpose(heads, perm=(0, 2, 1, 3))
    product = nn.matmul(heads, constant("k", rng.standard_normal((1, 2, 4, 6)).astype(np.float32)))
    graph = Graph("tiny", (x,), (("y", product),))
    program = pipeline.run(Program("tiny", (graph,), (NamedDim("b"), NamedDim("s"))), target)
    stages = lower(program, program.main, target).stages
    batches = [stage for stage in stages if isinstance(stage, BatchStage)]
    assert [len(stage.calls) for stage in batches] == [3]
    # The layer comes before the product that reads it.
    assert [type(stage).__name__ for stage in stages] == ["RowStage", "BatchStage"]


def test_what_is_shared_behind_a_view_is_computed_once() -> None:
    """Angles of rotary positions: one cosine of [s,4], read through a reshape by every head."""
    target = discover(isthmus.targets)["x86-64-v3"]
    x = graph_input("x", TensorType(DType.F32, (symbol("b"), 4, symbol("s"), 8)))
    angle = graph_input("angle", TensorType(DType.F32, (symbol("s"), 8)))
    seen = movement.reshape(pointwise.cos(angle), shape=(1, 1, symbol("s"), 8))
    first, second = pointwise.mul(x, seen), pointwise.add(x, seen)
    graph = Graph("tiny", (x, angle), (("y", first), ("z", second)))
    program = pipeline.run(Program("tiny", (graph,), (NamedDim("b"), NamedDim("s"))), target)
    symbols = [call.kernel.symbol for call in lower(program, program.main, target).calls()]
    assert sum("cos" in symbol for symbol in symbols) == 1
    assert len(symbols) == 3
