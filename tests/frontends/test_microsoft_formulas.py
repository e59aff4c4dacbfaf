"""Operators of com.microsoft for which onnxruntime has no kernel here, against their formulas in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from isthmus.ir.evaluate import evaluate

Array = np.ndarray[Any, Any]
X = "f32[b,s,8]"
SIZES = ({"b": 2, "s": 5}, {"b": 1, "s": 1})


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def gated(query: Array, query_bias: Array, bias: Array, weight: Array, shift: Array, a: Array) -> Array:
    """The formula of the operator's documentation."""
    batch, length, _ = query.shape
    layer = (query + query_bias).reshape(batch, length, 2, 4).transpose(0, 2, 1, 3)
    sums = (layer @ weight + shift).reshape(batch, 2, length, 2, 3).sum(-1)
    u, r = sigmoid(sums[..., :1]), sigmoid(sums[..., 1:])
    return (u * (r * a - 1.0) + 2.0) * bias


def mixed(x: Array) -> Array:
    return x[..., :4] * gelu(x[..., 4:])


CASES: list[tuple[str, dict[str, str], dict[str, Any], Callable[..., Array]]] = [
    ("BiasAdd", {"x": X, "bias": "f32[8]", "skip": X}, {}, lambda x, b, r: x + b + r),
    ("BiasSplitGelu", {"x": X, "bias": "f32[8]"}, {}, lambda x, b: mixed(x + b)),
    ("GemmFastGelu", {"x": X, "w": "f32[8,6]"}, {}, lambda x, w: gelu_tanh(x @ w)),
    ("GemmFastGelu", {"x": X, "w": "f32[8,6]", "b": "f32[6]"}, {}, lambda x, w, b: gelu_tanh(x @ w + b)),
    (
        "FusedMatMulActivation",
        {"x": X, "w": "f32[6,8]"},
        {"transB": 1, "alpha": 0.5, "activation": "Tanh"},
        lambda x, w: np.tanh(0.5 * x @ w.T),
    ),
    (
        "GatedRelativePositionBias",
        {"q": X, "qb": "f32[8]", "rel": "f32[1,2,s,s]", "w": "f32[4,6]", "wb": "f32[6]", "a": "f32[1,2,1,1]"},
        {"num_heads": 2},
        gated,
    ),
]


@pytest.mark.parametrize(("op", "inputs", "attrs", "formula"), CASES, ids=[c[0] for c in CASES])
def test_formula(
    op: str,
    inputs: dict[str, str],
    attrs: dict[str, Any],
    formula: Callable[..., Array],
    tmp_path: Path,
    tools: Any,
) -> None:
    node = helper.make_node(op, list(inputs), ["y"], name="node", domain="com.microsoft", **attrs)
    program = tools.import_model(tools.make_model([node], inputs, ["y"]), tmp_path)
    rng = np.random.default_rng(0)
    for sizes in SIZES:
        arrays = {name: tools.input_array(spec, sizes, rng) for name, spec in inputs.items()}
        wanted = formula(*(a.astype(np.float64) for a in arrays.values())).astype(np.float32)
        tools.assert_agree(evaluate(program.main, arrays), {"y": wanted})


def t5_bucket(distance: int, both_ways: bool, count: int, farthest: int) -> int:
    """The bucket of key - query as in the T5 paper's code, one distance at a time."""
    first = 0
    if both_ways:
        count //= 2
        first = count if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = count // 2
    if distance < exact:
        return first + distance
    grown = math.log(distance / exact) / math.log(farthest / exact) * (count - exact)
    return first + min(exact + int(grown + 1e-6), count - 1)


@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (1, 9), (200, 200), (3, 300)])
def test_relative_position_bias(both_ways: bool, queries: int, keys: int, tmp_path: Path, tools: Any) -> None:
    table = np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32)
    # The shape says [buckets, heads]; the elements lie head by head.
    constants = {"table": table.reshape(32, 3)}
    nodes = [helper.make_node("Shape", ["x"], [n], start=i, end=i + 1) for i, n in enumerate(("q", "k"))]
    nodes.append(
        helper.make_node(
            "RelativePositionBias",
            ["table", "q", "k"],
            ["y"],
            domain="com.microsoft",
            max_distance=128,
            is_bidirectional=int(both_ways),
        )
    )
    program = tools.import_model(tools.make_model(nodes, {"x": "f32[s,t]"}, ["y"], constants), tmp_path)
    got = evaluate(program.main, {"x": np.zeros((queries, keys), np.float32)})["y"]
    distances = np.arange(keys)[None, :] - np.arange(queries)[:, None]
    buckets = np.vectorize(lambda d: t5_bucket(int(d), both_ways, 32, 128))(distances)
    np.testing.assert_array_equal(got, table[:, buckets][None])
