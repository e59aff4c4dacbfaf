"""Values of options that more than one command takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import click

from isthmus.bundle.manifest import Port
from isthmus.errors import Code, ModelError, Problem, nearest
from isthmus.tools.inputs import dim_names

Value = TypeVar("Value")
Command = TypeVar("Command", bound=Callable[..., object])

# Existence is checked by whoever opens it, so that the error has a code of its own.
PATH = click.Path(path_type=Path)


def threads_option(command: Command) -> Command:
    """`--threads`, for commands that run a bundle."""
    text = "Threads to run on; by default one for each processor."
    return click.option("--threads", type=click.IntRange(min=1), help=text)(command)


def assignments(
    option: str, texts: Iterable[str], read: Callable[[str], Value | None], form: str
) -> dict[str, Value]:
    """NAME=VALUE texts of a repeated option as a table; `form` says what is wanted.

    Raises ModelError naming every text that has no `=`, is not understood by `read` (None), or comes twice.
    """
    found: dict[str, Value] = {}
    problems: list[Problem] = []
    for text in texts:
        # Names may hold '=': an ONNX name may be anything.
        name, equals, value = text.rpartition("=")
        parsed = read(value) if equals and name else None
        if parsed is None:
            problems.append(Problem(Code.BAD_OPTION, f"{text!r} is not {form}", option))
        elif name in found:
            problems.append(Problem(Code.BAD_OPTION, f"{name!r} is given twice", option))
        else:
            found[name] = parsed
    if problems:
        raise ModelError(problems)
    return found


def size_list(text: str) -> list[int] | None:
    """`1,8,64` as sizes; None if it is anything else."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        return None
    return [int(part) for part in text.split(",")]


def size_range(text: str) -> tuple[int, int] | None:
    """`1..512`, or one size, as bounds; None if it is anything else."""
    match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text)
    if match is None:
        return None
    low, high = int(match[1]), int(match[2] or match[1])
    return (low, high) if 1 <= low <= high else None


def check_dims(given: Iterable[str], ports: Sequence[Port]) -> None:
    """Raise ModelError for every name that is no dim of the model's inputs."""
    known = dim_names(ports)
    unknown = [
        Problem(Code.UNKNOWN_DIM, f"the model has no dim called {name!r}", "--dim", nearest(name, known))
        for name in given
        if name not in known
    ]
    if unknown:
        raise ModelError(unknown)
