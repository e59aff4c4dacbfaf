"""Updates written by index, compiled: duplicates in order, rows, axes cut short, indices out of range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from isthmus.driver import Options, compile_model
from isthmus.errors import InputError
from isthmus.runtime import load

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
RNG = np.random.default_rng(11)


def model(op: str, shapes: list[list[Any]], **attrs: Any) -> onnx.ModelProto:
    node = helper.make_node(op, ["x", "indices", "updates"], ["y"], **attrs)
    kinds = (FLOAT, INT, FLOAT)
    inputs = [
        helper.make_tensor_value_info(n, kind, shape)
        for n, kind, shape in zip(node.input, kinds, shapes, strict=True)
    ]
    graph = helper.make_graph([node], "scatter", inputs, [onnx.ValueInfoProto(name="y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def compiled(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "scatter.onnx"
    path.write_bytes(proto.SerializeToString())
    return compile_model(path, "host", folder, Options()).path


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_elements_where_other_axes_are_shorter(reduction: str, tmp_path: Path) -> None:
    """Duplicates cannot be compared with onnxruntime where nothing is reduced: it promises no order."""
    proto = model("ScatterElements", [["n", 7], ["m", 3], ["m", 3]], axis=0, reduction=reduction)
    peer = onnxruntime.InferenceSession(proto.SerializeToString())
    with load(compiled(proto, tmp_path)) as session:
        for n, m in ((9, 5), (1, 1), (6, 6)):
            indices = np.stack([RNG.permutation(n)[:m] for _ in range(3)], 1) - n
            if reduction != "none":
                indices = RNG.integers(-n, n, (m, 3))
            given = {"x": _floats(n, 7), "indices": indices, "updates": _floats(m, 3)}
            np.testing.assert_allclose(session.run(given)["y"], peer.run(None, given)[0], rtol=1e-6)


def test_the_last_of_several_updates_stays(tmp_path: Path) -> None:
    proto = model("ScatterND", [["n", 40], ["m", 1], ["m", 40]])
    x, updates = _floats(5, 40), _floats(200, 40)
    indices = RNG.integers(-5, 5, (200, 1))
    expected = x.copy()
    for i, row in zip(indices[:, 0], updates, strict=True):
        expected[i] = row
    with load(compiled(proto, tmp_path), threads=2) as session:
        got = session.run({"x": x, "indices": indices, "updates": updates})["y"]
        np.testing.assert_array_equal(got, expected)
        with pytest.raises(InputError, match="out of range"):
            session.run({"x": x, "indices": indices + 5, "updates": updates})


def _floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)
