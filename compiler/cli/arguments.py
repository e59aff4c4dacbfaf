"""Values of options that more than one command takes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import click

from isthmus.bundle.manifest import Port
from isthmus.errors import Code, ModelError, Problem, nearest
from isthmus.passes.sparsify.options import FORMS, METHODS
from isthmus.quantizer.plan import precisions
from isthmus.tools.inputs import dim_names

Value = TypeVar("Value")
Command = TypeVar("Command", bound=Callable[..., object])

# Existence is checked by whoever opens it, so that the error has a code of its own.
PATH = click.Path(path_type=Path)


def threads_option(command: Command) -> Command:
    """`--threads`, for commands that run a bundle."""
    text = "Threads to run on; by default one for each processor."
    return click.option("--threads", type=click.IntRange(min=1), help=text)(command)


def level_option(command: Command) -> Command:
    """`--level`, for commands that run a bundle."""
    text = "Of a bundle with code for several chips: which one; by default the best this machine can run."
    return click.option("--level", metavar="CHIP", help=text)(command)


def fix_option(command: Command) -> Command:
    """`--fix`, for commands that read a model."""
    text = (
        "Make a constant of an input: true, a number, a list or @file.npy. The bundle does not take it any "
        "more. Repeatable."
    )
    return click.option("--fix", "fixes", multiple=True, metavar="NAME=VALUE", help=text)(command)


def precision_options(command: Command) -> Command:
    """`--precision` and what it may need, for commands that quantize a model."""
    names = ", ".join(name for name in precisions() if "+" not in name)
    command = click.option(
        "--tokenizer", type=PATH, metavar="TOKENIZER.json", help="Makes inputs of a text file's lines."
    )(command)
    command = click.option(
        "--calibration",
        type=PATH,
        metavar="DATA",
        help="Requests like those the model will see: a .npz, a folder of them, or a text file.",
    )(command)
    return click.option(
        "--precision",
        default="f32",
        show_default=True,
        metavar="NAME",
        help=(
            f"How products compute: {names}. Where rows stay floats, +bf16 or +f16 (int4+bf16) says what "
            "they and the rest of the model are."
        ),
    )(command)


def outputs_options(command: Command) -> Command:
    """`--only` and `--padding`, for commands that read a model."""
    only = "Compile only what this output needs; the bundle has no others. Repeatable."
    padding = (
        "Outputs with a row for each position: as the model computes them, or 0 where the mask is (drop). A "
        "batch then costs the sum of its lengths. Other outputs stay as they are."
    )
    choice = click.Choice(["keep", "drop"])
    with_padding = click.option("--padding", type=choice, default="keep", show_default=True, help=padding)
    return click.option("--only", "only", multiple=True, metavar="OUTPUT", help=only)(with_padding(command))


def sparsity_options(command: Command) -> Command:
    """`--sparsity` and its method, for commands that prune a model."""
    command = click.option(
        "--sparsity-method",
        metavar="NAME",
        help=f"What numbers are judged by: {', '.join(METHODS)}; by default the best there is data for.",
    )(command)
    return click.option("--sparsity", metavar="FORM", help=f"Prune matrices: {FORMS}.")(command)


def decision_options(command: Command) -> Command:
    """`--measure`, `--at` and `--decisions`, for commands that decide what to do with zeros."""
    record = "Store matrices with zeros as in this bundle, or its report.json; the same bytes come out."
    at = "A size of a dim to decide for; by default its bound. Repeatable."
    measure = "Measure here which matrices with zeros are faster without; by default declared costs say."
    command = click.option("--decisions", "record", type=PATH, metavar="BUNDLE", help=record)(command)
    command = click.option("--at", "at", multiple=True, metavar="NAME=SIZE", help=at)(command)
    return click.option("--measure", is_flag=True, help=measure)(command)


def one_size(text: str) -> int | None:
    """A size of at least 1; None if it is anything else."""
    sizes = size_list(text)
    return sizes[0] if sizes and len(sizes) == 1 and sizes[0] else None


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
