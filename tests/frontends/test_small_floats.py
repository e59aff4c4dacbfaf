"""Floats of 8 bits and 4 in ONNX models: as weights they stay so, as data their bits come and go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from isthmus.errors import Code
from isthmus.ir.evaluate import evaluate
from isthmus.ir.types import DType
from isthmus.passes import pipeline
from isthmus.target import Target
from isthmus.targets import x86_64

RNG = np.random.default_rng(3)
TARGET: Target = x86_64.TARGETS[0]
node = helper.make_node
E4M3, E5M2, E2M1 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2, ml_dtypes.float4_e2m1fn


def normal(dtype: Any, *shape: int) -> Any:
    return RNG.normal(0, 2, shape).astype(dtype)


def scales(*shape: int) -> Any:
    return np.float32(RNG.uniform(0.01, 0.1, shape))


def powers(*shape: int) -> Any:
    return np.float32(2.0 ** RNG.integers(-6, 0, shape)).astype(ml_dtypes.float8_e8m0fnu)


def product(w: Any, scale: Any, turned: bool = False, **attrs: Any) -> onnx.ModelProto:
    """rows [n, 96] times a dequantized matrix, or its transpose."""
    nodes = [node("DequantizeLinear", ["w", "s"], ["f"], **attrs)]
    nodes += [node("Transpose", ["f"], ["g"], perm=[1, 0])] if turned else []
    nodes += [node("MatMul", ["x", "g" if turned else "f"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 96])],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(scale, "s")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)


MATRICES = {
    "one scale": (product(normal(E4M3, 96, 10), scales()), "f8e4m3"),
    "a scale for each column": (product(normal(E5M2, 96, 10), scales(10), axis=1), "f8e5m2"),
    "transposed": (product(normal(E4M3, 10, 96), scales(10), True, axis=0), "f8e4m3"),
    "blocks": (product(normal(E4M3, 96, 10), scales(3, 10), axis=0, block_size=32), "f8e4m3"),
    "blocks of 4 bits": (product(normal(E2M1, 96, 10), scales(6, 10), axis=0, block_size=16), "i8"),
}


@pytest.mark.parametrize("name", MATRICES)
def test_weights_stay_small(name: str, tools: Any, tmp_path: Path) -> None:
    model, dtype = MATRICES[name]
    program = tools.import_model(model, tmp_path)
    x = RNG.standard_normal((7, 96)).astype(np.float32)
    (got,) = evaluate(program.main, {"x": x}).values()
    w, scale = (numpy_helper.to_array(t) for t in model.graph.initializer)
    plain = np.float32(w) * np.float32(_spread(name, scale, w.shape))
    np.testing.assert_allclose(got, x @ (plain.T if name == "transposed" else plain), rtol=1e-5, atol=1e-4)
    legal = pipeline.run(program, TARGET)
    (made,) = (v for v in legal.main.nodes() if v.op.name == "block_linear")
    assert str(made.args[1].dtype) == dtype and made.attr("bits") == (4 if dtype == "i8" else 8)
    np.testing.assert_allclose(evaluate(legal.main, {"x": x})["y"], got, rtol=1e-5, atol=1e-4)


def _spread(name: str, scale: Any, shape: tuple[int, ...]) -> Any:
    if name == "transposed":
        return scale[:, None]
    return np.repeat(scale, shape[0] // len(scale), 0) if name.startswith("blocks") else scale


def test_scales_that_are_powers_of_two(tools: Any, tmp_path: Path) -> None:
    """The microscaled formats as ONNX has them: scales are floats of 8 bits that are exponents alone."""
    w, scale = normal(E4M3, 96, 10), powers(3, 10)
    nodes = [
        node("Cast", ["s"], ["p"], to=onnx.TensorProto.FLOAT),
        node("DequantizeLinear", ["w", "p"], ["f"], axis=0, block_size=32),
        node("MatMul", ["x", "f"], ["y"]),
    ]
    model = product(w, scale)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    legal = pipeline.run(tools.import_model(model, tmp_path), TARGET)
    (made,) = (v for v in legal.main.nodes() if v.op.name == "block_linear")
    assert [a.dtype for a in made.args[1:3]] == [DType.F8E4M3, DType.F8E8M0]
    x = RNG.standard_normal((2, 96)).astype(np.float32)
    wanted = x @ (np.float32(w) * np.repeat(np.float32(scale), 32, 0))
    np.testing.assert_allclose(evaluate(legal.main, {"x": x})["y"], wanted, rtol=1e-5, atol=1e-4)


def test_what_is_no_number_stays_so(tools: Any, tmp_path: Path) -> None:
    """Kernels for small floats do not know NaN: such a matrix becomes f32."""
    w = normal(E4M3, 96, 10)
    w[5, 2] = np.nan
    program = tools.import_model(product(w, scales()), tmp_path, warn=lambda _: None)
    legal = pipeline.run(program, TARGET)
    got = evaluate(legal.main, {"x": np.ones((1, 96), np.float32)})["y"]
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(got[0])), [2])


@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "FLOAT8E5M2"])
def test_rounded_rows_as_onnxruntime(kind: str, tools: Any, tmp_path: Path) -> None:
    """Through a float of 8 bits and back, saturating, and from the bits of an input to those of an output."""
    code = onnx.TensorProto.DataType.Value(kind)
    zero = helper.make_tensor("z", code, [], [0.0])
    graph = helper.make_graph(
        [
            node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=0),
            node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=0),
            node("Cast", ["b"], ["c"], to=onnx.TensorProto.FLOAT),
            node("Cast", ["c"], ["d"], to=code, saturate=0),
        ],
        "rows",
        [
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n"]),
            helper.make_tensor_value_info("b", code, [256]),
        ],
        [onnx.ValueInfoProto(name=n) for n in ("y", "c", "d")],
        [numpy_helper.from_array(np.float32(0.3), "s"), zero],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    program = tools.import_model(model, tmp_path)
    codes = np.arange(256, dtype=np.uint8)
    x = np.float32([0, -0.0, 1e-3, 0.1, -7, 134, 135, 1e6, -np.inf, np.nan, *RNG.normal(0, 50, 50)])
    got = evaluate(program.main, {"x": x, "b": codes})
    dtype = helper.tensor_dtype_to_np_dtype(code)
    most = float(ml_dtypes.finfo(dtype).max)
    wanted = np.float32(np.clip(x / np.float32(0.3), -most, most).astype(dtype)) * np.float32(0.3)
    np.testing.assert_array_equal(got["y"], wanted)
    np.testing.assert_array_equal(got["c"], codes.view(dtype).astype(np.float32))
    assert got["d"].dtype == np.uint8
    numbers = np.isfinite(got["c"])
    np.testing.assert_array_equal(got["d"][numbers], codes[numbers])


def test_nothing_computes_with_them(tools: Any, tmp_path: Path) -> None:
    graph = helper.make_graph(
        [node("Add", ["b", "b"], ["y"])],
        "sum",
        [helper.make_tensor_value_info("b", onnx.TensorProto.FLOAT8E5M2, [4])],
        [onnx.ValueInfoProto(name="y")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    (problem,) = tools.refused(model, tmp_path)
    assert problem.code is Code.SHAPE_MISMATCH and "cast f8e5m2[4] to f32 first" in problem.message


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("kind", ["FLOAT8E4M3FN", "FLOAT8E5M2FNUZ", "FLOAT4E2M1", "FLOAT8E8M0"])
def test_elements_in_every_field(kind: str, raw: bool, tools: Any, tmp_path: Path) -> None:
    code = onnx.TensorProto.DataType.Value(kind)
    typed = helper.make_tensor("w", code, [5], [0.5, 1.0, 2.0, 4.0, 1.0])
    array = numpy_helper.to_array(typed)
    tensor = numpy_helper.from_array(array, "w") if raw else typed
    model = tools.make_model(
        [node("Cast", ["w"], ["c"], to=1), node("Add", ["c", "x"], ["y"])], {"x": "f32[5]"}, ["y"], opset=24
    )
    model.graph.initializer.append(tensor)
    program = tools.import_model(model, tmp_path)
    got = evaluate(program.main, {"x": np.zeros(5, np.float32)})["y"]
    np.testing.assert_array_equal(got, [0.5, 1, 2, 4, 1])
