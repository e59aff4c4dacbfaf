"""`isthmus targets test`: does a chip compute what it should?"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

import isthmus.targets
from isthmus.bundle.reader import open_bundle
from isthmus.chips import find
from isthmus.cli.output import Json, console, json_option, progress, show_json, table
from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_program
from isthmus.errors import Code, Problem, QualityError
from isthmus.ir.graph import Program
from isthmus.machine import Machine
from isthmus.target import NATIVE, Target
from isthmus.tools.conformance.cases import batches
from isthmus.tools.conformance.kit import Answer, Outcome, Score, all_cases, score
from isthmus.tools.conformance.zeros import EVEN
from isthmus.tools.emulator import answering, require

Array = npt.NDArray[np.generic]
# Of what failed, so much is told; --json has all.
_TOLD = 10


@click.command("test")
@click.argument("name")
@click.option("--group", "groups", multiple=True, help="Only groups whose name begins so. Repeatable.")
@json_option
def command(name: str, groups: tuple[str, ...], as_json: bool) -> None:
    """Run the conformance kit on the chip NAME: every op, every kernel, a tiny model of each family.

    Everything is compiled for the chip, run by this machine if it can or by the chip's emulator, and compared
    with NumPy: integers have to be identical, floats within the tolerance of their op. Exit status 1 when
    something differs, 2 when nothing here executes the chip's code.

    \b
    Examples:
      isthmus targets test host
      isthmus targets test host --group linear --group model
      isthmus targets test my-chip --json
    """
    machine = Machine.here()
    target = find(name, isthmus.targets, machine, "NAME")
    runner = require(target).name if target.missing_on(machine) else NATIVE
    cases = [case for case in all_cases() if not groups or case.group.startswith(groups)]
    if not cases:
        known = ", ".join(dict.fromkeys(case.group for case in all_cases()))
        raise click.UsageError(f"no group of the kit begins so; it has: {known}")
    parts = batches(cases)
    click.echo(f"{len(cases)} cases on {target.name}, {runner}", err=True)
    found = progress(score(parts, _answer(target)), "testing", len(parts))
    result = Score(tuple(outcome for part in found for outcome in part))
    _show(result, target, runner, as_json)
    if result.failures:
        count = f"{len(result.failures)} of {len(result.outcomes)} cases failed"
        raise QualityError(Problem(Code.NOT_ACCURATE, count, target.name))


def _answer(target: Target) -> Answer:
    """Compiles one program after the other; what is compiled runs beside the next."""
    cache, compiling = cache_dir(os.environ), threading.Lock()
    options = Options(verify=False, cache=cache, even=EVEN)

    def answer(program: Program, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        with tempfile.TemporaryDirectory(prefix="isthmus-kit-") as name:
            with compiling:
                bundle = compile_program(program, target, Path(name), options)
            with answering(open_bundle(bundle.path, verify=False), target, cache, threads=1) as run:
                return run(inputs)

    return answer


def _show(result: Score, target: Target, runner: str, as_json: bool) -> None:
    if as_json:
        show_json(_as_json(result, target, runner))
        return
    grid = table("group", "passed", "of", "", right=("passed", "of"))
    for group, (passed, total) in result.groups().items():
        grid.add_row(group, str(passed), str(total), "ok" if passed == total else "FAILED")
    console().print(grid)
    for outcome in result.failures[:_TOLD]:
        console().print(f"FAILED {outcome.case.name}\n    {_reason(outcome)}", soft_wrap=True)
    if len(result.failures) > _TOLD:
        console().print(f"and {len(result.failures) - _TOLD} more; --json has them all")
    passed = len(result.outcomes) - len(result.failures)
    console().print(f"{passed} of {len(result.outcomes)} passed on {target.name} ({runner})")
    if result.digest:
        console().print(f"integers {result.digest}")


def _reason(outcome: Outcome) -> str:
    return outcome.reason.replace("\n", "\n    ")


def _as_json(result: Score, target: Target, runner: str) -> dict[str, Json]:
    groups: Mapping[str, Sequence[int]] = result.groups()
    return {
        "target": target.name,
        "runner": runner,
        "passed": len(result.outcomes) - len(result.failures),
        "total": len(result.outcomes),
        "integers": result.digest or None,
        "groups": {name: {"passed": passed, "total": total} for name, (passed, total) in groups.items()},
        "failures": [
            {"group": one.case.group, "case": one.case.name, "reason": one.reason} for one in result.failures
        ],
    }
