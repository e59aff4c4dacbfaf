"""Chips as data: what each declares is possible, plug-ins that break are left out, names are helped with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from runners import KNOWN, MACHINE, has_runner

import isthmus.chips
import isthmus.targets
from isthmus.chips import discover, find, impossible
from isthmus.errors import ModelError, Problem
from isthmus.target import Caches, Runner, Target, VectorUnit

ROOT = Path(__file__).resolve().parents[2]
GOOD = replace(next(iter(KNOWN.values())), name="plugged-in")


@pytest.mark.parametrize("target", KNOWN.values(), ids=lambda target: target.name)
def test_a_chip_is_possible(target: Target) -> None:
    assert not list(impossible(target))
    assert target.description and target.features
    assert KNOWN[target.name] is target


def test_there_are_enough_and_most_are_executed() -> None:
    assert len(KNOWN) >= 20
    assert sum(map(has_runner, KNOWN.values())) >= 12


@dataclass(frozen=True)
class Point:
    """An entry point of an installed package."""

    load: Callable[[], object]
    name: str = "their-chip"
    value: str = "theirs.chip"
    dist: object = field(default_factory=lambda: SimpleNamespace(name="their-package"))


Install = Callable[..., None]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a plug-in that declares these targets, or that loads by calling the one argument."""

    def put(*targets: object, load: Callable[[], object] | None = None) -> None:
        point = Point(load or (lambda: SimpleNamespace(TARGETS=targets)))
        monkeypatch.setattr(isthmus.chips, "entry_points", lambda group: [point])

    return put


def found() -> tuple[dict[str, Target], list[Problem]]:
    problems: list[Problem] = []
    return discover(isthmus.targets, problems.append), problems


def test_a_plug_in_adds_a_chip(install: Install) -> None:
    install(GOOD)
    known, problems = found()
    assert known == {**KNOWN, GOOD.name: GOOD}
    assert not problems
    assert find(GOOD.name, isthmus.targets, MACHINE) is GOOD


BROKEN = {
    "not an isthmus.target.Target": "nonsense",
    "'' is no name": replace(GOOD, name=""),
    "'two words' is no name": replace(GOOD, name="two words"),
    "'host' is no name": replace(GOOD, name="host"),
    "arch is empty": replace(GOOD, arch=""),
    "vectors of 0 bits": replace(GOOD, vector=VectorUnit(0, 32, True)),
    "vectors of 100 bits": replace(GOOD, vector=VectorUnit(100, 32, True)),
    "0 vector registers": replace(GOOD, vector=VectorUnit(128, 0, True)),
    "every size is at least 1": replace(GOOD, caches=Caches(0, 1)),
    "byte order 'middle'": replace(GOOD, byte_order="middle"),  # type: ignore[arg-type]
    "tvm has no 'kind'": replace(GOOD, tvm={}),
    "guard does not define": replace(GOOD, guard=""),
    "a runner has no command": replace(GOOD, runners=(Runner("r", (), "p"),)),
    "another chip has this name": replace(GOOD, name=next(iter(KNOWN))),
}


@pytest.mark.parametrize("text", BROKEN)
def test_what_cannot_be_is_left_out_and_told(text: str, install: Install) -> None:
    install(BROKEN[text], GOOD)
    known, problems = found()
    assert known == {**KNOWN, GOOD.name: GOOD}
    (problem,) = problems
    assert str(problem).startswith("E1013 bad-plugin") and text in problem.message
    assert "package their-package" in problem.where


def explode() -> object:
    raise RuntimeError("boom")


@pytest.mark.parametrize("load", [explode, lambda: SimpleNamespace(), lambda: SimpleNamespace(TARGETS=7)])
def test_a_plug_in_that_raises_leaves_the_others(load: Callable[[], object], install: Install) -> None:
    install(load=load)
    known, problems = found()
    assert known == KNOWN
    (problem,) = problems
    assert "a plug-in does not load: " in problem.message and "their-package" in problem.where
    assert find("host", isthmus.targets, MACHINE) is not None
    with pytest.raises(ModelError) as caught:
        find("their-chip", isthmus.targets, MACHINE)
    assert [p.code.number for p in caught.value.problems] == ["E1004", "E1013"]


def test_two_of_one_name_in_one_plug_in(install: Install) -> None:
    install(GOOD, GOOD)
    known, problems = found()
    assert list(known) == [*KNOWN, GOOD.name]
    assert "another chip has this name" in problems[0].message


def test_a_misspelt_chip_is_helped_with() -> None:
    name = next(iter(KNOWN))
    with pytest.raises(ModelError, match=f"did you mean '{name}'"):
        find(name[:-1], isthmus.targets, MACHINE)


def test_a_runner_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "emulate"
    old.write_text("#!/bin/sh\necho emulate version 7.2.1\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    here = str(old)
    assert Runner("r", ("emulate",), "p").missing() == ()
    assert Runner("r", ("emulate",), "p", (here,), 7).missing() == ()
    assert Runner("r", ("emulate",), "p", version=10).missing() == ("emulate 10 or later",)
    assert Runner("r", ("emulate",), "p", (here, f"{here}.lib")).missing() == (f"{here}.lib",)
    assert Runner("r", ("no-such-emulator",), "p", version=3).missing() == ("no-such-emulator",)
