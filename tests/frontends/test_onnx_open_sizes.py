"""NonZero of data: exact where what it finds ends in a write by index, refused by name anywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from isthmus.driver import Options, compile_model
from isthmus.errors import Code, ModelError
from isthmus.ir.evaluate import evaluate
from isthmus.runtime import load

X = {"x": "f32[n,4]", "mask": "bool[n,2]"}
SIZES = (1, 6, 19)
CONSTANTS = {
    "w": np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32),
    "axis1": np.array([1]),
    "axis0": np.array([0]),
    "split": np.array([1, 1]),
    "row": np.array([-1, 4]),
    "first": np.array([0]),
    "one": np.array([1]),
    "minus": np.array(-1),
}


def experts(reduction: str, count: int) -> list[onnx.NodeProto]:
    """total[token] joined with gelu(x[token] @ w) * token's weight, for each (token, slot) of the mask."""
    node = helper.make_node
    made = [
        node("NonZero", ["mask"], ["found"]),
        node("Split", ["found", "split"], ["tokens2", "slots2"], axis=0),
        node("Squeeze", ["tokens2", "axis0"], ["tokens"]),
        node("Squeeze", ["slots2", "axis0"], ["slots"]),
        node("Gather", ["x", "tokens"], ["picked"], axis=0),
        node("Reshape", ["picked", "row"], ["rows"]),
        node("MatMul", ["rows", "w"], ["product"]),
        node("Tanh", ["product"], ["acted"]),
        node("ReduceMax", ["acted", "axis1"], ["best"]),
        node("Add", ["acted", "best"], ["done"]),
    ]
    if count == 1:
        return [
            *made,
            node("Unsqueeze", ["tokens", "axis1"], ["column"]),
            node("ScatterND", ["x", "column", "done"], ["y"], reduction=reduction),
        ]
    return [
        *made,
        node("Unsqueeze", ["tokens", "axis1"], ["column"]),
        node("Sub", ["column", "rows_n"], ["negative"]),
        node("Shape", ["done"], ["shape"]),
        node("Expand", ["negative", "shape"], ["where"]),
        node("ScatterElements", ["x", "where", "done"], ["y"], axis=0, reduction=reduction),
    ]


def built(tools: Any, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str] = ("y",)) -> onnx.ModelProto:
    size = [
        helper.make_node("Shape", ["x"], ["rows_n"], start=0, end=1),
    ]
    used = {name for n in nodes for name in n.input}
    constants = {n: a for n, a in CONSTANTS.items() if n in used}
    return tools.make_model([*(size if "rows_n" in used else []), *nodes], X, outputs, constants)


def requests() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    some = [rng.integers(0, 2, (n, 2)).astype(bool) for n in SIZES]
    masks = [m for mask in some for m in (np.zeros_like(mask), np.ones_like(mask), mask)]
    return [{"x": rng.standard_normal((len(m), 4)).astype(np.float32), "mask": m} for m in masks]


@pytest.mark.parametrize("reduction", ["none", "add", "max"])
@pytest.mark.parametrize("form", [1, 2])
def test_a_loop_over_experts(reduction: str, form: int, tmp_path: Path, tools: Any) -> None:
    """Both slots of a token write the same row, so that the order of duplicates does not show."""
    model = built(tools, experts(reduction, form))
    program = tools.import_model(model, tmp_path)
    assert [d.name for d in program.dims] == ["n"]
    for arrays in requests():
        tools.assert_agree(evaluate(program.main, arrays), tools.run_onnxruntime(model, arrays))


def test_compiled(tmp_path: Path, tools: Any) -> None:
    model = built(tools, experts("add", 2))
    path = tmp_path / "experts.onnx"
    path.write_bytes(model.SerializeToString())
    bundle = compile_model(path, "host", tmp_path, Options())
    with load(bundle.path) as session:
        for arrays in requests():
            tools.assert_agree(session.run(arrays), tools.run_onnxruntime(model, arrays))


def node(op: str, inputs: list[str], **attrs: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, ["y"], name="/last", **attrs)


# What each does with places, rows or their number is not the sum of what rows do alone.
MEETING = {
    "output": [],
    "sum": [node("ReduceSum", ["done", "axis0"])],
    "softmax": [node("Softmax", ["done"], axis=0)],
    "product": [
        helper.make_node("Transpose", ["done"], ["turned"]),
        node("MatMul", ["turned", "done"]),
    ],
    "first": [node("Gather", ["done", "first"], axis=0)],
    "number": [helper.make_node("Shape", ["done"], ["s"]), node("Cast", ["s"], to=1)],
    "cut": [node("Slice", ["done", "first", "one", "axis0"])],
    "order": [node("CumSum", ["done", "first"])],
    "mixed": [node("Reshape", ["done", "one_row"])],
    "joined": [helper.make_node("Concat", ["done", "x"], ["both"], axis=0), node("Tanh", ["both"])],
    "with another size": [node("Add", ["done", "x"])],
    "compared with itself": [
        helper.make_node("Unsqueeze", ["tokens", "axis1"], ["up"]),
        node("Equal", ["up", "tokens"]),
    ],
}


@pytest.mark.parametrize("what", MEETING)
def test_rows_that_meet_are_refused_by_name(what: str, tmp_path: Path, tools: Any) -> None:
    nodes = [*experts("add", 1)[:-2], *MEETING[what]]
    if what == "mixed":
        nodes.insert(0, helper.make_node("Constant", [], ["one_row"], value_ints=[1, -1]))
    output = "y" if MEETING[what] else "done"
    nodes[[n.op_type for n in nodes].index("NonZero")].name = "/router/NonZero"
    with pytest.raises(ModelError) as caught:
        tools.import_model(built(tools, nodes, [output]), tmp_path)
    (problem,) = caught.value.problems
    assert problem.code is Code.DATA_DEPENDENT_SHAPE
    assert problem.where == "/router/NonZero"
    assert "NonZero" in problem.message and problem.hint
