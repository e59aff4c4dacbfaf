"""The search within a budget: what it finds, how often it measures, and what it refuses."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layer_models import WIDTH, layer_model, save
from quantizable import DOWN, HEAD, UP, feed_forward, requests

import isthmus
from isthmus.cli import app
from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options
from isthmus.errors import Code, ModelError, QualityError
from isthmus.passes.quantize.options import Quantization
from isthmus.passes.quantize.recipe import Recipe, make_recipe
from isthmus.quantizer.menu import one_way
from isthmus.quantizer.search import MOST_EVALUATIONS, Budget, Tried, front, parse_drop, search
from isthmus.targets import x86_64

EXACT = feed_forward(outlier=30.0)
MENU = one_way(make_recipe(EXACT, Quantization("int8", protect=False)))
# Evaluations are not to be remembered between tests.
OPTIONS = Options(cache=cache_dir(os.environ))


class Seen:
    """Everything that was tried."""

    def __init__(self) -> None:
        self.tried: Sequence[Tried] = ()

    def __call__(self, tried: Sequence[Tried]) -> None:
        self.tried = tried


def drop_of(layers: Sequence[str]) -> float:
    """As a metric would find: each layer costs its own, one of them nearly everything."""
    return sum({UP: 0.1, DOWN: 0.002, HEAD: 0.001}[name] for name in layers)


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """A search whose measurements are `drop_of`; gives the layers chosen, and everything tried."""

    def run(max_drop: float, **more: object) -> tuple[list[str], Sequence[Tried]]:
        seen = Seen()
        monkeypatch.setattr(
            "isthmus.quantizer.search._Bench._measured",
            lambda self, key: (1 - drop_of([name for name, _ in key]), 1.0 - 0.1 * len(key)),
        )
        found = search(
            EXACT,
            MENU,
            x86_64.TARGETS[0],
            requests(1),
            Budget(max_drop, metric=lambda a, r: 0.0, show=seen, **more),  # type: ignore[arg-type]
            OPTIONS,
        )
        return list(found.layers), seen.tried

    return run


def test_everything_may_go(searched) -> None:  # type: ignore[no-untyped-def]
    layers, tried = searched(0.2)
    assert layers == [UP, DOWN, HEAD] and len(tried) == 2


def test_only_what_is_too_much_stays(searched) -> None:  # type: ignore[no-untyped-def]
    layers, tried = searched(0.005)
    assert layers == [DOWN, HEAD] and len(tried) <= MOST_EVALUATIONS
    layers, _ = searched(0.0015)
    assert layers == [HEAD]


def test_a_budget_that_cannot_be_met(searched) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(QualityError, match=r"the best reached is 0\.1000%, with 1 of 3 layers") as caught:
        searched(0.0005)
    assert caught.value.exit_code == 1
    layers, _ = searched(0.0005, keep=True)
    assert layers == [HEAD]


def test_the_whole_budget_is_spent_only_where_nothing_costs_less(searched) -> None:  # type: ignore[no-untyped-def]
    layers, _ = searched(0.0035)
    assert layers == [DOWN]  # both are 0.003, and 0.0028 is four fifths
    layers, _ = searched(0.0011)
    assert layers == [HEAD]  # 0.001 is more than four fifths, and nothing else is within the budget


def test_the_front() -> None:
    tried = [
        Tried((("a", "int8"), ("b", "int4")), 0.9, 0.1, 1.0, 10),
        Tried((("a", "int8"),), 0.95, 0.05, 2.0, 20),
        Tried((("b", "int4"),), 0.94, 0.06, 2.5, 20),  # worse than the one before in everything
        Tried((), 1.0, 0.0, 3.0, 40),
    ]
    assert [t.layers for t in front(tried)] == [(), ("a",), ("a", "b")]
    assert tried[0].counts == {"int8": 1, "int4": 1}


def test_drops_are_parts_or_percents() -> None:
    assert parse_drop("0.5%") == pytest.approx(0.005) and parse_drop("0.25") == 0.25
    for text in ("half", "%", ""):
        with pytest.raises(ModelError, match="is no drop"):
            parse_drop(text)
    with pytest.raises(ModelError, match="between 0 and 100"):
        Budget(1.5)


def test_measured_for_real_and_taken_up_again(tmp_path: Path) -> None:
    seen, again = Seen(), Seen()
    assert OPTIONS.cache is not None
    OPTIONS.cache.mkdir(parents=True, exist_ok=True)
    for entry in OPTIONS.cache.iterdir():  # compiled kernels, but nothing that was measured
        if entry.name != "search":
            (tmp_path / entry.name).symlink_to(entry)
    cached = replace(OPTIONS, cache=tmp_path)
    asked: list[str] = []

    def run(show: Seen) -> Recipe:
        options = replace(cached, progress=asked.append)
        return search(EXACT, MENU, x86_64.TARGETS[0], requests(2), Budget(5e-4, "mse", show=show), options)

    first, files = run(seen), sorted((tmp_path / "search").rglob("*.json"))
    # One of them is what each layer makes of noise.
    assert len(files) == len(seen.tried) + 1 > 3 and 0 < len(first.layers) < 3
    assert all(t.drop <= 5e-4 for t in seen.tried if t.layers == tuple(first.layers))
    for file in files[::2]:
        file.unlink()  # as if it had been interrupted
    second = run(again)
    assert list(second.layers) == list(first.layers)
    kept = [a.seconds == b.seconds for a, b in zip(seen.tried, again.tried, strict=True)]
    assert any(kept) and not all(kept)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(layer_model(), tmp_path_factory.mktemp("model"))


def given() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((2, 5, WIDTH)).astype(np.float32)} for _ in range(8)]


def test_a_metric_of_the_users(model: Path, tmp_path: Path) -> None:
    calls = []

    def metric(answers: Sequence[dict[str, np.ndarray]], data: Sequence[dict[str, np.ndarray]]) -> float:
        calls.append((len(answers), len(data), answers[0]["y"].shape))
        return 5.0

    options = {"precision": "auto", "calibration": given(), "budget": isthmus.Budget(0.01, metric)}
    bundle = isthmus.compile(model, out=tmp_path, **options)  # type: ignore[arg-type]
    assert bundle.manifest.precision == "auto" and calls == [(2, 2, (2, 5, WIDTH))] * 2


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        (lambda answers, data: 1 / 0, "the metric raised ZeroDivisionError"),
        (lambda answers, data: float("nan"), "the metric is nan"),
        ("nowhere:metric", "nowhere:metric cannot be loaded: ModuleNotFoundError"),
        ("os:nothing", "AttributeError"),
        ("accuracy", "no metric called 'accuracy'"),
    ],
)
def test_metrics_that_are_none(model: Path, tmp_path: Path, metric: object, text: str) -> None:
    budget = isthmus.Budget(0.01, metric)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=text) as caught:
        isthmus.compile(model, out=tmp_path / "d", precision="auto", calibration=given(), budget=budget)
    assert caught.value.problems[0].code is Code.BAD_METRIC and not (tmp_path / "d").exists()


def test_the_command(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, request in enumerate(given()):
        np.savez(tmp_path / f"{number}.npz", **request)
    command = ["compile", str(model), "--precision", "auto", "--calibration", str(tmp_path)]
    command += ["-o", str(tmp_path / "dist")]
    assert app.run([*command, "--max-drop", "0"]) == 1
    told = capsys.readouterr().err
    assert "E3001" in told and "--keep" in told and not (tmp_path / "dist").exists()
    assert app.run([*command, "--max-drop", "0.5%"]) == 0
    told = capsys.readouterr()
    assert "all f32" in told.err and "layer@" in told.out
    command[3] = "int8-weights"
    assert app.run([*command, "--max-drop", "0"]) == 1
    assert app.run([*command, "--max-drop", "90%"]) == 0
    told = capsys.readouterr()
    assert "1 int8-weights" in told.err and "layer@" in told.out
    report = json.loads((Path(told.out.split()[-1]) / "report.json").read_text())
    schemes = {layer.get("scheme") for layer in report["quantization"]["layers"]}
    assert schemes == {None, "w8-afloat"}  # the head stays as it is
    command[3] = "bf16"
    assert app.run([*command, "--max-drop", "1%"]) == 2
    assert "no budget chooses" in capsys.readouterr().err
    assert app.run(["compile", str(model), "--keep"]) == 2
    assert app.run(["compile", str(model), "--precision", "auto"]) == 2
    assert "E1015" in capsys.readouterr().err
