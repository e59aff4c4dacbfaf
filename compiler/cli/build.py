"""`isthmus build`: the matrix of models and chips, what changed of it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from isthmus.cli.arguments import PATH
from isthmus.cli.build_progress import Progress
from isthmus.cli.build_table import show_result
from isthmus.cli.output import json_option, show_json, show_problems
from isthmus.codegen.cache import cache_dir
from isthmus.errors import Code, ModelError, Problem
from isthmus.machine import processors
from isthmus.matrix import units
from isthmus.matrix.build import Request, build_matrix
from isthmus.matrix.cache import usual_folder, where
from isthmus.matrix.config import FILE, load_config
from isthmus.matrix.lock import held_to, keep, path_of
from isthmus.matrix.memory import memory_here
from isthmus.matrix.plans import plan_matrix
from isthmus.matrix.report import report_json, write_reports

DEFAULT = Path(FILE)


@click.command("build")
@click.argument("config", type=PATH, default=DEFAULT)
@click.option("--only", multiple=True, metavar="MODEL@CHIP", help="Only these pairs; * is any. Repeatable.")
@click.option("-o", "--output", type=PATH, help="The folder of bundles and reports; by default the file's.")
@click.option("--jobs", type=click.IntRange(min=1), help="Workers; by default one for each processor.")
@click.option("--memory", metavar="SIZE", help="What workers may take together, 16G; by default most of it.")
@click.option("--cache", metavar="FOLDER|URL", help="Where finished pieces are kept; by default the file's.")
@click.option("--frozen", is_flag=True, help="Refuse what differs from isthmus.lock; leave that as it is.")
@click.option("--measure/--no-measure", default=True, help="Time what this machine can run (default).")
@click.option("--scheduler", metavar="ADDRESS", help="Work on a Dask cluster: tcp://HOST:PORT.")
@json_option
def command(
    config: Path,
    only: tuple[str, ...],
    output: Path | None,
    jobs: int | None,
    memory: str | None,
    cache: str | None,
    frozen: bool,
    measure: bool,
    scheduler: str | None,
    as_json: bool,
) -> None:
    """Build every model of CONFIG for every chip: what changed, the rest is taken from the cache.

    Bundles lie in dist/MODEL@CHIP afterwards, reports beside them: report.html, report.json, report.md,
    junit.xml, report.sarif. Exit status 1 when a budget is exceeded or a bundle answers wrongly, 2 when a
    pair cannot be built; the others are built all the same.

    \b
    Examples:
      isthmus build
      isthmus build isthmus.toml --only 'minilm@*' --jobs 2
      isthmus build --frozen --json
      isthmus build --cache s3://bucket/isthmus --memory 16G
      isthmus build --scheduler tcp://scheduler:8786 --cache /shared/isthmus
    """
    found = load_config(config)
    matrix = plan_matrix(found, only)
    locked = path_of(config)
    lock = held_to(locked, matrix) if frozen else None
    with Progress() as progress:
        request = Request(
            places=where(cache or found.cache_place, usual_folder(cache_dir(os.environ))),
            output=output or found.folder / found.output,
            jobs=jobs or processors(),
            memory=memory_of(memory),
            scheduler=scheduler,
            measure=measure,
            tell=progress.tell,
        )
        result = build_matrix(found, matrix, request)
    write_reports(result)
    keep(locked, lock, matrix, result)
    if as_json:
        show_json(report_json(result))
    else:
        show_result(result)
    show_problems(result.warnings)
    if result.exit_code:
        raise click.exceptions.Exit(result.exit_code)


def memory_of(text: str | None) -> int:
    """Bytes; by default most of this machine's. Raises `ModelError`."""
    if text is None:
        return memory_here()
    found = units.amount(text, units.BYTES)
    if not found:
        problem = Problem(Code.BAD_OPTION, f"{text!r} is no amount of memory", "--memory", "as 16G or 800M")
        raise ModelError(problem)
    return int(found)
