"""`isthmus accuracy`: what few bits cost, layer by layer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from isthmus.bundle import manifest as bundle_manifest
from isthmus.cli.arguments import PATH, precision_options
from isthmus.cli.output import Json, console, json_option, show_json, table
from isthmus.cli.steps import Steps
from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, find_target, read_model
from isthmus.errors import Code, ModelError, Problem
from isthmus.ir.graph import Program
from isthmus.ops import text
from isthmus.passes import pipeline
from isthmus.passes.quantize.options import SCHEMES
from isthmus.quantizer import report
from isthmus.quantizer.ladder import Culprit, Distance, Rung, bisect, climb, restored
from isthmus.quantizer.native import running
from isthmus.quantizer.passes import Broken, broken_pass
from isthmus.quantizer.plan import asked, split, with_precision
from isthmus.runtime import load
from isthmus.target import Target
from isthmus.tools.data import Request, read_requests
from isthmus.tools.plot import check_matplotlib, write_ladder

DUMP = ".txt"


@click.command("accuracy")
@click.argument("subject", type=PATH)
@click.option("--against", "model", type=PATH, metavar="MODEL.onnx", help="The model, whose f32 is exact.")
@click.option("--data", type=PATH, required=True, metavar="DATA", help="Requests: as for --calibration.")
@precision_options
@click.option(
    "--bisect", "wants_bisect", is_flag=True, help="Name the pass or the layer that breaks the result."
)
@click.option("--plot", type=PATH, metavar="OUT.svg", help="Draw the ladder.")
@json_option
def command(
    subject: Path,
    model: Path | None,
    data: Path,
    precision: str,
    calibration: Path | None,
    tokenizer: Path | None,
    wants_bisect: bool,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Measure SUBJECT against the exact model on DATA.

    SUBJECT is a model, which --precision then quantizes, a program dumped after the phase quantize, or a
    bundle, of which the outputs are measured and the layers are those that report.json tells of.

    \b
    Examples:
      isthmus accuracy model.onnx --precision int8 --data texts.txt --tokenizer tokenizer.json
      isthmus accuracy dump/3.quantize.txt --against model.onnx --data requests/ --bisect
      isthmus accuracy dist/model@chip --against model.onnx --data requests.npz
    """
    if plot is not None:
        check_matplotlib()
    is_bundle = (subject / bundle_manifest.NAME).exists()
    if model is None and (is_bundle or subject.suffix == DUMP):
        hint = "--against MODEL.onnx"
        raise ModelError(
            Problem(Code.BAD_OPTION, "a bundle or a dump does not hold the exact model", "", hint)
        )
    if precision == "f32" and not is_bundle and subject.suffix != DUMP:
        hint = f"--precision with one of {', '.join(SCHEMES)}"
        raise ModelError(Problem(Code.BAD_OPTION, "a model in f32 is exact", "--precision", hint))
    with Steps() as steps:
        options = Options(cache=cache_dir(os.environ), progress=steps.begin)
        chip = find_target("host")
        program = read_model(model or subject, options)
        requests = read_requests(data, program, tokenizer)
        exact = pipeline.run(program, chip, stop_after=pipeline.FUSE.name)
        if is_bundle:
            if wants_bisect:
                hint = "dump it when it is compiled, or give the model and --precision"
                raise ModelError(
                    Problem(Code.BAD_OPTION, "a bundle holds no program to search", "--bisect", hint)
                )
            found = _of_bundle(subject, exact, requests, options)
        else:
            if subject.suffix == DUMP:
                low = text.load(subject)
            else:
                wanted = asked(precision, calibration, tokenizer)
                options = with_precision(program, chip, options, wanted, measured=False)
                low = pipeline.run(
                    program, chip, stop_after=pipeline.QUANTIZE.name, quantize=options.quantize
                )
            found = _of_program(program, exact, low, requests, chip, options, wants_bisect)
    if plot is not None:
        rows = [(row["name"], row.get("alone_sqnr"), row.get("sqnr")) for row in found.layers]
        write_ladder(plot, f"{subject.name}: signal over noise of each layer", rows)  # type: ignore[arg-type]
    _show(found, as_json)


@dataclass(frozen=True, slots=True)
class _Found:
    """What was measured; `layers` as in report.json."""

    requests: int
    layers: Sequence[Mapping[str, Json]]
    outputs: Mapping[str, Distance]
    restored: Mapping[str, Mapping[str, Distance]]
    searched: bool = False
    broken: Broken | None = None
    culprit: Culprit | None = None


def _of_bundle(folder: Path, exact: Program, requests: Sequence[Request], options: Options) -> _Found:
    outputs = {name: Distance() for name, _ in exact.main.outputs}
    with load(folder) as session, running(exact, options) as run:
        for request in requests:
            wanted = run(request)
            for name, array in session.run(request).items():
                outputs[name].add(array, wanted[name])
    told = json.loads((folder / "report.json").read_text("utf-8")).get("quantization", {})
    layers = [row for row in told.get("layers", []) if "sqnr" in row]
    return _Found(len(requests), layers, outputs, {})


def _of_program(
    program: Program,
    exact: Program,
    low: Program,
    requests: Sequence[Request],
    chip: Target,
    options: Options,
    wants_bisect: bool,
) -> _Found:
    ladder = climb(exact, low, requests, options)
    worst = [rung.name for rung in ladder.worst()]
    back = restored(exact, low, worst, requests, options) if worst else {}
    found = _Found(len(requests), [_row(rung) for rung in ladder.rungs], ladder.outputs, back)
    if not wants_bisect:
        return found
    shortest = min(requests, key=lambda request: sum(array.size for array in request.values()))
    broken = broken_pass(program, chip, shortest, options)
    culprit = bisect(exact, low, split(requests)[1], options) if ladder.rungs and broken is None else None
    return replace(found, searched=True, broken=broken, culprit=culprit)


def _row(rung: Rung) -> dict[str, Json]:
    alone = report.number(rung.alone.sqnr, 1)
    return {"name": rung.name, "alone_sqnr": alone, **report.as_json(rung.together)}


def _show(found: _Found, as_json: bool) -> None:
    if as_json:
        show_json(_as_json(found))
        return
    out = console()
    grid = table("layer", "alone dB", "together dB", "cosine", "largest error", right=_NUMBERS)
    for row in found.layers:
        grid.add_row(
            str(row["name"]), *(_text(row.get(key)) for key in ("alone_sqnr", "sqnr", "cosine", "max_error"))
        )
    out.print(grid)
    grid = table("output", "together dB", "cosine", "largest error", right=_NUMBERS)
    for name, distance in found.outputs.items():
        grid.add_row(name, *(_text(value) for value in report.as_json(distance).values()))
    out.print(grid)
    if found.restored:
        grid = table("were it in f32 again", "output", "together dB", "gained dB", right=_NUMBERS)
        for name, outputs in found.restored.items():
            for output, distance in outputs.items():
                gained = report.number(distance.sqnr - found.outputs[output].sqnr, 1)
                if gained is not None:
                    grid.add_row(name, output, _text(report.number(distance.sqnr, 1)), _text(gained))
        out.print(grid)
    if found.searched:
        out.print(verdict(found.broken, found.culprit))


_NUMBERS = ("alone dB", "together dB", "cosine", "largest error", "gained dB")


def _text(value: object) -> str:
    return "exact" if value is None else f"{value}"


def verdict(broken: Broken | None, culprit: Culprit | None) -> str:
    """What the search found, in a sentence."""
    if broken is not None:
        return f"the pass {broken.phase}/{broken.name} breaks the result: {broken.sqnr:.1f} dB after it"
    if culprit is None or not culprit.name:
        return "no pass and no single layer breaks the result: what is lost is lost by all of them a little"
    return f"the layer {culprit.name} breaks the result: {culprit.share:.0%} of the noise is its own"


def _as_json(found: _Found) -> dict[str, Json]:
    result: dict[str, Json] = {
        "requests": found.requests,
        "layers": list(found.layers),
        "outputs": {name: report.as_json(distance) for name, distance in found.outputs.items()},
        "restored": {
            name: {output: report.as_json(distance) for output, distance in outputs.items()}
            for name, outputs in found.restored.items()
        },
    }
    if found.searched:
        result["broken_pass"] = None if found.broken is None else f"{found.broken.phase}/{found.broken.name}"
        result["broken_layer"] = None if found.culprit is None else found.culprit.name or None
    return result
