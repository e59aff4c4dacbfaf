"""Weights in the layout of the kernels, and refusals that name everything at once."""

from __future__ import annotations

import numpy as np
import pytest

from isthmus.errors import Code, ModelError
from isthmus.ir.dims import symbol
from isthmus.ir.graph import Graph, NamedDim, Program, Value, constant, graph_input, weight_of
from isthmus.ir.types import DType, TensorType
from isthmus.kernels import gemm
from isthmus.ops.movement import full, transpose
from isthmus.ops.nn import attention, linear, matmul, softmax
from isthmus.ops.pointwise import add, bitcast, cast
from isthmus.passes.legalize.kernels import CheckKernels
from isthmus.passes.legalize.widen import HEAVY
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
    x, w = (graph_input(n, TensorType(DType.F32, (symbol("b"), 4))) for n in "xw")
    q = graph_input("q", TensorType(DType.F32, (1, symbol("h"), 3, symbol("e"))))
    bias = full(shape=(symbol("b"),), value=0.0, dtype=DType.F32)
    product = linear(x, transpose(w, perm=(1, 0)), bias, loc="/product")
    scores = attention(q, q, q, scale=1.0, loc="/attention")
    with pytest.raises(ModelError) as caught:
        check = CheckKernels()
        check(program((x, w, q), product, scores), target, lambda _: None)
    problems = caught.value.problems
    assert [(p.code, p.where) for p in problems] == [
        (Code.NOT_ON_TARGET, "/product"),
        (Code.NOT_ON_TARGET, "/attention"),
    ]
    assert all("no kernel" in p.message for p in problems)


def test_heavy_ops_of_f64_compute_in_f32_and_hand_on_f64(target: Target) -> None:
    x = graph_input("x", TensorType(DType.F64, (symbol("b"), 4)))
    scores = softmax(matmul(x, constant("w", np.eye(4)), loc="/scores"), loc="/weights")
    after = run(program((x,), add(scores, scores)), target)
    assert [v.dtype for _, v in after.main.outputs] == [DType.F64]
    assert {v.dtype for v in after.main.nodes() if v.op in HEAVY} == {DType.F32}


def test_floats_that_c_does_not_have_are_no_inputs_and_outputs(target: Target) -> None:
    x = graph_input("x", TensorType(DType.F8E5M2, (4,)))
    with pytest.raises(ModelError) as caught:
        run(program((x,), cast(x, dtype=DType.F8E4M3), bitcast(x, dtype=DType.U8)), target)
    assert [(p.code, p.where) for p in caught.value.problems] == [
        (Code.UNSUPPORTED_DTYPE, "input 'x'"),
        (Code.UNSUPPORTED_DTYPE, "output 'y0'"),
    ]
    assert all("bitcast" in p.hint for p in caught.value.problems)
