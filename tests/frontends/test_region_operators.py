"""Det, DeformConv and pooling over regions against onnxruntime; and refusals, with reason and remedy."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from isthmus.errors import Code, ModelError
from isthmus.frontends.onnx.operators import deform_conv, determinant, refused, regions
from isthmus.ir.evaluate import evaluate

RNG = np.random.default_rng(2)
SIZES = ({"b": 2, "h": 9, "w": 8}, {"b": 1, "h": 7, "w": 6})


def w(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


# Within the image, partly outside, empty, and far away.
BOXES = np.array([[0, 0, 7, 6], [-2, 1, 3, 3], [2.4, 2.5, 2.5, 2.6], [20, 20, 30, 30], [5, 4, 1, 2]], "f")
IMAGES = np.array([0, 1, 1, 0, 1])
NUMBERED = np.concatenate([IMAGES[:, None].astype("f"), BOXES], 1)
MATRICES = np.stack([w(4, 4), np.zeros((4, 4), "f"), np.eye(4, dtype="f")[[1, 0, 3, 2]], w(4, 4) * 100])
IMAGE, STATIC = "f32[b,4,h,w]", "f32[2,4,9,8]"
ZEROS = np.zeros((2, 18, 9, 8), "f")


@dataclass(frozen=True)
class Case:
    op: str
    inputs: tuple[Any, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    opset: int = 19

    def __str__(self) -> str:
        return f"{self.op}-{self.opset}({','.join(f'{k}={v}' for k, v in self.attrs.items())})"


def c(op: str, *inputs: Any, opset: int = 19, **attrs: Any) -> Case:
    return Case(op, inputs, attrs, opset)


CASES = [
    c("Det", "f32[b,h,3,3]"),
    c("Det", "f32[1,1]"),
    c("Det", MATRICES),
    c("DeformConv", STATIC, w(6, 4, 3, 3), w(2, 18, 7, 6)),
    c("DeformConv", STATIC, w(6, 2, 3, 3), w(2, 18, 9, 8) * 3, w(6), pads=[1, 1, 1, 1], group=2),
    c("DeformConv", STATIC, w(6, 4, 2, 2), w(2, 16, 4, 4), w(6), w(2, 8, 4, 4), offset_group=2,
      strides=[2, 2], dilations=[1, 2], pads=[0, 1, 0, 1]),
    c("DeformConv", STATIC, w(6, 4, 3, 3), ZEROS, pads=[1, 1, 1, 1]),
    c("RoiAlign", STATIC, BOXES, IMAGES, output_height=3, output_width=2, sampling_ratio=2),
    c("RoiAlign", STATIC, BOXES, IMAGES, output_height=2, output_width=2, sampling_ratio=3,
      spatial_scale=0.5, coordinate_transformation_mode="output_half_pixel"),
    c("RoiAlign", STATIC, BOXES, IMAGES, output_height=2, output_width=3, sampling_ratio=2, opset=10),
    c("MaxRoiPool", STATIC, NUMBERED, pooled_shape=[3, 2]),
    c("MaxRoiPool", STATIC, NUMBERED, pooled_shape=[2, 5], spatial_scale=0.4),
    c("MaxRoiPool", IMAGE, NUMBERED[IMAGES == 0], pooled_shape=[2, 2]),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_operator(case: Case, tmp_path: Path, tools: Any) -> None:
    names = [f"x{n}" for n in range(len(case.inputs))]
    given = dict(zip(names, case.inputs, strict=True))
    inputs = {n: spec for n, spec in given.items() if isinstance(spec, str)}
    constants = {n: a for n, a in given.items() if isinstance(a, np.ndarray)}
    if not inputs:
        inputs = {n: f"f32[{','.join(map(str, a.shape))}]" for n, a in constants.items()}
        model = tools.make_model([helper.make_node(case.op, names, ["y"], **case.attrs)], inputs, ["y"])
        model.opset_import[0].version = case.opset
        program = tools.import_model(model, tmp_path)
        tools.assert_agree(evaluate(program.main, constants), tools.run_onnxruntime(model, constants))
        return
    node = helper.make_node(case.op, names, ["y"], name="node", **case.attrs)
    model = tools.make_model([node], inputs, ["y"], constants, opset=case.opset)
    tools.check_model(model, inputs, tmp_path, sizes=SIZES)


def test_every_importer_is_tested() -> None:
    wanted = {op for group in (deform_conv, determinant, regions) for op in group.OPERATORS}
    assert wanted <= {case.op for case in CASES}


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("in_order", [0, 1])
def test_unique_of_what_is_known(axis: int | None, in_order: int, tmp_path: Path, tools: Any) -> None:
    x = RNG.integers(0, 3, (6, 2)).astype(np.int64)
    attrs = {"sorted": in_order, **({} if axis is None else {"axis": axis})}
    names = ["y", "first", "inverse", "counts"]
    node = helper.make_node("Unique", ["x"], names, **attrs)
    model = tools.make_model([node], {"unused": "f32[b]"}, names, {"x": x})
    tools.check_model(model, {"unused": "f32[b]"}, tmp_path, sizes=({"b": 2},))


REFUSED = {
    "ImageDecoder": ("u8[n]",),
    "Multinomial": ("f32[2,3]",),
    "NonMaxSuppression": ("f32[1,6,4]", "f32[1,2,6]"),
    "RandomNormal": (),
    "RandomNormalLike": ("f32[2]",),
    "RandomUniform": (),
    "RandomUniformLike": ("f32[2]",),
    "Bernoulli": ("f32[2]",),
    "RegexFullMatch": ("f32[2]",),
    "StringConcat": ("f32[2]", "f32[2]"),
    "StringNormalizer": ("f32[2]",),
    "StringSplit": ("f32[2]",),
    "Unique": ("f32[2]",),
}


@pytest.mark.parametrize("op", REFUSED)
def test_refused_with_a_reason_and_a_remedy(op: str, tmp_path: Path, tools: Any) -> None:
    inputs = {f"x{n}": spec for n, spec in enumerate(REFUSED[op])}
    attrs = {"shape": [2]} if op in ("RandomNormal", "RandomUniform") else {}
    model = tools.make_model([helper.make_node(op, list(inputs), ["y"], **attrs)], inputs, ["y"])
    with pytest.raises(ModelError) as caught:
        tools.import_model(model, tmp_path)
    (problem,) = caught.value.problems
    assert problem.code in (Code.UNSUPPORTED_OPERATOR, Code.DATA_DEPENDENT_SHAPE)
    assert problem.hint


def test_every_refusal_is_tested() -> None:
    assert refused.OPERATORS.keys() <= REFUSED.keys()


def test_as_many_samples_as_data_says(tmp_path: Path, tools: Any) -> None:
    node = helper.make_node("RoiAlign", ["x", "boxes", "numbers"], ["y"], output_height=2)
    constants = {"boxes": BOXES, "numbers": IMAGES}
    model = tools.make_model([node], {"x": STATIC}, ["y"], constants)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1, "f"), "nobody"))
    with pytest.raises(ModelError, match="sampling_ratio"):
        tools.import_model(model, tmp_path)
