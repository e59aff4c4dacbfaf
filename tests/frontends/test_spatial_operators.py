"""Importers of convolutions, pools and resampling against onnxruntime: one line for each way of using one.

Where onnxruntime has no kernel for this processor, a model of standard operators says what is meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from isthmus.errors import Code
from isthmus.frontends.onnx.operators import conv, grid_sample, pool, resize, spatial_norm, spectral
from isthmus.ir.evaluate import evaluate


@dataclass(frozen=True)
class Case:
    op: str
    inputs: tuple[Any, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 18

    def __str__(self) -> str:
        shown = ",".join(
            a if isinstance(a, str) else "-" if a is None else str(np.shape(a)) for a in self.inputs
        )
        attrs = ",".join(f"{k}={v}" for k, v in self.attrs.items())
        return f"{self.op}-{self.opset}({shown})({attrs})"


def c(op: str, *inputs: Any, outputs: int = 1, opset: int = 18, **attrs: Any) -> Case:
    return Case(op, inputs, attrs, outputs, opset)


RNG = np.random.default_rng(1)


def w(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def i(*values: int) -> Any:
    return np.array(values, np.int64)


def f(*values: float) -> Any:
    return np.array(values, np.float32)


# Named dims of the inputs; the second is small.
SIZES: Sequence[dict[str, int]] = (
    {"b": 2, "h": 9, "w": 8},
    {"b": 1, "h": 7, "w": 6},
    {"b": 3, "h": 12, "w": 17},
)
LINE, IMAGE, CUBE = "f32[b,4,h]", "f32[b,4,h,w]", "f32[b,2,5,h,w]"
STATIC = "f32[2,4,7,6]"
HALF, ALIGNED, LEFT = "half_pixel", "align_corners", "asymmetric"
SYMMETRIC, TORCH, NN = "half_pixel_symmetric", "pytorch_half_pixel", "tf_half_pixel_for_nn"

CASES = [
    # convolutions
    c("Conv", LINE, w(6, 4, 3), w(6)),
    c("Conv", LINE, w(6, 4, 3), w(6), pads=[1, 1]),
    c("Conv", LINE, w(6, 4, 5), strides=[2], pads=[2, 1]),
    c("Conv", LINE, w(6, 4, 2), dilations=[3]),
    c("Conv", LINE, w(8, 2, 3), w(8), group=2, pads=[1, 1]),
    c("Conv", LINE, w(4, 1, 3), w(4), group=4, pads=[1, 1]),
    c("Conv", LINE, w(8, 1, 3), w(8), group=4, strides=[2]),
    c("Conv", "f32[b,1,h]", w(6, 1, 5), strides=[2]),
    c("Conv", IMAGE, w(6, 4, 1, 1), w(6)),
    c("Conv", IMAGE, w(6, 4, 1, 1), strides=[2, 2]),
    c("Conv", IMAGE, w(6, 4, 3, 3), w(6), pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
    c("Conv", IMAGE, w(6, 4, 3, 2), w(6), pads=[1, 0, 2, 1], strides=[2, 3]),
    c("Conv", IMAGE, w(6, 4, 2, 3), dilations=[2, 1], strides=[1, 2]),
    c("Conv", "f32[b,3,16,8]", w(6, 3, 4, 4), w(6), strides=[4, 4]),
    c("Conv", "f32[b,1,h,w]", w(2, 1, 5, 5), w(2), strides=[3, 3]),
    c("Conv", IMAGE, w(6, 2, 3, 3), w(6), group=2, pads=[1, 1, 1, 1]),
    c("Conv", IMAGE, w(4, 1, 3, 3), w(4), group=4, pads=[1, 1, 1, 1], strides=[2, 2]),
    c("Conv", IMAGE, w(12, 1, 3, 3), w(12), group=4),
    c("Conv", IMAGE, "f32[6,4,3,3]", "f32[6]", pads=[1, 1, 1, 1]),
    *(
        c("Conv", x, w(6, 4, 3, 3), auto_pad=mode, strides=strides)
        for x in (IMAGE, STATIC)
        for mode in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for strides in ([1, 1], [2, 3])
    ),
    c("Conv", CUBE, w(3, 2, 2, 3, 3), w(3), pads=[0, 1, 1, 1, 1, 1], strides=[1, 2, 1]),
    c("Conv", CUBE, w(4, 1, 2, 3, 3), w(4), group=2),
    c("ConvTranspose", LINE, w(4, 6, 3), w(6)),
    c("ConvTranspose", LINE, w(4, 6, 2), w(6), strides=[2]),
    c("ConvTranspose", LINE, w(4, 6, 3), strides=[2], pads=[1, 0], output_padding=[1]),
    c("ConvTranspose", IMAGE, w(4, 6, 2, 4), w(6), strides=[2, 4]),
    c("ConvTranspose", IMAGE, w(4, 6, 3, 3), w(6), strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1]),
    c("ConvTranspose", IMAGE, w(4, 3, 3, 3), w(6), group=2, strides=[1, 2], dilations=[2, 1]),
    c("ConvTranspose", IMAGE, w(4, 1, 3, 3), w(4), group=4, strides=[2, 2], pads=[3, 0, 1, 2]),
    c("ConvTranspose", STATIC, w(4, 6, 3, 3), strides=[2, 2], output_shape=[13, 12]),
    c("ConvTranspose", STATIC, w(4, 6, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    c("ConvTranspose", STATIC, w(4, 6, 4, 4), strides=[1, 3], auto_pad="SAME_LOWER"),
    # pools
    c("MaxPool", LINE, kernel_shape=[3]),
    c("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    c("MaxPool", IMAGE, kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1),
    c("MaxPool", IMAGE, kernel_shape=[2, 2], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1),
    c("MaxPool", STATIC, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    c("MaxPool", IMAGE, kernel_shape=[2, 2], dilations=[2, 3]),
    c("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    c("MaxPool", CUBE, kernel_shape=[2, 2, 2], strides=[2, 1, 2]),
    c("MaxPool", "i8[b,2,h,w]", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    c("MaxPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], outputs=2),
    c("MaxPool", IMAGE, kernel_shape=[2, 3], strides=[2, 2], outputs=2, storage_order=1),
    c("AveragePool", LINE, kernel_shape=[3], strides=[2]),
    *(
        c(
            "AveragePool",
            x,
            kernel_shape=[3, 2],
            strides=[2, 2],
            pads=pads,
            count_include_pad=whole,
            ceil_mode=up,
            opset=19,
        )
        for x in (IMAGE, STATIC)
        for pads in ([0, 0, 0, 0], [1, 1, 0, 1])
        for whole in (0, 1)
        for up in (0, 1)
    ),
    c("AveragePool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    c("AveragePool", IMAGE, kernel_shape=[2, 2], dilations=[2, 2], opset=19),
    c("LpPool", IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    c("LpPool", IMAGE, kernel_shape=[2, 2], p=1),
    c("LpPool", IMAGE, kernel_shape=[2, 2], p=3),
    *(c(op, x) for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool") for x in (LINE, IMAGE, CUBE)),
    # resampling
    *(
        c("Resize", x, None, None, i(2, 4, *sizes), mode=mode, coordinate_transformation_mode=where)
        for x, sizes in (("f32[2,4,h,w]", (13, 5)), (STATIC, (4, 14)), (STATIC, (1, 6)))
        for mode in ("nearest", "linear", "cubic")
        for where in (HALF, SYMMETRIC, TORCH, ALIGNED, LEFT)
    ),
    *(
        c("Resize", IMAGE, None, f(1, 1, *scales), mode=mode, coordinate_transformation_mode=where)
        for scales in ((2, 3), (0.5, 1.5), (0.4, 2.2))
        for mode in ("nearest", "linear", "cubic")
        for where in (HALF, SYMMETRIC, LEFT)
        # Ties at the centre, decided by the last bit.
        if (mode, scales, where) != ("nearest", (0.4, 2.2), SYMMETRIC)
    ),
    *(
        c("Resize", x, None, f(1, 1, *scales), nearest_mode=rounding, coordinate_transformation_mode=where)
        for x in (IMAGE, STATIC)
        for scales in ((2, 3), (0.5, 1.5))
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        for where in (HALF, LEFT)
    ),
    c("Resize", STATIC, None, f(1, 1, 2, 3), coordinate_transformation_mode=NN),
    c("Resize", STATIC, None, f(1, 1, 1.6, 2.5), mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5),
    c("Resize", LINE, None, f(1, 1, 2), mode="linear"),
    c("Resize", CUBE, None, f(1, 1, 2, 2, 3), mode="nearest"),
    c("Resize", IMAGE, None, f(2, 3), axes=[2, 3], mode="linear"),
    c("Resize", IMAGE, None, None, i(5, 6), axes=[3, 2], mode="linear"),
    c(
        "Resize",
        STATIC,
        None,
        None,
        i(5, 20),
        axes=[2, 3],
        keep_aspect_ratio_policy="not_larger",
        mode="linear",
    ),
    c(
        "Resize",
        STATIC,
        None,
        None,
        i(5, 20),
        axes=[2, 3],
        keep_aspect_ratio_policy="not_smaller",
        mode="linear",
    ),
    c(
        "Resize",
        STATIC,
        f(0, 0, 0.2, 0.3, 1, 1, 0.9, 1.2),
        None,
        i(2, 4, 5, 5),
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=3.0,
    ),
    c("Resize", "u8[2,4,7,6]", None, f(1, 1, 2, 2), mode="nearest"),
    c("Resize", IMAGE, f(1, 1, 2, 2), opset=10, mode="nearest"),
    c("Resize", IMAGE, f(1, 1, 2, 2), opset=10, mode="linear"),
    c("Resize", STATIC, None, f(1, 1, 0.5, 2), mode="linear", antialias=1),
    c("Resize", STATIC, None, None, i(2, 4, 3, 2), mode="cubic", antialias=1, exclude_outside=1),
    c("Upsample", IMAGE, f(1, 1, 2, 3), opset=9, mode="nearest"),
    c("Upsample", IMAGE, f(1, 1, 2, 3), opset=9, mode="linear"),
    c("Upsample", IMAGE, opset=8, scales=[1.0, 1.0, 2.0, 2.0]),
    *(
        c(
            "GridSample",
            IMAGE,
            "f32[b,5,3,2]",
            opset=20,
            mode=mode,
            padding_mode=padding,
            align_corners=corners,
        )
        for mode in ("nearest", "linear", "cubic")
        for padding in ("zeros", "border", "reflection")
        for corners in (0, 1)
    ),
    c("GridSample", IMAGE, "f32[b,5,3,2]", opset=16, mode="bilinear"),
    c("GridSample", CUBE, "f32[b,4,3,2,3]", opset=20, mode="linear"),
    # spectra
    c("DFT", "f32[b,h,6,2]", opset=17, axis=1),
    c("DFT", "f32[b,h,6,1]", opset=17, axis=2),
    c("DFT", "f32[b,h,6,2]", opset=17, axis=2, inverse=1),
    c("DFT", "f32[b,h,6,2]", opset=17, axis=1, inverse=1),
    c("DFT", "f32[b,h,6,1]", opset=17, axis=2, onesided=1),
    c("DFT", "f32[b,h,6,1]", i(8).reshape(()), opset=17, axis=2, onesided=1),
    c("DFT", "f32[b,h,6,2]", i(4).reshape(()), opset=17, axis=2),
    c("DFT", "f32[b,h,6,2]", None, i(1).reshape(()), opset=20),
    c("DFT", "f32[b,h,6,2]", opset=20),
    c("STFT", "f32[b,20,1]", i(4).reshape(()), w(8), opset=17),
    c("STFT", "f32[b,20,1]", i(3).reshape(()), None, i(6).reshape(()), opset=17, onesided=0),
    c(
        "MelWeightMatrix",
        *(i(n).reshape(()) for n in (8, 16, 8192)),
        *(f(n).reshape(()) for n in (0, 4096)),
        opset=17,
    ),
    # normalisation
    c("LRN", IMAGE, size=3),
    c("LRN", IMAGE, size=5, alpha=0.3, beta=0.5, bias=2.0),
    c("LRN", "f32[b,4,1,h]", size=1, alpha=0.5),
    c("MeanVarianceNormalization", IMAGE),
    c("MeanVarianceNormalization", IMAGE, axes=[1, 3]),
    # com.microsoft
    c("com.microsoft::FusedConv", IMAGE, w(6, 4, 3, 3), w(6), activation="Relu"),
    c("com.microsoft::FusedConv", STATIC, w(6, 4, 1, 1), w(6), "f32[2,6,7,6]", activation="Relu"),
    c("com.microsoft::FusedConv", IMAGE, w(6, 4, 1, 1), activation="LeakyRelu", activation_params=[0.2]),
    c("com.microsoft::FusedConv", IMAGE, w(6, 4, 1, 1), activation="Clip", activation_params=[-0.5, 1.0]),
    c(
        "com.microsoft::FusedConv",
        IMAGE,
        w(6, 4, 1, 1),
        activation="HardSigmoid",
        activation_params=[0.3, 0.4],
    ),
]

GROUPS = (conv, grid_sample, pool, resize, spatial_norm, spectral)


def model_of(case: Case, tools: Any) -> tuple[Any, dict[str, str]]:
    names = [f"x{n}" for n in range(len(case.inputs))]
    given = dict(zip(names, case.inputs, strict=True))
    inputs = {n: spec for n, spec in given.items() if isinstance(spec, str)}
    constants = {n: a for n, a in given.items() if isinstance(a, np.ndarray)}
    outputs = [f"y{n}" for n in range(case.outputs)]
    domain, _, op = case.op.rpartition("::")
    node_inputs = ["" if a is None else n for n, a in given.items()]
    node = helper.make_node(op, node_inputs, outputs, name="node", domain=domain, **case.attrs)
    return tools.make_model([node], inputs, outputs, constants, case.opset), inputs


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator(case: Case, tmp_path: Path, tools: Any) -> None:
    model, inputs = model_of(case, tools)
    dynamic = any(not d.isdigit() for spec in inputs.values() for d in spec[4:-1].split(","))
    tools.check_model(model, inputs, tmp_path, sizes=SIZES if dynamic else SIZES[:1])


# --- com.microsoft, without kernels for this processor ------------------------------------------

NHWC = "f32[2,5,6,8]"


def check_same(case: Case, nodes: Sequence[Any], outputs: Sequence[str], folder: Path, tools: Any) -> None:
    """The model of `case` computes what `nodes` say, which read x0, x1, ... as well."""
    model, inputs = model_of(case, tools)
    constants = {f"x{n}": a for n, a in enumerate(case.inputs) if isinstance(a, np.ndarray)}
    plain = tools.make_model(nodes, inputs, outputs, constants, 21)
    program = tools.import_model(model, folder)
    arrays = {n: tools.input_array(spec, {}, np.random.default_rng(0)) for n, spec in inputs.items()}
    wanted = tools.run_onnxruntime(plain, arrays)
    got = evaluate(program.main, arrays)
    tools.assert_agree(dict(zip(wanted, got.values(), strict=True)), wanted)


def transposed(source: str, target: str, perm: list[int]) -> Any:
    return helper.make_node("Transpose", [source], [target], perm=perm)


@pytest.mark.parametrize("strides", [[1, 1], [2, 1]])
def test_nhwc_conv(strides: list[int], tmp_path: Path, tools: Any) -> None:
    attrs: dict[str, Any] = {"strides": strides, "pads": [1, 0, 1, 1]}
    case = Case("com.microsoft::NhwcConv", (NHWC, w(4, 3, 2, 8), w(4)), attrs)
    nodes = [
        transposed("x0", "x", [0, 3, 1, 2]),
        transposed("x1", "w", [0, 3, 1, 2]),
        helper.make_node("Conv", ["x", "w", "x2"], ["y"], **attrs),
        transposed("y", "last", [0, 2, 3, 1]),
    ]
    check_same(case, nodes, ["last"], tmp_path, tools)


@pytest.mark.parametrize("activation", [0, 1])
def test_group_norm(activation: int, tmp_path: Path, tools: Any) -> None:
    case = Case("com.microsoft::GroupNorm", (NHWC, w(8), w(8)), {"groups": 2, "activation": activation})
    check_same(case, group_norm_of("x0", activation), ["last"], tmp_path, tools)


@pytest.mark.parametrize("skip", [NHWC, "f32[2,8]", "f32[2,1,1,8]"])
def test_skip_group_norm(skip: str, tmp_path: Path, tools: Any) -> None:
    attrs = {"groups": 4, "activation": 0}
    case = Case("com.microsoft::SkipGroupNorm", (NHWC, w(8), w(8), skip, w(8)), attrs, outputs=2)
    shape = helper.make_node("Constant", [], ["shape"], value_ints=[2, -1, 6 if skip == NHWC else 1, 8])
    nodes = [
        shape,
        helper.make_node("Reshape", ["x3", "shape"], ["skip"]),
        helper.make_node("Add", ["x0", "skip"], ["half"]),
        helper.make_node("Add", ["half", "x4"], ["sum"]),
        *group_norm_of("sum", 0, 4),
    ]
    check_same(case, nodes, ["last", "sum"], tmp_path, tools)


def group_norm_of(source: str, activation: int, groups: int = 2) -> list[Any]:
    nodes = [
        transposed(source, "x", [0, 3, 1, 2]),
        helper.make_node("GroupNormalization", ["x", "x1", "x2"], ["y"], num_groups=groups),
        transposed("y", "last" if not activation else "z", [0, 2, 3, 1]),
    ]
    if activation:
        nodes += [helper.make_node("Sigmoid", ["z"], ["s"]), helper.make_node("Mul", ["z", "s"], ["last"])]
    return nodes


# --- refusals ------------------------------------------------------------------------------------

REFUSED = [
    (c("Conv", IMAGE, w(6, 3, 3, 3)), Code.SHAPE_MISMATCH, "the channels of"),
    (c("Conv", STATIC, w(6, 4, 9, 3)), Code.SHAPE_MISMATCH, "larger than what it slides over"),
    (c("Conv", IMAGE, w(6, 4, 3)), Code.SHAPE_MISMATCH, "a kernel"),
    (c("Conv", IMAGE, w(6, 4, 3, 3), pads=[1, 1]), Code.SHAPE_MISMATCH, "2 pads for 2 axes"),
    (c("Conv", IMAGE, w(6, 4, 3, 3), strides=[1, 0]), Code.SHAPE_MISMATCH, "strides"),
    (c("Conv", IMAGE, w(6, 4, 3, 3), group=4), Code.SHAPE_MISMATCH, "in 4 groups"),
    (c("Conv", IMAGE, w(6, 4, 3, 3), auto_pad="MAYBE"), Code.UNSUPPORTED_ATTRIBUTE, "auto_pad"),
    (c("Conv", IMAGE, w(6, 4, 3, 3), kernel_shape=[3, 2]), Code.SHAPE_MISMATCH, "kernel_shape"),
    (c("MaxPool", IMAGE), Code.INVALID_GRAPH, "without kernel_shape"),
    (
        c("Resize", IMAGE, None, f(1, 1, 0.5, 1), mode="linear", antialias=1),
        Code.UNSUPPORTED_ATTRIBUTE,
        "antialias",
    ),
    (c("Resize", STATIC, None, f(1, 1, 0.5, 1), mode="best"), Code.UNSUPPORTED_ATTRIBUTE, "mode='best'"),
    (c("Resize", STATIC, None, f(1, 0.5, 1)), Code.SHAPE_MISMATCH, "3 scales for 4 axes"),
    (c("Resize", STATIC, None, None, "i64[4]"), Code.DATA_DEPENDENT_SHAPE, "the new size depends on data"),
    (c("GridSample", IMAGE, "f32[b,5,3,3]", opset=20), Code.SHAPE_MISMATCH, "GridSample"),
]


@pytest.mark.parametrize(("case", "code", "text"), REFUSED, ids=[str(case) for case, _, _ in REFUSED])
def test_refusals(case: Case, code: Code, text: str, tmp_path: Path, tools: Any) -> None:
    (problem,) = tools.refused(model_of(case, tools)[0], tmp_path)
    assert problem.code is code and text in problem.message


def test_a_kernel_bounds_what_it_slides_over(tmp_path: Path, tools: Any) -> None:
    """The speech stem of wav2vec 2.0: sizes in their simplest form, and inputs too short are refused."""
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], strides=[5]),
        helper.make_node("Conv", ["a", "second"], ["y"], strides=[2]),
    ]
    constants = {"first": w(4, 1, 10), "second": w(4, 4, 3)}
    program = tools.import_model(tools.make_model(nodes, {"x": "f32[b,1,n]"}, ["y"], constants), tmp_path)
    assert str(program.main.outputs[0][1].t) == "f32[b,4,n//10-1]"
    assert program.bounds["n"] == (20, None)


def test_every_importer_is_tested() -> None:
    tested = {case.op for case in CASES} | {
        f"com.microsoft::{op}" for op in ("NhwcConv", "GroupNorm", "SkipGroupNorm")
    }
    assert {op for group in GROUPS for op in group.OPERATORS} == tested


@pytest.mark.parametrize("length", [6, 7])
def test_real_signals(length: int, tmp_path: Path, tools: Any) -> None:
    """A one-sided inverse, against NumPy: onnxruntime has none."""
    case = c("DFT", "f32[b,4,3,2]", i(length).reshape(()), opset=17, axis=1, onesided=1, inverse=1)
    model, _ = model_of(case, tools)
    program = tools.import_model(model, tmp_path)
    x = np.random.default_rng(0).standard_normal((2, 4, 3, 2)).astype(np.float32)
    (got,) = evaluate(program.main, {"x0": x}).values()
    wanted = np.fft.irfft(x[..., 0] + 1j * x[..., 1], length, axis=1)[..., None]
    np.testing.assert_allclose(got, wanted, 1e-5, 1e-5)
