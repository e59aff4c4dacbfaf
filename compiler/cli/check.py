"""`isthmus check`: can it be compiled, and into what? In seconds, without compiling."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import click
from rich.table import Table

import isthmus.targets
from isthmus.chips import best_for, discover, pick
from isthmus.cli.arguments import PATH, assignments, fix_option, outputs_options, precision_options
from isthmus.cli.output import Json, bytes_text, console, facts, json_option, show_json, show_problems, table
from isthmus.cli.sparsity import show_sparsity
from isthmus.cli.steps import Steps
from isthmus.codegen.weights_file import lay_out
from isthmus.driver import Options, narrowed, narrowed_warning, quantized, read_model, require_bounds
from isthmus.errors import Code, ModelError, Problem
from isthmus.frontends.onnx import parse_fixes
from isthmus.frontends.onnx.signature import parse_dims
from isthmus.ir.graph import Program, Value
from isthmus.lowering.lower import arrange, choose
from isthmus.lowering.state import Lowering
from isthmus.machine import Machine
from isthmus.passes import pipeline
from isthmus.passes.pipeline import CLEAN, LEGALIZE, Step
from isthmus.quantizer.plan import asked, with_precision
from isthmus.target import Target
from isthmus.tools.costs import sizes_for
from isthmus.tools.preflight import Plans, Verdict, examine, failed, passed
from isthmus.tools.sarif import sarif
from isthmus.tools.sparsity import as_json

MOST_MISSES = 12  # near misses shown; --json has all
EXIT_FAILED = 2
# Problems of the command line, not of the model: nothing was checked.
REQUEST = {Code.NO_SUCH_FILE, Code.NOT_A_FILE, Code.UNKNOWN_DIM}


@click.command("check")
@click.argument("model", type=PATH)
@click.option(
    "--target",
    "names",
    multiple=True,
    help="A chip; by default all that can do without bounds the dims lack. Repeatable; `host` is one.",
)
@click.option(
    "--dim",
    "dims",
    multiple=True,
    metavar="NAME=SIZE",
    help="As for compile: fix or bound a dim. Repeatable.",
)
@click.option(
    "--at", multiple=True, metavar="NAME=SIZE", help="A size at which memory and work are told. Repeatable."
)
@fix_option
@outputs_options
@precision_options
@click.option("--sarif", "log", type=PATH, metavar="FILE", help="Also write the problems as SARIF 2.1.0.")
@json_option
def command(
    model: Path,
    names: tuple[str, ...],
    dims: tuple[str, ...],
    fixes: tuple[str, ...],
    only: tuple[str, ...],
    padding: str,
    precision: str,
    calibration: Path | None,
    tokenizer: Path | None,
    at: tuple[str, ...],
    log: Path | None,
    as_json: bool,
) -> None:
    """Say whether MODEL, an ONNX file, can be compiled, into what, and what is in the way.

    Runs everything that `isthmus compile` does up to making machine code. Exit status 2 when the model cannot
    be compiled for one of the targets.

    \b
    Examples:
      isthmus check model.onnx
      isthmus check model.onnx --target host --at batch=8 --at seq=256
      isthmus check model.onnx --json
      isthmus check model.onnx --sarif problems.sarif
    """
    known = discover(isthmus.targets)
    machine = Machine.here()
    best = best_for(machine, known)
    host = None if best is None else best.name
    targets = list({t.name: t for t in (pick(name, known, machine) for name in names or known)}.values())
    sizes = assignments("--at", at, _size, "NAME=SIZE")
    warnings: list[Problem] = []
    options = Options(
        dims=parse_dims(dims),
        fix=parse_fixes(fixes),
        outputs=only,
        drop_padding=padding == "drop",
        warn=warnings.append,
    )
    program: Program | None = None
    with Steps() as steps:
        steps.begin("import")
        try:
            program = read_model(model, options)
        except ModelError as error:
            if any(problem.code in REQUEST for problem in error.problems):
                raise
            verdicts = [failed(target, target.name == host, error.problems) for target in targets]
        else:
            if not names and any(dim.high is None for dim in program.dims):
                targets = [target for target in targets if not target.toolchain.system.freestanding]
            options = with_precision(
                program, targets[0], options, asked(precision, calibration, tokenizer), measured=False
            )
            start = options.start
            if options.quantize:
                program, start = quantized(program, targets[0], options), LEGALIZE.name
            verdicts = _check(
                program, targets, host, sizes_for(program, sizes), steps.begin, warnings.append, start
            )
    warnings = list(dict.fromkeys(warnings))  # every target says the same
    if log is not None:
        _write_sarif(log, model, verdicts, warnings)
    if as_json:
        show_json(_as_json(model, program, verdicts, warnings))
    else:
        _show(program, verdicts)
        show_problems(warnings)
    if any(verdict.problems for verdict in verdicts):
        raise click.exceptions.Exit(EXIT_FAILED)


def _size(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _check(
    program: Program,
    targets: Sequence[Target],
    host: str | None,
    sizes: Mapping[str, int],
    progress: Callable[[str], None],
    warn: Callable[[Problem], None],
    start: str = CLEAN.name,
) -> list[Verdict]:
    """Everything a compile does before it generates code, for each target; once for those that run the same
    kernels. Nothing behind it refuses a model: bodies of kernels, code and library can only fail by a bug."""
    common: list[Step] = []
    progress("passes")
    try:
        # What a chip's own routines take over is decided in these passes, too.
        plain = next((target for target in targets if not target.routines), targets[0])
        shared = pipeline.run_shared(program, plain, common.append, start)
    except ModelError as error:
        return [failed(target, target.name == host, error.problems) for target in targets]
    if narrowed(common):
        warn(narrowed_warning(program.name))
    verdicts = []
    made: dict[tuple[object, ...], tuple[Program, Lowering] | ModelError] = {}
    for target in targets:
        progress(target.name)
        if target.kernel_traits not in made:
            same = target.routines == plain.routines
            whole = partial(pipeline.run, program, start=start)
            rest = partial(pipeline.run_rest, shared) if same else whole
            made[target.kernel_traits] = _kernels(rest, target)
        found = made[target.kernel_traits]
        if isinstance(found, ModelError):
            verdicts.append(failed(target, target.name == host, found.problems))
            continue
        legal, chosen = found
        plan = arrange(legal, chosen, target)
        try:
            require_bounds(plan, target)
        except ModelError as error:
            verdicts.append(failed(target, target.name == host, error.problems))
            continue
        layout = lay_out(plan.weights, target.byte_order)
        plans = examine(legal, plan, layout, common, sizes, os.cpu_count() or 1, target)
        verdicts.append(passed(target, target.name == host, plans))
    return verdicts


def _kernels(rest: Callable[[Target], Program], target: Target) -> tuple[Program, Lowering] | ModelError:
    """The program as `target` takes it after the `rest` of the passes, and its kernels; or the problems."""
    try:
        legal = rest(target)
        return legal, choose(legal.main, target)
    except ModelError as error:
        return error


# --- for people ---


def _show(program: Program | None, verdicts: Sequence[Verdict]) -> None:
    out = console()
    if program is not None:
        dims = ", ".join(map(str, program.dims)) or "none: every size is fixed"
        rows = [("model", program.name), ("dims", dims)]
        rows += [("input", _port(v.attr("name"), v)) for v in program.main.inputs]
        rows += [("output", _port(name, v)) for name, v in program.main.outputs]
        out.print(facts(rows))
    out.print(_grid(verdicts))
    plans = next((v.plans for v in verdicts if v.plans is not None), None)
    if plans is not None:
        _show_plans(plans)
    show_problems(problem for problem, _ in _problems(verdicts))


def _grid(verdicts: Sequence[Verdict]) -> Table:
    numbers = ("weights", "memory", "kernels")
    grid = table("target", "verdict", *numbers, "calls", right=numbers, whole=("target", "verdict"))
    first = verdicts[0].problems
    if len(verdicts) > 1 and first and all(verdict.problems == first for verdict in verdicts):
        # What is in the way of import is so for every chip.
        grid.add_row(f"all {len(verdicts)}", _refusal(first))
        return grid
    for verdict in verdicts:
        mark = " (host)" if verdict.is_host else ""
        plans = verdict.plans
        if plans is None:
            grid.add_row(verdict.target + mark, _refusal(verdict.problems))
            continue
        costs, calls = plans.costs, f"{sum(plans.kernels.values())} in {plans.stages} stages"
        sizes = (bytes_text(costs.weights_bytes), bytes_text(costs.arena_bytes))
        grid.add_row(verdict.target + mark, "compiles", *sizes, str(len(plans.kernels)), calls)
    return grid


def _refusal(problems: Sequence[Problem]) -> str:
    return f"no: {len(problems)} problem{'s' * (len(problems) != 1)}"


def _port(name: str, value: Value) -> str:
    return f"{name}  {value.t}"


def _show_plans(plans: Plans) -> None:
    """What is the same for every target, or nearly."""
    out, costs = console(), plans.costs
    at = ", ".join(f"{name}={size}" for name, size in costs.sizes.items()) or "the fixed sizes"
    rows = [
        ("fused", ", ".join(map(str, plans.fusions)) or "nothing"),
        *([("padding", plans.padding)] if plans.padding else []),
        ("multiply-adds", f"{costs.multiply_adds}"),
        (f"at {at}", f"{costs.multiply_adds_at:,} multiply-adds"),
        ("", f"{bytes_text(costs.arena_bytes)} of working memory with {costs.threads} threads"),
        ("", f"{bytes_text(costs.ports_bytes)} of inputs and outputs"),
    ]
    out.print(facts(rows))
    show_sparsity(map(as_json, plans.sparsity))
    if not plans.misses:
        return
    grid = table("near miss", "times", "reason", "nodes", right=("times",))
    for miss in plans.misses[:MOST_MISSES]:
        more = ", ..." if miss.count > len(miss.nodes[:2]) else ""
        grid.add_row(miss.rule, str(miss.count), miss.reason, ", ".join(miss.nodes[:2]) + more)
    out.print(grid)
    if (rest := len(plans.misses) - MOST_MISSES) > 0:
        out.print(f"and {rest} more near misses; --json has all of them")


def _problems(verdicts: Sequence[Verdict]) -> list[tuple[Problem, list[str]]]:
    """Every problem once, with the targets that have it."""
    found: dict[Problem, list[str]] = {}
    for verdict in verdicts:
        for problem in verdict.problems:
            found.setdefault(problem, []).append(verdict.target)
    return list(found.items())


# --- for programs ---


def _write_sarif(log: Path, model: Path, verdicts: Sequence[Verdict], warnings: Sequence[Problem]) -> None:
    found = sarif(model, version("isthmus"), _problems(verdicts), dict.fromkeys(warnings))
    try:
        log.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    except OSError as error:
        raise ModelError(Problem(Code.CANNOT_WRITE, str(error.strerror), str(log))) from None


def _as_json(
    model: Path, program: Program | None, verdicts: Sequence[Verdict], warnings: Sequence[Problem]
) -> Json:
    about: dict[str, Json] = {}
    if program is not None:
        about = {
            "name": program.name,
            "dims": [{"name": d.name, "low": d.low, "high": d.high} for d in program.dims],
            "inputs": [_port_json(v.attr("name"), v) for v in program.main.inputs],
            "outputs": [_port_json(name, v) for name, v in program.main.outputs],
        }
    return {
        "model": str(model),
        "compiles": not any(verdict.problems for verdict in verdicts),
        **about,
        "targets": [_verdict_json(verdict) for verdict in verdicts],
        "warnings": [_problem_json(problem) for problem in warnings],
    }


def _port_json(name: str, value: Value) -> Json:
    shape = [d if isinstance(d, int) else str(d) for d in value.shape]
    return {"name": name, "dtype": str(value.dtype), "shape": shape}


def _problem_json(problem: Problem) -> Json:
    code = problem.code
    return {
        "code": code.number,
        "slug": code.slug,
        "message": problem.message,
        "where": problem.where,
        "remedy": problem.hint,
    }


def _verdict_json(verdict: Verdict) -> Json:
    found: dict[str, Json] = {
        "target": verdict.target,
        "host": verdict.is_host,
        "compiles": not verdict.problems,
        "problems": [_problem_json(problem) for problem in verdict.problems],
    }
    if verdict.plans is None:
        return found
    plans, costs = verdict.plans, verdict.plans.costs
    return {
        **found,
        "fusions": [{"op": f.op, "count": f.count, "parts": dict(f.parts)} for f in plans.fusions],
        "near_misses": [
            {"rule": m.rule, "reason": m.reason, "count": m.count, "nodes": list(m.nodes)}
            for m in plans.misses
        ],
        "padding": plans.padding,
        "kernels": dict(plans.kernels),
        "stages": plans.stages,
        "sparsity": [dict(as_json(layer)) for layer in plans.sparsity],
        "sizes": dict(costs.sizes),
        "threads": costs.threads,
        "weights_bytes": costs.weights_bytes,
        "working_bytes": costs.arena_bytes,
        "input_output_bytes": costs.ports_bytes,
        "multiply_adds": str(costs.multiply_adds),
        "multiply_adds_at_sizes": costs.multiply_adds_at,
    }
