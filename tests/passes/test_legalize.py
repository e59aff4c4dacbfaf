"""Weights in the layout of the kernels, and refusals that name everything at once."""

from __future__ import annotations

import numpy as np
import pytest

from isthmus.errors import Code, ModelError
from isthmus.ir.dims import symbol
from isthmus.ir.graph import Graph, NamedDim, Program, Value, constant, graph_input, weight_of
from isthmus.ir.types import DType, TensorType
from isthmus.kernels import gemm
from isthmus.ops.nn import linear, matmul, softmax
from isthmus.ops.pointwise import add
from isthmus.passes.pipeline import run
from isthmus.target import Target, gemm_tile, panel_width
from isthmus.targets import x86_64


def program(inputs: tuple[Value, ...], *outputs: Value) -> Program:
    return Program(
        "p", (Graph("g", inputs, tuple((f"y{i}", v) for i, v in enumerate(outputs))),), (NamedDim("b"),)
    )


@pytest.mark.parametrize("chip", x86_64.TARGETS, ids=lambda chip: chip.name)
def test_passes_and_kernels_agree_on_panels(chip: Target) -> None:
    assert panel_width(chip.vector) == gemm.panel_width(chip)
    rows, vectors = gemm_tile(chip.vector)
    assert rows * vectors + vectors + 1 <= chip.vector.registers


def test_a_weight_that_two_products_use_is_packed_once(target: Target) -> None:
    x, y = (graph_input(n, TensorType(DType.F32, (symbol("b"), 4))) for n in "xy")
    rng = np.random.default_rng(0)
    w = constant("tied", rng.standard_normal((4, 4)).astype(np.float32))
    bias = constant("bias", rng.standard_normal(4).astype(np.float32))
    after = run(program((x, y), linear(x, w, bias), linear(y, w, bias)), target)
    assert len(list(after.main.weights())) == 2
    (packed,) = {v.args[1] for v in after.main.nodes() if v.op is linear}
    weight = weight_of(packed)
    assert weight is not None
    np.testing.assert_array_equal(weight.stored(), gemm.pack(weight.read(), panel_width(target.vector)))


def test_all_that_has_no_kernel_is_named(target: Target) -> None:
    x = graph_input("x", TensorType(DType.F64, (symbol("b"), 4)))
    scores = softmax(matmul(x, constant("w", np.eye(4)), loc="/scores"), loc="/weights")
    with pytest.raises(ModelError) as caught:
        run(program((x,), add(scores, scores)), target)
    problems = caught.value.problems
    assert [(p.code, p.where) for p in problems] == [
        (Code.UNSUPPORTED_DTYPE, "/scores"),
        (Code.UNSUPPORTED_DTYPE, "/weights"),
    ]
    assert all("f64" in p.message and target.name in p.message for p in problems)
