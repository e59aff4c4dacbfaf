"""Which runner of a chip is taken, and what is said when there is none."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

import isthmus.targets
from isthmus.chips import discover
from isthmus.errors import RunnerError
from isthmus.target import Runner, Target
from isthmus.tools.emulator import require

ABSENT = Runner("absent", ("no-such-program",), "a package")
HALF = Runner("half", (sys.executable,), "another", modules=("no_such_module",), files=("/no/such/file",))
GOOD = Runner("good", (sys.executable,), "python", modules=("sys",))


def chip(*runners: Runner) -> Target:
    any_chip = next(iter(discover(isthmus.targets).values()))
    return replace(any_chip, runners=runners)


def test_what_is_missing() -> None:
    assert ABSENT.missing() == ("no-such-program",)
    assert HALF.missing() == ("/no/such/file", "no_such_module")
    assert GOOD.missing() == ()


def test_the_first_that_is_there() -> None:
    assert require(chip(ABSENT, GOOD)) is GOOD
    assert require(chip(GOOD, ABSENT)) is GOOD
    assert require(chip(ABSENT, GOOD, replace(GOOD, name="best")), "best").name == "best"


@pytest.mark.parametrize(
    ("runners", "name", "text"),
    [
        ((), None, "it is built, not run"),
        (
            (ABSENT, HALF),
            None,
            "absent cannot run code for .*: no-such-program not found\n.*\n.*install a package",
        ),
        ((ABSENT, GOOD), "absent", "no-such-program not found"),
        ((ABSENT, GOOD), "goof", "is called 'goof'\n.*--runner\n.*did you mean 'good'"),
        ((), "good", "is called 'good'"),
    ],
)
def test_what_cannot_run_is_refused(runners: tuple[Runner, ...], name: str | None, text: str) -> None:
    with pytest.raises(RunnerError, match=f"(?s){text}"):
        require(chip(*runners), name)
