"""The phase: what is said in integers and what stays, and that the numbers are those of the integers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from quantizable import CLASSES, DOWN, HEAD, INNER, UP, WIDTH, feed_forward, requests

from isthmus.errors import Code, ModelError
from isthmus.ir.encodings import Halves, Packed, Powers
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program
from isthmus.ir.printer import show
from isthmus.ir.store import dump
from isthmus.ir.types import Array, DType
from isthmus.ir.verify import check
from isthmus.ops.integer import block_linear, integer_linear
from isthmus.ops.nn import linear
from isthmus.ops.text import load, parse
from isthmus.passes import pipeline
from isthmus.passes.quantize.bf16 import FLOATS
from isthmus.passes.quantize.layers import FIRST, LAST, layers_of
from isthmus.passes.quantize.options import SCHEMES, Activations, Floats, Quantization, Scheme
from isthmus.passes.quantize.phase import Quantize
from isthmus.passes.quantize.recipe import Recipe, make_recipe
from isthmus.passes.quantize.statistics import Observed
from isthmus.target import Target
from isthmus.targets import x86_64

TARGET: Target = x86_64.TARGETS[0]


def statistics(program: Program) -> dict[str, Observed]:
    """Of all layers, by the evaluator."""
    seen = {}
    for layer in layers_of(program.main):
        graph = replace(program.main, outputs=(("rows", layer.rows),))
        seen[layer.name] = Observed(layer.matrix.t.static_shape[0])
        for request in requests():
            seen[layer.name].add(evaluate(graph, request)["rows"], True)
    return seen


def quantized(program: Program, quantization: Quantization) -> Program:
    recipe = make_recipe(program, quantization, statistics(program))
    return Quantize(recipe)(program, TARGET, lambda _: None)


def answer(program: Program) -> Array:
    return np.concatenate([evaluate(program.main, request)["scores"] for request in requests()])


def distance(program: Program, wanted: Array) -> float:
    """Of all answers, relative to their size."""
    return float(np.linalg.norm(answer(program) - wanted) / np.linalg.norm(wanted))


PATCHES = """
program patches {{
  dim n = 1..
  weight @w : f32[4,4] = [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,{number}]
  weight @b : f32[4] = [0,0,0,1]
  graph main(%x: f32[n,4]) {{
    %0 = add(%x, %x) : f32[n,4]
    %1 = linear(%0, @w, @b) activation="none" : f32[n,4] at /patches
    %2 = linear(%1, @w, @b) activation="none" : f32[n,4] at /next
    %3 = layer_norm(%2, @b, @b) epsilon=1e-5 : f32[n,4]
    return y=%3
  }}
}}
"""

# A step of 8 bits is 1/254 of the range of a column, one of 4 bits 1/14 of that of a group.
CLOSE = {8: 0.02, 4: 0.2}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("name", [n for n, s in SCHEMES.items() if s is not None and s.group in (0, 32, 64)])
def test_every_scheme_means_nearly_the_same(name: str, symmetric: bool) -> None:
    scheme = SCHEMES[name]
    assert scheme is not None
    scheme = Scheme(scheme.bits, scheme.group, scheme.activations, symmetric)
    program = feed_forward()
    made = quantized(program, Quantization(scheme, protect=False))
    check(made, "quantize")
    off = distance(made, answer(program))
    assert 0 < off < CLOSE[scheme.bits]


def test_the_form() -> None:
    text = show(quantized(feed_forward(), Quantization("int8")))
    assert "row_scale(" in text and "quantize(" in text and f"[{INNER},{WIDTH}]" in text
    static = show(quantized(feed_forward(), Quantization("int8-static")))
    assert "row_scale(" not in static and "dtype=u8" in static
    groups = show(quantized(feed_forward(), Quantization("int4-g64")))
    assert f"i8[2,64,{WIDTH}] as packed(4)" in groups and f"f32[2,1,{WIDTH}] as halves" in groups


def test_heads_and_what_takes_inputs_are_kept_unless_named() -> None:
    program = feed_forward()
    assert [(layer.name, layer.fragile) for layer in layers_of(program.main)] == [
        (UP, ""),
        (DOWN, ""),
        (HEAD, LAST),
    ]
    assert make_recipe(program, Quantization()).kept == {HEAD: LAST}
    assert not make_recipe(program, Quantization(protect=False)).kept
    assert HEAD in make_recipe(program, Quantization(layers={"/head/*": "int8"})).layers
    mixed = make_recipe(program, Quantization(layers={"*": "f32", UP: "int4"}))
    assert set(mixed.layers) == {UP} and mixed.layers[UP].scheme == SCHEMES["int4"]


def test_products_with_inputs_are_kept() -> None:
    first, second = layers_of(parse(PATCHES.format(number="1")).main)
    assert (first.fragile, second.fragile) == (FIRST, "")


def test_4_bits_are_two_to_a_byte() -> None:
    made = quantized(feed_forward(), Quantization("int4"))
    packed = [w for w in made.main.weights() if isinstance(w.type.encoding, Packed)]
    assert [w.type.nbytes for w in packed] == [WIDTH * INNER // 2] * 2
    assert all(w.stored().nbytes == w.type.nbytes for w in packed)


@pytest.mark.parametrize("floats", ["bf16", "f16"])
@pytest.mark.parametrize("name", ["int4", "int8-g32", "mxfp8", "int8-weights"])
def test_rows_of_16_bits_beside_quantized_matrices(name: str, floats: Floats) -> None:
    """Rounded as the evaluator says, read as they are by products with blocks, and what is kept is narrow."""
    dtype = {"bf16": DType.BF16, "f16": DType.F16}[floats]
    passes = (Quantize(recipe_of(name)), *FLOATS[floats])
    made = feed_forward()
    for step in passes:
        made = step(made, TARGET, lambda _: None)
    check(made, "quantize")
    assert FLOATS[floats][-1](made, TARGET, lambda _: None) is made
    (head,) = (v for v in made.main.nodes() if v.loc == HEAD and v.op is linear)
    assert head.args[1].dtype is dtype
    exact, wanted = answer(Quantize(recipe_of(name))(feed_forward(), TARGET, lambda _: None)), answer(made)
    # 2^-9 and 2^-12 for each rounding; f16 leaves the rows of the head alone.
    assert 2e-5 < np.abs(wanted - exact).max() / np.abs(exact).max() < (0.01 if floats == "bf16" else 1e-3)
    legal = pipeline.run(feed_forward(), TARGET, quantize=passes, verify="each")
    np.testing.assert_allclose(answer(legal), wanted, rtol=0, atol=4e-3 * np.abs(wanted).max())
    products = [v for v in legal.main.nodes() if v.op is block_linear]
    assert [v.args[0].dtype for v in products] == [dtype] * (0 if name == "int8-weights" else 2)


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4"])
def test_floats_of_4_bits_stay_so_to_the_end(name: str) -> None:
    made = quantized(feed_forward(), Quantization(name))
    legal = pipeline.run(feed_forward(), TARGET, quantize=(Quantize(recipe_of(name)),))
    stored = [w for graph in (made, legal) for w in graph.main.weights() if "e2m1" in str(w.type.encoding)]
    assert len(stored) == 4 and all(w.stored().nbytes == WIDTH * INNER // 2 for w in stored)
    scales = [w for w in legal.main.weights() if w.type.dtype in (DType.F16, DType.F8E8M0)]
    wanted = DType.F8E8M0 if name == "mxfp4" else DType.F16
    assert [w.type.dtype for w in scales] == [wanted] * 2


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("fp8-e4m3", DType.F8E4M3), ("fp8-e5m2", DType.F8E5M2), ("mxfp8", DType.F8E4M3)],
)
def test_floats_of_8_bits_stay_so_to_the_end(name: str, dtype: DType) -> None:
    # The narrower matrix has columns of fewer numbers than the usual group.
    scheme = replace(SCHEMES[name], group=32)
    made = quantized(feed_forward(), Quantization(scheme))
    recipe = make_recipe(feed_forward(), Quantization(scheme))
    legal = pipeline.run(feed_forward(), TARGET, quantize=(Quantize(recipe),))
    for graph in (made, legal):
        stored = [w for w in graph.main.weights() if w.type.dtype is dtype]
        assert [w.stored().nbytes for w in stored] == [WIDTH * INNER] * 2
    assert sum(v.op.name == "block_linear" for v in legal.main.nodes()) == 2
    scales = [w for w in made.main.weights() if isinstance(w.type.encoding, Halves | Powers)]
    each = 1 if name == "mxfp8" else 2
    assert [w.stored().nbytes for w in scales] == [each * WIDTH * INNER // 32] * 2


def recipe_of(name: str) -> Recipe:
    return make_recipe(feed_forward(), Quantization(name))


@pytest.mark.parametrize("name", ["int4", "mxfp8", "mxfp4", "nvfp4"])
def test_dumps_keep_how_integers_are_stored(name: str, tmp_path: Path) -> None:
    made = quantized(feed_forward(), Quantization(name))
    again = load(dump(made, tmp_path, "3-quantize"))
    assert show(again) == show(made)
    np.testing.assert_array_equal(answer(again), answer(made))


def test_a_matrix_in_integers_runs_through_the_whole_pipeline() -> None:
    program = feed_forward()
    fp8 = (replace(SCHEMES[name], group=group) for name in ("fp8-e4m3", "fp8-e5m2") for group in (64, 0))
    for scheme in ("int8", "int8-static", "int4", "int8-g64", "mxfp8", "mxfp4", "nvfp4", *fp8):
        recipe = make_recipe(program, Quantization(scheme), statistics(program))
        made = pipeline.run(program, TARGET, quantize=(Quantize(recipe),), verify="each")
        meant = Quantize(recipe)(program, TARGET, lambda _: None)
        np.testing.assert_allclose(answer(made), answer(meant), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("activations", ["dynamic", "static"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_rows_in_integers_are_multiplied_as_integers(activations: Activations, symmetric: bool) -> None:
    program = feed_forward()
    asked = Quantization(Scheme(activations=activations, symmetric=symmetric))
    made = pipeline.run(
        program, TARGET, quantize=(Quantize(make_recipe(program, asked, statistics(program))),)
    )
    assert [node.op for node in made.main.nodes()].count(integer_linear) == 2


def test_smoothing_goes_into_the_norm_or_becomes_a_product() -> None:
    program = feed_forward(outlier=60.0)
    plain, smooth = (quantized(program, Quantization("int8", method="round", smooth=s)) for s in (0.0, 0.5))
    wanted = answer(program)
    assert distance(smooth, wanted) < 0.7 * distance(plain, wanted)
    text = show(smooth)
    assert "norm.scale" in text and "factor" in text  # the first layer's rows, and the second's


def test_methods_with_data() -> None:
    program = feed_forward(outlier=8.0)
    wanted = answer(program)
    off = {
        method: distance(quantized(program, Quantization("int4", method=method)), wanted)  # type: ignore[arg-type]
        for method in ("round", "gptq", "awq")
    }
    # AWQ finds little to gain in so small a model; that it is closer where there is stands in test_methods.
    assert off["gptq"] < 0.8 * off["round"] and off["awq"] < 1.3 * off["round"], off


def test_a_corrected_bias_takes_the_mean_error_out() -> None:
    program = feed_forward("relu")
    wanted = answer(program).reshape(-1, CLASSES).mean(0)
    means = [
        answer(quantized(program, Quantization("int4-g64", method="round", correct_bias=c)))
        .reshape(-1, CLASSES)
        .mean(0)
        for c in (False, True)
    ]
    off = [float(np.linalg.norm(mean - wanted)) for mean in means]
    assert off[1] < 0.7 * off[0]


def test_what_cannot_be_is_said_all_at_once() -> None:
    program = feed_forward()
    with pytest.raises(ModelError, match="64 elements do not divide into groups of 128") as caught:
        make_recipe(program, Quantization("int8-g128", layers={"nothing*": "f32"}))
    assert [p.code for p in caught.value.problems] == [Code.BAD_OPTION, Code.BAD_GROUP]
    assert caught.value.problems[1].where == UP
    with pytest.raises(ModelError, match="static activations cannot be chosen without data") as caught:
        make_recipe(program, Quantization("int8-static"))
    assert caught.value.problems[0].code is Code.NO_CALIBRATION


def test_matrices_with_nan_are_refused() -> None:
    with pytest.raises(ModelError, match="NaN or infinity has no scale") as caught:
        make_recipe(parse(PATCHES.format(number="nan")), Quantization(protect=False))
    assert caught.value.problems[0].where == "/patches"
