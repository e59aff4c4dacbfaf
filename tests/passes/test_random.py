"""Random programs compute the same before and after every phase."""

from __future__ import annotations

import numpy as np
import pytest
from random_graphs import FINITE, random_arrays, random_program

from isthmus.errors import ModelError
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program
from isthmus.passes.pipeline import PHASES, run
from isthmus.target import Target

NAMES = [phase.name for phase in PHASES]


def after(program: Program, target: Target, phase: str) -> Program | None:
    """`program` after `phase`; None where the target refuses it, as it may refuse heavy ops on f64."""
    try:
        return run(program, target, stop_after=phase, verify="each")
    except ModelError:
        assert phase == "legalize"
        return None


@pytest.mark.parametrize("seed", range(80))
def test_numbers_stay(seed: int, target: Target) -> None:
    program = random_program(seed=seed, steps=25, builders=FINITE)
    expected = evaluate(program.main, random_arrays(program, seed=seed))
    for phase in NAMES:
        changed = after(program, target, phase)
        if changed is None:
            continue
        got = evaluate(changed.main, random_arrays(program, seed=seed))
        for name, wanted in expected.items():
            if wanted.dtype.kind != "f":
                np.testing.assert_array_equal(got[name], wanted)
                continue
            scale = max(float(np.max(np.abs(wanted), initial=0)), 1.0)
            np.testing.assert_allclose(
                got[name], wanted, rtol=1e-4, atol=1e-5 * scale, err_msg=f"{phase} {name}"
            )


@pytest.mark.parametrize("seed", range(0, 80, 8))
def test_a_second_run_changes_nothing(seed: int, target: Target) -> None:
    program = run(random_program(seed=seed, steps=25, builders=FINITE), target, stop_after="clean")
    assert run(program, target, stop_after="clean") is program
