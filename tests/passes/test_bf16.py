"""The pass behind `--precision bf16`: what is rounded where, and what that means."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np

from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program
from isthmus.ir.parser import parse_program
from isthmus.ir.printer import show
from isthmus.ops import OPS
from isthmus.passes import pipeline
from isthmus.passes.legalize.mixed import WidenAttention
from isthmus.passes.quantize.bf16 import FLOATS, NarrowProducts
from isthmus.target import Target

# An encoder's layer without its feed-forward part: the norm's result is read by a product and as a residual.
LAYER = """
weight @w : f32[8,24] = WIDE
weight @wo : f32[8,8] = SQUARE
graph main(%x: f32[b,s,8], %scale: f32[8], %bias: f32[8], %wide: f32[24]) {
  %0 = layer_norm(%x, %scale, %bias) epsilon=1e-5 : f32[b,s,8]
  %1 = linear(%0, @w, %wide) : f32[b,s,24]
  %2 = slice(%1) starts=[0,0,0] sizes=[b,s,8] steps=[1,1,1] : f32[b,s,8]
  %3 = slice(%1) starts=[0,0,8] sizes=[b,s,8] steps=[1,1,1] : f32[b,s,8]
  %4 = slice(%1) starts=[0,0,16] sizes=[b,s,8] steps=[1,1,1] : f32[b,s,8]
  %5 = reshape(%2) shape=[b,1,s,8] : f32[b,1,s,8]
  %6 = reshape(%3) shape=[b,1,s,8] : f32[b,1,s,8]
  %7 = reshape(%4) shape=[b,1,s,8] : f32[b,1,s,8]
  %8 = attention(%5, %6, %7) scale=0.35 : f32[b,1,s,8]
  %9 = reshape(%8) shape=[b,s,8] : f32[b,s,8]
  %10 = linear(%9, @wo, %bias, %0) : f32[b,s,8]
  return y=%10
}
"""


def layer() -> Program:
    numbers = np.random.default_rng(0).standard_normal(256).round(2)

    def text(count: int) -> str:
        return f"[{', '.join(map(str, numbers[:count]))}]"

    return parse_program(LAYER.replace("WIDE", text(192)).replace("SQUARE", text(64)), OPS)


def narrowed() -> Program:
    program = layer()
    return NarrowProducts()(program, None, lambda _: None)  # type: ignore[arg-type]


def test_rounding_goes_to_whoever_makes_the_number() -> None:
    text = show(narrowed())
    assert text.count("rounded=true") == 1, "the wide product alone: the norm is a residual, too"
    assert text.count("mixed=true") == 1
    assert text.count("cast(") == 1 and "dtype=bf16" in text, "one rounded copy of the norm"
    assert "bf16[8,24]" in text and "bf16[8,8]" in text, "matrices are rounded when they are written out"


def test_the_result_stays_near() -> None:
    random = np.random.default_rng(1)
    inputs = {
        "x": random.standard_normal((2, 5, 8)).astype(np.float32),
        "scale": np.ones(8, np.float32),
        "bias": np.zeros(8, np.float32),
        "wide": np.zeros(24, np.float32),
    }
    before, after = (evaluate(p.main, inputs)["y"] for p in (layer(), narrowed()))
    assert after.dtype == np.float32
    assert 0 < np.abs(before - after).max() < 0.02 * np.abs(before).max()


# A decoder's step: keys are kept in f32 for the next one, values are a part of what the model is given.
STEP = """
graph main(%q: f32[1,2,s,8], %new: f32[1,s,2,8], %past: f32[1,2,p,8], %values: f32[1,p+s,2,8]) {
  %0 = transpose(%new) perm=[0,2,1,3] : f32[1,2,s,8]
  %1 = concat(%past, %0) axis=2 : f32[1,2,p+s,8]
  %2 = transpose(%values) perm=[0,2,1,3] : f32[1,2,p+s,8]
  %3 = mul(%q, %q) : f32[1,2,s,8]
  %4 = attention(%3, %1, %2) scale=0.35 causal=true : f32[1,2,s,8]
  return y=%4KEPT
}
"""


def step(kept: bool) -> Program:
    program = parse_program(STEP.replace("KEPT", ", keys=%1" if kept else ""), OPS)
    return NarrowProducts()(program, None, lambda _: None)  # type: ignore[arg-type]


def test_a_cache_in_f32_is_attended_to_as_it_is(target: Target) -> None:
    instruction = replace(target, tiles=None)
    made = WidenAttention()(step(kept=True), instruction, lambda _: None)
    text = show(made)
    assert 'rounds="bf16"' in text and "mixed=true" not in text
    assert text.count("cast(") == 2, "the result to bf16, as mixed attention gives it, and back"
    random = np.random.default_rng(3)
    shapes = {"q": (1, 2, 3, 8), "new": (1, 3, 2, 8), "past": (1, 2, 5, 8), "values": (1, 8, 2, 8)}
    inputs = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    before, after = (evaluate(p.main, inputs)["y"] for p in (step(kept=True), made))
    np.testing.assert_allclose(after, before, atol=0.02)


def test_what_is_rounded_where_it_is_made_stays_so(target: Target) -> None:
    instruction = replace(target, tiles=None)
    once = step(kept=False)
    assert WidenAttention()(once, instruction, lambda _: None) is once, "nobody else wants the keys"
    kept = step(kept=True)
    assert target.tiles is None or WidenAttention()(kept, target, lambda _: None) is kept


def test_it_is_what_the_name_says_and_done_once(target: Target) -> None:
    once = pipeline.run(layer(), target, start="quantize", stop_after="quantize", quantize=FLOATS["bf16"])
    assert show(once) == show(narrowed())
    assert NarrowProducts()(once, target, lambda _: None) is once


def test_chips_that_cannot_multiply_bf16_attend_in_f32(target: Target) -> None:
    plain = replace(target, tiles=None, instructions=())
    wide = WidenAttention()(narrowed(), plain, lambda _: None)
    assert "mixed=true" not in show(wide)
    random = np.random.default_rng(2)
    inputs = {
        "x": random.standard_normal((1, 4, 8)).astype(np.float32),
        "scale": np.ones(8, np.float32),
        "bias": np.zeros(8, np.float32),
        "wide": np.zeros(24, np.float32),
    }
    mixed, alone = (evaluate(p.main, inputs)["y"] for p in (narrowed(), wide))
    unit = float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps)
    np.testing.assert_allclose(alone, mixed, atol=8 * unit, rtol=4 * unit)
