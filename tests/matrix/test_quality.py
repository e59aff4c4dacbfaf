"""What accuracy is, and every budget: each holds every pair to itself, and can be said again for some."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matrix_project import TOML, Project

import isthmus
from isthmus.errors import Code, ModelError
from isthmus.matrix.config import json_schema
from isthmus.matrix.results import Work
from isthmus.quantizer.plan import asked, precisions

DATA = "calibration = 'requests'\n"
# Answers differ between machines by roundings; whether the largest is the same does not.
OWN = """
import numpy as np

def score(answers, requests):
    assert len(answers) == len(requests) == 5 and all(r["x"].shape[-1] == 16 for r in requests)
    return float(np.mean([a["y"].size for a in answers])) * {factor}

def broken(answers, requests):
    return float("nan")
"""


@pytest.fixture
def data(project: Project) -> Path:
    """Twenty requests beside the configuration: every fourth is held out."""
    rng = np.random.default_rng(0)
    folder = project.folder / "requests"
    folder.mkdir()
    for number in range(20):
        np.savez(folder / f"{number:02}.npz", x=rng.standard_normal((2, 5, 16)).astype(np.float32))
    return folder


def test_mse_is_told_beside_cosine(project: Project, data: Path) -> None:
    first = TOML.replace("[models.second]", f"precision = 'int8'\nmetric = 'mse'\n{DATA}[models.second]")
    project.write(first + "[budgets]\naccuracy_drop = '1 %'\n")
    result = project.build(only=["*@c"])
    mse, cosine = result["first@c"], result["second@c"]
    assert (mse.metric, cosine.metric) == ("mse", "cosine") and result.exit_code == 0
    assert mse.exact == 1.0 and mse.accuracy is not None and 0.99 < mse.accuracy < 1 - 1e-6
    assert mse.accuracy_drop == pytest.approx(1 - mse.accuracy)
    # Another metric is another question to the same bundle: it is not made again.
    project.write(first.replace("'mse'", "'cosine'"))
    again = project.build(only=["first@c"])
    assert again.work == Work(checks=1)
    assert again["first@c"].accuracy is not None and again["first@c"].accuracy > mse.accuracy


def test_a_metric_of_ones_own(project: Project, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The module lies beside the configuration, wherever the command runs.
    monkeypatch.chdir(data)
    (project.folder / "my_score.py").write_text(OWN.format(factor=2))
    text = TOML.replace("[models.second]", f"metric = 'my_score:score'\n{DATA}[models.second]")
    project.write(text)
    pair = project.build(only=["first@*"])["first@c"]
    assert (pair.metric, pair.accuracy, pair.exact, pair.accuracy_drop) == ("my_score:score", 320, 320, 0)
    # What the function says is part of what an answer depends on; the bundles are not made again.
    (project.folder / "my_score.py").write_text(OWN.format(factor=3))
    again = project.build(only=["first@*"])
    assert again.work == Work(checks=2) and again["first@c"].accuracy == 480
    project.write(text.replace("my_score:score", "my_score:broken"))
    broken = project.build(only=["first@c"])
    assert [p.code for p in broken["first@c"].problems] == [Code.BAD_METRIC] and broken.exit_code == 2


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("calibration = 'first.onnx'\nmetric = 'nowhere:score'", Code.BAD_METRIC),
        ("metric = 'accuracy'", Code.BAD_METRIC),
        ("metric = 'os.path:basename'", Code.NO_CALIBRATION),
        ("precision = 'auto'", Code.NO_CALIBRATION),
        ("precision = 'int8-static'", Code.NO_CALIBRATION),
        ("sparsity = '2:4'\nsparsity_method = 'sparsegpt'", Code.NO_CALIBRATION),
        ("sparsity = '2:4'\nsparsity_method = 'luck'", Code.BAD_SPARSITY),
        ("padding = 'cut'", Code.BAD_CONFIG),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_built(project: Project, said: str, code: Code) -> None:
    project.write(TOML.replace("[models.second]", f"{said}\n[models.second]"))
    with pytest.raises(ModelError) as caught:
        project.build()
    assert [problem.code for problem in caught.value.problems] == [code]
    key = said.rpartition("\n")[2].partition(" ")[0]
    assert f"models.first.{key}" in str(caught.value), "it is told where it stands"


@pytest.mark.slow
def test_auto_keeps_to_the_budget_of_accuracy(project: Project, data: Path) -> None:
    """The same bundle as `isthmus compile --precision auto` with that as its --max-drop."""
    budget = "[models.first.budgets]\naccuracy_drop = '2 %'\n"
    project.write(TOML.replace("[models.second]", f"precision = 'auto'\n{DATA}{budget}[models.second]"))
    result = project.build(only=["first@c"])
    made = isthmus.compile(
        project.folder / "first.onnx",
        target="c",
        precision="auto",
        calibration=data,
        budget=isthmus.Budget(max_drop=0.02),
        out=project.folder / "alone",
    )
    place = result["first@c"].bundle
    assert place is not None
    assert (made.path / "manifest.json").read_bytes() == (place / "manifest.json").read_bytes()
    assert result["first@c"].status == "pass" and result["first@c"].precision == "auto"


def test_outputs_are_those_that_are_wanted(project: Project) -> None:
    project.write(TOML.replace("[models.second]", "outputs = ['y']\n[models.second]"))
    assert project.build(only=["first@c"]).exit_code == 0
    project.write(TOML.replace("[models.second]", "outputs = ['z']\n[models.second]"))
    result = project.build(only=["first@c"])
    assert result.exit_code == 2 and "z" in result["first@c"].problems[0].message


def test_every_precision_there_is_may_be_said() -> None:
    """Editors offer what the compiler knows, from one list."""
    offered = json_schema()["$defs"]["Model"]["properties"]["precision"]["enum"]
    assert offered == list(precisions()) and {"f32", "int8", "bf16", "auto"} <= set(offered)
    assert all(asked(name).precision == name for name in offered)


NAMES = ("latency_p50", "size", "accuracy_drop", "peak_memory", "start")
TIGHT = dict(zip(NAMES, ("'1 us'", "'1 kB'", "1e-7", "'1 kB'", "'1 us'"), strict=True))
WIDE = dict(zip(NAMES, ("'9 s'", "'1 GB'", "'50 %'", "'1 GB'", "'9 s'"), strict=True))


def budgets(table: str, values: dict[str, str]) -> str:
    return f"[{table}]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())


def test_every_budget_is_enforced(project: Project) -> None:
    int8 = TOML.replace("[models.second]", "precision = 'int8'\n[models.second]")
    project.write(int8 + budgets("budgets", TIGHT))
    over = project.build(only=["first@c"], measure=True)
    assert over.exit_code == 1 and over["first@c"].status == "over"
    assert {v.budget for v in over["first@c"].verdicts if v.fails} == set(TIGHT)
    assert len(over["first@c"].faults) == 5
    project.write(int8 + budgets("budgets", WIDE))
    assert project.build(only=["first@c"], measure=True).exit_code == 0
    # For one pair: an override comes before a model's, and that before that of all.
    tight = "[[overrides]]\nchip = 'c'\n" + budgets("overrides.budgets", TIGHT)
    project.write(int8 + budgets("budgets", WIDE) + tight)
    some = project.build(measure=True)
    assert {pair.name: pair.status for pair in some.pairs} == {
        "first@here": "pass", "first@c": "over", "second@here": "pass", "second@c": "over",
    }  # fmt: skip
    assert some.exit_code == 1 and len(some["first@c"].faults) == 5
    # f32 loses nothing: one budget less is exceeded.
    assert {v.budget for v in some["second@c"].verdicts if v.fails} == set(TIGHT) - {"accuracy_drop"}


def test_prices_make_costs_and_the_cheapest_chip_that_passes(project: Project) -> None:
    project.write(TOML + "[prices]\nhere = 3.6\nc = 0.0036\n")
    result = project.build(only=["first@*"], measure=True)
    for name, price in (("first@here", 3.6), ("first@c", 0.0036)):
        pair = result[name]
        assert pair.latency is not None
        assert pair.cost == pytest.approx(price / 3600 * pair.latency.p50 * 1_000_000)
    assert result.cheapest == {"first": "c"}
    # A chip that is over a budget is not recommended, however cheap it is.
    small = "[[overrides]]\nchip = 'c'\nbudgets = { size = '1 kB' }\n"
    project.write(TOML + "[prices]\nhere = 3.6\nc = 0.0036\n" + small)
    assert project.build(only=["first@*"], measure=True).cheapest == {"first": "here"}
