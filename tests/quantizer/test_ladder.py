"""How far layers are from f32, alone and together, and which one breaks a result."""

from __future__ import annotations

import math
import os
from dataclasses import replace

import numpy as np
import pytest
from quantizable import DOWN, HEAD, UP, feed_forward, requests

from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options
from isthmus.errors import ModelError
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program
from isthmus.ir.types import DType
from isthmus.passes.quantize.bf16 import NarrowProducts
from isthmus.passes.quantize.integers import Integers
from isthmus.passes.quantize.layers import products
from isthmus.passes.quantize.options import Quantization
from isthmus.passes.quantize.phase import Quantize
from isthmus.passes.quantize.recipe import Recipe, make_recipe
from isthmus.quantizer.ladder import Distance, bisect, climb, restored
from isthmus.quantizer.mix import alone, mixed
from isthmus.targets import x86_64

OPTIONS = Options(cache=cache_dir(os.environ))
EXACT = feed_forward()
RECIPE = make_recipe(EXACT, Quantization("int8", protect=False))


def placed(recipe: Recipe) -> Program:
    return Quantize(recipe)(EXACT, x86_64.TARGETS[0], lambda _: None)


def damaged(name: str) -> Program:
    """The scales of one layer's matrix twice as large as they should be."""
    layer = RECIPE.layers[name]
    grid = replace(layer.matrix.grid, scale=layer.matrix.grid.scale * 2)
    matrix = Integers(layer.matrix.q, grid)
    return placed(replace(RECIPE, layers={**RECIPE.layers, name: replace(layer, matrix=matrix)}))


def answer(graph: object) -> np.ndarray:
    return evaluate(graph, requests()[0])["scores"]  # type: ignore[arg-type]


def test_products_that_round_their_results() -> None:
    """bf16 in one program and f32 in the other: they are compared as the numbers they are."""
    low = NarrowProducts()(EXACT, x86_64.TARGETS[0], lambda _: None)
    assert products(low.main)[UP].dtype is DType.BF16
    ladder = climb(EXACT, low, requests(2), OPTIONS)
    assert [rung.name for rung in ladder.rungs] == [UP, DOWN, HEAD]
    assert all(40 < distance.sqnr < 80 for rung in ladder.rungs for distance in (rung.alone, rung.together))


def test_distances_by_hand() -> None:
    distance = Distance()
    distance.add(np.asarray([1.0, 2.0]), np.asarray([1.0, 0.0]))
    distance.add(np.asarray([[0.0]]), np.asarray([[3.0]]))
    assert (distance.signal, distance.noise, distance.largest) == (10, 13, 3)
    assert distance.sqnr == pytest.approx(10 * math.log10(10 / 13))
    assert distance.cosine == pytest.approx(1 / math.sqrt(50))
    assert Distance().sqnr == math.inf and Distance().cosine == 1
    broken = Distance()
    broken.add(np.asarray([np.nan]), np.asarray([1.0]))
    assert broken.sqnr == -math.inf


def test_mixing_takes_each_product_from_where_it_is_wanted() -> None:
    low = placed(RECIPE)
    nothing, _ = mixed((EXACT.main, low.main), {})
    everything, _ = mixed((EXACT.main, low.main), dict.fromkeys(RECIPE.layers, 1))
    np.testing.assert_array_equal(answer(nothing), answer(EXACT.main))
    np.testing.assert_array_equal(answer(everything), answer(low.main))
    for names in ([UP], [DOWN], [UP, HEAD], [DOWN, HEAD]):
        some, _ = mixed((EXACT.main, low.main), dict.fromkeys(names, 1))
        left = placed(RECIPE.without([name for name in RECIPE.layers if name not in names]))
        np.testing.assert_array_equal(answer(some), answer(left.main))


def test_alone_is_of_exact_rows() -> None:
    single = alone(EXACT.main, placed(RECIPE).main)
    only = placed(RECIPE.without([UP, HEAD]))  # the layer before is exact
    graphs = (
        replace(EXACT.main, outputs=(("scores", value),))
        for value in (single[DOWN], products(only.main)[DOWN])
    )
    first, second = map(answer, graphs)
    np.testing.assert_array_equal(first, second)


def test_the_ladder() -> None:
    ladder = climb(EXACT, placed(RECIPE), requests(), OPTIONS)
    assert [rung.name for rung in ladder.rungs] == [UP, DOWN, HEAD] and ladder.requests == 8
    for rung in ladder.rungs:
        assert 30 < rung.alone.sqnr < 60 and 30 < rung.together.sqnr <= rung.alone.sqnr + 1
    assert ladder.rungs[2].together.sqnr == pytest.approx(ladder.outputs["scores"].sqnr)
    worst = [rung.name for rung in ladder.worst(2)]
    back = restored(EXACT, placed(RECIPE), worst, requests(), OPTIONS)
    assert all(back[name]["scores"].sqnr > ladder.outputs["scores"].sqnr for name in worst)
    only = climb(EXACT, placed(RECIPE.without([UP, HEAD])), requests(), OPTIONS)
    assert [rung.name for rung in only.rungs] == [DOWN]


@pytest.mark.parametrize("name", [UP, HEAD])
def test_a_wrong_scale_is_found(name: str) -> None:
    found = bisect(EXACT, damaged(name), requests(2), OPTIONS)
    assert found.name == name and found.share > 0.9


def test_a_sound_model_has_no_culprit() -> None:
    assert bisect(EXACT, placed(RECIPE), requests(2), OPTIONS).name == ""
    with pytest.raises(ModelError, match="answer alike"):
        bisect(EXACT, EXACT, requests(2), OPTIONS)


def test_programs_of_two_models_are_refused() -> None:
    with pytest.raises(ModelError, match="same inputs"):
        mixed((EXACT.main, replace(EXACT.main, inputs=())), {})
    with pytest.raises(ModelError, match="same products"):
        mixed((EXACT.main, replace(EXACT.main, outputs=(("y", products(EXACT.main)[UP]),))), {})
