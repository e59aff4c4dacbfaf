"""The backend interface: `prepare`, `run_model`, `run_node`, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from isthmus import onnx_backend
from isthmus.errors import Code, InputError, ModelError


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


def _model(*nodes: onnx.NodeProto, inputs: dict[str, tuple[int, list[int | str]]]) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info(n, code, shape) for n, (code, shape) in inputs.items()],
        [onnx.ValueInfoProto(name="y")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_prepared_model_runs_at_any_size(cache: Path) -> None:
    model = _model(helper.make_node("Relu", ["x"], ["y"]), inputs={"x": (TensorProto.FLOAT, ["n", 3])})
    prepared = onnx_backend.prepare(model, cache=cache)
    for n in (1, 4):
        x = np.linspace(-1, 1, n * 3, dtype=np.float32).reshape(n, 3)
        (y,) = prepared.run([x])
        np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_a_shape_may_be_an_input(cache: Path) -> None:
    inputs: dict[str, tuple[int, list[int | str]]] = {
        "x": (TensorProto.FLOAT, [2, 6]),
        "s": (TensorProto.INT64, [2]),
    }
    model = _model(helper.make_node("Reshape", ["x", "s"], ["y"]), inputs=inputs)
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    for shape in ((3, 4), (12, 1)):
        (y,) = onnx_backend.run_model(model, [x, np.array(shape)], cache=cache)
        np.testing.assert_array_equal(y, x.reshape(shape))


def test_one_node(cache: Path) -> None:
    a, b = np.array([1, 2], np.int64), np.array([5, 7], np.int64)
    (y,) = onnx_backend.run_node(helper.make_node("Add", ["a", "b"], ["y"]), [a, b], cache=cache)
    assert y.tolist() == [6, 9]


def test_bfloat16_goes_in_and_comes_out(cache: Path) -> None:
    x = np.array([1.5, -2], helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16))
    (y,) = onnx_backend.run_node(helper.make_node("Neg", ["x"], ["y"]), [x], cache=cache)
    assert y.dtype == x.dtype
    assert y.astype(np.float32).tolist() == [-1.5, 2]


def test_devices() -> None:
    assert onnx_backend.supports_device("CPU")
    assert onnx_backend.supports_device("CPU:0")
    assert not onnx_backend.supports_device("CUDA")
    with pytest.raises(ModelError, match="CUDA"):
        onnx_backend.prepare(onnx.ModelProto(), "CUDA")


def test_what_is_not_implemented_is_a_model_error(cache: Path) -> None:
    x = np.ones((1, 1, 3, 3), np.float32)
    with pytest.raises(ModelError) as caught:
        onnx_backend.run_node(helper.make_node("RandomUniformLike", ["x"], ["y"]), [x], cache=cache)
    assert [p.code for p in caught.value.problems] == [Code.UNSUPPORTED_OPERATOR]
    inputs: dict[str, tuple[int, list[int | str]]] = {"x": (TensorProto.STRING, [2])}
    strings = _model(helper.make_node("Identity", ["x"], ["y"]), inputs=inputs)
    with pytest.raises(ModelError) as caught:
        onnx_backend.run_model(strings, [np.array(["a", "b"], object)], cache=cache)
    assert [p.code for p in caught.value.problems] == [Code.UNSUPPORTED_DTYPE]
    model = _model(helper.make_node("Relu", ["x"], ["y"]), inputs={"x": (TensorProto.FLOAT, [2])})
    with pytest.raises(ModelError, match="1 inputs, got 2"):
        onnx_backend.run_model(model, [np.ones(2, np.float32)] * 2, cache=cache)
    with pytest.raises(InputError):
        onnx_backend.run_model(model, [np.ones(3, np.float32)], cache=cache)
