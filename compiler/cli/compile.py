"""`isthmus compile`: ONNX in, bundle out."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click

from isthmus.cli.arguments import PATH
from isthmus.cli.output import (
    Json,
    bytes_text,
    json_option,
    seconds_text,
    show_json,
    show_problems,
)
from isthmus.cli.steps import Steps
from isthmus.codegen.cache import cache_dir
from isthmus.driver import PHASES, Bundle, Options, compile_program, find_target, read_model
from isthmus.errors import Code, ModelError, Problem, nearest
from isthmus.frontends.onnx.signature import parse_dims
from isthmus.ir.graph import Program
from isthmus.ir.printer import show
from isthmus.ops import text
from isthmus.passes import pipeline
from isthmus.target import Target
from isthmus.tools.dump import Dumper


@click.command("compile")
@click.argument("model", type=PATH)
@click.option("--target", default="host", show_default=True, help="The chip; `isthmus targets` lists them.")
@click.option(
    "-o", "--output", type=PATH, default=Path("dist"), show_default=True, help="The folder bundles go into."
)
@click.option("--name", help="The bundle's name; by default that of the file.")
@click.option(
    "--dim",
    "dims",
    multiple=True,
    metavar="NAME=SIZE",
    help="Fix a dim (seq=128) or bound it (seq=1..512). Others stay free. Repeatable.",
)
@click.option(
    "--stop-after", metavar="PHASE", help=f"Print the program after a phase instead: {', '.join(PHASES)}."
)
@click.option("--dump", type=PATH, metavar="DIR", help="Also write the program after each phase, as text.")
@click.option("--resume-from", metavar="PHASE", help="MODEL is such a text; the first phase it still needs.")
@click.option("--verify/--no-verify", default=True, help="Run the self-test when this machine can.")
@json_option
def command(
    model: Path,
    target: str,
    output: Path,
    name: str | None,
    dims: tuple[str, ...],
    stop_after: str | None,
    dump: Path | None,
    resume_from: str | None,
    verify: bool,
    as_json: bool,
) -> None:
    """Compile MODEL, an ONNX file, for a chip and print the path of the bundle.

    \b
    Examples:
      isthmus compile model.onnx
      isthmus compile model.onnx --target host --dim batch=1 --dim seq=1..512 -o dist
      bundle=$(isthmus compile model.onnx) && isthmus verify $bundle
      isthmus compile model.onnx --stop-after fuse
      isthmus compile model.onnx --dump dump
      isthmus compile dump/1.clean.txt --resume-from fuse
    """
    started = time.perf_counter()
    check_phases(stop_after, resume_from)
    warnings: list[Problem] = []
    dumper = Dumper(dump)
    try:
        with Steps() as steps:
            options = Options(
                name=name,
                dims=parse_dims(dims),
                start=resume_from or PHASES[1],
                verify=verify,
                cache=cache_dir(os.environ),
                progress=steps.begin,
                watch=dumper.watch,
                warn=warnings.append,
            )
            chip = find_target(target)
            program = read_model(model, options) if resume_from is None else text.load(model)
            dumper.begin(PHASES[PHASES.index(options.start) - 1], program)
            if stop_after is None:
                bundle = compile_program(program, chip, output, options)
            else:
                program = transform(program, chip, stop_after, options)
    finally:
        # Both are most wanted when a later step failed.
        dumper.write(PHASES)
        show_problems(warnings)
    if stop_after is None:
        _show(bundle, time.perf_counter() - started, warnings, as_json)
    else:
        click.echo(show(program), nl=False)


def check_phases(stop_after: str | None, resume_from: str | None) -> None:
    """Raise ModelError (unknown-phase) for a name that is no phase, or nothing to resume."""
    asked = (("--stop-after", stop_after, PHASES), ("--resume-from", resume_from, PHASES[1:]))
    for option, name, known in asked:
        if name is not None and name not in known:
            message = f"no phase called {name!r}"
            raise ModelError(Problem(Code.UNKNOWN_PHASE, message, option, nearest(name, known)))


def transform(program: Program, chip: Target, stop_after: str, options: Options) -> Program:
    """`program` after the phases up to `stop_after`."""
    if PHASES.index(stop_after) < PHASES.index(options.start):
        return program
    options.progress("passes")
    return pipeline.run(program, chip, start=options.start, stop_after=stop_after, watch=options.watch)


def _show(bundle: Bundle, seconds: float, warnings: list[Problem], as_json: bool) -> None:
    manifest = bundle.manifest
    code = manifest.files[manifest.library].bytes
    weights = manifest.files[manifest.weights].bytes if manifest.weights else 0
    if as_json:
        result: dict[str, Json] = {
            "bundle": str(bundle.path),
            "target": manifest.chip.name,
            "code_bytes": code,
            "weight_bytes": weights,
            "seconds": round(seconds, 3),
            "warnings": [str(warning) for warning in warnings],
        }
        show_json(result)
        return
    if sys.stderr.isatty():
        sizes = f"{bytes_text(code)} of code, {bytes_text(weights)} of weights"
        click.echo(f"compiled for {manifest.chip.name} in {seconds_text(seconds)}: {sizes}", err=True)
    click.echo(str(bundle.path))
