"""Weights, embedded and external: every field they may come in, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from isthmus.errors import Code, Problem

node = helper.make_node
X = {"x": "f32[batch,4]"}


def with_weight(tools: Any, **fields: Any) -> onnx.ModelProto:
    model: onnx.ModelProto = tools.make_model([node("Add", ["x", "w"], ["y"])], X, ["y"])
    model.graph.initializer.append(TensorProto(name="w", **fields))
    return model


def test_weights_of_wrong_size(tools: Any, tmp_path: Path) -> None:
    f32 = TensorProto.FLOAT
    bad = [
        {"data_type": f32, "dims": [4], "raw_data": bytes(15)},
        {"data_type": f32, "dims": [4], "float_data": [1.0] * 3},
        {"data_type": f32, "dims": [4]},
        {"data_type": f32, "dims": [-4], "raw_data": bytes(16)},
        {"data_type": f32, "dims": [2**60, 2**60], "raw_data": bytes(16)},
        {"data_type": TensorProto.INT8, "dims": [1], "int32_data": [1000]},
        {"data_type": TensorProto.FLOAT8E4M3FN, "dims": [4], "raw_data": bytes(5)},
        {"data_type": TensorProto.FLOAT4E2M1, "dims": [4], "raw_data": bytes(4)},
    ]
    for fields in bad:
        (problem,) = tools.refused(with_weight(tools, **fields), tmp_path)
        assert problem.code in (Code.INVALID_GRAPH, Code.TOO_LARGE)
        assert problem.where == "w"
    for kind in (0, 8, 14, 15, 99):
        (problem,) = tools.refused(with_weight(tools, data_type=kind, dims=[4], raw_data=bytes(16)), tmp_path)
        assert problem.code is Code.UNSUPPORTED_DTYPE


def test_weights_in_every_field(tools: Any, tmp_path: Path) -> None:
    """Typed fields and raw data give the same arrays."""
    values = [0, 1, 2, 100]
    for kind in (1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13, 16):
        typed = helper.make_tensor("w", kind, [4], values)
        array = onnx.numpy_helper.to_array(typed)
        for tensor in (typed, helper.make_tensor("w", kind, [4], array.tobytes(), raw=True)):
            model = tools.make_model([node("Identity", ["w"], ["y"])], X, ["y"])
            model.graph.initializer.append(tensor)
            (weight,) = tools.import_model(model, tmp_path).main.weights()
            np.testing.assert_array_equal(weight.read().astype(np.float32), np.array(values, np.float32))


def test_nan_is_told_with_the_name(tools: Any, tmp_path: Path) -> None:
    for dtype in (np.float32, np.float64, np.float16):
        notes: list[Problem] = []
        weights = {
            "w": np.array([1, np.nan, 3, 4], dtype),
            "fine": np.array([np.inf, 1e30, 0, -1], np.float32),
        }
        nodes = [node("Identity", ["w"], ["y"]), node("Identity", ["fine"], ["z"])]
        tools.import_model(tools.make_model(nodes, X, ["y", "z"], weights), tmp_path, warn=notes.append)
        assert [(n.code, n.where) for n in notes] == [(Code.NAN_WEIGHTS, "w")]


def external(tools: Any, **entries: str) -> onnx.ModelProto:
    fields = {"data_type": TensorProto.FLOAT, "dims": [4], "data_location": TensorProto.EXTERNAL}
    model = with_weight(tools, **fields)
    for key, value in entries.items():
        model.graph.initializer[0].external_data.add(key=key, value=value)
    return model


def test_external_data(tools: Any, tmp_path: Path) -> None:
    """Offsets need not be aligned, ranges may overlap, and nothing is read before it is needed."""
    (tmp_path / "sub").mkdir()
    values = np.array([1, 2, 3, 4], np.float32)
    (tmp_path / "sub" / "w.bin").write_bytes(b"123" + values.tobytes())
    os.symlink(tmp_path / "sub" / "w.bin", tmp_path / "link.bin")
    for entries in ({"location": "sub/w.bin", "length": "16"}, {"location": "link.bin"}):
        program = tools.import_model(external(tools, **entries, offset="3"), tmp_path)
        (weight,) = program.main.weights()
        np.testing.assert_array_equal(weight.read(), values)


def test_bad_external_data(tools: Any, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(16))
    (folder / "short").write_bytes(bytes(15))
    (folder / "w").write_bytes(bytes(16))
    (folder / "sub").mkdir()
    os.symlink(tmp_path / "secret", folder / "link")
    os.symlink(tmp_path, folder / "up")
    os.symlink("loop", folder / "loop")
    locations = [
        "", "none", "short", str(tmp_path / "secret"), "../secret", "sub/../../secret", "link", "up/secret",
        "loop", "sub", "..\\secret", "C:\\secret", "\\secret", "a\0b", "x" * 5000,
    ]  # fmt: skip
    bad = [{"location": location} for location in locations]
    bad += [{"location": "w", "offset": o} for o in ("1", "-1", "a", "9" * 30, "1e3", str(2**63))]
    bad += [{"location": "w", "length": n} for n in ("15", "17", "-16", "")]
    bad += [{}]
    for entries in bad:
        (problem,) = tools.refused(external(tools, **entries), folder)
        assert problem.code is Code.EXTERNAL_DATA, entries
        assert problem.where == "w"
