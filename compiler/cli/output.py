"""Where text goes: results to stdout, everything else to stderr; colour only where a terminal has it."""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, TextIO, TypeAlias, TypeVar

import click
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from isthmus.errors import Problem

Json: TypeAlias = str | int | float | bool | Sequence["Json"] | Mapping[str, "Json"] | None
Command = TypeVar("Command", bound=Callable[..., object])
Item = TypeVar("Item")

# A pipe has no width of its own; wide enough that nothing a script looks for is wrapped.
_PIPE_WIDTH = 200


def console(stream: TextIO | None = None) -> Console:
    """A console on `stream` (stdout by default) that prints text as it is."""
    file = sys.stdout if stream is None else stream
    width = None if file.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False)


def json_option(command: Command) -> Command:
    """`--json`, the same on every command that prints a result."""
    option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
    return option(command)


def show_json(value: Json) -> None:
    """Print `value` to stdout as JSON, in the order given."""
    click.echo(json.dumps(value, indent=2))


def finite(value: float) -> float | None:
    """`value` where JSON can say it, else None."""
    return value if math.isfinite(value) else None


def show_problems(problems: Iterable[Problem], debug: bool = False) -> None:
    """Print problems to stderr, each with its code, place and hint."""
    errors = console(sys.stderr)
    if debug:
        traceback.print_exc()
    for problem in problems:
        head, *rest = str(problem).split("\n")
        code, _, message = head.partition(": ")
        errors.print(Text.assemble((code, "bold red"), ": ", message), soft_wrap=True)
        for line in rest:
            errors.print(Text(line), soft_wrap=True)


def progress(items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
    """`items`, with a bar on stderr while they come, where that is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    yield from track(items, f"{what} ...", total, console=console(sys.stderr), transient=True)


def table(*columns: str, right: Sequence[str] = (), whole: Sequence[str] = ()) -> Table:
    """An empty table; the columns named in `right` hold numbers, those in `whole` are not broken."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        justify: Literal["right", "left"] = "right" if name in right else "left"
        grid.add_column(name, justify=justify, overflow="fold", no_wrap=name in whole)
    return grid


def facts(rows: Iterable[tuple[str, str]]) -> Table:
    """Names and values, aligned, without lines."""
    grid = Table(box=None, show_header=False, pad_edge=False)
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(name, value)
    return grid


def bytes_text(count: int) -> str:
    """A size for people: 512 B, 69.1 MB (powers of ten)."""
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"


def seconds_text(seconds: float) -> str:
    """A duration for people, three digits: 12.3 us, 4.56 ms, 7.89 s."""
    for scale, unit in ((1e6, "us"), (1e3, "ms")):
        if seconds * scale < 999.5:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.2f} s"
