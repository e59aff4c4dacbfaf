"""`isthmus bench`: how fast a bundle is, alone or in turns with onnxruntime."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import numpy as np

from isthmus.bundle.manifest import Port
from isthmus.bundle.selftest import Case
from isthmus.cli.arguments import PATH, assignments, check_dims, size_list
from isthmus.cli.output import Json, console, json_option, progress, show_json, table
from isthmus.cli.verify import required, stored_cases
from isthmus.errors import Code, ModelError, Problem
from isthmus.runtime import load
from isthmus.tools.bench import Timing, alternate, ratio
from isthmus.tools.inputs import random_inputs, sizes_of
from isthmus.tools.reference import Reference
from isthmus.tools.verify import merge_examples


@dataclass(frozen=True, slots=True)
class Point:
    """One cell of the grid: threads, sizes by dim, our time, and the other engine's."""

    threads: int
    sizes: dict[str, int]
    ours: Timing
    theirs: Timing | None


@click.command("bench")
@click.argument("bundle", type=PATH)
@click.option("--against", "peer", type=click.Choice(["onnxruntime"]), help="Alternate with another engine.")
@click.option("--model", type=PATH, metavar="MODEL.onnx", help="The model, for onnxruntime.")
@click.option("--threads", default="1", show_default=True, metavar="N,N,...", help="Numbers of threads.")
@click.option("--dim", "dims", multiple=True, metavar="NAME=N,N,...", help="Sizes of a dim. Repeatable.")
@click.option("--seconds", type=float, default=2.0, show_default=True, help="Time for each row of the table.")
@json_option
def command(
    bundle: Path,
    peer: str | None,
    model: Path | None,
    threads: str,
    dims: tuple[str, ...],
    seconds: float,
    as_json: bool,
) -> None:
    """Time BUNDLE for every combination of threads and sizes.

    Engines take turns of a few hundredths of a second in one process, so that a busy moment of the machine
    hits both; the ratio is the median over the turns. Dims that are not given have the size of the first
    request stored in the bundle. Compare ratios of one run, never times of two.

    \b
    Examples:
      isthmus bench dist/model@chip
      isthmus bench dist/model@chip --dim batch=1,8 --dim seq=16,128,512 --threads 1,2
      isthmus bench dist/model@chip --against onnxruntime --model model.onnx --json
    """
    counts = size_list(threads)
    if not counts or 0 in counts:
        raise ModelError(Problem(Code.BAD_OPTION, f"{threads!r} is not a list of thread counts", "--threads"))
    asked = assignments("--dim", dims, size_list, "NAME=SIZE,SIZE,...")
    reference = required(model) if peer == "onnxruntime" else None
    with load(bundle, counts[0]) as session:
        ports = session.inputs
    check_dims(asked, ports)
    cases = stored_cases(bundle)
    grid = sizes_grid(ports, cases, asked)
    points = measure(bundle, reference, ports, cases, counts, grid, seconds)
    found = list(progress(points, "timing", len(counts) * len(grid)))
    _show(found, as_json)


def sizes_grid(
    ports: Sequence[Port], cases: Sequence[Case], asked: dict[str, list[int]]
) -> list[dict[str, int]]:
    """Every combination of the sizes `asked`; other dims have the size they have in the first case."""
    choices = {**{name: [size] for name, size in sizes_of(ports, cases[0].inputs).items()}, **asked}
    return [dict(zip(choices, sizes, strict=True)) for sizes in itertools.product(*choices.values())]


def measure(
    bundle: Path,
    model: Path | None,
    ports: Sequence[Port],
    cases: Sequence[Case],
    counts: Sequence[int],
    grid: Sequence[dict[str, int]],
    seconds: float,
) -> Iterator[Point]:
    """Time every point of the grid; with a `model`, in turns with onnxruntime on as many threads."""
    examples = merge_examples(cases)
    for threads in counts:
        with load(bundle, threads, verify=False) as session:
            reference = None if model is None else Reference(model, threads)
            for sizes in grid:
                inputs = random_inputs(ports, sizes, examples, np.random.default_rng(0))
                engines = [partial(session.run, inputs)]
                if reference is not None:
                    engines.append(partial(reference, inputs))
                ours, *theirs = alternate(engines, seconds)
                yield Point(threads, sizes, ours, theirs[0] if theirs else None)


def _show(points: Sequence[Point], as_json: bool) -> None:
    if as_json:
        show_json({"processors": os.cpu_count(), "points": [_as_json(point) for point in points]})
        return
    dims = list(points[0].sizes)
    numbers = ["best ms", "median ms"]
    if points[0].theirs is not None:
        numbers += ["onnxruntime best ms", "its median ms", "ratio"]
    grid = table("threads", *dims, *numbers, right=("threads", *dims, *numbers))
    for point in points:
        cells = [str(point.threads), *map(str, point.sizes.values()), *_times(point.ours)]
        if point.theirs is not None:
            cells += [*_times(point.theirs), f"{ratio(point.ours, point.theirs):.3f}"]
        grid.add_row(*cells)
    console().print(grid)
    if points[0].theirs is not None:
        click.echo("ratio: our time over onnxruntime's; below 1 we are faster", err=True)


def _times(timing: Timing) -> tuple[str, str]:
    return f"{timing.best * 1e3:.3f}", f"{timing.median * 1e3:.3f}"


def _as_json(point: Point) -> dict[str, Json]:
    plain: dict[str, Json] = {"threads": point.threads, "sizes": point.sizes, "isthmus": _timing(point.ours)}
    if point.theirs is None:
        return plain
    return {**plain, "onnxruntime": _timing(point.theirs), "ratio": ratio(point.ours, point.theirs)}


def _timing(timing: Timing) -> dict[str, Json]:
    return {"best_ms": timing.best * 1e3, "median_ms": timing.median * 1e3, "runs": timing.runs}
