"""Options: what can be asked, by name or in detail."""

from __future__ import annotations

import pytest

import isthmus
from isthmus.errors import Code, ModelError
from isthmus.passes.quantize.bf16 import FLOATS
from isthmus.passes.quantize.options import SCHEMES, WITH_FLOATS, Quantization, Scheme, quantization_of


def test_the_last_pattern_that_fits_wins() -> None:
    asked = Quantization("int8", layers={"*/down": "int4", "/0/*": "f32", "/0/down": Scheme(4, 64)})
    assert asked.wanted("/1/up") == SCHEMES["int8"]
    assert asked.wanted("/1/down") == SCHEMES["int4"]
    assert asked.wanted("/0/up") is None
    assert asked.wanted("/0/down") == Scheme(4, 64)
    assert asked.names("/0/up") and not asked.names("/1/up")


def test_what_needs_data() -> None:
    assert Quantization("int8").needs_data is None
    assert Quantization("int8-static").needs_data == "static activations"
    assert Quantization("int4", layers={"*": "int8-static"}).needs_data == "static activations"
    assert Quantization("int4", method="gptq").needs_data == "GPTQ"
    assert Quantization("int8", smooth=0.5).needs_data == "SmoothQuant"
    assert Quantization("int8", correct_bias=True).needs_data == "bias correction"


def test_what_is_written_into_bundles() -> None:
    assert str(Quantization("int8")) == "int8"
    asked = Quantization("int4", {"*/q": "f32"}, method="gptq", smooth=0.5, correct_bias=True, protect=False)
    assert str(asked) == "int4 */q:f32 gptq smooth:0.5 correct-bias unprotected"
    assert str(Quantization(Scheme(4, 64, "dynamic", symmetric=False))) == "w4-g64-adynamic-asymmetric"
    assert str(Quantization(Scheme(4, 32, format="mxfp4"))) == "mxfp4-afloat"
    assert str(Quantization(Scheme(8, 64, format="fp8-e4m3"))) == "fp8-e4m3-g64-afloat"


def test_floats_have_their_bits_and_no_zero_points() -> None:
    for wrong in (Scheme(4, 32, format="mxfp8"), Scheme(8, 32, symmetric=False, format="fp8-e4m3")):
        with pytest.raises(ModelError, match="has 8 bits and no zero points"):
            Quantization(wrong)


@pytest.mark.parametrize("name", WITH_FLOATS)
def test_floats_beside_quantized_matrices(name: str) -> None:
    scheme, floats = name.split("+")
    asked = quantization_of(name)
    assert asked == Quantization(scheme, floats=floats)  # type: ignore[arg-type]
    assert str(asked) == name
    (*_, last) = with_floats = FLOATS[floats]
    assert len(with_floats) == (2 if floats == "f16" else 1) and str(last.dtype) == floats  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("scheme", "layers", "floats", "message"),
    [
        ("int8", {}, "bf16", "floats='bf16' beside rows that are integers .int8"),
        ("int4", {"*/q": "int8-static"}, "f16", "rows that are integers .int8-static"),
        ("f32", {}, "bf16", "beside no quantized matrix"),
        ("int4", {}, "f8", "floats='f8'"),
    ],
)
def test_floats_that_mean_nothing(scheme: str, layers: dict[str, str], floats: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        Quantization(scheme, layers, floats=floats)  # type: ignore[arg-type]
    assert {problem.code for problem in caught.value.problems} == {Code.BAD_OPTION}


def test_wrong_options_are_all_told() -> None:
    with pytest.raises(ModelError) as caught:
        isthmus.Quantization("int9", method="magic", observer="luck", smooth=2.0, layers={"*": Scheme(3)})  # type: ignore[arg-type]
    text = str(caught.value)
    for part in ("'int9'", "3 bits", "magic", "luck", "smooth=2"):
        assert part in text
    assert len(caught.value.problems) == 5
