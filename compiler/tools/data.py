"""Data to calibrate with and to measure accuracy on: requests from files, folders, texts or an iterator."""

from __future__ import annotations

import importlib.util
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from isthmus.errors import Code, InputError, ModelError, Problem
from isthmus.ir.evaluate import bind_dims
from isthmus.ir.graph import Program
from isthmus.ir.types import Array

Request: TypeAlias = Mapping[str, Array]
# What a user may give: a path, or anything that yields requests.
Source: TypeAlias = "str | os.PathLike[str] | Iterable[Mapping[str, Array]]"

# How tokenizers' results are called by the exporters people use.
_TOKENS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
LONGEST = 512  # tokens of a text, unless the model's bounds say less
MOST_PROBLEMS = 10


def read_requests(source: Source, program: Program, tokenizer: Path | None = None) -> tuple[Request, ...]:
    """The requests in `source`, each fit for `program`.

    A `.npz` is one request, by input names; a folder holds several, in the order of their names; any other
    file is text, one request a line, for which `tokenizer` (a tokenizer.json) makes the inputs. Raises
    ModelError (bad-calibration) for what is empty, has NaN, is the same number throughout, or does not fit
    the model's inputs and the bounds of its dims.
    """
    where = str(source) if isinstance(source, str | os.PathLike) else "calibration data"
    found = [
        (name, _converted(request, program))
        for name, request in (
            _read(Path(source), program, tokenizer)
            if isinstance(source, str | os.PathLike)
            else ((f"request {number}", request) for number, request in enumerate(source))
        )
    ]
    if not found:
        raise ModelError(Problem(Code.BAD_CALIBRATION, "there are no requests in it", where))
    problems = [problem for name, request in found for problem in _problems(name, request, program)]
    if not problems and not any(_varies([request[name] for _, request in found]) for name in found[0][1]):
        problems = [Problem(Code.BAD_CALIBRATION, "every input is one number throughout", where)]
    if problems:
        raise ModelError(problems[:MOST_PROBLEMS])
    return tuple(request for _, request in found)


def _read(path: Path, program: Program, tokenizer: Path | None) -> Iterable[tuple[str, Request]]:
    if path.is_dir():
        return [(str(file), _load(file)) for file in sorted(path.glob("*.npz"))]
    if not path.exists():
        raise ModelError(Problem(Code.NO_SUCH_FILE, "there is no such file", str(path)))
    if path.suffix == ".npz":
        return [(str(path), _load(path))]
    if tokenizer is None:
        hint = (
            "--tokenizer tokenizer.json makes a model's inputs of texts; else give a .npz or a folder of them"
        )
        raise ModelError(Problem(Code.BAD_CALIBRATION, "this is text", str(path), hint))
    return _tokenized(path, program, tokenizer)


def _load(path: Path) -> Request:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(Problem(Code.BAD_CALIBRATION, f"not a .npz of arrays: {error}", str(path))) from None


def _tokenized(path: Path, program: Program, tokenizer: Path) -> Iterable[tuple[str, Request]]:
    if importlib.util.find_spec("tokenizers") is None:
        hint = "pip install tokenizers"
        raise ModelError(Problem(Code.MISSING_PACKAGE, "tokenizers is not installed", "--tokenizer", hint))
    from tokenizers import Tokenizer

    if not tokenizer.is_file():
        raise ModelError(Problem(Code.NO_SUCH_FILE, "there is no such file", str(tokenizer)))
    names = [value.attr("name") for value in program.main.inputs]
    if unknown := [name for name in names if name not in _TOKENS]:
        text = f"a tokenizer makes {', '.join(_TOKENS)}, the model also takes {', '.join(unknown)}"
        raise ModelError(Problem(Code.BAD_CALIBRATION, text, "--tokenizer", "give a .npz instead"))
    try:
        words = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # noqa: BLE001 - it raises nothing narrower
        raise ModelError(Problem(Code.BAD_OPTION, f"not a tokenizer: {error}", str(tokenizer))) from None
    words.enable_truncation(LONGEST)
    found = []
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        if line.strip():
            tokens = words.encode(line)
            request = {name: np.asarray([getattr(tokens, _TOKENS[name])], np.int64) for name in names}
            found.append((f"{path}:{number}", request))
    return found


def _converted(request: Request, program: Program) -> Request:
    """Integers and floats in the types the model takes, where that loses nothing."""
    wanted = {value.attr("name"): value.dtype.numpy for value in program.main.inputs}
    return {
        name: array.astype(wanted[name])
        if name in wanted and np.can_cast(array.dtype, wanted[name], "same_kind")
        else array
        for name, array in ((name, np.asarray(array)) for name, array in request.items())
    }


def _problems(name: str, request: Request, program: Program) -> Sequence[Problem]:
    try:
        sizes = bind_dims(program.main, request)
    except InputError as error:
        return [Problem(Code.BAD_CALIBRATION, problem.message, name) for problem in error.problems]
    found = [
        Problem(Code.BAD_CALIBRATION, f"{dim.name} is {sizes[dim.name]}, the model takes {dim}", name)
        for dim in program.dims
        if not dim.low <= sizes.get(dim.name, dim.low) <= (dim.high or sizes.get(dim.name, dim.low))
    ]
    for key, array in request.items():
        if not array.size:
            found.append(Problem(Code.BAD_CALIBRATION, f"input {key!r} is empty", name))
        elif array.dtype.kind == "f" and not np.isfinite(array).all():
            found.append(Problem(Code.BAD_CALIBRATION, f"input {key!r} has NaN or infinity", name))
    return found


def _varies(arrays: Sequence[Array]) -> bool:
    first = arrays[0].reshape(-1)[0]
    return any(bool((array != first).any()) for array in arrays)
