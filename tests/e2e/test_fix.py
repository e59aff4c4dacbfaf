"""`--fix` from the command line to the bundle, and what the other commands make of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import isthmus
from isthmus.bundle.reader import open_bundle
from isthmus.cli import app

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """y = relu(x) or x * scale, as `flag` says."""
    nodes = {"then_branch": ("Relu", ["x"]), "else_branch": ("Mul", ["x", "scale"])}
    branches = {
        name: helper.make_graph(
            [helper.make_node(op, inputs, ["y"])],
            name,
            [],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        )
        for name, (op, inputs) in nodes.items()
    }
    graph = helper.make_graph(
        [helper.make_node("If", ["flag"], ["y"], name="/choose", **branches)],
        "two",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("flag", TensorProto.BOOL, [1]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    file = tmp_path / "two.onnx"
    onnx.save(model, file)
    return file


def test_from_the_command_line(path: Path, tmp_path: Path, capsys: Capture) -> None:
    fixes = ["--fix", "flag=false", "--fix", "scale=0.1"]
    assert app.run(["check", str(path)]) == 2
    assert "--fix flag=true" in capsys.readouterr().err
    assert app.run(["check", str(path), *fixes]) == 0
    assert app.run(["explain", str(path), "/choose", *fixes]) == 0
    capsys.readouterr()
    assert app.run(["compile", str(path), *fixes, "-o", str(tmp_path)]) == 0
    bundle = capsys.readouterr().out.strip()
    manifest = open_bundle(Path(bundle)).manifest
    assert [(f.name, f.value) for f in manifest.fixed] == [("flag", "false"), ("scale", "0.1")]
    assert [p.name for p in manifest.entries[0].inputs] == ["x"]
    assert app.run(["inspect", bundle]) == 0
    assert "flag = false" in capsys.readouterr().out
    # onnxruntime has to be given what the bundle no longer takes.
    assert app.run(["verify", bundle, "--against", "onnxruntime", "--model", str(path)]) == 0
    # What is compiled once more to be timed is the same.
    profile = ["bench", bundle, "--seconds", "0.01", "--profile", "--model", str(path)]
    capsys.readouterr()
    assert app.run(profile) == 0
    assert "other calls" not in capsys.readouterr().err


def test_texts_that_are_no_values(path: Path, tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "words.npy", np.array(["no number"]))
    none, words = tmp_path / "none", tmp_path / "words.npy"
    value, file = "this is not a number, true, false or a list of them", "this is not a file of one array"
    for text, told in (
        ("flag", value), ("flag=maybe", value), ("flag=[[1],2]", value), (f"flag=@{path}", file),
        (f"flag=@{words}", file), (f"flag=@{none}", "No such file or directory"),
    ):  # fmt: skip
        assert app.run(["check", str(path), "--fix", text]) == 2
        assert f": {told}" in (err := capsys.readouterr().err) and "Errno" not in err
        assert err.startswith("E1012 bad-fix: ")


def test_from_python(path: Path, tmp_path: Path) -> None:
    bundle = isthmus.compile(path, out=tmp_path, fix={"flag": [True]})
    with isthmus.load(bundle.path) as session:
        x = np.array([[-1, 0, 1, 2]], np.float32)
        np.testing.assert_array_equal(
            session.run({"x": x, "scale": np.asarray(1, np.float32)})["y"], np.maximum(x, 0)
        )
    stored = json.loads((bundle.path / "manifest.json").read_text())["fixed"]
    assert stored == [{"name": "flag", "value": "[true]"}]


def test_not_for_a_program_that_was_dumped(path: Path, capsys: Capture) -> None:
    assert app.run(["compile", str(path), "--resume-from", "fuse", "--fix", "flag=true"]) == 2
    assert "E1003" in capsys.readouterr().err
