"""A model of f64: products and norms compute in f32, which is told once, and its outputs are f64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from layer_models import layer_model, save
from onnx import TensorProto, numpy_helper

from isthmus.cli import app
from isthmus.driver import Options, compile_model
from isthmus.errors import Code, Problem
from isthmus.runtime import load


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The layer with every float a double."""
    model = layer_model()
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.elem_type = TensorProto.DOUBLE
    weights = [
        numpy_helper.from_array(numpy_helper.to_array(w).astype(np.float64), w.name)
        for w in model.graph.initializer
    ]
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)
    # The peer has no Erf of f64.
    for node in model.graph.node:
        node.op_type = {"Erf": "Tanh"}.get(node.op_type, node.op_type)
    onnx.checker.check_model(model)
    return save(model, tmp_path)


def test_one_warning_and_outputs_of_the_declared_type(path: Path, tmp_path: Path) -> None:
    warnings: list[Problem] = []
    bundle = compile_model(path, "host", tmp_path, Options(warn=warnings.append))
    assert [w.code for w in warnings] == [Code.NARROWED]
    x = np.random.default_rng(0).standard_normal((2, 5, 16))
    (wanted,) = onnxruntime.InferenceSession(str(path)).run(None, {"x": x})
    with load(bundle.path) as session:
        got = session.run({"x": x})["y"]
    assert got.dtype == wanted.dtype == np.float64
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_check_says_it_once_for_all_targets(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["check", str(path)]) == 0
    assert capsys.readouterr().err.count(Code.NARROWED.number) == 1
