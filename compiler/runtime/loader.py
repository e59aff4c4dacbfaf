"""Load a bundle and run it with NumPy arrays."""

from __future__ import annotations

import ctypes
import math
import os
import threading
import weakref
from collections.abc import Mapping
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
        self._plans = {entry.name: _Plan(number, entry) for number, entry in enumerate(manifest.entries)}
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
        self._take()
        try:
            arrays = plan.place(inputs, self._library)
            results = plan.allocate()
            self._library.run(plan.number, plan.inputs, plan.outputs)
            del arrays  # the C tensors point into them
        finally:
            self._lock.release()
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

    def _take(self) -> None:
        """Take the lock, which `run` releases. Raises `InputError` if another request has it."""
        if os.getpid() != self._process:
            # The worker threads stayed behind in the parent: waiting for them would never end.
            message = "the session was made in another process, before a fork"
            raise InputError(Problem(Code.RUN_FAILED, message, hint="load the bundle in each process"))
        if not self._lock.acquire(blocking=False):
            message = "the session is already running in another thread"
            raise InputError(Problem(Code.RUN_FAILED, message, hint="load one session for each thread"))


def _release(library: Library, lock: threading.Lock, process: int) -> None:
    # After a fork the threads to join do not exist here.
    if os.getpid() == process:
        with lock:
            library.close()


class _Plan:
    """What is ready before a request comes: the entry's number, its C tensors, and what the last request had.

    After a request little of Python is left in the caches of the processor, and what stands here costs
    several times what it costs in a loop of its own. Shapes that the library has just seen are not asked for
    again.
    """

    def __init__(self, number: int, entry: Entry) -> None:
        self.number = number
        self.entry = entry
        # Never of length 0: a NULL pointer would stand for "forgotten".
        self.inputs: Tensors = (Tensor * max(1, len(entry.inputs)))()
        self.outputs: Tensors = (Tensor * max(1, len(entry.outputs)))()
        self._names = frozenset(port.name for port in entry.inputs)
        self._slots: list[tuple[str, np.dtype[np.generic], Tensor]] = []
        for port, slot in zip(entry.inputs, self.inputs, strict=False):
            slot.dtype, dtype = DTYPES[port.dtype]
            self._slots.append((port.name, dtype, slot))
        self._shapes: list[tuple[int, ...]] | None = None  # of the inputs
        self._results: list[tuple[str, np.dtype[np.generic], tuple[int, ...], Tensor]] = []  # for those

    def place(self, given: Mapping[str, Array], library: Library) -> list[Array]:
        """Point the C tensors at `given`, or copies, and size the outputs; arrays that must outlive the run.

        Raises `InputError` with everything that is wrong with `given`.
        """
        self._check_names(given)
        arrays: list[Array] = []
        problems: list[Problem] = []
        for name, dtype, slot in self._slots:
            array = given[name]
            if array.dtype == dtype:
                if not (array.flags.c_contiguous and array.flags.aligned):
                    array = np.array(array, order="C", ndmin=array.ndim)
                slot.data = _address(array)
            else:
                problems.append(_wrong_dtype(name, array.dtype, dtype))
            arrays.append(array)
        shapes = [array.shape for array in arrays]
        if shapes != self._shapes:
            # With a wrong dtype nothing is run, but the library may still say what is wrong with the dims.
            problems += self._size(shapes, library)
        if problems:
            raise InputError(problems)
        return arrays

    def allocate(self) -> dict[str, Array]:
        """Arrays for the outputs of what was placed."""
        results: dict[str, Array] = {}
        for name, dtype, shape, slot in self._results:
            results[name], slot.data = _aligned(shape, dtype)
        return results

    def _size(self, shapes: list[tuple[int, ...]], library: Library) -> list[Problem]:
        """Take inputs of these shapes, and the library's word for those of the outputs."""
        self._shapes = None
        for shape, (_, _, slot) in zip(shapes, self._slots, strict=True):
            slot.rank = len(shape)
            slot.dims[: min(slot.rank, MAX_RANK)] = shape[:MAX_RANK]
        problems = library.shapes(self.number, self.inputs, self.outputs)
        if not problems:
            self._results = [
                (port.name, DTYPES[port.dtype][1], tuple(slot.dims[: slot.rank]), slot)
                for port, slot in zip(self.entry.outputs, self.outputs, strict=False)
            ]
            self._shapes = shapes
        return problems

    def _check_names(self, given: Mapping[str, object]) -> None:
        """Raise `InputError` unless there is an array for each input and nothing else."""
        if given.keys() == self._names and all(isinstance(array, np.ndarray) for array in given.values()):
            return
        problems = [
            Problem(Code.BAD_INPUT, f"input {port.name!r} is missing", hint=f"it is {port}")
            for port in self.entry.inputs
            if port.name not in given
        ]
        for name, array in given.items():
            if name not in self._names:
                message = f"there is no input called {name!r}"
                names = [port.name for port in self.entry.inputs]
                problems.append(Problem(Code.BAD_INPUT, message, hint=nearest(name, names)))
            elif not isinstance(array, np.ndarray):
                message = f"input {name!r} is a {type(array).__name__}, expected a NumPy array"
                problems.append(
                    Problem(Code.BAD_INPUT, message, hint=f"np.asarray(..., dtype={self._dtype(name)})")
                )
        raise InputError(problems)

    def _dtype(self, name: str) -> str:
        return next(f"np.{dtype.name}" for own, dtype, _ in self._slots if own == name)


def _wrong_dtype(name: str, got: np.dtype[np.generic], expected: np.dtype[np.generic]) -> Problem:
    # An array in the other byte order has the same name: the order has to be said.
    said = got.str if got.name == expected.name else got.name
    message = f"input {name!r}: dtype is {said}, expected {expected.name}"
    return Problem(Code.BAD_INPUT, message, hint=f"convert it: array.astype(np.{expected.name})")


def _address(array: Array) -> int:
    """Where a C-contiguous array lies."""
    # At a quarter of the cost of `array.ctypes`, which has a class in Python.
    if array.flags.writeable and array.size:
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    return array.ctypes.data


def _aligned(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> tuple[Array, int]:
    """An uninitialised array and its address, a multiple of 64."""
    raw = np.empty(math.prod(shape) * dtype.itemsize + _ALIGNMENT, np.uint8)
    address = _address(raw)
    start = -address % _ALIGNMENT
    return np.ndarray(shape, dtype, raw, start), address + start
