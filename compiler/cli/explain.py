"""`isthmus explain`: what became of a node of the model."""

from __future__ import annotations

from pathlib import Path

import click

from isthmus.cli.arguments import PATH, fix_option, outputs_options
from isthmus.cli.output import Json, console, facts, json_option, show_json, show_problems, table
from isthmus.cli.steps import Steps
from isthmus.driver import Options, find_target, prepare, read_model
from isthmus.errors import Problem
from isthmus.frontends.onnx import Imported, parse_fixes
from isthmus.frontends.onnx.signature import parse_dims
from isthmus.passes.pipeline import Step
from isthmus.tools.explain import Fate, Place, explain, find, numbers


@click.command("explain")
@click.argument("model", type=PATH)
@click.argument("node", required=False)
@click.option("--target", default="host", show_default=True, help="The chip; `isthmus targets` lists them.")
@click.option(
    "--dim",
    "dims",
    multiple=True,
    metavar="NAME=SIZE",
    help="As for compile: fix or bound a dim. Repeatable.",
)
@fix_option
@outputs_options
@json_option
def command(
    model: Path,
    node: str | None,
    target: str,
    dims: tuple[str, ...],
    fixes: tuple[str, ...],
    only: tuple[str, ...],
    padding: str,
    as_json: bool,
) -> None:
    """Say what became of NODE of MODEL, an ONNX file; without NODE, of every one.

    NODE is the name of a node, or of a value that a node computes. A node without a name is called by its
    operator and its place in the file, as in Add#17.

    \b
    Examples:
      isthmus explain model.onnx
      isthmus explain model.onnx /encoder/layer.0/attention/MatMul
      isthmus explain model.onnx --json
    """
    nodes: list[Imported] = []
    steps: list[Step] = []
    warnings: list[Problem] = []
    with Steps() as shown:
        options = Options(
            dims=parse_dims(dims),
            fix=parse_fixes(fixes),
            outputs=only,
            drop_padding=padding == "drop",
            progress=shown.begin,
            watch=steps.append,
            warn=warnings.append,
            imported=nodes.append,
        )
        chip = find_target(target)
        program = read_model(model, options)
        prepared = prepare(program, chip, options)
    fates = explain(nodes, program, steps, prepared.program, prepared.plan)
    if node is not None:
        fate = find(fates, node)
        if as_json:
            show_json(_as_json(fate))
        else:
            _show(fate)
    elif as_json:
        show_json([_as_json(fate) for fate in fates])
    else:
        _show_all(fates)
    show_problems(warnings)


def _show_all(fates: tuple[Fate, ...]) -> None:
    grid = table("node", "operator", "what became of it", "kernel", "stage", right=("stage",))
    for fate in fates:
        first = fate.places[0] if fate.places and fate.places[0].kernel else None
        place = (first.kernel, str(first.stage)) if first is not None else ("", "")
        grid.add_row(fate.node, fate.operator, fate.text, *place)
    out = console()
    out.print(grid)
    out.print(", ".join(f"{count} {kind}" for kind, count in numbers(fates).items()))


def _show(fate: Fate) -> None:
    rows = [
        ("node", fate.node),
        ("operator", fate.operator),
        ("outputs", ", ".join(fate.outputs)),
        ("became", fate.text),
        *(("taken in", f"by {took.rule}, at {took.node}") for took in fate.took),
        *((place.how, _place_text(place)) for place in fate.places if place.kernel),
        ("rules here", ", ".join(fate.rules)),
        *(("refused", f"{r.rule}: {r.reason}  (at {r.node})") for r in fate.refused),
    ]
    console().print(facts(row for row in rows if row[1]))


def _place_text(place: Place) -> str:
    stage = f"stage {place.stage} ({place.stage_kind})"
    return f"{place.op} {place.type} at {place.node}: {place.kernel} in {stage}, result in {place.layout}"


def _as_json(fate: Fate) -> dict[str, Json]:
    return {
        "node": fate.node,
        "operator": fate.operator,
        "outputs": list(fate.outputs),
        "became": fate.kind,
        "text": fate.text,
        "taken_in": [{"rule": took.rule, "node": took.node} for took in fate.took],
        "places": [_place_json(place) for place in fate.places],
        "rules": list(fate.rules),
        "refused": [{"rule": r.rule, "node": r.node, "reason": r.reason} for r in fate.refused],
    }


def _place_json(place: Place) -> Json:
    return {
        "how": place.how,
        "op": place.op,
        "node": place.node,
        "type": place.type,
        "kernel": place.kernel,
        "stage": place.stage if place.kernel else None,
        "stage_kind": place.stage_kind,
        "layout": place.layout,
    }
