"""`isthmus rebuild`: the matrix once more, from nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from isthmus.bundle.manifest import NAME as MANIFEST
from isthmus.cli.arguments import PATH
from isthmus.cli.build import DEFAULT, memory_of
from isthmus.cli.build_progress import Progress
from isthmus.cli.output import json_option, show_json, show_problems
from isthmus.errors import BundleError, Code, ModelError, Problem, QualityError
from isthmus.machine import processors
from isthmus.matrix.build import Request
from isthmus.matrix.cache import Where, file_digest
from isthmus.matrix.config import FILE, load_config
from isthmus.matrix.plans import plan_matrix
from isthmus.matrix.rebuild import differences, rebuild
from isthmus.matrix.results import BuildResult


@click.command("rebuild")
@click.argument("subject", type=PATH, default=DEFAULT, metavar="[CONFIG|BUNDLE]")
@click.option("--check", is_flag=True, help="Only compare: every byte with the bundles there are.")
@click.option("--config", type=PATH, help="Where BUNDLE is from; by default isthmus.toml here or above it.")
@click.option("--only", multiple=True, metavar="MODEL@CHIP", help="Only these pairs; * is any. Repeatable.")
@click.option("-o", "--output", type=PATH, help="The folder of the bundles; by default the file's.")
@click.option("--jobs", type=click.IntRange(min=1), help="Workers; by default one for each processor.")
@click.option("--memory", metavar="SIZE", help="What workers may take together, 16G; by default most of it.")
@json_option
def command(
    subject: Path,
    check: bool,
    config: Path | None,
    only: tuple[str, ...],
    output: Path | None,
    jobs: int | None,
    memory: str | None,
    as_json: bool,
) -> None:
    """Build the bundles of CONFIG, or one BUNDLE of it, once more from nothing.

    Without any cache, in another time zone and with another hash seed. What comes out takes the place of
    what was there; with --check nothing is replaced, and the exit status is 1 when a byte differs: the
    proof that the bundles are reproducible. Reports, lock and cache stay as they are.

    \b
    Examples:
      isthmus rebuild --check
      isthmus rebuild --check dist/minilm@server
      isthmus rebuild dist/minilm@server
      isthmus rebuild --check isthmus.toml --only 'minilm@*'
    """
    wanted_file, patterns, place = subject, only, output
    if (subject / MANIFEST).is_file():
        if only or output is not None:
            problem = Problem(Code.BAD_OPTION, "are for a configuration, not for one bundle", "--only, -o")
            raise ModelError(problem)
        wanted_file = config or _config_of(subject)
        patterns, place = (subject.resolve().name,), subject.resolve().parent
    elif config is not None:
        raise ModelError(Problem(Code.BAD_OPTION, f"{subject} is no bundle", "--config"))
    found = load_config(wanted_file)
    matrix = plan_matrix(found, patterns)
    place = place or found.folder / found.output
    names = [plan.pair.name for plan in matrix.plans]
    wanted = {n: file_digest(place / n / MANIFEST) for n in names if (place / n / MANIFEST).is_file()}
    if check and not wanted:
        hint = "build first: isthmus build"
        raise BundleError(Problem(Code.NO_SUCH_FILE, "there are no bundles here", str(place), hint))
    with Progress() as progress:
        request = Request(
            places=Where(place),  # not used: nothing is taken from anywhere
            output=place,
            jobs=jobs or processors(),
            memory=memory_of(memory),
            tell=progress.tell,
        )
        again = rebuild(found, matrix, request, replaces=not check)
    for pair in again.pairs:
        show_problems(pair.problems)
    wrong = differences(wanted, again)
    _show(wanted, again, [problem.where for problem in wrong], as_json)
    if check and wrong:
        raise QualityError(wrong)
    if again.exit_code == FAILED:
        raise click.exceptions.Exit(FAILED)


FAILED = 2


def _config_of(bundle: Path) -> Path:
    """The isthmus.toml in the working folder, else in the nearest folder above the bundle."""
    places = [Path(), *bundle.resolve().parents]
    for place in places:
        if (place / FILE).is_file():
            return place / FILE
    hint = "say which one the bundle was built from: --config FILE"
    raise ModelError(Problem(Code.NO_SUCH_FILE, f"there is no {FILE}", str(bundle), hint))


def _show(wanted: Mapping[str, str], again: BuildResult, different: list[str], as_json: bool) -> None:
    made = {pair.name: pair.digest for pair in again.pairs if pair.digest is not None}
    same = [name for name in wanted if name in made and name not in different]
    new = [name for name in made if name not in wanted]
    if as_json:
        show_json({"same": same, "different": different, "new": new})
        return
    for name in same:
        click.echo(f"{name}: the same bytes ({wanted[name][:16]})")
    for name in different:
        click.echo(f"{name}: other bytes ({wanted[name][:16]}, now {(made.get(name) or 'none')[:16]})")
    for name in new:
        click.echo(f"{name}: there was none ({made[name][:16]})")
