"""`isthmus targets new`: the file of a chip to fill in, and the test that goes with it."""

from __future__ import annotations

from pathlib import Path

import click

import isthmus.targets
from isthmus.chips import discover, find, impossible_name
from isthmus.cli.arguments import PATH
from isthmus.errors import Code, ModelError, Problem
from isthmus.machine import Machine
from isthmus.tools.new_target import conformance_test, module_name, target_file


@click.command("new")
@click.argument("name")
@click.option("--like", default="host", show_default=True, help="The chip to begin from.")
@click.option(
    "-o",
    "--output",
    type=PATH,
    metavar="FOLDER",
    help="Where to; by default targets/ of a checkout, else here.",
)
def command(name: str, like: str, output: Path | None) -> None:
    """Write the file of a new chip NAME, with everything it can say explained, and its conformance test.

    \b
    Examples:
      isthmus targets new my-chip
      isthmus targets new my-chip --like host -o my_package
    """
    machine = Machine.here()
    known = discover(isthmus.targets)
    wrong = [f"{name!r} is taken"] if name in known else list(impossible_name(name))
    if wrong:
        raise ModelError([Problem(Code.BAD_OPTION, text, "NAME") for text in wrong])
    model = find(like, isthmus.targets, machine, "--like")
    here = Path.cwd()
    checkout = (here / "targets" / "__init__.py").is_file() and (here / "compiler" / "target.py").is_file()
    folder = output or (here / "targets" if checkout else here)
    tests = here / "tests" / "targets" if checkout and output is None else folder
    files = {
        folder / f"{module_name(name)}.py": target_file(name, model),
        tests / f"test_{module_name(name)}.py": conformance_test(name),
    }
    for path in files:
        if path.exists():
            raise ModelError(
                Problem(Code.CANNOT_WRITE, "there is such a file already", str(path), "remove it first")
            )
    for path, text in files.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        except OSError as error:
            raise ModelError(Problem(Code.CANNOT_WRITE, str(error.strerror), str(path))) from None
        click.echo(path)
