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
from isthmus.driver import IMPORT, PHASES, Bundle, Options, compile_program, find_target, read_model
from isthmus.errors import Code, ModelError, Problem, nearest
from isthmus.frontends.onnx.signature import parse_dims
from isthmus.ir.graph import Program
from isthmus.ir.printer import show
from isthmus.passes import pipeline
from isthmus.target import Target
from isthmus.tools.dump import Dumper


@click.command("compile")
@click.argument("model", type=PATH, metavar="MODEL.onnx")
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
    verify: bool,
    as_json: bool,
) -> None:
    """Compile MODEL.onnx for a chip and print the path of the bundle.

    \b
    Examples:
      isthmus compile model.onnx
      isthmus compile model.onnx --target host --dim batch=1 --dim seq=1..512 -o dist
      bundle=$(isthmus compile model.onnx) && isthmus verify $bundle
      isthmus compile model.onnx --stop-after fuse
      isthmus compile model.onnx --dump dump/
    """
    started = time.perf_counter()
    warnings: list[Problem] = []
    dumper = Dumper(dump)
    try:
        with Steps() as steps:
            options = Options(
                name=name,
                dims=parse_dims(dims),
                verify=verify,
                cache=cache_dir(os.environ),
                progress=steps.begin,
                watch=dumper.watch,
                warn=warnings.append,
            )
            if stop_after is not None:
                check_phase(stop_after)
            chip = find_target(target)
            program = read_model(model, options)
            dumper.imported(program)
            if stop_after is not None:
                text = show(transform(program, chip, stop_after, options))
            else:
                bundle = compile_program(program, chip, output, options)
    finally:
        # Both are most wanted when a later step failed.
        dumper.write()
        show_problems(warnings)
    if stop_after is not None:
        click.echo(text, nl=False)
    else:
        _show(bundle, time.perf_counter() - started, warnings, as_json)


def check_phase(name: str) -> None:
    """Raise ModelError (unknown-phase) unless there is a phase called `name`."""
    if name not in PHASES:
        text = f"no phase called {name!r}"
        raise ModelError(Problem(Code.UNKNOWN_PHASE, text, "--stop-after", nearest(name, PHASES)))


def transform(program: Program, chip: Target, stop_after: str, options: Options) -> Program:
    """`program` after the phases up to `stop_after`."""
    if stop_after == IMPORT:
        return program
    options.progress("passes")
    return pipeline.run(program, chip, stop_after=stop_after, watch=options.watch)


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
