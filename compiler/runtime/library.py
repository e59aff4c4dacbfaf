"""The C interface of a bundle's library (c/isthmus.h) through ctypes, which calls it without the GIL."""

from __future__ import annotations

import _ctypes
import ctypes
import os
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from isthmus.bundle.manifest import Manifest, Port
from isthmus.errors import BundleError, Code, InputError, IsthmusError, Problem

MAX_RANK = 8
_ERROR_BYTES = 16384

# enum isthmus_status
OK, BAD_INPUT, BAD_MODEL, BAD_MACHINE, NO_MEMORY, BUSY, BAD_CALL = range(7)

# enum isthmus_dtype, and the NumPy dtype of its elements. NumPy has no bfloat16: its bits travel as uint16.
DTYPES: dict[str, tuple[int, np.dtype[np.generic]]] = {
    "f32": (1, np.dtype(np.float32)),
    "f64": (2, np.dtype(np.float64)),
    "f16": (3, np.dtype(np.float16)),
    "bf16": (4, np.dtype(np.uint16)),
    "i8": (5, np.dtype(np.int8)),
    "i16": (6, np.dtype(np.int16)),
    "i32": (7, np.dtype(np.int32)),
    "i64": (8, np.dtype(np.int64)),
    "u8": (9, np.dtype(np.uint8)),
    "u16": (10, np.dtype(np.uint16)),
    "u32": (11, np.dtype(np.uint32)),
    "u64": (12, np.dtype(np.uint64)),
    "bool": (13, np.dtype(np.bool_)),
}


class Tensor(ctypes.Structure):
    """isthmus_tensor"""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("dims", ctypes.c_int64 * MAX_RANK),
    )


class _Info(ctypes.Structure):
    """isthmus_info"""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("dims", ctypes.c_char_p),
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
    )


Tensors = ctypes.Array[Tensor]
Data = TypeVar("Data", bound=ctypes.Array[Any])


class Library:
    """A loaded library with its model and one session. Not for two threads at once; `close` when done."""

    def __init__(
        self,
        library: int,
        weights: int | None,
        paths: tuple[Path, Path],
        threads: int,
        level: str | None = None,
    ) -> None:
        """Open files and their `paths`; `library` belongs to this object from now on."""
        self._file = library
        self._error = ctypes.create_string_buffer(_ERROR_BYTES)
        self._text = (self._error, _ERROR_BYTES)
        self._model = ctypes.c_void_p()
        self._session = ctypes.c_void_p()
        self._code: ctypes.CDLL | None = None
        try:
            # RTLD_LOCAL: every bundle's library has the same symbols.
            self._code = ctypes.CDLL(_name_of(library, paths[0]), mode=os.RTLD_LOCAL | os.RTLD_NOW)
            self._declare(self._code)
            path = None if weights is None else os.fsencode(_name_of(weights, paths[1]))
            chip = None if level is None else level.encode()
            self._must(self._code.isthmus_open_as(chip, path, ctypes.byref(self._model), *self._text))
            self._must(
                self._code.isthmus_session_new(self._model, threads, ctypes.byref(self._session), *self._text)
            )
        except (OSError, AttributeError) as error:
            self.close()
            message, hint = f"the library cannot be loaded: {error}", "compile the model again"
            raise BundleError(Problem(Code.DAMAGED_BUNDLE, message, str(paths[0]), hint)) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Join the threads, release the memory and unload the code. Harmless when done already."""
        code, self._code = self._code, None
        if code is not None:
            code.isthmus_session_free(self._session)
            code.isthmus_close(self._model)
            _ctypes.dlclose(code._handle)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @property
    def target(self) -> str:
        """The chip whose code runs: one of several levels, if the library carries more than one."""
        return str(self._loaded().isthmus_target_name(self._model).decode())

    @property
    def threads(self) -> int:
        return int(self._loaded().isthmus_threads(self._session))

    def weight_sums(self, count: int) -> npt.NDArray[np.uint64]:
        """Sums of the weights as they are mapped: (count, 2), a row for each chunk; see `bundle.digest`."""
        pairs = np.empty((count, 2), np.uint64)
        address = ctypes.c_void_p(pairs.ctypes.data)
        self._must(self._loaded().isthmus_weight_sums(self._session, address, count, *self._text))
        return pairs

    def shapes(self, entry: int, inputs: Tensors, outputs: Tensors) -> list[Problem]:
        """Fill in dtype, rank and dims of `outputs`; what is wrong with `inputs`, if anything."""
        return self._problems(
            self._loaded().isthmus_shapes(self._session, entry, inputs, outputs, *self._text)
        )

    def run(self, entry: int, inputs: Tensors, outputs: Tensors) -> None:
        """Run the entry point. Raises `InputError`."""
        self._must(self._loaded().isthmus_run(self._session, entry, inputs, outputs, *self._text))

    def data(self, symbol: str, kind: type[Data]) -> Data:
        """What the library exports under `symbol` besides the interface, in place; gone after `close`."""
        return kind.in_dll(self._loaded(), symbol)

    def check_signature(self, manifest: Manifest, where: Path) -> None:
        """Raise `BundleError` unless the library has the entry points that the manifest describes."""
        if self._signature() != _expected(manifest):
            raise BundleError(
                Problem(
                    Code.DAMAGED_BUNDLE,
                    "the library has other inputs or outputs than the manifest",
                    str(where),
                )
            )

    def _signature(self) -> list[tuple[str, list[tuple[str, int, int]], list[tuple[str, int, int]]]]:
        code, model = self._loaded(), self._model
        return [
            (
                code.isthmus_entry_name(model, entry).decode(),
                [
                    self._port(code.isthmus_input, entry, i)
                    for i in range(code.isthmus_input_count(model, entry))
                ],
                [
                    self._port(code.isthmus_output, entry, i)
                    for i in range(code.isthmus_output_count(model, entry))
                ],
            )
            for entry in range(code.isthmus_entry_count(model))
        ]

    def _port(self, describe: ctypes._NamedFuncPointer, entry: int, index: int) -> tuple[str, int, int]:
        info = _Info()
        self._must(describe(self._model, entry, index, ctypes.byref(info)))
        return info.name.decode(), info.dtype, info.rank

    def _loaded(self) -> ctypes.CDLL:
        if self._code is None:
            raise InputError(Problem(Code.RUN_FAILED, "the session is closed"))
        return self._code

    def _must(self, status: int) -> None:
        problems = self._problems(status)
        if not problems:
            return
        error: type[IsthmusError] = BundleError if status in (BAD_MODEL, BAD_MACHINE) else InputError
        raise error(problems)

    def _problems(self, status: int) -> list[Problem]:
        if status == OK:
            return []
        code = {
            BAD_INPUT: Code.BAD_INPUT,
            BAD_MODEL: Code.DAMAGED_BUNDLE,
            BAD_MACHINE: Code.WRONG_MACHINE,
        }.get(status, Code.RUN_FAILED)
        # A line that is set in continues a list of the one before it.
        text = self._error.value.decode(errors="replace").replace(":\n  ", ": ").replace("\n  ", ", ")
        lines = text.splitlines()
        return [Problem(code, line) for line in lines or [f"status {status}"]]

    @staticmethod
    def _declare(code: ctypes.CDLL) -> None:
        """Argument and result types of the functions used here."""
        pointer, number, size, text = ctypes.c_void_p, ctypes.c_int32, ctypes.c_size_t, ctypes.c_char_p
        error = (text, size)
        signatures = {
            "isthmus_open_as": (ctypes.c_int, (text, text, pointer, *error)),
            "isthmus_target_name": (text, (pointer,)),
            "isthmus_close": (None, (pointer,)),
            "isthmus_session_new": (ctypes.c_int, (pointer, number, pointer, *error)),
            "isthmus_session_free": (None, (pointer,)),
            "isthmus_threads": (number, (pointer,)),
            "isthmus_weight_sums": (ctypes.c_int, (pointer, pointer, ctypes.c_int64, *error)),
            "isthmus_shapes": (ctypes.c_int, (pointer, number, pointer, pointer, *error)),
            "isthmus_run": (ctypes.c_int, (pointer, number, pointer, pointer, *error)),
            "isthmus_entry_count": (number, (pointer,)),
            "isthmus_entry_name": (text, (pointer, number)),
            "isthmus_input_count": (number, (pointer, number)),
            "isthmus_output_count": (number, (pointer, number)),
            "isthmus_input": (ctypes.c_int, (pointer, number, number, pointer)),
            "isthmus_output": (ctypes.c_int, (pointer, number, number, pointer)),
        }
        for name, (result, arguments) in signatures.items():
            function = getattr(code, name)
            function.restype, function.argtypes = result, arguments


def _name_of(handle: int, path: Path) -> str:
    """A path to the open file `handle`, which is at `path`.

    Where the system has such (Linux), it goes through the handle: that loads what was checked, even if the
    bundle is replaced meanwhile, and keeps the loader from taking a library for one it has loaded from the
    same path before.
    """
    name = f"/proc/self/fd/{handle}"
    return name if os.path.exists(name) else str(path)


def _expected(manifest: Manifest) -> list[tuple[str, list[tuple[str, int, int]], list[tuple[str, int, int]]]]:
    def ports(them: tuple[Port, ...]) -> list[tuple[str, int, int]]:
        return [(port.name, DTYPES[port.dtype][0], len(port.dims)) for port in them]

    return [(entry.name, ports(entry.inputs), ports(entry.outputs)) for entry in manifest.entries]
