"""`isthmus verify`: does a bundle answer as it should?"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

import isthmus.targets
from isthmus.bundle import selftest
from isthmus.bundle.manifest import Manifest
from isthmus.bundle.reader import missing, open_bundle
from isthmus.bundle.selftest import Case, Tolerance
from isthmus.chips import find
from isthmus.cli.arguments import PATH, assignments, check_dims, level_option, size_range, threads_option
from isthmus.cli.output import Json, console, finite, json_option, progress, show_json, table
from isthmus.codegen.cache import cache_dir
from isthmus.errors import Code, ModelError, Problem, QualityError
from isthmus.machine import Machine
from isthmus.runtime import load
from isthmus.target import NATIVE
from isthmus.tools.emulator import emulated
from isthmus.tools.reference import Array, Reference
from isthmus.tools.verify import Check, Run, against, replay, sampling


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
@click.option(
    "--runner",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="What executes the bundle: native (this machine), emulator (its chip's runner), or a runner by name "
    "(see `isthmus targets`). auto: this machine if it can.",
)
@threads_option
@level_option
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
    runner: str,
    threads: int | None,
    level: str | None,
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
      isthmus verify dist/model@armv8-neon            # on another machine: under its emulator
      isthmus verify dist/model@wasm32-simd128 --runner wasmtime
    """
    if peer == "stored" and (model is not None or dims):
        given = "--model" if model is not None else "--dim"
        raise click.UsageError(f"{given} is for --against onnxruntime; stored requests need no model")
    ranges = assignments("--dim", dims, size_range, "NAME=SIZE or NAME=LOW..HIGH with sizes of at least 1")
    with _started(bundle, runner, threads, level) as started:
        cases = stored_cases(bundle)
        if peer == "stored":
            checks = list(progress(replay(cases, started.run), "replaying", len(cases)))
        else:
            ports = started.manifest.entries[0].inputs
            check_dims(ranges, ports)
            choice = sampling(ports, started.manifest.dims, cases, ranges)
            reference = Reference(required(model), started.threads, fixed_of(started.manifest))
            wanted = as_bundle(reference, started.manifest)
            found = against(started.run, wanted, choice, samples, Tolerance(atol), min_cosine, seed)
            checks = list(progress(found, "comparing", samples))
    _show(checks, as_json)
    _judge(checks)


@dataclass(frozen=True, slots=True)
class _Started:
    """A bundle that answers requests, wherever it runs."""

    manifest: Manifest
    run: Run
    threads: int


@contextmanager
def _started(path: Path, runner: str, threads: int | None, level: str | None) -> Iterator[_Started]:
    found = open_bundle(path, thorough=True)
    machine = Machine.here()
    if runner == NATIVE or (runner == "auto" and not missing(found.manifest.chip, machine)):
        open_bundle(path, machine, verify=False)
        with load(path, threads, verify=False, level=level) as session:
            yield _Started(found.manifest, session.run, session.threads)
        return
    target = find(found.manifest.chip.name, isthmus.targets, machine)
    wanted = None if runner in ("auto", "emulator") else runner
    with emulated(found, target, cache_dir(os.environ), threads, wanted) as emulator:
        click.echo(f"running under {emulator.runner}", err=True)
        yield _Started(found.manifest, emulator.run, threads or 1)


def stored_cases(bundle: Path) -> tuple[Case, ...]:
    """The stored requests of a bundle that was checked already; ModelError if it has none."""
    cases = selftest.load(open_bundle(bundle, verify=False))
    if not cases:
        raise ModelError(Problem(Code.NOT_A_BUNDLE, "the bundle has no self-test to replay", str(bundle)))
    return cases


def as_bundle(model: Run, manifest: Manifest) -> Run:
    """What `model` answers, as far as the bundle does: its outputs alone, 0 where padding is dropped."""
    ports = {port.name: port for port in manifest.entries[0].outputs}
    masks = [port for port in manifest.entries[0].inputs if port.name == manifest.padding]

    def run(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        answer = {name: array for name, array in model(inputs).items() if name in ports}
        for mask in masks:
            padding = inputs[mask.name] == 0
            for name, array in answer.items():
                port = ports[name]
                if len(port.dims) > 2 and port.dims[:2] == mask.dims and array.dtype.kind == "f":
                    answer[name] = array.copy()
                    answer[name][padding] = 0
        return answer

    return run


def fixed_of(manifest: Manifest) -> dict[str, Array]:
    """What onnxruntime has to be given for the inputs that are constants of the bundle."""
    return {fixed.name: fixed.array() for fixed in manifest.fixed}


def required(model: Path | None, asking: str = "--against onnxruntime") -> Path:
    """The value of --model, which the option `asking` cannot do without."""
    if model is None:
        raise click.UsageError(f"{asking} needs --model MODEL.onnx: a bundle does not hold the model")
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
