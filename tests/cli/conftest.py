"""A tiny model, and the bundle the command line makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from isthmus.cli import app


def tiny_model() -> onnx.ModelProto:
    """y = relu(table[ids] @ w + b) over ids[batch, seq]: an embedding, a matmul, a bias, an activation."""
    rng = np.random.default_rng(0)
    weights = {
        "table": rng.standard_normal((50, 24)).astype(np.float32),
        "w": rng.standard_normal((24, 40)).astype(np.float32),
        "b": rng.standard_normal(40).astype(np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="/embed"),
        helper.make_node("MatMul", ["rows", "w"], ["product"], name="/dense"),
        helper.make_node("Add", ["product", "b"], ["sum"], name="/bias"),
        helper.make_node("Relu", ["sum"], ["y"], name="/relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "seq"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "seq", 40])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file tiny.onnx."""
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    onnx.save(tiny_model(), path)
    return path


@pytest.fixture(scope="session")
def bundle(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle for this machine."""
    folder = tmp_path_factory.mktemp("dist")
    assert app.run(["compile", str(model), "-o", str(folder)]) == 0
    (path,) = folder.iterdir()
    return path
