"""Run a bundle, also on a machine that is not its own: through the emulator that its chip declares."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isthmus.bundle.manifest import Entry, Port
from isthmus.bundle.reader import Bundle
from isthmus.codegen import toolchain
from isthmus.errors import BundleError, Code, InputError, Problem, RunnerError, nearest
from isthmus.machine import Machine
from isthmus.runtime import load
from isthmus.runtime.library import DTYPES
from isthmus.target import ByteOrder, Runner, Target
from isthmus.tools.verify import Run

Array = npt.NDArray[np.generic]
TIMEOUT_S = 1800.0  # of one request: an emulator takes a hundred times as long as the chip
# Bytes of weights that every emulated board has room for.
BOARD_BYTES = 256 << 10
_WEIGHTS, _REQUEST, _ANSWER = "weights.bin", "request.bin", "answer.bin"


def require(target: Target, name: str | None = None) -> Runner:
    """The chip's runner called `name`, or the first that is installed.

    Raises `RunnerError` when there is none or something has to be installed first.
    """
    runners = [runner for runner in target.runners if name in (None, runner.name)]
    if not runners:
        known = [runner.name for runner in target.runners]
        if name is not None:
            text = f"no runner of {target.name} is called {name!r}"
            raise RunnerError(Problem(Code.NO_RUNNER, text, "--runner", nearest(name, [*known, "native"])))
        raise RunnerError(
            Problem(
                Code.NO_RUNNER,
                f"no emulator executes code for {target.name}: elsewhere it is built, not run",
                target.name,
                "copy the bundle to such a machine and run `isthmus verify` there",
            )
        )
    runner = next((runner for runner in runners if not runner.missing()), runners[0])
    missing = runner.missing()
    if missing:
        raise RunnerError(
            Problem(
                Code.NO_RUNNER,
                f"{runner.name} cannot run code for {target.name}: {', '.join(missing)} not found",
                target.name,
                f"install {runner.package}",
            )
        )
    return runner


def fits(bundle: Bundle, target: Target) -> bool:
    """Whether a runner has room for the weights: a board without a system has little."""
    weights = bundle.manifest.weights
    small = weights is None or bundle.manifest.files[weights].bytes <= BOARD_BYTES
    return small or not target.toolchain.system.freestanding


@contextmanager
def answering(
    bundle: Bundle, target: Target, cache: Path | None, threads: int | None = None
) -> Iterator[Run]:
    """What answers requests to the bundle: this machine if it can, else the chip's first runner.

    Raises `RunnerError`.
    """
    if target.missing_on(Machine.here()):
        with emulated(bundle, target, cache, threads) as emulator:
            yield emulator.run
    else:
        with load(bundle.path, threads, verify=False) as session:
            yield session.run


@contextmanager
def emulated(
    bundle: Bundle, target: Target, cache: Path | None, threads: int | None, wanted: str | None = None
) -> Iterator[Emulated]:
    """The bundle, ready to answer requests under a runner of its chip: the one called `wanted`, if given.

    Raises `RunnerError`.
    """
    runner = require(target, wanted)
    found = bundle.manifest
    libraries = {
        Path(path).name: bundle.file(path).read_bytes() for path in found.files if path.startswith("lib/")
    }
    weights = None if found.weights is None else bundle.file(found.weights)
    image = toolchain.Image(runner.script, weights) if runner.script else None
    program = toolchain.replay_program(libraries, target.toolchain, cache, image)
    with tempfile.TemporaryDirectory(prefix="isthmus-run-") as name:
        folder = Path(name)
        path = folder / target.toolchain.system.program
        path.write_bytes(program)
        path.chmod(0o755)
        for library, content in libraries.items():
            (folder / library).write_bytes(content)
        if weights is not None and image is None:
            _same_file(weights, folder / _WEIGHTS)
        arguments = (_WEIGHTS if weights else "-", _REQUEST, _ANSWER, str(threads or 1))
        command = (*runner.command, f"./{path.name}", *(() if image else arguments))
        yield Emulated(runner.name, folder, command, found.entries, target.byte_order)


def _same_file(source: Path, place: Path) -> None:
    """Weights are large: a second name for them, where the file system allows it."""
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)


@dataclass(frozen=True, slots=True)
class Emulated:
    """Answers requests, each in a process of its own."""

    runner: str
    folder: Path
    command: tuple[str, ...]
    entries: tuple[Entry, ...]
    byte_order: ByteOrder

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name of the first entry point. Raises `InputError` with the program's own words."""
        entry = self.entries[0]
        missing = [port.name for port in entry.inputs if port.name not in inputs]
        if missing:
            raise InputError([Problem(Code.BAD_INPUT, f"input {name!r} is missing") for name in missing])
        (self.folder / _REQUEST).write_bytes(
            self._ints([0]) + b"".join(self._packed(np.asarray(inputs[port.name])) for port in entry.inputs)
        )
        (self.folder / _ANSWER).unlink(missing_ok=True)
        try:
            done = subprocess.run(
                self.command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise InputError(
                Problem(Code.RUN_FAILED, f"no answer within {TIMEOUT_S:.0f} s", self.runner)
            ) from None
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip()
            status = f"status {done.returncode}"
            raise InputError(Problem(Code.RUN_FAILED, said or status, self.runner))
        return self._answer(entry)

    def _answer(self, entry: Entry) -> dict[str, Array]:
        answer: dict[str, Array] = {}
        try:
            rest = memoryview((self.folder / _ANSWER).read_bytes())
            for port in entry.outputs:
                answer[port.name], rest = self._unpacked(port, rest)
        except (OSError, ValueError) as error:
            raise BundleError(
                Problem(Code.RUN_FAILED, f"there is no whole answer: {error}", self.command[0])
            ) from None
        return answer

    def _order(self, dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
        return dtype.newbyteorder("<" if self.byte_order == "little" else ">")

    def _ints(self, values: list[int]) -> bytes:
        return np.array(values, self._order(np.dtype(np.int32))).tobytes()

    def _packed(self, array: Array) -> bytes:
        dims = np.array(array.shape, self._order(np.dtype(np.int64))).tobytes()
        return self._ints([array.ndim, 0]) + dims + array.astype(self._order(array.dtype)).tobytes()

    def _unpacked(self, port: Port, data: memoryview) -> tuple[Array, memoryview]:
        rank = int(np.frombuffer(data, self._order(np.dtype(np.int32)), 2)[0])
        shape = np.frombuffer(data[8:], self._order(np.dtype(np.int64)), rank)
        dtype = self._order(DTYPES[port.dtype][1])
        count = int(np.prod(shape))
        start = 8 + 8 * rank
        found = np.frombuffer(data[start:], dtype, count).reshape(shape)
        return found.astype(found.dtype.newbyteorder("=")), data[start + found.nbytes :]
