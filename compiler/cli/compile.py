"""`isthmus compile`: ONNX in, bundle out."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import click

from isthmus.cli.arguments import (
    PATH,
    assignments,
    decision_options,
    fix_option,
    one_size,
    outputs_options,
    precision_options,
    sparsity_options,
)
from isthmus.cli.output import (
    Json,
    bytes_text,
    console,
    json_option,
    seconds_text,
    show_json,
    show_problems,
    table,
)
from isthmus.cli.steps import Steps
from isthmus.codegen.cache import cache_dir
from isthmus.driver import PHASES, Bundle, Options, choosing, compile_program, find_target, read_model
from isthmus.errors import Code, ModelError, Problem, nearest
from isthmus.frontends.onnx import parse_fixes
from isthmus.frontends.onnx.signature import parse_dims
from isthmus.ir.graph import Program
from isthmus.ir.printer import show
from isthmus.ops import text
from isthmus.passes import pipeline
from isthmus.passes.pipeline import QUANTIZE
from isthmus.quantizer.decide import Deciding, with_decisions
from isthmus.quantizer.menu import Save
from isthmus.quantizer.plan import AUTO, asked, with_precision
from isthmus.quantizer.search import Budget, Tried, front, parse_drop
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
@fix_option
@precision_options
@outputs_options
@click.option(
    "--max-drop",
    metavar="PERCENT",
    help="How much accuracy may drop: layers that would cost more stay in f32, or dense.  [auto: 0.5%]",
)
@click.option(
    "--metric", metavar="NAME", help="What accuracy is: cosine, mse, or MODULE:FUNCTION.  [default: cosine]"
)
@click.option(
    "--save",
    type=click.Choice(get_args(Save)),
    help="What the schemes of layers are chosen for within the budget.  [default: latency]",
)
@click.option("--keep", is_flag=True, help="Take what comes closest where nothing meets the budget.")
@sparsity_options
@decision_options
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
    fixes: tuple[str, ...],
    precision: str,
    calibration: Path | None,
    tokenizer: Path | None,
    only: tuple[str, ...],
    padding: str,
    max_drop: str | None,
    metric: str | None,
    save: Save | None,
    keep: bool,
    sparsity: str | None,
    sparsity_method: str | None,
    measure: bool,
    at: tuple[str, ...],
    record: Path | None,
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
      isthmus compile decoder.onnx --fix use_cache_branch=true --name decoder-with-past
      isthmus compile model.onnx --precision int8
      isthmus compile model.onnx --precision int8-static --calibration texts.txt --tokenizer tokenizer.json
      isthmus compile encoder.onnx --only sentence_embedding
      isthmus compile encoder.onnx --padding drop
      isthmus compile model.onnx --precision auto --max-drop 0.3% --calibration requests/
      isthmus compile model.onnx --precision int4 --max-drop 1% --calibration requests/
      isthmus compile model.onnx --sparsity unstructured@0.9
      isthmus compile model.onnx --sparsity auto --max-drop 2% --calibration requests/
      isthmus compile model.onnx --measure --at batch=8 --at seq=128
      isthmus compile model.onnx --decisions dist/model@x86-64-v4
      isthmus compile model.onnx --stop-after fuse
      isthmus compile model.onnx --dump dump
      isthmus compile dump/1.clean.txt --resume-from fuse
    """
    started = time.perf_counter()
    check_phases(stop_after, resume_from)
    if fixes and resume_from is not None:
        message = "the inputs of a program that was dumped can no longer be fixed"
        raise ModelError(Problem(Code.BAD_OPTION, message, "--fix", "give --fix when it is dumped"))
    if (only or padding == "drop") and resume_from is not None:
        message, option = "the outputs of a program that was dumped are chosen", "--only, --padding"
        raise ModelError(Problem(Code.BAD_OPTION, message, option, "give them when it is dumped"))
    deciding = Deciding(measure, assignments("--at", at, one_size, "NAME=SIZE"), record)
    budget = _budget(precision, sparsity, max_drop, metric, save, keep)
    warnings: list[Problem] = []
    dumper = Dumper(dump)
    try:
        with Steps() as steps:
            options = Options(
                name=name,
                dims=parse_dims(dims),
                fix=parse_fixes(fixes),
                outputs=only,
                drop_padding=padding == "drop",
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
            wanted = asked(precision, calibration, tokenizer, budget, sparsity, sparsity_method)
            if PHASES.index(options.start) <= PHASES.index(QUANTIZE.name):
                options = with_precision(program, chip, options, wanted)
            if stop_after in (None, PHASES[-1]):
                options = with_decisions(program, chip, options, deciding)
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


def _budget(
    precision: str,
    sparsity: str | None,
    max_drop: str | None,
    metric: str | None,
    save: Save | None,
    keep: bool,
) -> Budget | None:
    if AUTO in (precision, sparsity) or max_drop is not None:
        drop = parse_drop(max_drop or "0.5%")
        return Budget(drop, metric or "cosine", keep, save or "latency", _show_front)
    for option, value in (("--metric", metric), ("--save", save), ("--keep", keep or None)):
        if value is not None:
            text = f"{option} is for a budget: there is none without --max-drop or something that is auto"
            raise ModelError(Problem(Code.BAD_OPTION, text, option))
    return None


def _show_front(tried: Sequence[Tried]) -> None:
    """Those that are best in something, on stderr: the result is the bundle."""
    columns = ("layers", "accuracy", "drop", "time", "matrices")
    grid = table(*columns, right=columns)
    for one in front(tried):
        layers = ", ".join(f"{count} {scheme}" for scheme, count in sorted(one.counts.items()))
        cost = seconds_text(one.seconds), bytes_text(one.matrix_bytes)
        grid.add_row(layers or "all f32", f"{one.value:.5f}", f"{one.drop:.3%}", *cost)
    console(sys.stderr).print(grid)


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
    return pipeline.run(
        program,
        chip,
        start=options.start,
        stop_after=stop_after,
        watch=options.watch,
        quantize=options.quantize,
        choose=choosing(chip, options),
    )


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
