"""`isthmus verify`: does a bundle answer as it should?"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from isthmus.bundle import selftest
from isthmus.bundle.reader import open_bundle
from isthmus.bundle.selftest import Case, Tolerance
from isthmus.cli.arguments import PATH, assignments, check_dims, size_range, threads_option
from isthmus.cli.output import Json, console, finite, json_option, progress, show_json, table
from isthmus.errors import Code, ModelError, Problem, QualityError
from isthmus.machine import Machine
from isthmus.runtime import load
from isthmus.tools.reference import Reference
from isthmus.tools.verify import Check, against, replay, sampling


@click.command("verify")
@click.argument("bundle", type=PATH)
@click.option(
    "--against",
    "peer",
    type=click.Choice(["stored", "onnxruntime"]),
    default="stored",
    show_default=True,
    help="What to compare with: the answers stored in the bundle, or onnxruntime.",
)
@click.option("--model", type=PATH, metavar="MODEL.onnx", help="The model, for onnxruntime.")
@click.option("--samples", type=click.IntRange(min=1), default=20, show_default=True, help="Random requests.")
@click.option(
    "--dim", "dims", multiple=True, metavar="NAME=LOW..HIGH", help="Sizes of random requests. Repeatable."
)
@click.option("--atol", type=float, default=1e-4, show_default=True, help="Largest difference that passes.")
@click.option("--min-cosine", type=float, default=0.99999, show_default=True, help="Smallest that passes.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random requests.")
@threads_option
@json_option
def command(
    bundle: Path,
    peer: str,
    model: Path | None,
    samples: int,
    dims: tuple[str, ...],
    atol: float,
    min_cosine: float,
    seed: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """Run BUNDLE on known requests and compare; exit status 1 when an answer is too far off.

    Random values stay between the smallest and largest of the bundle's stored inputs. Sizes stay within the
    model's bounds and 512, or the stored sizes where there is no bound, unless --dim says otherwise.

    \b
    Examples:
      isthmus verify dist/model@chip
      isthmus verify dist/model@chip --against onnxruntime --model model.onnx
      isthmus verify dist/model@chip --against onnxruntime --model model.onnx \\
          --dim batch=1..8 --dim seq=1..512 --samples 100
    """
    ranges = assignments("--dim", dims, size_range, "NAME=SIZE or NAME=LOW..HIGH with sizes of at least 1")
    open_bundle(bundle, Machine.here(), thorough=True)
    with load(bundle, threads, verify=False) as session:
        cases = stored_cases(bundle)
        if peer == "stored":
            checks = list(replay(cases, session.run))
        else:
            check_dims(ranges, session.inputs)
            choice = sampling(session.inputs, session.manifest.dims, cases, ranges)
            reference = Reference(required(model), session.threads)
            found = against(session.run, reference, choice, samples, Tolerance(atol), min_cosine, seed)
            checks = list(progress(found, "comparing", samples))
    _show(checks, as_json)
    _judge(checks)


def stored_cases(bundle: Path) -> tuple[Case, ...]:
    """The stored requests of a bundle that was checked already; ModelError if it has none."""
    cases = selftest.load(open_bundle(bundle, verify=False))
    if not cases:
        raise ModelError(Problem(Code.NOT_A_BUNDLE, "the bundle has no self-test to replay", str(bundle)))
    return cases


def required(model: Path | None) -> Path:
    """The value of --model, which onnxruntime cannot do without."""
    if model is None:
        raise click.UsageError(
            "--against onnxruntime needs --model MODEL.onnx: a bundle does not hold the model"
        )
    return model


def _show(checks: Iterable[Check], as_json: bool) -> None:
    if as_json:
        show_json([_as_json(check) for check in checks])
        return
    grid = table(
        "request", "output", "largest difference", "cosine", "", right=("largest difference", "cosine")
    )
    for check in checks:
        for number, one in enumerate(check.differences):
            verdict = "FAILED" if one.reason else "ok"
            what = check.what if number == 0 else ""
            grid.add_row(what, one.output, f"{one.max_abs:.2e}", f"{one.cosine:.7f}", verdict)
    console().print(grid)


def _judge(checks: list[Check]) -> None:
    problems = [
        Problem(Code.NOT_ACCURATE, one.reason, check.what)
        for check in checks
        for one in check.differences
        if one.reason
    ]
    if problems:
        raise QualityError(problems)
    click.echo(f"{len(checks)} of {len(checks)} requests answered within tolerance", err=True)


def _as_json(check: Check) -> dict[str, Json]:
    return {
        "request": check.what,
        "passed": check.passed,
        "outputs": {
            one.output: {"max_abs": finite(one.max_abs), "cosine": finite(one.cosine), "reason": one.reason}
            for one in check.differences
        },
    }
