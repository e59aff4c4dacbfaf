"""`isthmus run`: a bundle, arrays from files, arrays to a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from isthmus.cli.arguments import PATH, assignments, level_option, threads_option
from isthmus.cli.output import Json, console, finite, json_option, show_json, table
from isthmus.errors import Code, InputError, Problem
from isthmus.runtime import load

Array = npt.NDArray[np.generic]


@click.command("run")
@click.argument("bundle", type=PATH)
@click.option("--input", "single", multiple=True, metavar="NAME=FILE.npy", help="One input. May be repeated.")
@click.option("--inputs", "many", type=PATH, metavar="FILE.npz", help="Inputs by name.")
@click.option("-o", "--output", type=PATH, metavar="FILE.npz", help="Where the outputs go, by name.")
@threads_option
@level_option
@json_option
def command(
    bundle: Path,
    single: tuple[str, ...],
    many: Path | None,
    output: Path | None,
    threads: int | None,
    level: str | None,
    as_json: bool,
) -> None:
    """Run BUNDLE once on inputs from .npy or .npz files, and show what came out.

    \b
    Examples:
      isthmus run dist/model@chip --input input_ids=ids.npy --input attention_mask=mask.npy
      isthmus run dist/model@chip --inputs in.npz -o out.npz
    """
    inputs = read_inputs(single, many)
    with load(bundle, threads, level=level) as session:
        outputs = session.run(inputs)
    if output is not None:
        write_outputs(output, outputs)
    if as_json:
        show_json({name: _as_json(array) for name, array in outputs.items()})
        return
    grid = table("output", "type", "min", "mean", "max", right=("min", "mean", "max"))
    for name, array in outputs.items():
        grid.add_row(name, f"{array.dtype}{list(array.shape)}", *_statistics(array))
    console().print(grid)


def read_inputs(single: Sequence[str], many: Path | None) -> dict[str, Array]:
    """All inputs. Raises InputError naming every file that cannot be read and every name that comes twice."""
    problems: list[Problem] = []
    arrays = _read(many, "--inputs", problems) if many is not None else {}
    for name, path in assignments("--input", single, Path, "NAME=FILE.npy").items():
        if name in arrays:
            problems.append(Problem(Code.BAD_INPUT, f"{name!r} is also in {many}", "--input"))
        found = _read(path, "--input", problems)
        if len(found) == 1:
            arrays[name] = next(iter(found.values()))
        elif found:
            problems.append(
                Problem(Code.BAD_INPUT, "an .npz holds several arrays", str(path), "use --inputs")
            )
    if problems:
        raise InputError(problems)
    return arrays


def _read(path: Path, option: str, problems: list[Problem]) -> dict[str, Array]:
    """The arrays of an .npz by name, or that of an .npy under the name `array`; never executes a pickle."""
    if not path.is_file():
        problems.append(Problem(Code.NO_SUCH_FILE, f"no such file for {option}", str(path)))
        return {}
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {"array": found}
        with found:
            return {name: found[name] for name in found.files}
    except (OSError, ValueError, EOFError) as error:
        # NumPy takes whatever it does not know for a pickle, and recommends to open it.
        why = "" if "pickle" in str(error) else f": {error}"
        problems.append(
            Problem(Code.BAD_INPUT, f"not a file of arrays of numbers{why}", str(path), "np.save writes one")
        )
        return {}


def write_outputs(path: Path, outputs: Mapping[str, Array]) -> None:
    """Write an .npz under exactly this name. Raises InputError where that cannot be done."""
    try:
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **outputs)
    except OSError as error:
        raise InputError(Problem(Code.CANNOT_WRITE, str(error.strerror or error), str(path))) from None


def _statistics(array: Array) -> tuple[str, str, str]:
    if array.size == 0:
        return ("", "", "")
    numbers = array.astype(np.float64)
    return (f"{numbers.min():.6g}", f"{numbers.mean():.6g}", f"{numbers.max():.6g}")


def _as_json(array: Array) -> dict[str, Json]:
    numbers = array.astype(np.float64)
    empty = array.size == 0
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "min": None if empty else finite(float(numbers.min())),
        "mean": None if empty else finite(float(numbers.mean())),
        "max": None if empty else finite(float(numbers.max())),
    }
