"""The evaluator: inputs are checked all at once, and memory is given back on the way."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from isthmus.errors import Code, InputError
from isthmus.ir.dims import symbol
from isthmus.ir.evaluate import bind_dims, evaluate
from isthmus.ir.graph import Graph, Op, Trait, Value, constant, graph_input
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ops.movement import broadcast, dim_value, reshape
from isthmus.ops.pointwise import add, cast, exp, mul

n, m = symbol("n"), symbol("m")
F32 = DType.F32


def graph_of(inputs: list[Value], *outputs: Value) -> Graph:
    return Graph("g", tuple(inputs), tuple((f"y{i}", v) for i, v in enumerate(outputs)))


def test_dims_reach_attributes() -> None:
    x = graph_input("x", TensorType(F32, (n, 2 * m)))
    k = graph_input("k", TensorType(F32, (m,)))
    graph = graph_of([x, k], reshape(x, shape=(2, n, m)), dim_value(dim=(n * m + 1,), dtype=DType.I64))
    outputs = evaluate(graph, {"x": np.zeros((3, 10), np.float32), "k": np.zeros(5, np.float32)})
    assert outputs["y0"].shape == (2, 3, 5)
    assert outputs["y1"] == 16 and outputs["y1"].dtype == np.int64


def test_all_problems_with_the_inputs_are_listed() -> None:
    x = graph_input("x", TensorType(F32, (n, 2 * m)))
    k = graph_input("k", TensorType(F32, (m, n)))
    ids = graph_input("ids", TensorType(DType.I64, (4,)))
    mask = graph_input("mask", TensorType(F32, (n,)))
    graph = graph_of([x, k, ids, mask], x)
    arrays = {
        "x": np.zeros((3, 9), np.float32),
        "k": np.zeros((5, 4), np.float32),
        "ids": np.zeros(4, np.int32),
        "musk": np.zeros(3, np.float32),
    }
    with pytest.raises(InputError) as caught:
        evaluate(graph, arrays)
    assert {p.code for p in caught.value.problems} == {Code.BAD_INPUT}
    assert [p.message for p in caught.value.problems] == [
        "there is no input 'musk'; did you mean 'mask'?",
        "input 'ids' should be i64[4], got int32[4]",
        "input 'mask' is missing",
        "input 'x': dim 1 (2*m) is 9, expected 10",
        "input 'k': dim 1 (n) is 4, expected 3",
    ]


def test_wrong_rank() -> None:
    graph = graph_of([graph_input("x", TensorType(F32, (n,)))], constant("c", np.zeros(1)))
    with pytest.raises(InputError, match=r"'x' should be f32\[n\], got float32\[2, 2\]"):
        bind_dims(graph, {"x": np.zeros((2, 2), np.float32)})


def test_outputs_may_be_inputs_and_weights() -> None:
    x = graph_input("x", TensorType(F32, (n,)))
    w = constant("w", np.arange(3, dtype=np.int8))
    outputs = evaluate(graph_of([x], x, w, x), {"x": np.ones(2, np.float32)})
    assert [a.tolist() for a in outputs.values()] == [[1, 1], [0, 1, 2], [1, 1]]


def test_results_have_the_element_type_of_the_value_and_no_warnings() -> None:
    x = graph_input("x", TensorType(F32, (1,)))
    big = cast(x, dtype=DType.F16)
    outputs = evaluate(graph_of([x], exp(x), big, mul(x, x)), {"x": np.full(1, 1e30, np.float32)})
    assert [str(a.dtype) for a in outputs.values()] == ["float32", "float16", "float32"]
    assert all(np.isinf(a).all() for a in outputs.values())


def test_arrays_are_given_back_after_their_last_use() -> None:
    alive: list[weakref.ref[Array]] = []
    most = 0

    def spy(x: Array) -> Array:
        nonlocal most
        result = x + 1
        alive.append(weakref.ref(result))
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        return result

    step = Op("step", lambda t: t, spy, (1, 1), traits=frozenset({Trait.POINTWISE}))
    x = graph_input("x", TensorType(F32, (4,)))
    kept = value = step(x)
    for _ in range(20):
        value = step(value)
    outputs = evaluate(graph_of([x], value, kept), {"x": np.zeros(4, np.float32)})
    assert outputs["y0"].tolist() == [21.0] * 4 and outputs["y1"].tolist() == [1.0] * 4
    assert most == 3, "the kept one, the argument and the result"


def test_shared_values_are_computed_once() -> None:
    calls = 0

    def count(x: Array) -> Array:
        nonlocal calls
        calls += 1
        return x

    once = Op("once", lambda t: t, count, (1, 1))
    x = graph_input("x", TensorType(F32, (2,)))
    shared = once(x)
    evaluate(graph_of([x], add(shared, shared), shared, exp(shared)), {"x": np.zeros(2, np.float32)})
    assert calls == 1


def test_deep_graphs() -> None:
    x = graph_input("x", TensorType(F32, (1,)))
    value = x
    for _ in range(5_000):
        value = add(value, x)
    outputs = evaluate(graph_of([x], value), {"x": np.ones(1, np.float32)})
    assert outputs["y0"].tolist() == [5_001.0]


def test_a_size_of_zero() -> None:
    x = graph_input("x", TensorType(F32, (n,)))
    outputs = evaluate(graph_of([x], broadcast(x, shape=(2, n))), {"x": np.zeros(0, np.float32)})
    assert outputs["y0"].shape == (2, 0)
