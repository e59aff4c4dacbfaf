"""Load a bundle and run it with NumPy arrays."""

from __future__ import annotations

import ctypes
import math
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from isthmus.bundle import digest, reader
from isthmus.bundle.folder import Folder
from isthmus.bundle.manifest import Entry, Manifest, Port
from isthmus.errors import BundleError, Code, InputError, Problem, nearest
from isthmus.machine import Machine
from isthmus.runtime.library import DTYPES, MAX_RANK, Data, Library, Tensor, Tensors

Array = npt.NDArray[np.generic]

_ALIGNMENT = 64  # of outputs: a cache line, and the widest vector register


def load(
    path: str | os.PathLike[str],
    threads: int | None = None,
    verify: bool = True,
    level: str | None = None,
) -> Session:
    """Open the bundle at `path` for running.

    The bundle is checked before any of its code is loaded: format, machine, file list, sizes, digests; large
    weights after that, by that code. With `verify=False` only the library's digest is; use it for bundles
    that were checked before and are large.
    `threads` counts the calling thread; None: one for each core this process may use, at most 16. `level`
    names one of several chips whose code the bundle carries; None: the best that this machine can run.

    Raises `BundleError` if the bundle is damaged or not for this machine.
    """
    if threads is not None and threads < 1:
        raise InputError(Problem(Code.BAD_OPTION, f"threads is {threads}, expected at least 1", "threads"))
    return reader.with_folder(Path(path), lambda folder: _load(folder, threads or 0, verify, level))


def _load(folder: Folder, threads: int, verify: bool, level: str | None) -> Session:
    manifest = reader.check(folder, Machine.here(), verify, weights=False).manifest
    try:
        weights = None if manifest.weights is None else folder.open(manifest.weights)
        try:
            paths = (folder.path / manifest.library, folder.path / (manifest.weights or ""))
            library = Library(folder.open(manifest.library), weights, paths, threads, level)
        finally:
            if weights is not None:
                os.close(weights)  # the library has mapped it
    except OSError as error:
        raise BundleError(
            Problem(Code.DAMAGED_BUNDLE, f"cannot be read: {error.strerror or error}", str(folder.path))
        ) from error
    try:
        library.check_signature(manifest, folder.path)
        if verify:
            _check_weights(library, manifest, folder)
        return Session(manifest, library)
    except BaseException:
        library.close()
        raise


def _check_weights(library: Library, manifest: Manifest, folder: Folder) -> None:
    """Raise `BundleError` unless the weights, as mapped, are the manifest's; if `reader.check` left that."""
    if manifest.weights is None:
        return
    file = manifest.files[manifest.weights]
    if file.sums is not None and digest.of_pairs(library.weight_sums(digest.chunks(file.bytes))) != file.sums:
        raise BundleError(reader.wrong_digest(folder, manifest.weights))


class Session:
    """A loaded bundle. Call it with the inputs by name: `session(input_ids=ids)["logits"]`.

    One request runs at a time; for requests at the same time load one session for each thread (they share
    the weights in memory). A context manager; otherwise resources are freed with the last reference.
    """

    def __init__(self, manifest: Manifest, library: Library) -> None:
        self.manifest = manifest
        self._library = library
        self._plans = {entry.name: _Plan.of(number, entry) for number, entry in enumerate(manifest.entries)}
        self._lock = threading.Lock()
        self._process = os.getpid()
        # Also at the exit of the interpreter, while threads can still be joined.
        self._finalizer = weakref.finalize(self, _release, library, self._lock, self._process)
        self.threads = library.threads
        self.target = library.target

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Inputs of the first entry point: name, dtype, dims."""
        return self.manifest.entries[0].inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """Outputs of the first entry point: name, dtype, dims."""
        return self.manifest.entries[0].outputs

    def __call__(self, /, **inputs: Array) -> dict[str, Array]:
        """Run the first entry point; the same as `run(inputs)`."""
        return self.run(inputs)

    def run(self, inputs: Mapping[str, Array], entry: str | None = None) -> dict[str, Array]:
        """Outputs by name, in new arrays, 64-byte aligned and C-contiguous.

        Inputs must have the dtype that `inputs` describes; they are read in place if C-contiguous. `entry`
        None: the first entry point. Raises `InputError` with everything that is wrong with the inputs.
        """
        plan = self._plan(entry)
        with self._exclusive():
            arrays = plan.place(inputs)
            problems = self._library.shapes(plan.number, plan.inputs, plan.outputs)
            if problems or arrays.problems:
                raise InputError([*arrays.problems, *problems])
            results = plan.allocate()
            self._library.run(plan.number, plan.inputs, plan.outputs)
        return results

    def exported(self, symbol: str, kind: type[Data]) -> Data:
        """What a library made for measuring exports besides the C interface; valid until `close`."""
        return self._library.data(symbol, kind)

    def close(self) -> None:
        """Wait for a running request, then free threads, memory and code. Harmless when done already."""
        self._finalizer()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        ports = (", ".join(map(str, some)) for some in (self.inputs, self.outputs))
        return f"<isthmus session {self.manifest.folder}: {' -> '.join(ports)}>"

    def _plan(self, entry: str | None) -> _Plan:
        if entry is None:
            return next(iter(self._plans.values()))
        if entry in self._plans:
            return self._plans[entry]
        hint = nearest(entry, self._plans)
        raise InputError(Problem(Code.BAD_INPUT, f"there is no entry point called {entry!r}", "entry", hint))

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if os.getpid() != self._process:
            # The worker threads stayed behind in the parent: waiting for them would never end.
            message = "the session was made in another process, before a fork"
            raise InputError(Problem(Code.RUN_FAILED, message, hint="load the bundle in each process"))
        if not self._lock.acquire(blocking=False):
            message = "the session is already running in another thread"
            raise InputError(Problem(Code.RUN_FAILED, message, hint="load one session for each thread"))
        try:
            yield
        finally:
            self._lock.release()


def _release(library: Library, lock: threading.Lock, process: int) -> None:
    # After a fork the threads to join do not exist here.
    if os.getpid() == process:
        with lock:
            library.close()


@dataclass(frozen=True, slots=True)
class _Placed:
    """The arrays that the C tensors point into, which must outlive the run; and what is wrong with them."""

    arrays: list[Array]
    problems: list[Problem]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is ready before a request comes: the entry's number and its C tensors."""

    number: int
    entry: Entry
    inputs: Tensors
    outputs: Tensors

    @classmethod
    def of(cls, number: int, entry: Entry) -> _Plan:
        # Never of length 0: a NULL pointer would stand for "forgotten".
        inputs = (Tensor * max(1, len(entry.inputs)))()
        return cls(number, entry, inputs, (Tensor * max(1, len(entry.outputs)))())

    def place(self, given: Mapping[str, Array]) -> _Placed:
        """Point the C tensors at `given`. Raises `InputError` unless it has one array for each input."""
        self._check_names(given)
        arrays: list[Array] = []
        problems: list[Problem] = []
        for port, slot in zip(self.entry.inputs, self.inputs, strict=False):
            code, dtype = DTYPES[port.dtype]
            array = given[port.name]
            if array.dtype != dtype:
                problems.append(_wrong_dtype(port.name, array.dtype, dtype))
            elif not (array.flags.c_contiguous and array.flags.aligned):
                array = np.array(array, order="C", ndmin=array.ndim)
            arrays.append(array)
            # With a wrong dtype nothing is run, but the library may still say what is wrong with the dims.
            slot.data, slot.dtype, slot.rank = array.ctypes.data, code, array.ndim
            slot.dims[: min(array.ndim, MAX_RANK)] = array.shape[:MAX_RANK]
        return _Placed(arrays, problems)

    def allocate(self) -> dict[str, Array]:
        """Arrays for the outputs, whose shapes the library has filled in."""
        results: dict[str, Array] = {}
        for port, slot in zip(self.entry.outputs, self.outputs, strict=False):
            results[port.name], slot.data = _aligned(slot.dims[: slot.rank], DTYPES[port.dtype][1])
        return results

    def _check_names(self, given: Mapping[str, object]) -> None:
        wanted = [port.name for port in self.entry.inputs]
        problems = [
            Problem(Code.BAD_INPUT, f"input {port.name!r} is missing", hint=f"it is {port}")
            for port in self.entry.inputs
            if port.name not in given
        ]
        for name, array in given.items():
            if name not in wanted:
                message = f"there is no input called {name!r}"
                problems.append(Problem(Code.BAD_INPUT, message, hint=nearest(name, wanted)))
            elif not isinstance(array, np.ndarray):
                message = f"input {name!r} is a {type(array).__name__}, expected a NumPy array"
                problems.append(
                    Problem(Code.BAD_INPUT, message, hint=f"np.asarray(..., dtype={self._dtype(name)})")
                )
        if problems:
            raise InputError(problems)

    def _dtype(self, name: str) -> str:
        return next(f"np.{DTYPES[port.dtype][1].name}" for port in self.entry.inputs if port.name == name)


def _wrong_dtype(name: str, got: np.dtype[np.generic], expected: np.dtype[np.generic]) -> Problem:
    # An array in the other byte order has the same name: the order has to be said.
    said = got.str if got.name == expected.name else got.name
    message = f"input {name!r}: dtype is {said}, expected {expected.name}"
    return Problem(Code.BAD_INPUT, message, hint=f"convert it: array.astype(np.{expected.name})")


def _aligned(shape: Sequence[int], dtype: np.dtype[np.generic]) -> tuple[Array, int]:
    """An uninitialised array and its address, a multiple of 64."""
    raw = np.empty(math.prod(shape) * dtype.itemsize + _ALIGNMENT, np.uint8)
    # `raw.ctypes.data` would do, at several times the cost.
    address = ctypes.addressof(ctypes.c_char.from_buffer(raw.data))
    start = -address % _ALIGNMENT
    return np.ndarray(tuple(shape), dtype, raw.data, start), address + start
