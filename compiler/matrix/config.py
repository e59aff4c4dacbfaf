"""What isthmus.toml says, typed. The tables below are also its JSON Schema, docs/isthmus.schema.json."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from isthmus.errors import Code, ModelError, Problem
from isthmus.frontends.onnx import DimOption, parse_dims
from isthmus.matrix.lines import key_lines
from isthmus.matrix.schema import (
    DURATION,
    SHARE,
    SIZE,
    Flag,
    Json,
    ListOf,
    MapOf,
    Nested,
    Number,
    Parsed,
    Place,
    Text,
    Word,
    Wrong,
    entry,
    kind_of,
    read_table,
    table_schema,
)
from isthmus.passes.sparsify.options import FORMS, METHODS
from isthmus.quantizer.metric import NAMES
from isthmus.quantizer.plan import precisions

FILE = "isthmus.toml"
PADDINGS = ("keep", "drop")
_METRIC = rf"({'|'.join(NAMES)}|[A-Za-z_][\w.]*:[A-Za-z_]\w*)"

FixValue: TypeAlias = "bool | int | float | str | list[FixValue]"


def _dim(value: object) -> DimOption:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise Wrong(f'expected a size or bounds, 128 or "1..512", got {kind_of(value)}')
    try:
        return parse_dims([f"dim={value}"])["dim"]
    except ModelError:
        raise Wrong(f'expected a size or bounds, 128 or "1..512", got {kind_of(value)}') from None


def _fix(value: object) -> object:
    if isinstance(value, bool | int | float | list) or (isinstance(value, str) and value.startswith("@")):
        return value
    raise Wrong(f'expected true, a number, a list or "@file.npy", got {kind_of(value)}')


def _told_later(schema: Json) -> Parsed:
    """A text that the compiler has names for, and words for what is none of them; `schema` is for editors."""
    return Parsed(lambda value: Text().read(value, Place(FILE, {}, [])), schema)


DIM = Parsed(
    _dim,
    {
        "anyOf": [
            {"type": "integer", "minimum": 1},
            {"type": "string", "pattern": r"^\s*\d+\s*\.\.\s*\d*\s*$"},
        ]
    },
)
FIX = Parsed(
    _fix, {"anyOf": [{"type": ["boolean", "number", "array"]}, {"type": "string", "pattern": "^@.+$"}]}
)
SIZE_OF_DIM = Number(1, whole=True)
NAME = Text(r"[A-Za-z0-9_](?:[A-Za-z0-9_.+-]*[A-Za-z0-9_+])?", "a name of letters, digits and _ . + -")


@dataclass(frozen=True, slots=True)
class Budgets:
    """The most that a pair may take. What is not said is not checked."""

    latency_p50: float | None = entry(DURATION, 'Median time of a request, as "20 ms".')
    size: float | None = entry(SIZE, 'Library and weights together, as "80 MB".')
    accuracy_drop: float | None = entry(SHARE, 'What the metric may lose, as "0.5 %" or 0.005.')
    peak_memory: float | None = entry(SIZE, 'Weights and working memory of one request, as "200 MB".')
    start: float | None = entry(DURATION, 'From opening the bundle to its first answer, as "50 ms".')


NO_BUDGETS = Budgets()


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model is compiled and measured; an override says it again for some pairs."""

    dims: Mapping[str, DimOption] | None = entry(
        MapOf(DIM), 'Sizes (128) or bounds ("1..512") of named dims; others stay free.'
    )
    fix: Mapping[str, FixValue] | None = entry(
        MapOf(FIX), "Inputs that become constants: true, a number, a list, @file.npy."
    )
    outputs: tuple[str, ...] | None = entry(
        ListOf(Text()), "The only outputs wanted, by name; by default all."
    )
    padding: str | None = entry(
        Word(PADDINGS), "Outputs where the mask is 0: as the model has them (keep), or 0 (drop)."
    )
    precision: str | None = entry(
        _told_later({"enum": list(precisions())}), "What it computes in, as `isthmus compile --precision`."
    )
    sparsity: str | None = entry(Text(), f"How it is pruned: {FORMS}; none: not at all.")
    sparsity_method: str | None = entry(
        _told_later({"enum": list(METHODS)}),
        "What weights are judged by; by default the best that there is data for.",
    )
    decisions: str | None = entry(
        Text(), "The bundle or report.json that says how matrices with zeros are stored, as `--decisions`."
    )
    calibration: str | None = entry(Text(), "The file or folder of requests, as `--calibration`.")
    tokenizer: str | None = entry(Text(), "The tokenizer.json for requests that are texts.")
    metric: str | None = entry(
        _told_later({"type": "string", "pattern": f"^{_METRIC}$"}),
        "What accuracy is: cosine or mse against the model as it came, or a function of (answers, requests).",
    )
    at: Mapping[str, int] | None = entry(
        MapOf(SIZE_OF_DIM), "Sizes at which time and memory are told; by default 1 for a batch, else 128."
    )
    threads: int | None = entry(Number(1, whole=True), "Threads a request runs on; by default 1.")
    budgets: Budgets = entry(Nested(Budgets), "The most that it may take.", NO_BUDGETS)


@dataclass(frozen=True, slots=True)
class Model(Settings):
    """A row of the matrix."""

    path: str = entry(Text(), "The ONNX file; relative to this file.", "", required=True)


@dataclass(frozen=True, slots=True)
class Chip:
    """A column of the matrix: a target, or a machine that has it."""

    target: str | None = entry(Text(), "The target, where the chip is called otherwise; `host` is one.")
    gflops: float | None = entry(
        Number(1e-3), "Billions of operations a second of one core, for estimates where it cannot run."
    )
    gbytes_per_s: float | None = entry(Number(1e-3), "Billions of bytes of memory a second, likewise.")


@dataclass(frozen=True, slots=True)
class Override(Settings):
    """Settings for some pairs only; a later override wins."""

    model: str = entry(Text(), "The model's name; * and ? stand for other letters.", "*")
    chip: str = entry(Text(), "The chip's name, likewise.", "*")
    skip: bool = entry(Flag(), "Leave these pairs out.", False)


@dataclass(frozen=True, slots=True)
class Config:
    """Models, chips, and what is asked of every pair of them."""

    models: Mapping[str, Model] = entry(
        MapOf(Nested(Model), NAME, least=1), "The models, by name.", {}, required=True
    )
    chips: Mapping[str, Chip] = entry(
        MapOf(Nested(Chip), NAME, least=1), "The chips, by name.", {}, required=True
    )
    overrides: tuple[Override, ...] = entry(ListOf(Nested(Override)), "Settings for some pairs only.", ())
    budgets: Budgets = entry(Nested(Budgets), "The most that any pair may take.", NO_BUDGETS)
    prices: Mapping[str, float] = entry(
        MapOf(Number()), "What an hour of a chip costs, by the chip's name.", {}
    )
    currency: str = entry(Text(), "The currency of the prices.", "USD")
    output: str = entry(Text(), "The folder of bundles and reports; relative to this file.", "dist")
    cache: str | None = entry(Text(), "The folder or fsspec URL of finished pieces.")
    # Not in the file.
    folder: Path = field(default=Path())
    file: str = FILE
    lines: Mapping[tuple[str | int, ...], int] = field(default_factory=dict, compare=False, repr=False)

    @property
    def cache_place(self) -> str | None:
        """The cache that the file names; a folder is relative to it."""
        if self.cache is None or "://" in self.cache:
            return self.cache
        return str(self.folder / self.cache)

    def place(self, problems: list[Problem], *path: str | int) -> Place:
        """Where a key of this file stands."""
        return Place(self.file, self.lines or {(): 1}, problems, path)


def load_config(path: Path) -> Config:
    """The configuration at `path`. Raises `ModelError` with everything that is wrong with it."""
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError:
        hint = 'docs/build.md shows how; the least: [models.NAME], path = "model.onnx", and [chips.host]'
        raise ModelError(Problem(Code.NO_SUCH_FILE, "there is no such file", str(path), hint)) from None
    except UnicodeDecodeError:
        hint = "of one model, `isthmus compile` makes a bundle" if path.suffix == ".onnx" else ""
        raise ModelError(Problem(Code.BAD_CONFIG, "this is not text in UTF-8", str(path), hint)) from None
    except OSError as error:
        hint = f"give the file: {path / FILE}" if path.is_dir() else ""
        text = f"cannot be read: {error.strerror}"
        raise ModelError(Problem(Code.NOT_A_FILE, text, str(path), hint)) from None
    return parse_config(text, path)


def parse_config(text: str, path: Path) -> Config:
    """The configuration that `text` is; `path` is where it came from. Raises `ModelError`."""
    problems: list[Problem] = []
    text = text.replace("\r\n", "\n")
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, line = _syntax(str(error), text)
        raise ModelError(Problem(Code.BAD_CONFIG, message, f"{path}:{line}")) from None
    return _checked(raw, path, key_lines(text), problems)


def config_of(raw: Mapping[str, Any], folder: Path = Path()) -> Config:
    """The configuration in a dictionary, as TOML would be. Raises `ModelError`."""
    return _checked(raw, folder / FILE, {(): 1}, [])


def _checked(
    raw: Mapping[str, Any], path: Path, lines: Mapping[tuple[str | int, ...], int], problems: list[Problem]
) -> Config:
    found = read_table(Config, raw, Place(str(path), lines, problems))
    if problems:
        raise ModelError(problems)
    values = {name: getattr(found, name) for name in Config.__slots__}
    return Config(**{**values, "folder": path.parent, "file": str(path), "lines": lines})


def _syntax(message: str, text: str) -> tuple[str, int]:
    """The parser's message without its place, and the line."""
    head, _, tail = message.partition(" (at ")
    number = tail.removeprefix("line ").split(",")[0]
    return f"this is not TOML: {head}", int(number) if number.isdigit() else text.count("\n") + 1


def json_schema() -> Json:
    """The JSON Schema of isthmus.toml, for editors."""
    defs: Json = {}
    root = table_schema(Config, defs)["$ref"].rsplit("/", 1)[1]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": FILE,
        **defs.pop(root),
        "$defs": dict(sorted(defs.items())),
    }


def schema_text() -> str:
    """docs/isthmus.schema.json."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"
