"""Quantized models, compiled: integers to the bit, floats as onnxruntime has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import isthmus

RNG = np.random.default_rng(5)
node = helper.make_node
MS = "com.microsoft"


def scale(*shape: int) -> Any:
    return (RNG.random(shape) * 0.02 + 0.005).astype(np.float32)


def i8(*shape: int) -> Any:
    return RNG.integers(-128, 128, shape).astype(np.int8)


def u8(*shape: int) -> Any:
    return RNG.integers(0, 256, shape).astype(np.uint8)


ZERO, ZERO_I8, POINT = np.asarray(128, np.uint8), np.asarray(0, np.int8), np.asarray(117, np.uint8)
DYNAMIC = (
    [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("MatMulInteger", ["q", "w", "z", "wz"], ["y"]),
    ],
    {"w": i8(600, 24), "wz": i8(24)},
    {"x": np.float32},
)
OPERATORS = (
    [
        node("QuantizeLinear", ["x", "xs", "xz"], ["q"]),
        node("QLinearMatMul", ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["h"]),
        node("QLinearAdd", ["h", "ys", "yz", "h", "ys", "yz", "zs", "yz"], ["y"], domain=MS),
    ],
    {
        "xs": scale(), "xz": ZERO, "w": i8(600, 24), "ws": scale(24), "wz": i8(24) * 0, "ys": np.float32(0.2),
        "yz": POINT, "zs": np.float32(0.4),
    },
    {"x": np.float32},
)  # fmt: skip
WEIGHTS = (
    [
        node("DequantizeLinear", ["w", "ws", "wz"], ["f"], axis=0, block_size=60),
        node("MatMul", ["x", "f"], ["h"]),
        node("MatMulNBits", ["h", "b", "bs", "bz"], ["y"], domain=MS, K=24, N=6, bits=4, block_size=16),
    ],
    {
        "w": RNG.integers(-8, 8, (600, 24)).astype(ml_dtypes.int4), "ws": scale(10, 24),
        "wz": RNG.integers(-8, 8, (10, 24)).astype(ml_dtypes.int4), "b": u8(6, 2, 8),
        "bs": scale(12), "bz": u8(6),
    },
    {"x": np.float32},
)  # fmt: skip
FLOATS = (
    [
        node("DequantizeLinear", ["w", "ws"], ["f"]),
        node("MatMul", ["x", "f"], ["h"]),
        node("QuantizeLinear", ["h", "hs", "hz"], ["r"], axis=0),
        node("DequantizeLinear", ["r", "hs"], ["i"], axis=0),
        node("DequantizeLinear", ["v", "vs"], ["g"], axis=1),
        # onnxruntime fuses what is before a product to an operator that it does not have.
        node("Relu", ["i"], ["j"]),
        node("MatMul", ["j", "g"], ["y"]),
    ],
    {
        "w": RNG.standard_normal((600, 24)).astype(ml_dtypes.float8_e4m3fn), "ws": scale(),
        "hs": np.float32(0.5), "hz": np.zeros((), ml_dtypes.float8_e5m2),
        "v": RNG.standard_normal((24, 6)).astype(ml_dtypes.float8_e5m2), "vs": scale(6),
    },
    {"x": np.float32},
)  # fmt: skip
# What onnxruntime-genai exports for f16: blocks of 32, scales in f16, and rows that are quantized as well
# (accuracy_level 4) or are not.
HALVES = (
    [
        node(
            "MatMulNBits", ["x", "a", "as"], ["h"], domain=MS, K=600, N=64, bits=4, block_size=32,
            accuracy_level=0,
        ),
        node("Sigmoid", ["h"], ["i"]),
        node("Mul", ["h", "i"], ["j"]),
        node(
            "MatMulNBits", ["j", "b", "bs", "bz"], ["k"], domain=MS, K=64, N=48, bits=4, block_size=32,
            accuracy_level=4,
        ),
        node("Add", ["k", "r"], ["y"]),
    ],
    {
        "a": u8(64, 19, 16), "as": scale(64 * 19).astype(np.float16), "b": u8(48, 2, 16),
        "bs": scale(96).astype(np.float16), "bz": u8(48), "r": scale(48).astype(np.float16),
    },
    {"x": np.float16},
)  # fmt: skip
TWO = (
    [node("MatMulInteger", ["x", "v", "z"], ["y"])],
    {"z": ZERO},
    {"x": np.uint8, "v": np.int8},
)


@pytest.mark.parametrize(
    ("nodes", "weights", "inputs"),
    [DYNAMIC, OPERATORS, WEIGHTS, FLOATS, HALVES, TWO],
    ids=["dynamic", "operators", "weights", "floats", "halves", "two"],
)
def test_compiled(nodes: Any, weights: Any, inputs: Any, tmp_path: Path) -> None:
    shapes = {"x": ["rows", 600], "v": [600, "columns"]}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.dtype(t)), shapes[n])
            for n, t in inputs.items()
        ],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MS, 1)]
    path = tmp_path / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    bundle = isthmus.compile(path, target="host", out=tmp_path / "dist")
    peer = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with isthmus.load(bundle.path) as session:
        for rows, columns in ((1, 1), (7, 33)):
            given = {n: example(t, rows, columns, n) for n, t in inputs.items()}
            (wanted,) = peer.run(None, given)
            got = session.run(given)["y"]
            assert got.dtype == wanted.dtype
            if wanted.dtype.kind in "iu":
                np.testing.assert_array_equal(got, wanted)
            else:
                # Rows that are quantized at scales in f16 may be a step apart from those at scales in f32.
                off = 5e-3 if wanted.dtype == np.float16 else 1e-4
                np.testing.assert_allclose(got, wanted, rtol=off, atol=off * np.abs(wanted).max())


def example(dtype: Any, rows: int, columns: int, name: str) -> Any:
    shape = (rows, 600) if name == "x" else (600, columns)
    if np.dtype(dtype).kind == "f":
        return RNG.standard_normal(shape).astype(dtype)
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max + 1, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["f16", "bf16"])
def test_matrices_of_16_bits_stay_so(dtype: Any, tmp_path: Path) -> None:
    """However large they are: products widen them as they read them."""
    w, bias = (RNG.standard_normal(shape).astype(dtype) for shape in ((600, 256), (256,)))
    code = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", code, ["rows", 600])],
        [helper.make_tensor_value_info("y", code, ["rows", 256])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(bias, "b")],
    )
    path = tmp_path / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    bundle = isthmus.compile(path, target="host", out=tmp_path / "dist")
    assert w.nbytes < (bundle.path / "weights.bin").stat().st_size < 1.5 * w.nbytes
    x = RNG.standard_normal((7, 600)).astype(dtype)
    with isthmus.load(bundle.path) as session:
        # Bits of bf16 travel as u16.
        got = session.run({"x": x if dtype is np.float16 else x.view(np.uint16)})["y"].view(dtype)
    wanted = np.matmul(x.astype(np.float64), w.astype(np.float64)) + bias.astype(np.float64)
    off = 2e-3 if dtype is np.float16 else 2e-2
    np.testing.assert_allclose(got.astype(np.float64), wanted, rtol=off, atol=off)


def test_a_scale_taken_from_the_data_is_exact(tmp_path: Path) -> None:
    """(max - min) / 255 is a division: times 1 / 255 it is another number in one of three cases."""
    graph = helper.make_graph(
        [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"])],
        "tiny",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", 33])],
        [onnx.ValueInfoProto(name=name) for name in "qsz"],
    )
    path = tmp_path / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    bundle = isthmus.compile(path, target="host", out=tmp_path / "dist")
    peer = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with isthmus.load(bundle.path) as session:
        for seed in range(100):
            rng = np.random.default_rng(seed)
            x = (rng.standard_normal((1 + seed % 7, 33)) * 10.0 ** rng.integers(-6, 6)).astype(np.float32)
            x = np.abs(x) if seed % 5 == 0 else x * (seed % 11 > 0)
            got = session.run({"x": x})
            for name, wanted in zip("qsz", peer.run(None, {"x": x}), strict=True):
                np.testing.assert_array_equal(got[name], wanted, err_msg=f"{name} of seed {seed}")
