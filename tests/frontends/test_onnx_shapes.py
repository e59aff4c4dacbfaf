"""Shape arithmetic is evaluated at import: what is left, which bounds follow, and what cannot be decided."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from isthmus.errors import Code, Problem
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import NamedDim, Program
from isthmus.ir.types import DType

node = helper.make_node
I64 = np.int64


def ops_of(program: Program) -> list[str]:
    """Ops left after the import, weights aside."""
    return [v.op.name for v in program.main.nodes() if v.op.name != "weight"]


def view(x: str, y: str) -> list[Any]:
    """What exporters write for x.view(x.size(0), x.size(1), 2, -1)."""
    return [
        node("Shape", [x], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Gather", ["shape", "one"], ["seq"]),
        node("Unsqueeze", ["batch", "axes"], ["batch1"]),
        node("Unsqueeze", ["seq", "axes"], ["seq1"]),
        node("Concat", ["batch1", "seq1", "two", "rest"], ["target"], axis=0),
        node("Reshape", [x, "target"], [y]),
    ]


CONSTANTS = {
    "zero": np.array(0, I64), "one": np.array(1, I64), "axes": np.array([0], I64), "two": np.array([2], I64),
    "rest": np.array([-1], I64), "table": np.arange(128, dtype=np.float32).reshape(16, 8),
    "positions": np.arange(16, dtype=I64).reshape(1, 16), "ones": np.array([1], I64),
}  # fmt: skip


def test_a_view_is_one_reshape(tools: Any, tmp_path: Path) -> None:
    inputs = {"x": "f32[b,s,8]"}
    model = tools.make_model(view("x", "y"), inputs, ["y"], CONSTANTS)
    program = tools.check_model(model, inputs, tmp_path)
    assert ops_of(program) == ["reshape"]
    assert str(program.main.outputs[0][1].t) == "f32[b,s,2,4]"


def test_expand_with_the_exporters_check_for_minus_one(tools: Any, tmp_path: Path) -> None:
    """Where(Equal(shape, -1 * ones), ones, shape) is shape, because no dim is -1."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Shape", ["shape"], ["rank"]),
        node("ConstantOfShape", ["rank"], ["filled"], value=helper.make_tensor("v", 7, [1], [1])),
        node("Mul", ["filled", "rest"], ["negative"]),
        node("Equal", ["shape", "negative"], ["free"]),
        node("Where", ["free", "filled", "shape"], ["target"]),
        node("Expand", ["row", "target"], ["y"]),
    ]
    inputs = {"x": "f32[b,s,8]", "row": "f32[8]"}
    program = tools.check_model(tools.make_model(nodes, inputs, ["y"], CONSTANTS), inputs, tmp_path)
    assert ops_of(program) == ["broadcast"]


def test_table_bounds_the_sequence(tools: Any, tmp_path: Path) -> None:
    """A table of 16 rows, sliced to the length and added: the length is at most 16."""
    nodes = [
        node("Shape", ["x"], ["length"], start=1, end=2),
        node("Slice", ["positions", "axes", "length", "ones"], ["ids"]),
        node("Gather", ["table", "ids"], ["embedded"]),
        node("Add", ["x", "embedded"], ["y"]),
    ]
    inputs = {"x": "f32[b,s,8]"}
    program = tools.check_model(tools.make_model(nodes, inputs, ["y"], CONSTANTS), inputs, tmp_path)
    assert program.dims == (NamedDim("b"), NamedDim("s", 1, 16))
    assert "gather" not in ops_of(program)  # consecutive rows are a slice of the table
    for dims, code in (({"s": 17}, Code.SHAPE_MISMATCH), ({"s": (1, 17)}, Code.BAD_DIM)):
        problems = tools.refused(tmp_path / "tiny.onnx", tmp_path, dims=dims)
        assert problems[0].code is code
    fixed = tools.import_model(tools.make_model(nodes, inputs, ["y"], CONSTANTS), tmp_path, dims={"s": 16})
    assert fixed.dims == (NamedDim("b"),)


def test_sizes_used_as_data(tools: Any, tmp_path: Path) -> None:
    """A range of positions, a size in arithmetic, and a vector of sizes, all computed at run time."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "one"], ["seq"]),
        node("Range", ["zero", "seq", "one"], ["positions_now"]),
        node("Cast", ["seq"], ["length"], to=1),
        node("Div", ["x", "length"], ["mean"]),
        node("Mul", ["shape", "two"], ["doubled"]),
        node("ConstantOfShape", ["shape"], ["zeros"], value=helper.make_tensor("v", 1, [1], [2.5])),
    ]
    inputs = {"x": "f32[b,s,8]"}
    outputs = ["positions_now", "mean", "doubled", "zeros", "seq", "shape"]
    constants = {n: CONSTANTS[n] for n in ("zero", "one", "two")}
    program = tools.check_model(tools.make_model(nodes, inputs, outputs, constants), inputs, tmp_path)
    assert {"iota", "full", "dim_value"} <= set(ops_of(program))


def test_arithmetic_on_sizes(tools: Any, tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "one"], ["seq"]),
        node("Add", ["seq", "three"], ["more"]),
        node("Div", ["more", "twos"], ["half"]),
        node("Mod", ["more", "twos"], ["odd"]),
        node("Mul", ["seq", "seq"], ["square"]),
        node("Sub", ["square", "seq"], ["difference"]),
        node("Max", ["half", "three"], ["largest"]),
        node("Min", ["half", "three"], ["smallest"]),
        node("ReduceProd", ["shape"], ["count"], keepdims=0),
        node("ReduceSum", ["shape"], ["sum"], keepdims=0),
        node("Neg", ["seq"], ["minus"]),
        node("Abs", ["minus"], ["plus"]),
        node("Sign", ["seq"], ["sign"]),
        node("Greater", ["seq", "zero"], ["positive"]),
        node("Size", ["x"], ["size"]),
    ]
    inputs = {"x": "f32[b,s,8]"}
    outputs = [
        "half",
        "odd",
        "difference",
        "largest",
        "smallest",
        "count",
        "sum",
        "plus",
        "sign",
        "positive",
        "size",
    ]
    constants = {"one": CONSTANTS["one"], "zero": CONSTANTS["zero"]} | {
        "three": np.array(3, I64), "twos": np.array(2, I64),
    }  # fmt: skip
    program = tools.check_model(tools.make_model(nodes, inputs, outputs, constants), inputs, tmp_path)
    assert set(ops_of(program)) <= {"dim_value"}


@pytest.mark.parametrize(
    ("start", "end", "step"), [(1, 9, 1), (-3, 9, 1), (0, -1, 1), (-1, -99, -1), (2, 99, 3), (-9, 2, 1)]
)
def test_slices_of_a_free_axis(start: int, end: int, step: int, tools: Any, tmp_path: Path) -> None:
    constants = {
        n: np.array([v], I64) for n, v in (("start", start), ("end", end), ("step", step), ("axis", 1))
    }
    nodes = [node("Slice", ["x", "start", "end", "axis", "step"], ["y"])]
    inputs = {"x": "f32[b,s,2]"}
    sizes = [{"b": 2, "s": s} for s in (1, 2, 3, 7, 12)]
    tools.check_model(tools.make_model(nodes, inputs, ["y"], constants), inputs, tmp_path, sizes)


def test_positions_from_the_end(tools: Any, tmp_path: Path) -> None:
    """A slice whose start is a size minus another: known not to be negative only with bounds."""
    nodes = [
        node("Shape", ["x"], ["s1"], start=1, end=2),
        node("Sub", ["s1", "two"], ["from"]),
        node("Slice", ["x", "from", "s1", "ones"], ["y"]),
    ]
    model = tools.make_model(nodes, {"x": "f32[b,s,8]"}, ["y"], CONSTANTS)
    (problem,) = tools.refused(model, tmp_path)
    assert problem.code is Code.DATA_DEPENDENT_SHAPE
    assert "--dim" in problem.hint
    assert tools.import_model(model, tmp_path, dims={"s": (2, None)}).main.outputs[0][1].shape[1] == 2


def test_mask_lookup_is_no_lookup(tools: Any, tmp_path: Path) -> None:
    """A mask read by a grid of its own indices, as exporters write it, is the mask with axes added."""
    nodes = [
        node("Shape", ["mask"], ["b1"], start=0, end=1), node("Squeeze", ["b1"], ["batch"]),
        node("Shape", ["mask"], ["s1"], start=1, end=2), node("Squeeze", ["s1"], ["seq"]),
        node("Range", ["zero", "batch", "one"], ["rows"]), node("Range", ["zero", "seq", "one"], ["columns"]),
        node("Unsqueeze", ["rows", "a123"], ["rows4"]), node("Unsqueeze", ["columns", "a012"], ["columns4"]),
        node("GreaterOrEqual", ["columns4", "zero"], ["valid"]),
        node("Max", ["rows4", "columns4"], ["both"]), node("Shape", ["both"], ["grid"]),
        node("Expand", ["rows4", "grid"], ["rows5"]), node("Expand", ["columns4", "grid"], ["columns5"]),
        node("Unsqueeze", ["rows5", "rest"], ["r"]), node("Unsqueeze", ["columns5", "rest"], ["c"]),
        node("Concat", ["r", "c"], ["indices"], axis=-1),
        node("GatherND", ["mask", "indices"], ["found"]), node("And", ["valid", "found"], ["y"]),
    ]  # fmt: skip
    constants = {n: CONSTANTS[n] for n in ("zero", "one", "rest")}
    constants |= {"a123": np.array([1, 2, 3], I64), "a012": np.array([0, 1, 2], I64)}
    inputs = {"mask": "bool[b,s]"}
    program = tools.check_model(tools.make_model(nodes, inputs, ["y"], constants), inputs, tmp_path)
    assert ops_of(program) == ["reshape"]


@pytest.mark.parametrize("rows", [4, 9])
def test_lookup_that_may_leave_the_table_stays(rows: int, tools: Any, tmp_path: Path) -> None:
    nodes = [
        node("Shape", ["x"], ["s1"], start=0, end=1),
        node("Squeeze", ["s1"], ["seq"]),
        node("Range", ["zero", "seq", "one"], ["ids"]),
        node("Gather", ["small", "ids"], ["y"]),
    ]
    constants = {"zero": CONSTANTS["zero"], "one": CONSTANTS["one"]} | {
        "small": np.arange(rows**2, dtype=np.float32).reshape(rows, -1) ** 2
    }
    model = tools.make_model(nodes, {"x": "f32[s]"}, ["y"], constants)
    assert "gather" in ops_of(tools.import_model(model, tmp_path))
    bounded = tools.import_model(model, tmp_path, dims={"s": (1, rows)})
    assert ops_of(bounded) == ["slice"]


# --- named dims ----------------------------------------------------------------------------------


def test_names_of_dims(tools: Any, tmp_path: Path) -> None:
    """Identifiers stay, other spellings become identifiers, unnamed dims get a name."""
    model = tools.make_model([node("Relu", ["x"], ["y"])], {"x": "f32[1,1,1,1,1]"}, ["y"])
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, name in zip(dims, ("seq len", "7up", "", "min", "batch"), strict=True):
        dim.Clear()
        dim.dim_param = name
    program = tools.import_model(model, tmp_path)
    assert [d.name for d in program.dims] == ["seq_len", "d7up", "x_dim2", "min_", "batch"]
    fixed = tools.import_model(model, tmp_path, dims={"seq len": 4, "batch": 2})
    assert [d.name for d in fixed.dims] == ["d7up", "x_dim2", "min_"]


def test_expressions_as_dims(tools: Any, tmp_path: Path) -> None:
    """`past + seq` is read as a sum when both are known, and is a name of its own otherwise."""
    inputs = {"x": "f32[b,s]", "past": "f32[b,p]", "mask": "f32[b,1]"}
    nodes = [node("Concat", ["past", "x"], ["all"], axis=1), node("Add", ["all", "mask"], ["y"])]
    model = tools.make_model(nodes, inputs, ["y"])
    model.graph.input[2].type.tensor_type.shape.dim[1].dim_param = "p + s"
    program = tools.import_model(model, tmp_path)
    assert str(program.main.inputs[2].t) in ("f32[b,p+s]", "f32[b,s+p]")
    model.graph.input[2].type.tensor_type.shape.dim[1].dim_param = "p + q"
    notes: list[Problem] = []
    program = tools.import_model(model, tmp_path, warn=notes.append)
    assert [d.name for d in program.dims] == ["b", "s", "p"]
    assert "p_q" in notes[0].message


def test_two_names_for_one_size(tools: Any, tmp_path: Path) -> None:
    """An exporter that named one size twice: both are taken to be the first, and that is said."""
    inputs = {"x": "f32[b,s]", "m": "f32[batch_1,seq_1]"}
    model = tools.make_model([node("Add", ["x", "m"], ["y"], name="/add")], inputs, ["y"])
    notes: list[Problem] = []
    program = tools.import_model(model, tmp_path, warn=notes.append)
    assert [str(v.t) for v in program.main.inputs] == ["f32[b,s]", "f32[b,s]"]
    assert {n.where for n in notes} == {"/add"}
    assert len(notes) == 2


def test_an_export_that_ignored_its_dynamic_axes(tools: Any, tmp_path: Path) -> None:
    constants = {"target": np.array([2, 4, 8], I64)}
    model = tools.make_model([node("Reshape", ["x", "target"], ["y"])], {"x": "f32[b,s,8]"}, ["y"], constants)
    notes: list[Problem] = []
    program = tools.import_model(model, tmp_path, warn=notes.append)
    assert program.main.inputs[0].shape == (2, 4, 8)
    assert program.dims == ()
    assert {n.code for n in notes} == {Code.NARROWED}


def test_dims_fixed_and_bounded(tools: Any, tmp_path: Path) -> None:
    model = tools.make_model([node("Relu", ["x"], ["y"])], {"x": "f32[b,s,8]"}, ["y"])
    program = tools.import_model(model, tmp_path, dims={"b": 3, "s": (2, 64)})
    assert str(program.main.inputs[0].t) == "f32[3,s,8]"
    assert program.dims == (NamedDim("s", 2, 64),)
    program = tools.import_model(model, tmp_path, dims={"s": (5, 5)})
    assert str(program.main.inputs[0].t) == "f32[b,5,8]"
    free = tools.import_model(model, tmp_path)
    assert free.dims == (NamedDim("b"), NamedDim("s"))


# --- inputs and outputs --------------------------------------------------------------------------


def test_outputs_keep_their_names_and_may_share_values(tools: Any, tmp_path: Path) -> None:
    nodes = [
        node("Relu", ["x"], ["461"]),
        node("Identity", ["461"], ["same"]),
        node("Identity", ["x"], ["x_again"]),
    ]
    model = tools.make_model(
        nodes, {"x": "f32[b]", "unused": "i64[b]"}, ["461", "same", "x_again", "461", "w"]
    )
    model.graph.initializer.append(helper.make_tensor("w", 1, [2], [1.0, 2.0]))
    program = tools.import_model(model, tmp_path)
    names, values = zip(*program.main.outputs, strict=True)
    assert names == ("461", "same", "x_again", "w")
    assert values[0] is values[1]
    assert values[2] is program.main.inputs[0]
    assert [v.attr("name") for v in program.main.inputs] == ["x", "unused"]


def test_initializers_are_not_inputs(tools: Any, tmp_path: Path) -> None:
    """Old models list their weights as inputs too."""
    model = tools.make_model([node("Add", ["x", "w"], ["y"])], {"x": "f32[b,2]", "w": "f32[2]"}, ["y"])
    model.graph.initializer.append(helper.make_tensor("w", 1, [2], [1.0, 2.0]))
    assert [v.attr("name") for v in tools.import_model(model, tmp_path).main.inputs] == ["x"]


def test_constants_in_all_forms(tools: Any, tmp_path: Path) -> None:
    forms = [
        {"value": helper.make_tensor("v", 1, [2], [1.0, 2.0])}, {"value_float": 2.5}, {"value_int": 3},
        {"value_floats": [1.0, 2.0]}, {"value_ints": [1, 2]},
        {"value": helper.make_tensor("v", 7, [1], [2**62])},
        {"value": helper.make_tensor("v", 10, [2], [1.5, -2.0])},
        {"value": helper.make_tensor("v", 9, [2], [True, False])},
        {"value": helper.make_tensor("v", 3, [2], [-1, 2])},
    ]  # fmt: skip
    nodes = [node("Constant", [], [f"c{i}"], **form) for i, form in enumerate(forms)]
    names = [f"c{i}" for i in range(len(forms))]
    model = tools.make_model([*nodes, node("Relu", ["x"], ["y"])], {"x": "f32[b]"}, [*names, "y"])
    program = tools.check_model(model, {"x": "f32[b]"}, tmp_path)
    assert len({w.name for w in program.main.weights()}) == len(forms)


def test_functions_are_inlined(tools: Any, tmp_path: Path) -> None:
    body = [
        node("Constant", [], ["k"]),
        node("Mul", ["a", "k"], ["scaled"]),
        node("Add", ["scaled", "b"], ["r"]),
    ]
    body[0].attribute.add(name="value_float", ref_attr_name="factor", type=1)
    function = helper.make_function(
        "mine", "ScaleAdd", ["a", "b"], ["r"], body, [helper.make_opsetid("", 18)], ["factor"]
    )
    nodes = [
        node("ScaleAdd", ["x", "x"], ["t"], domain="mine", factor=2.0),
        node("ScaleAdd", ["t", "x"], ["y"], domain="mine", factor=3.0),
    ]
    model = tools.make_model(nodes, {"x": "f32[b]"}, ["y"], functions=[function])
    model.opset_import.append(helper.make_opsetid("mine", 1))
    tools.check_model(model, {"x": "f32[b]"}, tmp_path)


def test_a_branch_decided_by_sizes(tools: Any, tmp_path: Path) -> None:
    branches = {
        name: helper.make_graph(
            [node(op, ["x"], ["r"])], name, [], [helper.make_tensor_value_info("r", 1, None)]
        )
        for name, op in (("then_branch", "Neg"), ("else_branch", "Abs"))
    }
    nodes = [
        node("Shape", ["x"], ["n"], end=1),
        node("Greater", ["n", "limit"], ["large"]),
        node("If", ["large"], ["y"], name="/if", **branches),
    ]
    model = tools.make_model(nodes, {"x": "f32[b,2]"}, ["y"], {"limit": np.array([0], I64)})
    program = tools.check_model(model, {"x": "f32[b,2]"}, tmp_path)
    assert ops_of(program) == ["neg"]
    model.graph.initializer[0].raw_data = np.array([5], I64).tobytes()
    (problem,) = tools.refused(model, tmp_path)
    assert problem.code is Code.DATA_DEPENDENT_SHAPE
    assert problem.where == "/if"
    assert ops_of(tools.import_model(model, tmp_path, dims={"b": 4})) == ["abs"]


def test_values_carry_their_nodes(tools: Any, tmp_path: Path) -> None:
    nodes = [node("Relu", ["x"], ["a"], name="/relu"), node("Neg", ["a"], ["y"])]
    program = tools.import_model(tools.make_model(nodes, {"x": "f32[b]"}, ["y"]), tmp_path, name="given")
    assert [v.loc for v in program.main.nodes()] == ["/relu", "Neg#1"]
    assert program.name == "given" and program.main.name == "main"
    assert len(program.origin) == 64


def test_half_precision_types_are_kept(tools: Any, tmp_path: Path) -> None:
    model = tools.make_model([node("Relu", ["x"], ["y"])], {"x": "f16[b]"}, ["y"])
    assert tools.import_model(model, tmp_path).main.outputs[0][1].dtype is DType.F16


def test_blocks_make_multiples(tools: Any, tmp_path: Path) -> None:
    """Cut into blocks of 4, a size is a multiple of 4; bounds that were asked for hold the multiples."""
    nodes = [
        node("Shape", ["x"], ["s1"], start=1, end=2),
        node("Div", ["s1", "four"], ["blocks"]),
        node("Concat", ["minus", "blocks", "four"], ["shape"], axis=0),
        node("Reshape", ["x", "shape"], ["y"]),
    ]
    constants = {"four": np.array([4], np.int64), "minus": np.array([-1], np.int64)}
    model = tools.make_model(nodes, {"x": "f32[b,s]"}, ["y"], constants)
    notes: list[str] = []

    def warn(problem: Problem) -> None:
        notes.append(problem.message)

    program = tools.import_model(model, tmp_path, warn=warn, dims={"s": (1, 30)})
    assert [str(d) for d in program.main.inputs[0].shape] == ["b", "4*s_div_4"]
    assert [str(d) for d in program.dims] == ["b = 1..", "s_div_4 = 1..7"]
    assert notes == ["dim 's' is taken to be '4*s_div_4' everywhere, because one node needs both"]
    x = np.arange(16, dtype=np.float32).reshape(2, 8)
    np.testing.assert_array_equal(evaluate(program.main, {"x": x})["y"], x.reshape(2, 2, 4))
