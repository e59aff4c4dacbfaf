"""Attention over packed sequences against NumPy, a sequence at a time: onnxruntime has no kernel here."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from isthmus.errors import Code, ModelError
from isthmus.ir.evaluate import evaluate

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(4)
LENGTHS, LONGEST = (2, 4, 1), 4
TOKENS = sum(LENGTHS)
ENDS = np.cumsum((0, *LENGTHS)).astype(np.int32)
REAL = [b * LONGEST + i for b, n in enumerate(LENGTHS) for i in range(n)]
OFFSETS = np.array(REAL + sorted(set(range(12)) - set(REAL)), np.int32).reshape(3, LONGEST)
WEIGHTS, BIAS = RNG.standard_normal((6, 20)).astype(np.float32), RNG.standard_normal(20).astype(np.float32)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def attention(q: Array, k: Array, v: Array, bias: Array | None, scale: float | None = None) -> Array:
    """Two heads, over one sequence after the other."""
    found = []
    for number, (start, end) in enumerate(pairwise(ENDS)):
        heads = (t[start:end].reshape(end - start, 2, -1).transpose(1, 0, 2) for t in (q, k, v))
        one, other, values = heads
        scores = one @ other.transpose(0, 2, 1) * (scale or 1 / math.sqrt(one.shape[-1]))
        if bias is not None:
            scores = scores + bias[min(number, len(bias) - 1), :, : end - start, : end - start]
        exp = np.exp(scores - scores.max(-1, keepdims=True))
        result = exp / exp.sum(-1, keepdims=True) @ values
        found.append(result.transpose(1, 0, 2).reshape(end - start, -1))
    return np.concatenate(found)


def run(
    tools: Any, folder: Path, op: str, inputs: dict[str, tuple[str, Array | None]], **attrs: Any
) -> Array:
    given = {n: spec for n, (spec, array) in inputs.items() if array is not None}
    names = [n if n in given else "" for n in inputs]
    node = helper.make_node(op, names, ["y"], name="node", domain="com.microsoft", **attrs)
    program = tools.import_model(tools.make_model([node], given, ["y"]), folder)
    return evaluate(program.main, {n: a for n, (_, a) in inputs.items() if a is not None})["y"]


@pytest.mark.parametrize("shape", [None, (1, 1, 4, 4), (3, 2, 4, 4)])
def test_packed_attention(shape: tuple[int, ...] | None, tmp_path: Path, tools: Any) -> None:
    bias = None if shape is None else floats(*shape)
    x = floats(TOKENS, 6)
    inputs = {
        "x": ("f32[t,6]", x),
        "w": ("f32[6,20]", WEIGHTS),
        "b": ("f32[20]", BIAS),
        "offsets": ("i32[b,s]", OFFSETS),
        "ends": ("i32[n]", ENDS),
        "bias": ("f32[]" if bias is None else f"f32[{','.join(map(str, bias.shape))}]", bias),
    }
    got = run(tools, tmp_path, "PackedAttention", inputs, num_heads=2, qkv_hidden_sizes=[8, 8, 4])
    q, k, v = np.split(x @ WEIGHTS + BIAS, [8, 16], 1)
    np.testing.assert_allclose(got, attention(q, k, v, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("joined", [False, True])
def test_packed_multi_head_attention(joined: bool, tmp_path: Path, tools: Any) -> None:
    q, k, v, bias = floats(TOKENS, 8), floats(TOKENS, 8), floats(TOKENS, 8), floats(24)
    packed = np.stack([t.reshape(TOKENS, 2, 4) for t in (q, k, v)], 2)
    inputs = {
        "q": ("f32[t,2,3,4]", packed) if joined else ("f32[t,8]", q),
        "k": ("f32[t,8]", None if joined else k),
        "v": ("f32[t,8]", None if joined else v),
        "bias": ("f32[24]", bias),
        "offsets": ("i32[b,s]", OFFSETS),
        "ends": ("i32[n]", ENDS),
    }
    got = run(tools, tmp_path, "PackedMultiHeadAttention", inputs, num_heads=2, scale=0.3)
    terms = np.split(bias, 3)
    wanted = attention(*(t + b for t, b in zip((q, k, v), terms, strict=True)), None, scale=0.3)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_restore_padding(tmp_path: Path, tools: Any) -> None:
    x = floats(TOKENS, 6)
    inputs = {"x": ("f32[t,6]", x), "offsets": ("i32[b,s]", OFFSETS)}
    wanted = np.zeros((12, 6), np.float32)
    wanted[REAL] = x
    got = run(tools, tmp_path, "RestorePadding", inputs)
    np.testing.assert_array_equal(got, wanted.reshape(3, 4, 6))


def test_remove_padding_is_refused_with_a_remedy(tmp_path: Path, tools: Any) -> None:
    inputs = {"x": ("f32[b,s,6]", floats(3, 4, 6)), "counts": ("i32[b]", np.array(LENGTHS, np.int32))}
    with pytest.raises(ModelError) as caught:
        run(tools, tmp_path, "RemovePadding", inputs)
    (problem,) = caught.value.problems
    assert problem.code is Code.DATA_DEPENDENT_SHAPE
    assert "packed tokens" in problem.hint
