"""The pass behind `--precision f16`: which matrices are halved, and what that means."""

from __future__ import annotations

import numpy as np

from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program
from isthmus.ir.parser import parse_program
from isthmus.ir.printer import show
from isthmus.ops import OPS
from isthmus.passes import pipeline
from isthmus.passes.quantize.bf16 import FLOATS
from isthmus.passes.quantize.f16 import HalveMatrices
from isthmus.target import Target

MODEL = """
weight @table : f32[4,8] = TABLE
weight @w : f32[8,8] = SQUARE
weight @wild : f32[8,8] = WILD
weight @scale : f32[4] = [1.0, 2.0, 3.0, 4.0]
graph main(%ids: i64[s], %bias: f32[8]) {
  %0 = gather(@table, %ids) axis=0 : f32[s,8]
  %1 = linear(%0, @w, %bias, %0) activation="relu" : f32[s,8]
  %2 = linear(%1, @wild, %bias) : f32[s,8]
  %3 = gather(@scale, %ids) axis=0 : f32[s]
  return y=%1, z=%2, t=%3
}
"""


def model() -> Program:
    numbers = np.random.default_rng(0).standard_normal(64).round(2)

    def text(count: int, first: float) -> str:
        return f"[{', '.join(map(str, [first, *numbers[1:count]]))}]"

    texts = {"TABLE": text(32, 0.5), "SQUARE": text(64, 0.25), "WILD": text(64, 65536.0)}
    whole = MODEL
    for name, numbers_text in texts.items():
        whole = whole.replace(name, numbers_text)
    return parse_program(whole, OPS)


def halved() -> Program:
    return HalveMatrices()(model(), None, lambda _: None)  # type: ignore[arg-type]


def test_matrices_are_halved_and_nothing_else() -> None:
    text = show(halved())
    assert text.count(": f16[8,8]") == 1, "that of the first product; the other has a number beyond f16"
    assert ": f16[4,8]" in text and "f32[4,8]" not in text
    assert text.count("cast(") == 1, "of the rows that were gathered"
    assert "f32[4]" in text, "vectors have few bytes to save"


def test_products_are_those_of_the_rounded_matrices() -> None:
    inputs = {"ids": np.array([3, 0, 3]), "bias": np.linspace(-1, 1, 8, dtype=np.float32)}
    before, after = (evaluate(p.main, inputs) for p in (model(), halved()))
    for name in ("y", "z", "t"):
        assert after[name].dtype == np.float32
        np.testing.assert_allclose(
            after[name], before[name], rtol=2e-2, atol=2e-3 * np.abs(before[name]).max()
        )
    assert (before["y"] != after["y"]).any()
    np.testing.assert_array_equal(before["t"], after["t"])


def test_it_is_what_the_name_says_and_done_once(target: Target) -> None:
    once = pipeline.run(model(), target, start="quantize", stop_after="quantize", quantize=FLOATS["f16"])
    assert show(once) == show(halved())
    assert HalveMatrices()(once, target, lambda _: None) is once
