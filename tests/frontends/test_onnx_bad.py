"""Bad models: every one ends in coded problems that say where, never in another exception."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from isthmus.errors import Code, ModelError, Problem
from isthmus.frontends.onnx import parse_dims

node = helper.make_node
ADD = [node("Add", ["x", "w"], ["y"], name="/add")]
WEIGHT = {"w": np.arange(4, dtype=np.float32)}
X = {"x": "f32[batch,4]"}


def good(tools: Any, **more: Any) -> onnx.ModelProto:
    model: onnx.ModelProto = tools.make_model(ADD, X, ["y"], WEIGHT, **more)
    return model


# --- files ---------------------------------------------------------------------------------------


def test_missing_file(tools: Any, tmp_path: Path) -> None:
    (problem,) = tools.refused(tmp_path / "none.onnx", tmp_path)
    assert problem.code is Code.NO_SUCH_FILE
    assert "none.onnx" in problem.where


def test_folder_and_pipe(tools: Any, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path, tmp_path / "pipe.onnx"):
        (problem,) = tools.refused(path, tmp_path)
        assert problem.code is Code.NOT_A_FILE


CONTENTS = {
    b"": Code.EMPTY_MODEL, b"hello, this is text\n": Code.NOT_ONNX, bytes(100): Code.NOT_ONNX,
    b"PK\x03\x04....": Code.NOT_ONNX, b"\x08\x09": Code.EMPTY_MODEL, b"\x3a\x00": Code.EMPTY_MODEL,
}  # fmt: skip


@pytest.mark.parametrize("content", CONTENTS, ids=repr)
def test_other_bytes(content: bytes, tools: Any, tmp_path: Path) -> None:
    (problem,) = tools.refused(content, tmp_path)
    assert problem.code is CONTENTS[content]


def test_every_truncation(tools: Any, tmp_path: Path) -> None:
    data = good(tools).SerializeToString()
    for length in range(len(data)):
        try:
            tools.import_model(_Bytes(data[:length]), tmp_path)
        except ModelError as error:
            assert all(p.code.number.startswith("E1") for p in error.problems)


class _Bytes:
    """Bytes in the place of a model."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def SerializeToString(self) -> bytes:
        return self.data


def test_changed_bytes(tools: Any, tmp_path: Path) -> None:
    """Any byte of a model changed: it imports or is refused."""
    inputs = {"x": "f32[b,s,8]"}
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Slice", ["shape", "from", "to"], ["two"]),
        node("Concat", ["two", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3]),
        node("Softmax", ["t"], ["y"], axis=-1),
    ]
    constants = {n: np.array(v) for n, v in (("from", [0]), ("to", [2]), ("rest", [2, -1]))}
    data = bytearray(tools.make_model(nodes, inputs, ["y"], constants).SerializeToString())
    rng = np.random.default_rng(0)
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= int(rng.integers(1, 256))
        try:
            tools.import_model(_Bytes(bytes(changed)), tmp_path, warn=lambda problem: None)
        except ModelError as error:
            assert error.problems


# --- graphs --------------------------------------------------------------------------------------


def test_no_outputs(tools: Any, tmp_path: Path) -> None:
    model = good(tools)
    del model.graph.output[:]
    assert tools.refused(model, tmp_path)[0].code is Code.EMPTY_MODEL


def test_unsupported_operators_come_all_at_once(tools: Any, tmp_path: Path) -> None:
    nodes = [node("Frobnicate", ["x"], [f"a{i}"], name=f"/frob{i}") for i in range(7)]
    nodes += [node("Defenestrate", ["a0"], ["b"], domain="org.example", name="/defenestrate")]
    nodes += [node("Relu", ["b"], ["c"]), node("Sum", [f"a{i}" for i in range(7)] + ["c"], ["y"])]
    nodes += [node("Transpose", ["x"], ["z"], perm=[0, 5], name="/transpose")]
    model = tools.make_model(nodes, X, ["y", "z"])
    frob, other, transpose = sorted(tools.refused(model, tmp_path), key=lambda p: p.where, reverse=True)[
        ::-1
    ][::-1]
    problems = {p.where: p for p in (frob, other, transpose)}
    found = problems["/frob0, /frob1, /frob2, /frob3, /frob4, ..."]
    assert found.code is Code.UNSUPPORTED_OPERATOR
    assert "Frobnicate (domain ai.onnx, opset 18)" in found.message
    assert "7 nodes" in found.message
    assert "org.example" in problems["/defenestrate"].message
    assert problems["/transpose"].code is Code.SHAPE_MISMATCH


def test_dead_nodes_do_not_matter(tools: Any, tmp_path: Path) -> None:
    nodes = [*ADD, node("Frobnicate", ["y"], ["unused"])]
    tools.check_model(tools.make_model(ADD, X, ["y"], WEIGHT), X, tmp_path, [{"batch": 2}])
    tools.import_model(tools.make_model(nodes, X, ["y"], WEIGHT), tmp_path)


def test_unsorted_graph_is_sorted(tools: Any, tmp_path: Path) -> None:
    chain = [node("Add", [f"v{i}", "w"], [f"v{i + 1}"]) for i in range(20)]
    nodes = [node("Relu", ["v20"], ["y"]), *reversed(chain), node("Neg", ["x"], ["v0"])]
    program = tools.import_model(tools.make_model(nodes, X, ["y"], WEIGHT), tmp_path)
    assert [v.op.name for v in program.main.nodes() if v.op.name != "weight"] == [
        "neg",
        *["add"] * 20,
        "relu",
    ]


@pytest.mark.parametrize("length", [1, 2, 30])
def test_cycle(length: int, tools: Any, tmp_path: Path) -> None:
    nodes = [node("Neg", [f"v{(i - 1) % length}"], [f"v{i}"], name=f"/n{i}") for i in range(length)]
    nodes += [node("Add", ["x", "v0"], ["y"], name="/end")]
    (problem,) = tools.refused(tools.make_model(nodes, X, ["y"]), tmp_path)
    assert problem.code is Code.CYCLIC_GRAPH
    assert "/n0" in problem.message
    assert "/end" not in problem.message
    assert len(problem.message) < 300


def test_names_that_make_no_sense(tools: Any, tmp_path: Path) -> None:
    cases = {
        "undefined": [node("Add", ["x", "nothing"], ["y"], name="/a")],
        "twice": [node("Neg", ["x"], ["y"], name="/a"), node("Abs", ["x"], ["y"], name="/b")],
        "shadows an input": [node("Neg", ["x"], ["x"], name="/a"), node("Abs", ["x"], ["y"])],
        "no such output": [node("Neg", ["x"], ["z"], name="/a")],
    }
    for nodes in cases.values():
        assert tools.refused(tools.make_model(nodes, X, ["y"]), tmp_path)[0].code is Code.INVALID_GRAPH


def test_two_initializers_of_one_name(tools: Any, tmp_path: Path) -> None:
    model = good(tools)
    model.graph.initializer.append(model.graph.initializer[0])
    assert tools.refused(model, tmp_path)[0].code is Code.INVALID_GRAPH


@pytest.mark.parametrize("opset", [1, 6, 10**6, -3])
def test_opsets_outside_the_range(opset: int, tools: Any, tmp_path: Path) -> None:
    (problem,) = tools.refused(good(tools, opset=opset), tmp_path)
    assert problem.code is Code.UNSUPPORTED_OPSET
    assert str(onnx.defs.onnx_opset_version()) in problem.message


def test_no_opset_at_all(tools: Any, tmp_path: Path) -> None:
    model = good(tools)
    del model.opset_import[:]
    assert tools.refused(model, tmp_path)[0].code is Code.UNSUPPORTED_OPSET


def test_attributes_that_change_the_result_are_not_ignored(tools: Any, tmp_path: Path) -> None:
    (problem,) = tools.refused(tools.make_model([node("Relu", ["x"], ["y"], slope=0.5)], X, ["y"]), tmp_path)
    assert problem.code is Code.UNSUPPORTED_ATTRIBUTE
    assert "slope" in problem.message
    (problem,) = tools.refused(
        tools.make_model([node("Softmax", ["x"], ["y"], axis=0.5)], X, ["y"]), tmp_path
    )
    assert problem.code is Code.INVALID_GRAPH
    assert "'axis' should be INT" in problem.message


NONSENSE = [
    node("Softmax", ["x"], ["y"], axis=7),
    node("Concat", ["x"], ["y"], axis=3),
    node("Add", ["x"], ["y"]),
    node("Relu", [], ["y"]),
    node("Add", ["x", "i"], ["y"]),
    node("And", ["x", "x"], ["y"]),
    node("Erf", ["i"], ["y"]),
    node("MatMul", ["x", "x"], ["y"]),
    node("Gather", ["x", "x"], ["y"]),
    node("Gather", ["x", "far"], ["y"], axis=1),
    node("Reshape", ["x", "minus"], ["y"]),
    node("Reshape", ["x", "far"], ["y"]),
    node("Slice", ["x", "i", "far"], ["y"]),
    node("Unsqueeze", ["x", "far"], ["y"]),
    node("Squeeze", ["x", "one"], ["y"]),
    node("Split", ["x", "far"], ["y"], axis=1),
    node("Split", ["x"], ["y", "z"], axis=1, num_outputs=5),
    node("Expand", ["x", "minus"], ["y"]),
    node("Tile", ["x", "far"], ["y"]),
    node("Pad", ["x", "one"], ["y"]),
    node("LayerNormalization", ["x", "far"], ["y"]),
    node("Gemm", ["x", "far"], ["y"]),
    node("Einsum", ["x"], ["y"], equation="abc->a"),
    node("Einsum", ["x"], ["y"], equation="ii->i"),
    node("Einsum", ["x"], ["y"], equation="é"),
    node("Einsum", ["x"], ["y"], equation="ab->abz"),
    node("Range", ["one", "far", "zero"], ["y"]),
    node("ConstantOfShape", ["minus"], ["y"]),
    node("Trilu", ["one"], ["y"]),
    node("Cast", ["x"], ["y"], to=99),
    node("Cast", ["x"], ["y"], to=8),
    node("Constant", [], ["y"], value_string="a"),
    node("Constant", [], ["y"]),
    node("Where", ["x", "x", "x"], ["y"]),
    node("ReduceSum", ["x", "far"], ["y"]),
    node("ArgMax", ["x"], ["y"], axis=9),
    node("CumSum", ["x", "far"], ["y"]),
    node("Transpose", ["x"], ["y"], perm=[0, 0]),
    node("Transpose", ["x"], ["y"], perm=[0]),
    node("Relu", ["x"], ["y", "z"]),
    node("Attention", ["x", "x", "x"], ["y"]),
    node("DepthToSpace", ["x"], ["y"], blocksize=0),
    node("Clip", ["x", "x"], ["y"]),
    node("GroupNormalization", ["x", "one", "one"], ["y"], num_groups=0),
    node("Div", ["one", "zero"], ["y"]),
    node("If", ["x"], ["y"]),
    node("Flatten", ["x"], ["y"], axis=9),
    node("Shape", ["x"], ["y"], start="a"),
]


@pytest.mark.parametrize("bad", NONSENSE, ids=lambda n: f"{n.op_type}-{'-'.join(n.input)}")
def test_nodes_that_make_no_sense(bad: onnx.NodeProto, tools: Any, tmp_path: Path) -> None:
    constants = {
        "i": np.array([[1, 2, 3, 4]]), "far": np.array([99]), "minus": np.array([-5]), "one": np.array([1]),
        "zero": np.array([0]),
    }  # fmt: skip
    opset = 23 if bad.op_type == "Attention" else 18
    outputs = [o for o in bad.output if o]
    model = tools.make_model([bad], {"x": "f32[batch,4]"}, outputs, constants, opset)
    try:
        tools.import_model(model, tmp_path, warn=lambda problem: None)
    except ModelError as error:
        assert all(p.where for p in error.problems)
        assert all(p.code.number.startswith("E12") or p.code is Code.INVALID_GRAPH for p in error.problems)
    else:
        # Integer division by zero is 0, and a product of x with itself fits when batch is 4.
        assert bad.op_type in ("Div", "MatMul"), "was imported"


def test_shapes_that_depend_on_data(tools: Any, tmp_path: Path) -> None:
    nodes = [
        node("ReduceSum", ["x"], ["total"], keepdims=0, name="/total"),
        node("Cast", ["total"], ["count"], to=7, name="/cast"),
        node("Range", ["zero", "count", "one"], ["y"], name="/range"),
    ]
    constants = {"zero": np.array(0), "one": np.array(1)}
    (problem,) = tools.refused(tools.make_model(nodes, X, ["y"], constants), tmp_path)
    assert problem.code is Code.DATA_DEPENDENT_SHAPE
    assert problem.where == "/range"
    assert "/cast" in problem.message
    assert problem.hint


def test_mismatched_shapes_name_both(tools: Any, tmp_path: Path) -> None:
    model = tools.make_model(ADD, X, ["y"], {"w": np.zeros(3, np.float32)})
    (problem,) = tools.refused(model, tmp_path)
    assert problem.code is Code.SHAPE_MISMATCH
    assert "[batch,4]" in problem.message
    assert "[3]" in problem.message


# --- inputs --------------------------------------------------------------------------------------


def test_inputs_that_cannot_be_taken(tools: Any, tmp_path: Path) -> None:
    def changed(change: Any) -> tuple[Problem, ...]:
        model = good(tools)
        change(model.graph.input[0])
        found: tuple[Problem, ...] = tools.refused(model, tmp_path)
        return found

    def negative(info: onnx.ValueInfoProto) -> None:
        info.type.tensor_type.shape.dim[1].dim_value = -4

    def huge(info: onnx.ValueInfoProto) -> None:
        info.type.tensor_type.shape.dim[1].dim_value = 2**62

    assert changed(negative)[0].code is Code.INVALID_GRAPH
    assert changed(huge)[0].code is Code.INVALID_GRAPH
    assert changed(lambda info: info.type.tensor_type.ClearField("shape"))[0].code is Code.INVALID_GRAPH
    assert changed(lambda info: info.ClearField("type"))[0].code is Code.UNSUPPORTED_DTYPE
    assert (
        changed(lambda info: setattr(info.type.tensor_type, "elem_type", 8))[0].code is Code.UNSUPPORTED_DTYPE
    )
    sequence = helper.make_tensor_sequence_value_info("x", 1, [2])
    (problem,) = changed(lambda info: info.CopyFrom(sequence))
    assert problem.code is Code.UNSUPPORTED_DTYPE
    assert "sequence" in problem.message


@pytest.mark.parametrize(
    "text", ["seq", "=3", "seq=", "seq=a", "seq=1..b", "seq=1...3", "seq=0", "seq=-1", "seq=0..5", "seq=5..2"]
)
def test_bad_dim_options(text: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse_dims([text])
    assert {p.code for p in caught.value.problems} == {Code.BAD_DIM}


def test_all_bad_dim_options_are_told() -> None:
    with pytest.raises(ModelError) as caught:
        parse_dims(["a=0", "b=1", "b=2", "c"])
    assert len(caught.value.problems) == 3


def test_good_dim_options() -> None:
    assert parse_dims(["a=128", "b=1..512", "c=2.."]) == {"a": 128, "b": (1, 512), "c": (2, None)}


def test_unknown_dim_lists_the_known(tools: Any, tmp_path: Path) -> None:
    problems = tools.refused(good(tools), tmp_path, dims={"batsh": 2, "seq": 3})
    assert {p.code for p in problems} == {Code.UNKNOWN_DIM}
    assert all("batch" in p.hint for p in problems)
    for option in (0, -1, (5, 2), (0, None), (1, 0), "a", True, (1, "x"), (1, 2, 3), (None, 2)):
        assert tools.refused(good(tools), tmp_path, dims={"batch": option})[0].code is Code.BAD_DIM


# --- hostile sizes -------------------------------------------------------------------------------


def test_large_constants_are_not_computed(tools: Any, tmp_path: Path) -> None:
    """Shapes of terabytes cost nothing at import; what no machine maps is refused."""
    constants = {"huge": np.array([2**20, 2**19]), "one": np.ones((1, 1), np.float32), "zero": np.array(0)}
    constants |= {"end": np.array(2**38), "step": np.array(1)}
    nodes = [
        node("Expand", ["one", "huge"], ["y"]),
        node("Range", ["zero", "end", "step"], ["z"]),
        node("ConstantOfShape", ["huge"], ["u"]),
        node("Tile", ["one", "huge"], ["t"]),
    ]
    started = time.monotonic()
    tools.import_model(tools.make_model(nodes, X, ["y", "z", "u", "t"], constants), tmp_path)
    assert time.monotonic() - started < 5
    constants["huge"], constants["end"] = np.array([2**30, 2**30]), np.array(2**60)
    problems = tools.refused(tools.make_model(nodes, X, ["y", "z", "u", "t"], constants), tmp_path)
    assert [p.code for p in problems] == [Code.TOO_LARGE] * 4
    assert {p.where for p in problems} == {"Expand#0", "Range#1", "ConstantOfShape#2", "Tile#3"}


def test_expressions_do_not_explode(tools: Any, tmp_path: Path) -> None:
    """Squaring a size again and again ends in a refusal or in run-time arithmetic, soon."""
    nodes = [node("Shape", ["x"], ["n0"]), *(node("Mul", [f"n{i}", f"n{i}"], [f"m{i}"]) for i in range(40))]
    nodes += [node("Add", [f"m{i}", f"n{i}"], [f"n{i + 1}"]) for i in range(40)]
    model = tools.make_model(nodes, {"x": "f32[a,b,c]"}, ["n40"])
    started = time.monotonic()
    try:
        tools.import_model(model, tmp_path)
    except ModelError as error:
        assert error.problems
    assert time.monotonic() - started < 10


def test_many_nodes(tools: Any, tmp_path: Path) -> None:
    count = 20_000
    nodes = [node("Identity" if i % 2 else "Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(count)]
    model = tools.make_model(nodes, {"v0": "f32[batch,4]"}, [f"v{count}"])
    started = time.monotonic()
    tools.import_model(model, tmp_path)
    assert time.monotonic() - started < 10


def nested(depth: int) -> bytes:
    """GraphProto bytes: If inside If inside If ..."""

    def field(number: int, data: bytes) -> bytes:
        length, size = b"", len(data)
        while size > 127:
            length += struct.pack("B", size & 127 | 128)
            size >>= 7
        return struct.pack("B", number << 3 | 2) + length + struct.pack("B", size) + data

    graph = field(12, field(1, b"y"))
    for _ in range(depth):
        attribute = field(1, b"then_branch") + field(6, graph) + b"\xa0\x01\x05"
        if_node = field(1, b"x") + field(2, b"y") + field(4, b"If") + field(5, attribute)
        graph = field(1, if_node) + field(12, field(1, b"y"))
    return b"\x08\x0a" + field(7, graph) + field(8, b"\x10\x12")


@pytest.mark.parametrize("depth", [1, 10, 30, 100, 3000])
def test_deep_nesting(depth: int, tools: Any, tmp_path: Path) -> None:
    assert tools.refused(nested(depth), tmp_path)[0].code.number.startswith("E1")
