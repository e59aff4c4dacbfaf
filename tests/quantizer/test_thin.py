"""Shares of zeros by sensitivity: the layer that hurts loses least, and the budget is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, find_target
from isthmus.errors import Code, ModelError, QualityError
from isthmus.ir.dims import symbol
from isthmus.ir.graph import Graph, NamedDim, Program, Value, constant, graph_input, weight_of
from isthmus.ir.types import DType, TensorType
from isthmus.ops.nn import layer_norm, linear
from isthmus.passes.quantize.layers import products
from isthmus.quantizer.plan import Asked, asked, split, with_precision
from isthmus.quantizer.search import Budget, answer
from isthmus.quantizer.spread import noise_of, shares_of
from isthmus.tools.data import Request

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = Options(cache=cache_dir({"ISTHMUS_CACHE": str(ROOT / "build/cache")}), start="quantize")
HOST = find_target("host")
WIDTH = 64


def model() -> Program:
    """Rows of 64 through three products; of the one called `easy` few numbers matter, of `hard` all."""
    random = np.random.default_rng(1)

    def affine(x: Value, name: str, spread: float, *rest: Value) -> Value:
        # Few numbers matter where the spread of their sizes is large.
        sizes = np.exp(spread * random.standard_normal((WIDTH, WIDTH)))
        array = random.choice([-1, 1], (WIDTH, WIDTH)) * sizes / np.sqrt(WIDTH * np.mean(sizes**2))
        return linear(
            x, constant(name, array.astype(np.float32)), constant(f"{name}.b", zeros), *rest, loc=name
        )

    zeros = np.zeros(WIDTH, np.float32)
    x = graph_input("x", TensorType(DType.F32, (symbol("rows"), WIDTH)))
    first = layer_norm(affine(x, "first", 0.0), constant("s", zeros + 1), constant("t", zeros), epsilon=1e-5)
    easy = affine(first, "easy", 3.0)
    hard = affine(easy, "hard", 0.0, first)
    y = layer_norm(hard, constant("u", zeros + 1), constant("v", zeros), epsilon=1e-5)
    return Program("thin", (Graph("main", (x,), (("y", y),)),), (NamedDim("rows"),))


def requests() -> list[Request]:
    random = np.random.default_rng(2)
    return [{"x": random.standard_normal((30, WIDTH)).astype(np.float32)} for _ in range(8)]


def pruned(wanted: Asked) -> Program:
    """The model after the passes that `wanted` comes to."""
    program = model()
    for step in with_precision(program, HOST, OPTIONS, wanted).quantize:
        program = step(program, HOST, lambda _: None)
    return program


def zeros(program: Program) -> dict[str, float]:
    found = {name: weight_of(node.args[1]) for name, node in products(program.main).items()}
    return {name: float(np.mean(weight.read() == 0)) for name, weight in found.items() if weight is not None}


def drop(program: Program) -> float:
    """Of the cosine, on the requests that are held out."""
    held = split(requests())[1]
    found, exact = (answer(p, held, OPTIONS)[0] for p in (program, model()))
    a, b = (np.concatenate([one["y"].reshape(-1) for one in many]) for many in (found, exact))
    return 1 - float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt"])
def test_auto_keeps_the_budget_and_spares_what_is_sensitive(method: str) -> None:
    shares = []
    for most in (0.002, 0.2):
        program = pruned(asked("f32", requests(), None, Budget(most), "auto", method))
        assert drop(program) <= most + 1e-6
        shares.append(zeros(program))
        assert shares[-1]["first"] == 0  # it takes the input as it is
        assert shares[-1]["easy"] >= shares[-1]["hard"]
    tight, loose = shares
    assert tight["easy"] > tight["hard"]
    assert sum(tight.values()) < sum(loose.values())


def test_a_share_within_a_budget_goes_where_it_may() -> None:
    within = asked("f32", requests(), None, Budget(0.01), "unstructured@0.8", "magnitude")
    found = zeros(pruned(within))
    assert found["easy"] == pytest.approx(0.8, abs=0.01)
    assert found["hard"] == 0
    everywhere = zeros(pruned(asked("f32", requests(), None, None, "unstructured@0.8", "magnitude")))
    assert everywhere["hard"] == pytest.approx(0.8, abs=0.01)


def test_where_no_layer_may_lose_anything() -> None:
    none = asked("f32", requests(), None, Budget(0.0), "unstructured@0.9", "magnitude")
    with pytest.raises(QualityError, match="not one layer"):
        pruned(none)
    kept = replace(none, thinning=Budget(0.0, keep=True))
    found = zeros(pruned(kept))
    assert found["easy"] == pytest.approx(0.9, abs=0.01)
    assert found["hard"] == 0


@pytest.mark.parametrize(
    ("precision", "sparsity", "message"),
    [("auto", "auto", "there is one budget"), ("f32", "heads@0.25", "within no budget")],
)
def test_what_a_budget_cannot_be_for(precision: str, sparsity: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        asked(precision, requests(), None, Budget(), sparsity)
    assert [p.code for p in caught.value.problems] == [Code.BAD_OPTION]


def test_a_budget_needs_data() -> None:
    with pytest.raises(ModelError, match="cannot be chosen without data"):
        pruned(asked("f32", None, None, None, "auto"))
    with pytest.raises(ModelError, match="cannot be chosen without data"):
        pruned(asked("f32", None, None, Budget(), "unstructured@0.5"))


@pytest.mark.parametrize(
    ("form", "share", "method"), [("unstructured", 0.7, "sparsegpt"), ("block:4x1", 0.5, "magnitude")]
)
def test_a_share_is_spread_where_it_disturbs_least(form: str, share: float, method: str) -> None:
    found = zeros(pruned(asked("f32", requests(), None, None, f"{form}@{share}:spread", method)))
    assert found["first"] == 0
    assert found["easy"] > share > found["hard"]
    assert (found["easy"] + found["hard"]) / 2 == pytest.approx(share, abs=0.01)


def test_shares_make_the_least_noise_and_the_total() -> None:
    levels = (0.2, 0.5, 0.8)
    curves = {"easy": (levels, (0.0, 0.1, 0.4)), "hard": (levels, (0.1, 0.5, 0.9))}
    sizes = {"easy": 100, "hard": 300}

    def noise(shares: dict[str, float]) -> float:
        return sum(
            float(np.interp(shares[name], (0, *x), (0, *np.sqrt(y)))) ** 2 for name, (x, y) in curves.items()
        )

    for total in (0.1, 0.4, 0.7):
        found = shares_of(curves, sizes, total)
        assert 0.25 * found["easy"] + 0.75 * found["hard"] == pytest.approx(total)
        least = min(
            noise({"easy": easy, "hard": (total - 0.25 * easy) / 0.75})
            for easy in np.linspace(0, 0.8, 81)
            if 0 <= (total - 0.25 * easy) / 0.75 <= 0.8
        )
        assert noise(found) <= least + 0.01
    # What would be more than the largest share that is known is that one.
    assert shares_of(curves, sizes, 0.8) == pytest.approx({"easy": 0.8, "hard": 0.8})
    assert shares_of(curves, sizes, 0.9) == pytest.approx({"easy": 0.8, "hard": 0.8})
    assert shares_of(curves, sizes, 0.0) == {"easy": 0.0, "hard": 0.0}
    assert shares_of({}, {}, 0.5) == {}


def test_noise_is_that_of_the_products() -> None:
    random = np.random.default_rng(4)
    x, w = random.standard_normal((50, 7)), random.standard_normal((7, 5)).astype(np.float32)
    low = np.where(np.abs(w) < 0.5, 0, w).astype(np.float32)
    want = np.sum((x @ low - x @ w) ** 2) / np.sum((x @ w) ** 2)
    assert noise_of(w, low, x.T @ x) == pytest.approx(want)
    assert noise_of(np.zeros_like(w), np.zeros_like(w), x.T @ x) == 0


@pytest.mark.parametrize("form", ["heads@0.5:spread", "channels@0.5:spread", "2:4:spread", "auto:spread"])
def test_what_cannot_be_spread(form: str) -> None:
    with pytest.raises(ModelError) as caught:
        asked("f32", requests(), None, None, form, "magnitude")
    assert [p.code for p in caught.value.problems] == [Code.BAD_SPARSITY]


def test_spreading_needs_data_and_no_budget() -> None:
    with pytest.raises(ModelError, match="cannot be chosen without data"):
        pruned(asked("f32", None, None, None, "unstructured@0.5:spread"))
    with pytest.raises(ModelError, match="a budget says itself") as caught:
        asked("f32", requests(), None, Budget(), "unstructured@0.5:spread")
    assert [p.code for p in caught.value.problems] == [Code.BAD_OPTION]
