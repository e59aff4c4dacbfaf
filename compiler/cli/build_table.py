"""The matrix on a terminal: a row for each pair, and what is in the way."""

from __future__ import annotations

import click

from isthmus.cli.output import bytes_text, console, seconds_text, show_problems, table
from isthmus.errors import Problem
from isthmus.matrix.results import BuildResult, PairResult


def show_result(result: BuildResult) -> None:
    """The table, then what failed and why."""
    columns = ["model", "chip", "", "accuracy", "latency", "size", "start", f"{result.currency} / million"]
    grid = table(*columns, right=columns[3:], whole=columns[:2])
    cheapest = result.cheapest
    for pair in result.pairs:
        best = cheapest.get(pair.model) == pair.chip
        grid.add_row(*_row(pair, best))
    console().print(grid)
    failed: dict[tuple[Problem, ...], list[str]] = {}
    for pair in result.pairs:
        if pair.problems:
            failed.setdefault(pair.problems, []).append(pair.name)
    for problems, names in failed.items():
        click.echo(f"{', '.join(names)}:", err=True)
        show_problems(problems)
    for pair in result.pairs:
        show_problems(pair.faults)
    work = result.work
    good = sum(pair.status == "pass" for pair in result.pairs)
    click.echo(
        f"{good} of {len(result.pairs)} pairs pass, in {seconds_text(result.seconds)}: {work.models} models "
        f"imported, {work.pairs} bundles made, {work.checks} run, {work.measurements} timed; the rest from "
        f"the cache.{_legend(result)}\nreport: {result.output / 'report.html'}",
        err=True,
    )


def _legend(result: BuildResult) -> str:
    """What the signs in the table say, of those that are there."""
    guess = any(pair.latency is not None and not pair.latency.measured for pair in result.pairs)
    signs = (
        " ~ is an estimate from a roofline." if guess else "",
        " * is the cheapest chip." if result.cheapest else "",
    )
    return "".join(signs)


def _row(pair: PairResult, cheapest: bool) -> list[str]:
    latency = pair.latency
    about = "" if latency is None or latency.measured else "~"
    cells = [
        "-" if pair.accuracy is None else f"{pair.accuracy:.6f}",
        "-" if latency is None else about + seconds_text(latency.p50),
        "-" if pair.size is None else bytes_text(pair.size),
        "-" if pair.start is None else seconds_text(pair.start),
        "-" if pair.cost is None else f"{about}{pair.cost:.3g}{' *' if cheapest else ''}",
    ]
    return [pair.model, pair.chip, pair.status, *cells]
