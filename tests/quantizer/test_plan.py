"""Quantizing from end to end: what a model file becomes, with and without data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from layer_models import WIDTH, layer_model, save

import isthmus
from isthmus.errors import Code, ModelError
from isthmus.passes.quantize.options import Floats
from isthmus.quantizer.plan import asked, split

Request = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(layer_model(), tmp_path_factory.mktemp("model"))


def given(count: int = 8) -> list[Request]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((2, 5, WIDTH)).astype(np.float32)} for _ in range(count)]


EVERY_LAYER = isthmus.Quantization("int8", protect=False)


def answers(model: Path, out: Path, **options: object) -> np.ndarray:
    bundle = isthmus.compile(model, out=out, **options)  # type: ignore[arg-type]
    with isthmus.load(bundle.path) as session:
        return np.concatenate([session.run(request)["y"] for request in given()])


@pytest.mark.parametrize(
    "asked",
    [
        isthmus.Quantization("int8", protect=False),
        isthmus.Quantization("int8-static", protect=False),
        isthmus.Quantization("int8-static", protect=False, smooth=0, observer="percentile"),
        isthmus.Quantization(isthmus.Scheme(4, 16), protect=False, method="gptq", correct_bias=True),
    ],
    ids=str,
)
def test_bundles_answer_nearly_as_the_model(model: Path, tmp_path: Path, asked: isthmus.Quantization) -> None:
    exact = answers(model, tmp_path / "f32")
    found = answers(model, tmp_path / "low", precision=asked, calibration=given())
    off = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    assert 1e-4 < off < (0.02 if "int8" in str(asked) else 0.15)


@pytest.mark.parametrize("floats", ["bf16", "f16"])
def test_floats_of_16_bits_beside_few(model: Path, tmp_path: Path, floats: Floats) -> None:
    scheme = isthmus.Scheme(4, 16)
    few, both = (
        answers(model, tmp_path / f, precision=isthmus.Quantization(scheme, protect=False, floats=f))
        for f in ("f32", floats)
    )
    assert 1e-5 < np.linalg.norm(both - few) / np.linalg.norm(few) < 0.01


def test_floats_and_a_budget_are_refused() -> None:
    asked("int4+bf16")
    with pytest.raises(ModelError, match=r"int4\+bf16 is the precision of all layers"):
        asked("int4+bf16", budget=isthmus.Budget(0.01))


def test_a_bundle_says_what_it_computes_in(model: Path, tmp_path: Path) -> None:
    bundle = isthmus.compile(model, out=tmp_path, precision="int8")
    assert bundle.manifest.precision == "int8"
    assert "quantize[quantize-linear{recipe=int8}]" in bundle.manifest.pipeline
    report = json.loads((bundle.path / "report.json").read_text())
    assert report["rewrites"]["quantize-linear"] == 1


def test_the_same_bytes_again(model: Path, tmp_path: Path) -> None:
    made = [
        isthmus.compile(model, out=tmp_path / name, precision="int8-static", calibration=given())
        for name in ("a", "b")
    ]
    assert made[0].manifest.dumps() == made[1].manifest.dumps()


def test_static_without_data_is_refused_before_anything_is_done(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        isthmus.compile(model, out=tmp_path / "dist", precision="int8-static")
    assert caught.value.problems[0].code is Code.NO_CALIBRATION
    assert not (tmp_path / "dist").exists()


def test_data_that_turns_into_nan_inside_names_the_layer(model: Path, tmp_path: Path) -> None:
    huge = [{"x": np.full((1, 1, WIDTH), 3e38, np.float32)}, *given(1)]
    with pytest.raises(ModelError, match="into this layer") as caught:
        isthmus.compile(model, out=tmp_path, precision="int8-static", calibration=huge)
    assert caught.value.problems[0].where == "/down"


def test_every_fourth_request_is_held_out() -> None:
    used, held = split(given(9))
    assert (len(used), len(held)) == (7, 2)
    used, held = split(given(2))
    assert len(used) == len(held) == 2
