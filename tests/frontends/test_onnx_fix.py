"""Inputs made constants at import: what they decide, what they say about dims, and every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from isthmus.errors import Code, ModelError
from isthmus.frontends.onnx.fix import parse_fixes
from isthmus.ir.evaluate import evaluate

X = {"x": "f32[b,4]", "more": "f32[b,4]", "flag": "bool[1]", "count": "i64[]"}


def branch(op: str) -> onnx.GraphProto:
    # The output is called as that of the If itself, as exporters do.
    node = helper.make_node(op, ["x", "more"], ["y"])
    return helper.make_graph([node], op, [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])


@pytest.fixture
def model(tools: Any) -> onnx.ModelProto:
    """y = x + more or x - more, as `flag` says; z has `count` rows."""
    nodes = [
        helper.make_node("If", ["flag"], ["y"], then_branch=branch("Add"), else_branch=branch("Sub")),
        helper.make_node("Range", ["zero", "count", "one"], ["z"]),
    ]
    constants = {"zero": np.asarray(0), "one": np.asarray(1)}
    return tools.make_model(nodes, X, ["y", "z"], constants)


@pytest.mark.parametrize("flag", [True, np.array([True]), False, [0], 1])
def test_a_fixed_input_decides(flag: Any, model: onnx.ModelProto, tmp_path: Path, tools: Any) -> None:
    program = tools.import_model(model, tmp_path, fix={"flag": flag, "count": 3})
    assert [v.attr("name") for v in program.main.inputs] == ["x", "more"]
    x, more = np.ones((2, 4), np.float32), np.full((2, 4), 2, np.float32)
    found = evaluate(program.main, {"x": x, "more": more})
    np.testing.assert_array_equal(found["y"], x + more if np.all(flag) else x - more)
    np.testing.assert_array_equal(found["z"], [0, 1, 2])


def test_a_fixed_input_gives_its_dims_a_size(model: onnx.ModelProto, tmp_path: Path, tools: Any) -> None:
    more = np.arange(8, dtype=np.float64).reshape(2, 4)
    program = tools.import_model(model, tmp_path, fix={"flag": True, "count": 1, "more": more})
    (x,) = program.main.inputs
    assert x.shape == (2, 4) and not program.dims
    np.testing.assert_array_equal(evaluate(program.main, {"x": np.zeros((2, 4), np.float32)})["y"], more)


def test_the_error_names_the_remedy(model: onnx.ModelProto, tmp_path: Path, tools: Any) -> None:
    with pytest.raises(ModelError) as caught:
        tools.import_model(model, tmp_path, fix={"count": 1})
    (problem,) = caught.value.problems
    assert problem.code is Code.DATA_DEPENDENT_SHAPE
    assert "--fix flag=true" in problem.hint


WRONG = [
    ({"flog": True}, Code.UNKNOWN_INPUT, "flag"),
    ({"zero": 1}, Code.UNKNOWN_INPUT, "no input 'zero'"),
    ({"flag": 2}, Code.BAD_FIX, "not of the type"),
    ({"flag": [True, False]}, Code.BAD_FIX, "axis 0 has 2 elements, not 1"),
    ({"flag": "yes"}, Code.BAD_FIX, "no type of numbers"),
    ({"count": 1.5}, Code.BAD_FIX, "not of the type"),
    ({"count": [1]}, Code.BAD_FIX, "1 axes are given, 0 are needed"),
    ({"more": 1.0}, Code.BAD_FIX, "0 axes are given, 2 are needed"),
    ({"more": np.zeros((2, 3))}, Code.BAD_FIX, "axis 1 has 3 elements, not 4"),
    ({"more": np.zeros((0, 4))}, Code.BAD_FIX, "axis 0 has 0 elements, not b"),
    ({"more": np.full((1, 4), 1e300)}, Code.BAD_FIX, "too large"),
    ({"more": np.zeros((2000, 4))}, Code.BAD_FIX, "at most 4096"),
]


@pytest.mark.parametrize(("fix", "code", "text"), WRONG, ids=[t for _, _, t in WRONG])
def test_mistakes(
    fix: dict[str, Any], code: Code, text: str, model: onnx.ModelProto, tmp_path: Path, tools: Any
) -> None:
    with pytest.raises(ModelError) as caught:
        tools.import_model(model, tmp_path, fix=fix)
    (problem,) = caught.value.problems
    assert problem.code is code
    assert text in str(problem)


def test_all_mistakes_at_once(model: onnx.ModelProto, tmp_path: Path, tools: Any) -> None:
    with pytest.raises(ModelError) as caught:
        tools.import_model(model, tmp_path, fix={"flag": 2, "count": 0.5, "nobody": 1})
    assert len(caught.value.problems) == 3


def test_two_sizes_for_one_dim(model: onnx.ModelProto, tmp_path: Path, tools: Any) -> None:
    fix = {"more": np.zeros((2, 4)), "flag": True, "count": 1}
    with pytest.raises(ModelError, match="axis 0 has 2 elements, not 3"):
        tools.import_model(model, tmp_path, fix=fix, dims={"b": 3})


def test_parsing(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    found = parse_fixes(["a=true", "b=-3", "c=[0.5, 1]", f"d=@{tmp_path / 'a.npy'}"])
    assert {n: a.tolist() for n, a in found.items()} == {"a": True, "b": -3, "c": [0.5, 1], "d": [0, 1, 2]}


@pytest.mark.parametrize(
    "text", ["a", "=1", "a=", "a=yes", "a=[1,[2]]", 'a="b"', "a={}", "a=@nowhere.npy", "a=null"]
)
def test_what_cannot_be_read(text: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse_fixes([text, "b=1"])
    (problem,) = caught.value.problems
    assert problem.code is Code.BAD_FIX
    assert "NAME=true" in problem.hint


def test_given_twice() -> None:
    with pytest.raises(ModelError, match="twice"):
        parse_fixes(["a=1", "a=2"])
