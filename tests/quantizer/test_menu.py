"""Several schemes within one budget: what steps pay, what a layer costs, and bundles of mixed layers."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from layer_models import WIDTH, layer_model, save
from quantizable import DOWN, HEAD, UP, feed_forward, requests

import isthmus
from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, read_model
from isthmus.errors import ModelError
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program
from isthmus.ir.types import DType
from isthmus.passes import pipeline
from isthmus.passes.quantize.layers import layers_of, products
from isthmus.passes.quantize.phase import Quantize
from isthmus.passes.quantize.recipe import Recipe
from isthmus.quantizer.menu import Menu, Save, Step, costs_of, menu_of, slots_of, steps_of
from isthmus.quantizer.native import Run, running
from isthmus.quantizer.report import about, stored_bytes
from isthmus.quantizer.search import MOST_EVALUATIONS, Budget, Tried, search
from isthmus.target import Target
from isthmus.targets import x86_64

EXACT = feed_forward(outlier=30.0)
CHIPS = {target.name: target for target in x86_64.TARGETS}
OPTIONS = Options(cache=cache_dir(os.environ))
PAIRS, NO_PAIRS = CHIPS["x86-64-v4-bf16"], CHIPS["x86-64-v3"]


@pytest.fixture(scope="module")
def menu() -> Menu:
    """Two products in three schemes; the third, the head, is protected."""
    return menu_of(EXACT, requests(6), PAIRS, OPTIONS)


def test_steps_are_the_hull_in_the_order_of_what_they_save_for_the_noise() -> None:
    costs = {
        "a": {"": 8.0, "half": 4.0, "quarter": 2.0, "worse": 5.0},
        "b": {"": 8.0, "half": 4.0, "quarter": 2.0},
        "c": {"": 8.0, "half": 9.0},  # it costs more: never
    }
    noise = {("a", "half"): 1.0, ("a", "quarter"): 5.0, ("a", "worse"): 2.0}
    noise |= {("b", "half"): 4.0, ("b", "quarter"): 4.5, ("c", "half"): 0.0}
    # Of b a quarter saves 6 for 4.5, half only 4 for 4: it is on no way from f32 to a quarter.
    assert steps_of(costs, noise) == [
        Step("a", "half", 4.0),
        Step("b", "quarter", 6 / 4.5),
        Step("a", "quarter", 0.5),
    ]


def test_what_makes_no_noise_comes_first() -> None:
    steps = steps_of({"a": {"": 2.0, "x": 1.0}, "b": {"": 9.0, "x": 1.0}}, {("b", "x"): 1e-9})
    assert [step.layer for step in steps] == ["a", "b"]


def test_the_menu_has_what_the_chip_multiplies(menu: Menu) -> None:
    assert list(menu.ways) == ["bf16", "int8", "int4"] and menu.layers == (UP, DOWN)
    assert list(menu_of(EXACT, requests(2), NO_PAIRS, OPTIONS).ways) == ["int8", "int4"]
    assert menu.rows == {UP: 24.0, DOWN: 24.0}  # requests are 2 x 12


@pytest.mark.parametrize(
    ("target", "order"),
    [
        (PAIRS, ["int8", "bf16", "", "int4"]),
        (NO_PAIRS, ["int8", "bf16", "", "int4"]),  # pairs of bf16 are widened there, and half of the bytes
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_latency_is_declared_by_the_chip(menu: Menu, target: Target, order: list[str]) -> None:
    layer = layers_of(EXACT.main)[0]
    costs = costs_of(layer, menu, target, "latency")
    assert sorted(costs, key=costs.__getitem__) == order
    sizes = costs_of(layer, menu, target, "size")
    assert sorted(sizes, key=sizes.__getitem__) == ["int4", "int8", "bf16", ""]


def test_one_row_takes_as_long_as_reading(menu: Menu) -> None:
    layer = layers_of(EXACT.main)[0]
    times = {name: slots_of(layer, way, 1, PAIRS) for name, way in menu.ways.items()}
    assert times["int4"] < times["int8"] < times["bf16"]


MIXED = {UP: "bf16", DOWN: "int4"}


@pytest.mark.parametrize("choice", [MIXED, {UP: "int8", DOWN: "bf16"}], ids=str)
def test_mixed_layers_compute_as_the_evaluator_says(menu: Menu, choice: dict[str, str]) -> None:
    low = Quantize(menu.recipe(choice))(EXACT, PAIRS, lambda _: None)
    matrices = {name: node.args[1] for name, node in products(low.main).items()}
    for name, scheme in choice.items():
        assert (matrices[name].dtype is DType.BF16) == (scheme == "bf16")
    assert matrices[HEAD] is products(EXACT.main)[HEAD].args[1]
    request = requests(1)[0]
    with running(low, OPTIONS) as run:
        found = run(request)["scores"]
    wanted, exact = evaluate(low.main, request)["scores"], evaluate(EXACT.main, request)["scores"]
    # Rounding to bf16 may go the other way after sums in another order.
    assert np.abs(found - wanted).max() < 4e-3 * np.abs(wanted).max()
    assert 1e-5 < np.abs(found - exact).max() < 0.2 * np.abs(exact).max()


def test_the_report_and_sizes_of_mixed_layers(menu: Menu) -> None:
    recipe = menu.recipe(MIXED)
    rows = about(EXACT, recipe, 6, None)["layers"]
    assert isinstance(rows, list)
    schemes = [(row["name"], row.get("scheme")) for row in rows if isinstance(row, dict)]
    assert schemes == [(UP, "bf16"), (DOWN, "w4-g32-afloat"), (HEAD, None)]
    up, down, head = (int(np.prod(layer.matrix.t.static_shape)) for layer in layers_of(EXACT.main))
    assert stored_bytes(layers_of(EXACT.main), recipe) == 2 * up + down * 4.5 / 8 + 4 * head
    assert stored_bytes(layers_of(EXACT.main), recipe, 2) == 2 * up + down * 4.5 / 8 + 2 * head
    assert str(recipe) == "bf16 or int8 or int4" and recipe.rounds == "bf16"
    assert menu.recipe({UP: "int8"}).rounds == "i8" and menu.recipe({UP: "int4"}).rounds == ""


class Seen:
    """Everything that was tried."""

    def __init__(self) -> None:
        self.tried: Sequence[Tried] = ()

    def __call__(self, tried: Sequence[Tried]) -> None:
        self.tried = tried


# What a metric would find of a layer in a scheme.
LOST = {"bf16": 0.001, "int8": 0.01, "int4": 0.04}
SENSITIVE = {UP: 1.0, DOWN: 0.1}


def lost(layer: str, scheme: str) -> float:
    return SENSITIVE[layer] * LOST[scheme]


@pytest.mark.parametrize(
    ("save", "max_drop", "wanted"),
    [
        ("size", 0.06, {UP: "int4", DOWN: "int4"}),
        ("size", 0.018, {UP: "int8", DOWN: "int4"}),
        ("size", 0.0065, {UP: "bf16", DOWN: "int4"}),
        ("size", 0.003, {UP: "bf16", DOWN: "int8"}),
        ("latency", 0.05, {UP: "int8", DOWN: "int8"}),
        ("latency", 0.003, {UP: "bf16", DOWN: "int8"}),
        ("latency", 0.0005, {DOWN: "bf16"}),
    ],
)
def test_several_schemes_save_more_than_one_within_the_same_budget(
    menu: Menu, monkeypatch: pytest.MonkeyPatch, save: Save, max_drop: float, wanted: dict[str, str]
) -> None:
    def measured(bench: object, key: Sequence[tuple[str, str]]) -> tuple[float, float]:
        return 1 - sum(lost(*one) for one in key), 1.0

    monkeypatch.setattr("isthmus.quantizer.search._Bench._measured", measured)
    monkeypatch.setattr(
        "isthmus.quantizer.search._Bench.noise",
        lambda bench, scheme: {name: lost(name, scheme) for name in bench.menu.ways[scheme].names},
    )
    costs = {layer.name: costs_of(layer, menu, PAIRS, save) for layer in layers_of(EXACT.main)}

    def found(some: Menu) -> tuple[dict[str, str], float]:
        seen = Seen()
        budget = Budget(max_drop, lambda a, r: 0.0, keep=True, save=save, show=seen)
        recipe = search(EXACT, some, PAIRS, requests(1), budget, OPTIONS)
        assert len(seen.tried) <= MOST_EVALUATIONS
        tried = [dict(t.choice) for t in seen.tried if t.drop <= max_drop]
        chosen = next(
            t for t in tried if set(t) == set(recipe.names) and some.recipe(t).layers == recipe.layers
        )
        return chosen, sum(of[chosen.get(name, "")] for name, of in costs.items())

    chosen, cost = found(menu)
    assert chosen == wanted
    alone = [
        found(Menu({name: way}, menu.rows))[1] for name, way in menu.ways.items() if fits(name, max_drop)
    ]
    assert cost <= min(alone) and (cost < max(alone) or len(alone) == 1)


def fits(scheme: str, max_drop: float) -> bool:
    """Whether that scheme alone meets the budget with some layer."""
    return lost(DOWN, scheme) <= max_drop


@contextmanager
def evaluated(program: Program, options: Options) -> Iterator[Run]:
    """In the place of `running`: without a compile."""
    yield lambda request: evaluate(program.main, dict(request))


def test_a_search_that_was_killed_goes_on(
    menu: Menu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    for module in ("search", "ladder"):
        monkeypatch.setattr(f"isthmus.quantizer.{module}.running", evaluated)

    def progress(step: str) -> None:
        if step.startswith("evaluation 4"):
            raise Killed

    def run(tell: Callable[[str], None]) -> Recipe:
        budget, options = Budget(2e-4, "mse", keep=True), Options(cache=tmp_path, progress=tell)
        return search(EXACT, menu, PAIRS, requests(2), budget, options)

    with pytest.raises(Killed):
        run(progress)
    files = {file: file.read_bytes() for file in (tmp_path / "search").rglob("*.json")}
    assert len(files) == 3 + len(menu.ways)  # evaluations and sensitivities
    again: list[str] = []
    found = run(again.append)
    assert not any(step.startswith("sensitivity") for step in again)
    assert all(file.read_bytes() == was for file, was in files.items())
    assert len(list((tmp_path / "search").rglob("*.json"))) > len(files)
    assert run(again.append).layers.keys() == found.layers.keys()


def test_what_is_remembered_is_of_the_metric_as_it_is(
    menu: Menu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.quantizer.search.running", evaluated)
    monkeypatch.chdir(tmp_path)
    judge = tmp_path / "judge_that_changes.py"
    options = Options(cache=tmp_path / "cache")
    folders = []
    for value in (1.0, 2.0):
        judge.write_text(f"def metric(answers, requests):\n    return {value}\n")
        sys.modules.pop(judge.stem, None)
        importlib.invalidate_caches()
        search(EXACT, menu, PAIRS, requests(1), Budget(0.1, f"{judge.stem}:metric"), options)
        folders.append(len(list((tmp_path / "cache" / "search").iterdir())))
    assert folders == [1, 2]


def test_layers_that_a_scheme_does_not_suit_do_without_it(tmp_path: Path) -> None:
    # Columns of 48 numbers are no groups of 32.
    program = read_model(save(layer_model(), tmp_path), Options())
    fused = pipeline.run(program, PAIRS, stop_after=pipeline.FUSE.name)
    assert list(menu_of(fused, given(), PAIRS, OPTIONS).ways) == ["bf16", "int8"]


def given() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((2, 5, WIDTH)).astype(np.float32)} for _ in range(8)]


def test_from_python(tmp_path: Path) -> None:
    model = save(layer_model(), tmp_path)
    budget = isthmus.Budget(0.01, save="size")
    bundle = isthmus.compile(
        model, out=tmp_path / "dist", precision="auto", calibration=given(), budget=budget
    )
    report = json.loads((bundle.path / "report.json").read_text())
    assert bundle.manifest.precision == "auto"
    assert report["quantization"]["asked"].endswith("int8")
    with pytest.raises(ModelError, match="nothing saves 'sizes'"):
        isthmus.Budget(0.01, save="sizes")  # type: ignore[arg-type]
