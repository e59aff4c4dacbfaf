"""Cross-layer equalisation against what its paper says it does, and that the model stays the same."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from quantizable import DOWN, HEAD, UP, feed_forward, requests

from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program, Value, constant
from isthmus.ir.types import Array
from isthmus.ir.verify import check
from isthmus.ops.text import parse
from isthmus.passes.constants import array_of, name_of
from isthmus.passes.quantize.equalize import Equalize, factors
from isthmus.passes.quantize.layers import products
from isthmus.passes.quantize.options import Quantization
from isthmus.passes.quantize.phase import Quantize
from isthmus.passes.quantize.recipe import make_recipe
from isthmus.passes.steps import mapped
from isthmus.targets import x86_64

TARGET = x86_64.TARGETS[0]
RNG = np.random.default_rng(5)

CHAIN = """
program chain {
  dim n = 1..
  weight @a : f32[2,2] = [64,1,2,0.5]
  weight @b : f32[2,2] = [1,2,32,4]
  weight @c : f32[2,2] = [0.125,3,16,1]
  weight @z : f32[2] = [1,-1]
  graph main(%x: f32[n,2]) {
    %0 = linear(%x, @a, @z) activation="relu" : f32[n,2] at /a
    %1 = linear(%0, @b, @z) activation="none" : f32[n,2] at /b
    %2 = linear(%1, @c, @z) activation="relu" : f32[n,2] at /c
    return y=%2
  }
}"""


def uneven(activation: str = "relu") -> Program:
    """The same function as `feed_forward` where that has ReLU, its channels up to 256 times as large."""
    by = np.exp2(RNG.uniform(-4, 4, 128).round()).astype(np.float32)
    program = feed_forward(activation)

    def scaled(node: Value, new: Value) -> Value | None:
        if node.loc == UP:
            arrays = [array_of(node.args[1]) * by, array_of(node.args[2]) * by]
        elif node.loc == DOWN:
            arrays = [array_of(node.args[1]) / by[:, None], array_of(node.args[2])]
        else:
            return None
        made = (constant(f"{node.loc}.{i}", array) for i, array in enumerate(arrays))
        return replace(new, args=(new.args[0], *made, *new.args[3:]))

    return replace(program, graphs=(mapped(program.main, scaled, lambda _: None, "uneven"),))


def equalized(program: Program) -> Program:
    made = Equalize()(program, TARGET, lambda _: None)
    check(made, "equalize-layers")
    return made


def answer(program: Program) -> Array:
    return np.concatenate([evaluate(program.main, request)["scores"] for request in requests()])


def reach(program: Program) -> tuple[Array, Array]:
    """How far the columns of the first matrix go, and the rows of the second."""
    up, down = (array_of(products(program.main)[name].args[1]) for name in (UP, DOWN))
    return np.abs(up).max(0), np.abs(down).max(1)


def test_columns_and_rows_reach_equally_far() -> None:
    columns, rows = reach(equalized(uneven()))
    ratio = np.log2(columns / rows)
    assert np.ptp(ratio) <= 2.001  # each factor is rounded to half a power of two at most
    assert np.ptp(np.log2(np.divide(*reach(uneven())))) > 10


def test_the_model_stays_the_same_to_the_bit() -> None:
    program = uneven()
    np.testing.assert_array_equal(answer(equalized(program)), answer(program))


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_integers_are_closer(scheme: str) -> None:
    program = uneven()
    wanted = answer(program)

    def error(made: Program) -> float:
        recipe = make_recipe(made, Quantization(scheme, protect=False, method="round"))
        return float(np.linalg.norm(answer(Quantize(recipe)(made, TARGET, lambda _: None)) - wanted))

    assert error(equalized(program)) < 0.7 * error(program)


def test_a_chain_comes_to_rest_and_stays_the_same() -> None:
    program = parse(CHAIN)
    made = equalized(program)
    x = {"x": RNG.standard_normal((9, 2)).astype(np.float32)}
    np.testing.assert_array_equal(evaluate(made.main, x)["y"], evaluate(program.main, x)["y"])
    matrices = [array_of(node.args[1]) for node in products(made.main).values()]
    assert all((factors(a, b) == 1).all() for a, b in pairwise(matrices))
    assert Equalize()(made, TARGET, lambda _: None) is made


def test_products_of_one_place_have_biases_of_their_own() -> None:
    made = equalized(parse(CHAIN.replace("at /b", "at /a")))
    biases = [name_of(node.args[2]) for node in products(made.main).values()]
    assert biases == ["/a.bias", "/a#2.bias", "/c.bias"]


def test_zeros_have_no_factor() -> None:
    first, second = np.array([[0, 8.0, 2]], np.float32), np.array([[1.0], [0.5], [0.125]], np.float32)
    assert factors(first, second)[0] == 1 and (factors(first * 0, second) == 1).all()


@pytest.mark.parametrize("text", [
    CHAIN.replace("relu", "gelu").replace('"none"', '"silu"'),
    CHAIN.replace("return y=%2", "return y=%2, z=%0, other=%1"),
    CHAIN.replace("@b", "@a").replace("@c", "@a").replace(
        "  weight @a : f32[2,2] = [1,2,32,4]\n", "").replace("  weight @a : f32[2,2] = [0.125,3,16,1]\n", ""),
    CHAIN.replace("[1,2,32,4]", "[1,2,32,nan]"),
], ids=["other functions", "results that others read", "one matrix for all", "no number"])  # fmt: skip
def test_what_is_left_alone(text: str) -> None:
    program = parse(text)
    assert Equalize()(program, TARGET, lambda _: None) is program


def test_gelu_lets_no_factor_through() -> None:
    program = feed_forward("gelu")
    assert Equalize()(program, TARGET, lambda _: None) is program
    assert HEAD in products(program.main)
