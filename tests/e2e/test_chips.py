"""Every chip, executed: the conformance kit, equal integers everywhere, and real models (docs/chips.md)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from runners import KNOWN, need_runner, runnable

from isthmus.cli import app
from isthmus.ir.evaluate import evaluate
from isthmus.target import Target
from isthmus.tools.conformance.cases import program
from isthmus.tools.conformance.kit import Outcome, Score, all_cases

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/chips.md").read_text("utf-8")
# The most capable chip of each architecture that something executes here; on it the whole kit runs. Kernels
# that are C are the same text for all such chips, and tests/kernels run it.
BEST = {t.arch: t.name for t in KNOWN.values() if runnable(t) and t.kernels == "llvm"}
INTEGERS = ("quantized", "scans")
# What C compilers and their flags are most likely to spoil.
IN_C = (*INTEGERS, "infinities and NaN", "model")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("target", KNOWN.values(), ids=lambda target: target.name)
def test_conformance(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    need_runner(target)
    groups = () if target.name in BEST.values() else IN_C if target.kernels == "c" else INTEGERS
    options = [word for group in groups for word in ("--group", group)]
    status = app.run(["targets", "test", target.name, "--json", *options])
    found = json.loads(capsys.readouterr().out)
    assert not found["failures"]
    assert status == 0 and found["passed"] == found["total"] > 0
    assert found["integers"] == digest(groups), "integers are the same bytes on every chip"


@cache
def digest(groups: tuple[str, ...]) -> str:
    """What the NumPy evaluator gives for the integers of these groups of the kit."""
    outcomes = []
    for case in all_cases():
        if not groups or case.group.startswith(groups):
            whole, arrays = program([case])
            answer = evaluate(whole.main, arrays)[case.name]
            outcomes.append(Outcome(case, "", b"" if case.value.dtype.is_float else answer.tobytes()))
    return Score(tuple(outcomes)).digest


def listed() -> dict[str, list[str]]:
    """Chip: system, runner and a cell for each model, as docs/chips.md has them."""
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", PAGE, re.M)
    return {name: cells.split(" | ") for name, cells in rows}


def test_the_page_lists_every_chip() -> None:
    found = listed()
    assert list(found) == list(KNOWN)
    assert sum("pass" in cells for cells in found.values()) >= 12
    assert not [name for name, cells in found.items() if any("fail" in cell for cell in cells)]


def test_the_page_is_true(zoo: Path) -> None:
    """Two models on each chip again; what cannot run here is not compared."""
    command = [sys.executable, str(ROOT / "scripts/chips_matrix.py"), "--json", "--in-turn", "2"]
    environment = {**os.environ, "ISTHMUS_ZOO": str(zoo)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found, page = json.loads(done.stdout), listed()
    (head,) = (line for line in PAGE.splitlines() if line.startswith("| chip | system | runner | "))
    models = head.strip("| ").split(" | ")[3:]
    assert list(found) == list(page)
    for name, row in found.items():
        told = dict(zip(models, page[name][2:], strict=True))
        cells = {model: cell for model, cell in row.items() if model != "runner"}
        assert len(cells) == 2
        if runnable(KNOWN[name]) or page[name][1] == "-":
            assert cells.items() <= told.items(), name
        else:
            assert set(cells.values()) == {"built, not run"}, name
