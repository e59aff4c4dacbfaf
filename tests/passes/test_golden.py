"""Golden files: a program before and after passes, as text. Both halves are also evaluated on numbers.

    ; passes: fuse-activations
    ; why: the product may be written either way round
    graph ...
    ; ---- expect
    graph ...
    ; ---- refused
    ; rule at op: reason

ISTHMUS_BLESS=1 rewrites what follows `expect`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from rule_examples import arrays_for

from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program
from isthmus.ir.parser import parse_program
from isthmus.ir.printer import show
from isthmus.ir.rewrite import Event
from isthmus.ops import OPS
from isthmus.passes.pipeline import PHASES
from isthmus.passes.steps import Pass
from isthmus.target import Target

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "passes"
FILES = sorted(FOLDER.rglob("*.txt"))
PASSES: dict[str, Pass] = {step.name: step for phase in PHASES for step in phase.passes}
EXPECT = "; ---- expect\n"
REFUSED = "; ---- refused\n"


def apply(names: list[str], program: Program, target: Target) -> tuple[Program, list[str]]:
    """The program after the named passes, and what their rules refused."""
    events: dict[str, None] = {}

    def watch(event: Event) -> None:
        if event.reason:
            events.setdefault(f"; {event.rule} at {event.at.op.name}: {event.reason}\n")

    for name in names:
        program = PASSES[name](program, target, watch)
    return program, list(events)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FOLDER).with_suffix("")))
def test_golden(path: Path, target: Target) -> None:
    text = path.read_text("utf-8")
    head, _, expected = text.partition(EXPECT)
    found = re.search(r"^; passes: (.*)$", head, re.MULTILINE)
    assert found and re.search(r"^; why: ", head, re.MULTILINE), "say which passes, and why this file is here"
    given = "\n".join(line for line in head.splitlines() if not line.startswith(";"))
    before = parse_program(given, OPS, where=path.name)
    after, refused = apply(found[1].split(", "), before, target)
    got = show(after) + (REFUSED + "".join(refused) if refused else "")
    agree(before, after)
    if os.environ.get("ISTHMUS_BLESS"):
        path.write_text(head.rstrip() + "\n" + EXPECT + got, "utf-8")
    else:
        assert got == expected


def agree(before: Program, after: Program) -> None:
    arrays = arrays_for(before.main, seed=0)
    left, right = evaluate(before.main, arrays), evaluate(after.main, arrays)
    for name, wanted in left.items():
        np.testing.assert_allclose(right[name], wanted, rtol=1e-4, atol=1e-5)


def test_every_pass_has_a_golden_file() -> None:
    mentioned = {
        name
        for path in FILES
        if (found := re.search(r"^; passes: (.*)$", path.read_text("utf-8"), re.MULTILINE))
        for name in found[1].split(", ")
    }
    assert mentioned == set(PASSES)
