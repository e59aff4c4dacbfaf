"""Importers of quantized operators against onnxruntime, one line for each operator and way of using it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from isthmus.errors import Code
from isthmus.frontends.onnx.operators import OPERATORS, microsoft_quantized, quantize, quantized_products
from isthmus.ir.evaluate import evaluate
from isthmus.ir.types import DType
from isthmus.ops.quantize import dequantize

RNG = np.random.default_rng(7)


@dataclass(frozen=True)
class Case:
    op: str
    inputs: tuple[Any, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    opset: int = 21
    outputs: int = 1
    off: int = 0  # by how much an integer may be off: onnxruntime rounds otherwise, or looks up a table

    def __str__(self) -> str:
        shown = ",".join(
            a if isinstance(a, str) else "-" if a is None else f"{a.dtype}{list(a.shape)}"
            for a in self.inputs
        )
        return f"{self.op}-{self.opset}({shown})({','.join(f'{k}={v}' for k, v in self.attrs.items())})"


def c(op: str, *inputs: Any, opset: int = 21, outputs: int = 1, off: int = 0, **attrs: Any) -> Case:
    return Case(op, inputs, attrs, opset, outputs, off)


def u8(*shape: int) -> Any:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def i8(*shape: int) -> Any:
    return RNG.integers(-128, 128, shape).astype(np.int8)


def f32(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def scales(*shape: int) -> Any:
    return (RNG.random(shape) * 0.05 + 0.01).astype(np.float32)


def n(value: int, dtype: Any = np.uint8) -> Any:
    return np.asarray(value, dtype)


S, S2, S3 = (np.asarray(s, np.float32) for s in (0.02, 0.03, 0.01))
X, U, I = "f32[b,s,8]", "u8[b,s,8]", "i8[b,s,8]"  # noqa: E741
INT4 = RNG.integers(-8, 8, (6, 64)).astype(ml_dtypes.int4)
UINT4 = RNG.integers(0, 16, (6, 64)).astype(ml_dtypes.uint4)
QUANTIZE, DEQUANTIZE, MS = "QuantizeLinear", "DequantizeLinear", "com.microsoft::"
NBITS = {"K": 70, "N": 6, "bits": 4, "block_size": 32}
WIDE = "f32[b,s,70]"
QA = {"num_heads": 2}
QKV = (i8(8, 24), f32(24), S, S2)
LAST = {"block_size": 16, "quantize_axis": -1}
TABLES = (u8(9, 8), u8(16, 8), u8(3, 8), u8(8), u8(8))
EMBED = (*(S,) * 5, *(n(z) for z in (120, 130, 128, 3, 100)))
I32 = RNG.integers(-999, 999, 6).astype(np.int32)
LUT = (n(4), S2, n(9))

CASES = [
    # to integers
    c(QUANTIZE, X, S, n(7), opset=10),
    c(QUANTIZE, X, S, n(-7, np.int8), opset=13),
    c(QUANTIZE, X, S, opset=13),
    c(QUANTIZE, X, scales(8), u8(8), axis=-1, opset=13),
    c(QUANTIZE, "f32[b,4,s]", scales(4), i8(4), opset=13),
    c(QUANTIZE, X, S, n(700, np.uint16)),
    c(QUANTIZE, X, S, n(-700, np.int16)),
    c(QUANTIZE, X, S, output_dtype=onnx.TensorProto.INT8),
    c(QUANTIZE, "f32[6,64]", scales(6, 4), u8(6, 4), axis=1, block_size=16),
    c(QUANTIZE, "f32[6,64]", scales(3, 64), axis=0, block_size=2),
    c(MS + QUANTIZE, X, S, n(7)),
    c(MS + QUANTIZE, X, scales(8), i8(8), axis=2),
    c("DynamicQuantizeLinear", X, outputs=3),
    c("DynamicQuantizeLinear", np.zeros((2, 3), np.float32), outputs=3),
    c("DynamicQuantizeLinear", np.full((2, 3), -4.0, np.float32), outputs=3),
    # and back
    c(DEQUANTIZE, U, S, n(7), opset=10),
    c(DEQUANTIZE, I, S, opset=13),
    c(DEQUANTIZE, "i32[b,s]", S, opset=13),
    c(DEQUANTIZE, U, scales(8), u8(8), axis=2, opset=13),
    c(DEQUANTIZE, "i8[b,4,s]", scales(4), i8(4), opset=13),
    c(DEQUANTIZE, i8(6, 64), scales(6, 4), i8(6, 4), axis=1, block_size=16),
    c(DEQUANTIZE, i8(6, 5), scales(2, 5), axis=0, block_size=4),
    c(DEQUANTIZE, INT4, scales(6), axis=0),
    c(DEQUANTIZE, UINT4, scales(6, 2), UINT4[:, :2].copy(), axis=1, block_size=32),
    c(DEQUANTIZE, RNG.integers(-999, 999, (4, 5)).astype(np.int16), S, n(300, np.int16)),
    c(DEQUANTIZE, RNG.integers(0, 9999, (4, 5)).astype(np.uint16), S, n(300, np.uint16)),
    c(DEQUANTIZE, U, np.asarray(0.02, np.float16), n(7)),
    c(MS + DEQUANTIZE, U, S, n(7)),
    c(MS + DEQUANTIZE, I, scales(8), i8(8), axis=2),
    c(MS + DEQUANTIZE, INT4, S, INT4[0, 0]),
    # products
    c("MatMulInteger", U, i8(8, 6)),
    c("MatMulInteger", U, i8(8, 6), n(130), n(3, np.int8)),
    c("MatMulInteger", U, "u8[b,8,t]", n(130), n(77)),
    c("MatMulInteger", "u8[4,8]", i8(8, 6), n(130), i8(6)),
    c("MatMulInteger", "i8[b,s,700]", i8(700, 6), n(-3, np.int8)),
    c("QLinearMatMul", U, S, n(120), i8(8, 6), S2, n(0, np.int8), S3, n(100)),
    c("QLinearMatMul", I, S, n(3, np.int8), i8(8, 6), scales(6), i8(6), S3, n(-9, np.int8)),
    c("QLinearMatMul", U, S, n(120), "u8[b,8,t]", S2, n(140), S3, n(100)),
    c("ConvInteger", "u8[b,3,8,8]", u8(4, 3, 3, 3), n(128), n(120), pads=[1, 1, 1, 1]),
    c("ConvInteger", "u8[b,3,8,8]", u8(4, 3, 2, 2), strides=[2, 2]),
    c("QLinearConv", "u8[b,3,8,8]", S, n(128), i8(4, 3, 3, 3), S2, n(0, np.int8), S3, n(100)),
    c("QLinearConv", "u8[b,4,8,8]", S, n(128), i8(4, 1, 3, 3), scales(4), i8(4) * 0, S3, n(100),
      RNG.integers(-999, 999, 4).astype(np.int32), group=4, pads=[1, 1, 1, 1]),
    c(MS + "DynamicQuantizeMatMul", X, i8(8, 6), S),
    c(MS + "DynamicQuantizeMatMul", X, u8(8, 6), scales(6), u8(6), f32(6)),
    c(MS + "MatMulIntegerToFloat", U, i8(8, 6), S, scales(6), n(99)),
    c(MS + "MatMulIntegerToFloat", U, u8(8, 6), S, S2, n(99), n(128), f32(6)),
    c(MS + "QGemm", "u8[b,8]", S, n(120), i8(8, 6), S2, n(0, np.int8), I32, S3, n(9)),
    c(MS + "QGemm", "u8[b,8]", S, n(120), i8(6, 8), scales(6), i8(6), transB=1, alpha=0.5),
    c(MS + "QAttention", U, *QKV, None, n(128), n(2, np.int8), **QA),
    c(MS + "QAttention", U, *QKV, "i32[b,s]<2", n(128), n(0, np.int8), mask_filter_value=-3e38, **QA),
    c(MS + "QAttention", U, *QKV, None, n(128), n(0, np.int8), unidirectional=1, **QA),
    c(MS + "QAttention", U, *QKV, None, n(128), n(0, np.int8), "f32[2,b,2,t,4]", outputs=2, **QA),
    # weights in blocks
    c(MS + "MatMulNBits", WIDE, u8(6, 3, 16), scales(18), **NBITS),
    c(MS + "MatMulNBits", WIDE, u8(6, 3, 16), scales(18), u8(12), **NBITS),
    c(MS + "MatMulNBits", WIDE, u8(6, 3, 16), scales(18), f32(18), **NBITS),
    c(MS + "MatMulNBits", WIDE, u8(6, 3, 16), scales(18), None, None, f32(6), **NBITS),
    c(MS + "MatMulNBits", WIDE, u8(6, 3, 32), scales(18), **{**NBITS, "bits": 8}),
    c(MS + "MatMulNBits", WIDE, u8(6, 3, 32), scales(18), u8(18), **{**NBITS, "bits": 8}),
    c(MS + "MatMulNBits", WIDE, u8(6, 3, 8), scales(18), **{**NBITS, "bits": 2}),
    c(MS + "MatMulNBits", WIDE, u8(6, 3, 8), scales(18), u8(6), **{**NBITS, "bits": 2}),
    c(MS + "GatherBlockQuantized", INT4, "i64[b,s]<6", scales(6, 4), block_size=16),
    c(MS + "GatherBlockQuantized", UINT4, "i32[s]<6", scales(6, 2), UINT4[:, :2].copy(), block_size=32),
    c(MS + "GatherBlockQuantized", u8(6, 32), "i64[b]<6", scales(6, 4), **LAST),
    c(MS + "GatherBlockQuantized", u8(6, 32), "i64[b]<6", scales(6, 4), u8(6, 2), **LAST),
    c(MS + "GatherBlockQuantized", u8(6, 64), "i64[b]<6", scales(6, 4), **LAST, bits=8),
    # on what the numbers stand for
    c(MS + "QLinearAdd", U, S, n(9), U, S2, n(128), S2, n(100), off=1),
    c(MS + "QLinearAdd", I, S, n(9, np.int8), i8(8), S2, n(1, np.int8), S2, n(-4, np.int8), off=1),
    c(MS + "QLinearMul", U, S, n(9), U, S2, n(128), S2, n(100), off=1),
    c(MS + "QLinearSigmoid", U, S, *LUT),
    c(MS + "QLinearLeakyRelu", U, S, *LUT, alpha=0.1),
    c(MS + "QLinearSoftmax", U, S, n(4), np.float32(1 / 256), n(0), axis=-1, opset=13, off=1),
    c(MS + "QLinearConcat", S2, n(9), U, S, n(4), U, S3, n(120), axis=2),
    c(MS + "QLinearGlobalAveragePool", "u8[b,3,6,6]", S, n(4), S2, n(9), off=1),
    c(MS + "QLinearGlobalAveragePool", "u8[b,6,6,3]", S, n(4), S2, n(9), channels_last=1, off=1),
    c(MS + "QLinearAveragePool", "u8[b,3,6,6]", S, n(4), S2, n(9), kernel_shape=[3, 3], off=1),
    c(MS + "QLinearWhere", "bool[b,s,8]", U, S, n(4), U, S2, n(9), S3, n(30)),
    c(MS + "QEmbedLayerNormalization", "i32[b,s]<9", "i32[b,s]<3", *TABLES, "i32[b,s]<2", *EMBED, outputs=2),
    c(MS + "QEmbedLayerNormalization", "i32[b,s]<9", None, *TABLES[:2], None, *TABLES[3:], None, *EMBED[:2],
      None, *EMBED[3:7], None, *EMBED[8:], outputs=2),
]  # fmt: skip

# onnxruntime has no kernel for these here.
ELSEWHERE = {MS + "MatMulInteger16", MS + "QLinearReduceMean", MS + "QLinearConv"}
SIZES = ({"b": 2, "s": 5, "t": 3}, {"b": 1, "s": 1, "t": 1})


def model_of(case: Case, tools: Any) -> tuple[onnx.ModelProto, dict[str, str]]:
    names = [f"x{i}" for i in range(len(case.inputs))]
    given = dict(zip(names, case.inputs, strict=True))
    inputs = {name: spec for name, spec in given.items() if isinstance(spec, str)}
    constants = {name: a for name, a in given.items() if isinstance(a, np.ndarray | np.generic)}
    domain, _, op = case.op.rpartition("::")
    attrs = {**case.attrs, **({"opset": case.opset} if op == "QLinearSoftmax" else {})}
    node_inputs = ["" if a is None else name for name, a in given.items()]
    outputs = [f"y{i}" for i in range(case.outputs)]
    node = helper.make_node(op, node_inputs, outputs, name="node", domain=domain, **attrs)
    return tools.make_model([node], inputs, outputs, constants, opset=case.opset), inputs


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator(case: Case, tmp_path: Path, tools: Any) -> None:
    model, inputs = model_of(case, tools)
    program = tools.import_model(model, tmp_path)
    rng = np.random.default_rng(0)
    for sizes in SIZES:
        arrays = {name: wide_array(spec, sizes, rng, tools) for name, spec in inputs.items()}
        got, wanted = evaluate(program.main, arrays), tools.run_onnxruntime(model, arrays)
        for name, expected in wanted.items():
            if expected.dtype.kind in "iu" and case.off:
                assert got[name].dtype == expected.dtype
                assert np.abs(got[name].astype(int) - expected.astype(int)).max() <= case.off
                got[name] = expected
        tools.assert_agree(got, wanted)


def wide_array(spec: str, sizes: dict[str, int], rng: np.random.Generator, tools: Any) -> Any:
    """Bytes use all of their range."""
    array = tools.input_array(spec, sizes, rng)
    if array.dtype in (np.uint8, np.int8):
        limits = np.iinfo(array.dtype)
        return rng.integers(limits.min, limits.max + 1, array.shape).astype(array.dtype)
    return array


def test_every_importer_is_tested() -> None:
    tested = {case.op for case in CASES} | ELSEWHERE
    groups = (microsoft_quantized, quantize, quantized_products)
    assert not {op for group in groups for op in group.OPERATORS} - tested
    assert tested <= OPERATORS.keys()


def test_weights_stay_quantized(tools: Any, tmp_path: Path) -> None:
    """What the model holds in 4 bits is in the program as integers, with the op that says what they mean."""
    model, _ = model_of(c(MS + "MatMulNBits", WIDE, u8(6, 3, 16), scales(18), **NBITS), tools)
    program = tools.import_model(model, tmp_path)
    (found,) = [v for v in program.main.nodes() if v.op is dequantize]
    assert found.args[0].dtype is DType.U8
    floats = [w for w in program.main.weights() if w.type.dtype is DType.F32]
    assert sum(int(np.prod(w.type.static_shape)) for w in floats) == 18


def test_narrow_elements_in_every_field(tools: Any, tmp_path: Path) -> None:
    for kind, values in ((onnx.TensorProto.INT4, [-8, 7, 3]), (onnx.TensorProto.UINT4, [0, 15, 9])):
        typed = helper.make_tensor("w", kind, [3], values)
        array = numpy_helper.to_array(typed)
        raw = helper.make_tensor("w", kind, [3], numpy_helper.from_array(array).raw_data, raw=True)
        for tensor in (typed, raw):
            model = tools.make_model(
                [helper.make_node(DEQUANTIZE, ["w", "s"], ["y"])], {"s": "f32[]"}, ["y"], opset=21
            )
            model.graph.initializer.append(tensor)
            (weight,) = tools.import_model(model, tmp_path).main.weights()
            np.testing.assert_array_equal(weight.read(), array.astype(np.int8))


def test_narrow_elements_beside_the_model(tools: Any, tmp_path: Path) -> None:
    model, _ = model_of(c(DEQUANTIZE, INT4, scales(6), axis=0), tools)
    onnx.save_model(
        model, tmp_path / "w.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    external = onnx.load(tmp_path / "w.onnx", load_external_data=False)
    program = tools.import_model(external, tmp_path)
    (weight,) = [w for w in program.main.weights() if w.type.dtype is DType.I8]
    np.testing.assert_array_equal(weight.read(), INT4.astype(np.int8))


def test_narrow_elements_of_the_wrong_size(tools: Any, tmp_path: Path) -> None:
    for raw in (b"", bytes(3), bytes(1)):
        model = tools.make_model(
            [helper.make_node(DEQUANTIZE, ["w", "s"], ["y"])], {"s": "f32[]"}, ["y"], opset=21
        )
        model.graph.initializer.append(
            onnx.TensorProto(name="w", data_type=onnx.TensorProto.INT4, dims=[3], raw_data=raw)
        )
        (problem,) = tools.refused(model, tmp_path)
        assert problem.code is Code.INVALID_GRAPH and problem.where == "w"


@pytest.mark.parametrize(
    ("case", "code"),
    [
        (
            c(MS + "MatMulNBits", WIDE, u8(6, 3, 16), scales(18), None, np.zeros(70, np.int32), **NBITS),
            Code.UNSUPPORTED_ATTRIBUTE,
        ),
        (c(MS + "MatMulNBits", WIDE, u8(6, 3, 8), scales(18), **NBITS), Code.SHAPE_MISMATCH),
        (
            c(MS + "MatMulNBits", WIDE, u8(6, 3, 16), scales(18), **{**NBITS, "bits": 3}),
            Code.UNSUPPORTED_ATTRIBUTE,
        ),
        (c(MS + "MatMulNBits", WIDE, "u8[6,3,16]", scales(18), **NBITS), Code.UNSUPPORTED_ATTRIBUTE),
        (c(DEQUANTIZE, i8(6, 5), scales(5), axis=0, block_size=2), Code.SHAPE_MISMATCH),
        (c(DEQUANTIZE, i8(6, 5), scales(2, 5), axis=0, block_size=-2), Code.SHAPE_MISMATCH),
        (c(QUANTIZE, X, scales(3), u8(3), axis=-1), Code.SHAPE_MISMATCH),
        (c(MS + "QAttention", U, *QKV, do_rotary=1, **QA), Code.UNSUPPORTED_ATTRIBUTE),
    ],
    ids=str,
)
def test_refusals(case: Case, code: Code, tools: Any, tmp_path: Path) -> None:
    (problem,) = tools.refused(model_of(case, tools)[0], tmp_path)
    assert problem.code is code
