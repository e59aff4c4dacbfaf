"""What manifest.json says: the signature, the chip, how the bundle was made, and the digest of every file.

A manifest may come from anywhere, so `parse` believes nothing: every field is checked, all problems are
reported at once, and a file name cannot leave the bundle. docs/bundle-format.md describes the fields.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from isthmus.bundle.fields import Reader, safe_name
from isthmus.errors import BundleError, Code, Problem

NAME = "manifest.json"
MOST_BYTES = 16 << 20  # of manifest.json; a hostile one must not fill the memory
DTYPES = ("f32", "f64", "f16", "bf16", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "bool")
BYTE_ORDERS = ("little", "big")
MOST_DIMS = 8
_INT64_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output; a dim is a size or the text of an expression over named dims ("2*seq + 1")."""

    name: str
    dtype: str
    dims: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.dims))}]"


@dataclass(frozen=True, slots=True)
class DimBounds:
    """Sizes a named dim may take, both included; `high` None: no upper bound."""

    name: str
    low: int = 1
    high: int | None = None


@dataclass(frozen=True, slots=True)
class Fixed:
    """An input of the model that is a constant of the bundle; `value` is JSON: a number, true, a list."""

    name: str
    value: str

    @classmethod
    def of(cls, name: str, array: npt.NDArray[np.generic]) -> Fixed:
        """`array` as it is written."""
        plain = array if array.dtype.kind in "biuf" else array.astype(np.float64)
        return cls(name, json.dumps(plain.tolist(), separators=(",", ":")))

    def array(self) -> npt.NDArray[np.generic]:
        """The value in a type of NumPy's choice."""
        return np.asarray(json.loads(self.value))


@dataclass(frozen=True, slots=True)
class Entry:
    """A function of the bundle, in the order in which the library numbers them."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


@dataclass(frozen=True, slots=True)
class Chip:
    """What the code needs: a machine of this architecture, system and byte order with these flags."""

    name: str
    arch: str
    os: str
    byte_order: str = "little"
    cpu_flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """Size and digests of one file, in lower-case hexadecimal.

    `sums` is there for files above `digest.CHUNK` bytes: the digest of the sums of their chunks, which
    can be computed on several threads.
    """

    bytes: int
    sha256: str
    sums: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of manifest.json. `padding` is the input whose zeros are padding, where outputs with a row for each
    position are 0 there (else None). `files` is every file of the bundle but the manifest itself, by POSIX
    path."""

    FORMAT: ClassVar[int] = 1

    name: str
    model_digest: str
    chip: Chip
    library: str
    weights: str | None
    dims: tuple[DimBounds, ...]
    entries: tuple[Entry, ...]
    precision: str
    pipeline: str
    tools: tuple[tuple[str, str], ...]
    fixed: tuple[Fixed, ...] = ()
    padding: str | None = None
    files: Mapping[str, File] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def folder(self) -> str:
        """What the bundle's folder is called: `<name>@<target>`."""
        return f"{self.name}@{self.chip.name}"

    def dumps(self) -> str:
        """Canonical text: the same manifest gives the same bytes, and any changed byte is noticed."""
        raw = {
            "format": self.FORMAT,
            "name": self.name,
            "model_digest": self.model_digest,
            "target": {
                "name": self.chip.name,
                "arch": self.chip.arch,
                "os": self.chip.os,
                "byte_order": self.chip.byte_order,
                "cpu_flags": sorted(self.chip.cpu_flags),
            },
            "library": self.library,
            "weights": self.weights,
            "dims": [{"name": d.name, "low": d.low, "high": d.high} for d in self.dims],
            "fixed": [{"name": f.name, "value": f.value} for f in self.fixed],
            "entries": [
                {"name": e.name, "inputs": _ports(e.inputs), "outputs": _ports(e.outputs)}
                for e in self.entries
            ],
            "precision": self.precision,
            "pipeline": self.pipeline,
            "tools": dict(self.tools),
            "files": {path: _file(file) for path, file in self.files.items()},
            **({} if self.padding is None else {"padding": self.padding}),
        }
        return _canonical({**raw, "digest": _digest(_canonical(raw))})


def plain_name(text: str) -> str:
    """`text` with everything replaced that a bundle's name may not hold: "my model (1)" -> "my-model-1"."""
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "-", text).strip("-.")[:100].strip("-.")
    return name if safe_name(name) else "model"


def _canonical(raw: Mapping[str, object]) -> str:
    return json.dumps(raw, sort_keys=True, indent=2, ensure_ascii=True) + "\n"


def _digest(text: str) -> str:
    """Of the canonical text without the field `digest`."""
    return hashlib.sha256(text.encode()).hexdigest()


def _without_digest(text: str, digest: str) -> str:
    """The canonical `text` without that field, which has a line of its own and is never the last one."""
    return text.replace(f'\n  "digest": "{digest}",\n', "\n", 1)


def _ports(ports: Iterable[Port]) -> list[dict[str, object]]:
    return [{"name": p.name, "dtype": p.dtype, "dims": list(p.dims)} for p in ports]


def _file(file: File) -> dict[str, object]:
    plain: dict[str, object] = {"bytes": file.bytes, "sha256": file.sha256}
    return plain if file.sums is None else {**plain, "sums": file.sums}


def parse(text: str, where: Path | str = NAME) -> Manifest:
    """The manifest, or `BundleError` with everything that is wrong with it.

    newer-format: written by a later version. damaged-bundle: not the bytes that were written.
    not-a-bundle: they never were a manifest of ours.
    """
    raw = _load(text, str(where))
    reader = Reader(raw, str(where))
    written = reader.integer("format", low=1)
    if written > Manifest.FORMAT:
        raise BundleError(
            Problem(
                Code.NEWER_FORMAT,
                f"bundle format {written} is newer than this runtime, which reads up to {Manifest.FORMAT}",
                str(where),
                "update isthmus, or compile the model again with this version",
            )
        )
    digest = reader.digest("digest")
    manifest = _read(reader)
    reader.finish()
    if text != _canonical(raw) or digest != _digest(_without_digest(text, digest)):
        raise BundleError(
            Problem(
                Code.DAMAGED_BUNDLE,
                "the manifest is not what was written: its digest does not match",
                str(where),
                "compile the model again, or copy the bundle again",
            )
        )
    return manifest


def _load(text: str, where: str) -> dict[str, object]:
    try:
        raw = json.loads(text, object_pairs_hook=_no_twins, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BundleError(Problem(Code.NOT_A_BUNDLE, f"the manifest is not JSON: {error}", where)) from None
    if not isinstance(raw, dict):
        raise BundleError(Problem(Code.NOT_A_BUNDLE, "the manifest is not a JSON object", where))
    return raw


def _read(reader: Reader) -> Manifest:
    chip = reader.child("target")
    files = {path: _read_file(item) for path, item in reader.table("files")}
    for path in files:
        reader.path(path, "files")
    manifest = Manifest(
        name=reader.text("name"),
        model_digest=reader.text("model_digest"),
        chip=Chip(
            name=chip.text("name"),
            arch=chip.text("arch"),
            os=chip.text("os"),
            byte_order=chip.choice("byte_order", BYTE_ORDERS),
            cpu_flags=chip.texts("cpu_flags"),
        ),
        library=reader.text("library"),
        weights=reader.optional_text("weights"),
        dims=tuple(_read_dim(item) for item in reader.children("dims")),
        fixed=tuple(_read_fixed(item) for item in reader.children("fixed")),
        padding=reader.optional_text("padding"),
        entries=tuple(_read_entry(item) for item in reader.children("entries")),
        precision=reader.text("precision"),
        pipeline=reader.text("pipeline", least=0),
        tools=tuple(sorted(reader.child("tools").all_texts().items())),
        files=MappingProxyType(files),
    )
    _check_whole(manifest, reader)
    return manifest


def _check_whole(manifest: Manifest, reader: Reader) -> None:
    """What one field must have to do with another."""
    for role, name in (("name", manifest.name), ("target.name", manifest.chip.name)):
        if name and not safe_name(name):
            reader.wrong(role, f"{name!r} cannot be part of a folder's name")
    for role, path in (("library", manifest.library), ("weights", manifest.weights)):
        if path is not None and path not in manifest.files:
            reader.wrong(role, f"{path!r} is not among the files")
    if not manifest.entries:
        reader.wrong("entries", "there must be at least one")
    reader.distinct("entries", [entry.name for entry in manifest.entries])
    reader.distinct("dims", [dim.name for dim in manifest.dims])
    reader.distinct("fixed", [fixed.name for fixed in manifest.fixed])
    for entry in manifest.entries:
        reader.distinct(f"entries: {entry.name}: inputs", [port.name for port in entry.inputs])
        reader.distinct(f"entries: {entry.name}: outputs", [port.name for port in entry.outputs])
    inputs = {port.name for entry in manifest.entries for port in entry.inputs}
    if manifest.padding is not None and manifest.padding not in inputs:
        reader.wrong("padding", f"{manifest.padding!r} is no input")
    # A file cannot also be the folder of another one.
    folders = {path[:cut] for path in manifest.files for cut, letter in enumerate(path) if letter == "/"}
    for path in sorted(folders & manifest.files.keys()):
        reader.wrong("files", f"{path!r} is a file and a folder")
    if NAME in manifest.files:
        reader.wrong("files", f"{NAME} cannot hold its own digest")


def _read_file(reader: Reader) -> File:
    return File(
        bytes=reader.integer("bytes", low=0, high=_INT64_MAX),
        sha256=reader.digest("sha256"),
        sums=reader.optional_digest("sums"),
    )


def _read_dim(reader: Reader) -> DimBounds:
    low = reader.integer("low", low=0, high=_INT64_MAX)
    return DimBounds(reader.text("name"), low, reader.optional_integer("high", low=low, high=_INT64_MAX))


def _read_fixed(reader: Reader) -> Fixed:
    fixed = Fixed(reader.text("name"), reader.text("value"))
    try:
        is_number = fixed.array().dtype.kind in "biuf"
    except (ValueError, RecursionError):
        is_number = False
    if fixed.value and not is_number:
        reader.wrong("value", f"{fixed.value[:40]!r} is no number, truth value or list of them")
    return fixed


def _read_entry(reader: Reader) -> Entry:
    return Entry(
        name=reader.text("name"),
        inputs=tuple(_read_port(item) for item in reader.children("inputs")),
        outputs=tuple(_read_port(item) for item in reader.children("outputs")),
    )


def _read_port(reader: Reader) -> Port:
    dims = reader.sizes("dims", most=MOST_DIMS)
    return Port(reader.text("name"), reader.choice("dtype", DTYPES), dims)


def _no_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key is written twice")
    return table


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not allowed")
