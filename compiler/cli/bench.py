"""`isthmus bench`: how fast a bundle is, alone or in turns with other engines, and where its time goes."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import cast

import click

import isthmus.targets
from isthmus.bundle.manifest import Manifest
from isthmus.chips import discover
from isthmus.cli.arguments import PATH, assignments, check_dims, size_list
from isthmus.cli.bench_profile import profile_json, show_profile
from isthmus.cli.output import Json, console, json_option, progress, show_json, table
from isthmus.cli.verify import fixed_of, required, stored_cases
from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_program, find_target, read_model
from isthmus.errors import Code, ModelError, Problem
from isthmus.quantizer.plan import asked, with_precision
from isthmus.runtime import load
from isthmus.target import Target
from isthmus.tools.bench import Ratio, Timing, pinned
from isthmus.tools.contest import (
    Contest,
    Point,
    calls_of,
    engines_json,
    point_json,
    sizes_grid,
    sizes_text,
)
from isthmus.tools.hardware import hardware
from isthmus.tools.peers import PEERS, check_installed
from isthmus.tools.plot import Line, Panel, check_matplotlib, write_svg
from isthmus.tools.profile import Profile, profile
from isthmus.tools.roofline import roofline

# A peer whose answer is further from ours than this computes something else, and its time means nothing.
SAME_ANSWER = 1e-2


@click.command("bench")
@click.argument("bundle", type=PATH)
@click.option(
    "--against",
    "peers",
    multiple=True,
    metavar="ENGINE",
    help=f"Take turns with {', '.join(PEERS)}, or MODULE:FUNCTION, an engine of your own. Repeatable.",
)
@click.option("--model", type=PATH, metavar="MODEL.onnx", help="The model, for other engines and --profile.")
@click.option("--threads", default="1", show_default=True, metavar="N,N,...", help="Numbers of threads.")
@click.option("--dim", "dims", multiple=True, metavar="NAME=N,N,...", help="Sizes of a dim. Repeatable.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="Time for each row of the table.",
)
@click.option(
    "--pin/--no-pin", default=True, help="Keep the process on as many processors as threads (default)."
)
@click.option("--limit", is_flag=True, help="Also time the machine's arithmetic limit; show our share of it.")
@click.option(
    "--profile", "profiled", is_flag=True, help="Time every kernel call, of a library made for that."
)
@click.option("--plot", type=PATH, metavar="OUT.svg", help="Draw time over size, a line for each engine.")
@json_option
def command(
    bundle: Path,
    peers: tuple[str, ...],
    model: Path | None,
    threads: str,
    dims: tuple[str, ...],
    seconds: float,
    pin: bool,
    limit: bool,
    profiled: bool,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Time BUNDLE for every combination of threads and sizes.

    Engines take turns of a tenth of a second in one process, so that a busy moment of the machine hits all;
    a ratio is the median over the turns. All compute in f32 on as many threads, one request at a time. Dims
    that are not given have the size of the first request stored in the bundle. Compare ratios of one run,
    never times of two.

    \b
    Examples:
      isthmus bench dist/model@chip
      isthmus bench dist/model@chip --dim batch=1,8 --dim seq=16,128,512 --threads 1,2
      isthmus bench dist/model@chip --model model.onnx --against onnxruntime --against openvino --limit
      isthmus bench dist/model@chip --model model.onnx --against engines:pytorch
      isthmus bench dist/model@chip --model model.onnx --dim seq=128 --profile
      isthmus bench dist/model@chip --dim batch=1,8 --dim seq=1,16,128,512 --plot speed.svg --json
    """
    counts = size_list(threads)
    if not counts or 0 in counts:
        raise ModelError(Problem(Code.BAD_OPTION, f"{threads!r} is not a list of thread counts", "--threads"))
    if profiled and (peers or plot is not None):
        raise click.UsageError("--profile is of this bundle alone: it takes neither --against nor --plot")
    asked = assignments("--dim", dims, size_list, "NAME=SIZE,SIZE,...")
    peers = tuple(dict.fromkeys(peers))
    check_installed(peers)
    if plot is not None:
        check_matplotlib()
        if plot.is_dir() or not plot.absolute().parent.is_dir():
            why = "this is a folder" if plot.is_dir() else "there is no such folder"
            raise ModelError(Problem(Code.CANNOT_WRITE, why, str(plot), "--plot is the name of a file"))
    asking = f"--against {peers[0]}" if peers else "--profile"
    source = required(model, asking) if peers or profiled else None
    with load(bundle, counts[0]) as session:
        manifest, ports = session.manifest, session.inputs
    check_dims(asked, ports)
    target = _of_one_level(manifest, "--profile" if profiled else "--limit") if limit or profiled else None
    cases = stored_cases(bundle)
    contest = Contest(
        bundle=bundle,
        cases=cases,
        ports=ports,
        threads=tuple(counts),
        grid=sizes_grid(ports, cases, asked),
        seconds=seconds,
        model=source,
        peers=peers,
        pin=pin,
        limit=target if limit else None,
        fixed=fixed_of(manifest),
        tell=_tell,
    )
    if profiled:
        assert source is not None and target is not None
        _profile(contest, manifest, target, source, as_json)
        return
    points = list(progress(contest.points(), "timing", len(counts) * len(contest.grid)))
    points.sort(key=lambda point: counts.index(point.threads))  # as asked for
    _warn(points)
    if plot is not None:
        write_svg(plot, f"{manifest.name} for {manifest.chip.name}", *panels(points))
    if as_json:
        show_json(cast("Json", results(points, manifest, seconds, pin)))
    else:
        _show(points)


def _of_one_level(manifest: Manifest, option: str) -> Target:
    """The chip of the bundle. Raises `ModelError` if it has several levels: each makes calls of its own."""
    target = find_target(manifest.chip.name)
    if target.levels:
        hint = f"take the bundle of one of {', '.join(level.name for level in target.levels)}"
        raise ModelError(Problem(Code.BAD_OPTION, f"{target.name} has several levels", option, hint))
    return target


def _tell(what: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"{what} ...", err=True)


def _warn(points: Sequence[Point]) -> None:
    """Say which engines answered something else, or compute more or less than the bundle does."""
    for name, rival in points[0].rivals.items():
        if rival.missed:
            some = ", ".join(rival.missed)
            click.echo(f"{name} and the bundle have other outputs; not compared: {some}", err=True)
    for point in points:
        for name, rival in point.rivals.items():
            if rival.difference > SAME_ANSWER:
                text = f"{name} answers differently at {sizes_text(point.sizes)}: by {rival.difference:.2g}"
                click.echo(text, err=True)


def results(points: Sequence[Point], manifest: Manifest, seconds: float, pin: bool) -> dict[str, object]:
    """Everything about a run of the benchmark: the machine, the engines, how, and each point."""
    flags = {flag for target in discover(isthmus.targets).values() for flag in target.cpu_flags}
    return {
        "model": manifest.name,
        "target": manifest.chip.name,
        "machine": asdict(hardware(flags)),
        "engines": engines_json(points, version("isthmus"), manifest.precision),
        "settings": {"seconds": seconds, "pinned": pin},
        "points": [point_json(point) for point in points],
    }


# The table


def _show(points: Sequence[Point]) -> None:
    dims, names = list(points[0].sizes), list(points[0].rivals)
    head = ["threads", *dims, "best ms", "median ms", "quartiles"]
    for name in names:
        head += [f"{name} median ms", "ratio"]
    head += ["GFLOP/s", "of the limit"] if points[0].limit else []
    grid = table(*head, right=head)
    for point in points:
        cells = [str(point.threads), *map(str, point.sizes.values())]
        cells += [_ms(point.ours.best), _ms(point.ours.median), _spread(point.ours)]
        for rival in point.rivals.values():
            cells += [_ms(rival.timing.median), f"{rival.ratio.median:.3f} ({_range(rival.ratio)})"]
        if point.limit is not None:
            rate, share = point.limit
            cells += [f"{share.median * rate / 1e9:.1f}", f"{share.median:.0%}"]
        grid.add_row(*cells)
    console().print(grid)
    if names:
        text = "ratio: our time over theirs, median and quartiles over turns; below 1 we are faster"
        click.echo(text, err=True)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"


def _spread(timing: Timing) -> str:
    low, _, high = timing.quartiles
    return f"{_ms(low)}-{_ms(high)}"


def _range(value: Ratio) -> str:
    return f"{value.low:.2f}-{value.high:.2f}"


# The picture


def panels(points: Sequence[Point]) -> tuple[str, list[Panel]]:
    """The dim with the most sizes, and a panel for each combination of the other ones and threads."""
    counts = {dim: len({point.sizes[dim] for point in points}) for dim in points[0].sizes}
    # Of two with as many sizes the later one: batch comes first, length after it.
    along = max(reversed(counts), key=counts.__getitem__) if counts else "threads"
    groups: dict[str, list[Point]] = {}
    for point in points:
        groups.setdefault(_title(point, along, points), []).append(point)
    return along, [_panel(title, along, group) for title, group in groups.items()]


def _title(point: Point, along: str, points: Sequence[Point]) -> str:
    parts = [f"{dim} {size}" for dim, size in point.sizes.items() if dim != along]
    if along != "threads" and len({other.threads for other in points}) > 1:
        parts.append(f"{point.threads} thread{'s' if point.threads > 1 else ''}")
    return ", ".join(parts)


def _panel(title: str, along: str, points: Sequence[Point]) -> Panel:
    x = tuple(point.sizes.get(along, point.threads) for point in points)
    timings = {"isthmus": [point.ours for point in points]}
    for name in points[0].rivals:
        timings[name] = [point.rivals[name].timing for point in points]
    return Panel(title, tuple(_line(name, x, found) for name, found in timings.items()))


def _line(name: str, x: tuple[int, ...], timings: Sequence[Timing]) -> Line:
    milliseconds = (tuple(value * 1e3 for value in timing.quartiles) for timing in timings)
    return Line(name, x, cast("tuple[tuple[float, float, float], ...]", tuple(milliseconds)))


# The profile


def _profile(contest: Contest, manifest: Manifest, target: Target, model: Path, as_json: bool) -> None:
    """Compile once more, with a clock around every kernel call, and show where the time goes.

    Raises ModelError for another model than the bundle's, and for a precision that needs data.
    """
    bounds = {dim.name: (dim.low, dim.high) for dim in manifest.dims}
    options = Options(
        name=manifest.name,
        dims=bounds,
        fix=contest.fixed,
        outputs=tuple(port.name for port in manifest.entries[0].outputs),
        drop_padding=manifest.padding is not None,
        verify=False,
        cache=cache_dir(os.environ),
        timed=True,
        progress=_tell,
    )
    program = read_model(model, options)
    if program.origin != manifest.model_digest:
        raise ModelError(Problem(Code.BAD_OPTION, "the bundle was made from another model", str(model)))
    # What only data can choose is refused: it would be another program that is timed.
    options = with_precision(program, target, options, asked(manifest.precision))
    found: list[tuple[int, Mapping[str, int], Profile]] = []
    with tempfile.TemporaryDirectory(prefix="isthmus-profile-") as folder:
        timed = compile_program(program, target, Path(folder), options).path
        calls = calls_of(timed)
        click.echo(
            "profile of a library compiled now from the model, with a clock around each call", err=True
        )
        if list(calls) != list(calls_of(contest.bundle)):
            click.echo("it makes other calls than the bundle, which another version compiled", err=True)
        for threads in contest.threads:
            place = pinned(threads) if contest.pin else nullcontext()
            with place, load(timed, threads) as session, roofline(target, threads) as limits:
                for sizes in contest.grid:
                    inputs = contest.inputs(sizes)
                    one = profile(session, calls, inputs, sizes, limits, contest.seconds)
                    found.append((threads, sizes, one))
    if as_json:
        show_json([profile_json(*each) for each in found])
        return
    for each in found:
        show_profile(*each)
