"""Dumps: the text of a program, and beside it the contents of the weights that the text only names.

    FOLDER/NAME.txt            the text
    FOLDER/weights/DIGEST      the plain contents of a weight, in row order

Contents are filed by their SHA-256, so that the dumps of one compilation share them.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from isthmus.errors import Code, ModelError, Problem
from isthmus.ir.graph import Program
from isthmus.ir.printer import INLINE_ELEMENTS, contents_digest, show
from isthmus.ir.types import Array, TensorType
from isthmus.ir.weights import InFile, Source

WEIGHTS = "weights"
MAX_BYTES = 1 << 26


@dataclass(frozen=True)
class Stored:
    """Contents in a file that is named by their digest. They are checked against it when first read."""

    path: Path
    nbytes: int

    def read(self, type_: TensorType) -> Array:
        self._check()
        return self._file.read(type_)

    def digest(self, type_: TensorType) -> str:
        return self.path.name

    @cached_property
    def _file(self) -> InFile:
        return InFile(self.path, 0, self.nbytes)

    def _check(self) -> None:
        if not self._is_whole:
            text = "the contents of a weight are not what their name says"
            raise ModelError(Problem(Code.BAD_TEXT, text, str(self.path), "dump the program again"))

    @cached_property
    def _is_whole(self) -> bool:
        try:
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.path.name
        except OSError:
            return False


@dataclass(frozen=True, slots=True)
class FolderStore:
    """The contents that lie in a folder."""

    folder: Path

    def find(self, digest: str, type_: TensorType) -> Source | None:
        """Contents of the right length, not yet read."""
        path = self.folder / digest
        plain = TensorType(type_.dtype, type_.shape)
        nbytes = plain.nbytes
        if not path.is_file() or path.stat().st_size != nbytes:
            return None
        assert isinstance(nbytes, int)
        return Stored(path, nbytes)


def dump(program: Program, folder: Path, name: str) -> Path:
    """Write `program` as NAME.txt into `folder`, which is made if need be. Returns the path of the text.

    Raises `ModelError` when the files cannot be written.
    """
    path = folder / f"{name}.txt"
    try:
        (folder / WEIGHTS).mkdir(parents=True, exist_ok=True)
        for graph in program.graphs:
            for weight in graph.weights():
                size = weight.type.size
                if isinstance(size, int) and size > INLINE_ELEMENTS:
                    _write_once(folder / WEIGHTS / contents_digest(weight), weight.read())
        _write(path, show(program).encode())
    except OSError as error:
        text = f"cannot write the dump: {error.strerror}"
        raise ModelError(Problem(Code.CANNOT_WRITE, text, str(path))) from error
    return path


def _write_once(path: Path, array: Array) -> None:
    if not path.is_file() or path.stat().st_size != array.nbytes:
        _write(path, np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _write(path: Path, data: bytes | memoryview) -> None:
    """Write whole or not at all."""
    handle, temporary = tempfile.mkstemp(prefix=".", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_text(path: Path) -> str:
    """The text of a dump. Raises `ModelError`."""
    try:
        if path.exists() and not path.is_file():
            raise ModelError(Problem(Code.NOT_A_FILE, "this is not a file", str(path)))
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ModelError(Problem(Code.BAD_TEXT, f"this text has more than {MAX_BYTES} bytes", str(path)))
        return data.decode()
    except UnicodeDecodeError as error:
        raise ModelError(Problem(Code.BAD_TEXT, "this is not text in UTF-8", str(path))) from error
    except FileNotFoundError as error:
        raise ModelError(Problem(Code.NO_SUCH_FILE, "there is no such file", str(path))) from error
    except OSError as error:
        raise ModelError(Problem(Code.NOT_A_FILE, f"cannot read it: {error.strerror}", str(path))) from error
