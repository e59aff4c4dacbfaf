"""Sequences and loops that are gone after the import, against onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from isthmus.errors import Code

X = {"x": "f32[b,6]"}


def _node(op: str, inputs: list[str], output: str, **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, [output], name=output, **attrs)


@pytest.mark.parametrize("keepdims", [0, 1])
def test_split_and_take_one(keepdims: int, tmp_path: Path, tools: Any) -> None:
    nodes = [
        _node("SplitToSequence", ["x"], "s", axis=1, keepdims=keepdims),
        _node("SequenceAt", ["s", "last"], "y"),
    ]
    constants = {"last": np.array(-2, np.int64)}
    tools.check_model(tools.make_model(nodes, X, ["y"], constants), X, tmp_path)


@pytest.mark.parametrize("sizes", [np.array([1, 2, 3], np.int64), np.array(4, np.int64)])
@pytest.mark.parametrize("new_axis", [0, 1])
def test_split_change_and_join(sizes: np.ndarray, new_axis: int, tmp_path: Path, tools: Any) -> None:
    nodes = [
        _node("SplitToSequence", ["x", "sizes"], "s", axis=1),
        _node("SequenceAt", ["s", "zero"], "first"),
        _node("SequenceErase", ["s", "zero"], "rest"),
        _node("SequenceInsert", ["rest", "first"], "turned"),
        _node("SequenceConstruct", ["first", "first"], "two"),
        _node("SequenceLength", ["turned"], "n"),
        _node("ConcatFromSequence", ["two"] if new_axis else ["turned"], "y", axis=1, new_axis=new_axis),
    ]
    constants = {"zero": np.array(0, np.int64), "sizes": sizes}
    tools.check_model(tools.make_model(nodes, X, ["y", "n"], constants), X, tmp_path)


def test_a_loop_that_collects(tmp_path: Path, tools: Any) -> None:
    body = helper.make_graph(
        [
            _node("Identity", ["going"], "on"),
            _node("Cast", ["trip"], "number", to=TensorProto.FLOAT),
            _node("Add", ["total", "number"], "more"),
            _node("SequenceInsert", ["kept", "more"], "keeps"),
            _node("Neg", ["more"], "line"),
        ],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("total", TensorProto.FLOAT, None),
            helper.make_tensor_sequence_value_info("kept", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, None),
            helper.make_tensor_sequence_value_info("keeps", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("line", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        _node("SequenceEmpty", [], "none"),
        helper.make_node("Loop", ["three", "", "x", "none"], ["last", "all", "y"], name="loop", body=body),
        _node("ConcatFromSequence", ["all"], "z", axis=0),
    ]
    constants = {"three": np.array(3, np.int64)}
    tools.check_model(tools.make_model(nodes, X, ["last", "y", "z"], constants), X, tmp_path)


def test_a_scan_both_ways(tmp_path: Path, tools: Any) -> None:
    body = helper.make_graph(
        [_node("Add", ["total", "part"], "sum"), _node("Mul", ["part", "sum"], "line")],
        "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("total", "part")],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("sum", "line")],
    )
    inputs = {"start": "f32[b]", "x": "f32[b,6]"}
    scan = helper.make_node(
        "Scan",
        ["start", "x"],
        ["last", "y"],
        name="scan",
        body=body,
        num_scan_inputs=1,
        scan_input_axes=[1],
        scan_input_directions=[1],
        scan_output_axes=[1],
        scan_output_directions=[1],
    )
    tools.check_model(tools.make_model([scan], inputs, ["last", "y"]), inputs, tmp_path)


def test_a_sequence_is_not_a_tensor(tmp_path: Path, tools: Any) -> None:
    split = _node("SplitToSequence", ["x"], "s", axis=1)
    (problem,) = tools.refused(tools.make_model([split], X, ["s"]), tmp_path)
    assert problem.code is Code.UNSUPPORTED_DTYPE
    (problem,) = tools.refused(tools.make_model([split, _node("Shape", ["s"], "y")], X, ["y"]), tmp_path)
    assert problem.code is Code.UNSUPPORTED_DTYPE
    at = _node("SequenceAt", ["s", "far"], "y")
    constants = {"far": np.array(6, np.int64)}
    (problem,) = tools.refused(tools.make_model([split, at], X, ["y"], constants), tmp_path)
    assert problem.code is Code.INVALID_GRAPH
