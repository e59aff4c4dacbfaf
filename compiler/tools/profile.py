"""Where the time of a run goes: every kernel call, held against what the machine reaches in the same run."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isthmus.codegen import timing
from isthmus.ir.dims import evaluate_dim
from isthmus.ir.read import parse_dim
from isthmus.runtime import Session
from isthmus.tools.bench import alternate
from isthmus.tools.roofline import Roofline

Times = npt.NDArray[np.uint64]  # [thread, call, (nanoseconds, calls)]


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel call of the plan: seconds a run (the mean of the threads'), how often it is made by all
    threads together, floating-point operations and bytes a run."""

    op: str
    kernel: str
    node: str
    seconds: float
    uses: int
    operations: float
    traffic: float


@dataclass(frozen=True, slots=True)
class Roof:
    """What the machine reached in the same run on as many threads: operations and bytes a second."""

    operations: float
    traffic: float

    def share(self, row: Row) -> float:
        """The time the roof allows `row`, over its time. Above 1 where bytes come from a cache instead."""
        least = max(row.operations / self.operations, row.traffic / self.traffic)
        return least / row.seconds if row.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """Kernel calls in the order of the plan, the whole run in seconds, and the roof. Times are medians over
    the fastest quarter of the runs."""

    rows: tuple[Row, ...]
    run_seconds: float
    roof: Roof

    @property
    def rest_seconds(self) -> float:
        """What no kernel accounts for: waiting for other threads, the call from Python, the clock itself."""
        return max(0.0, self.run_seconds - sum(row.seconds for row in self.rows))


class Clock:
    """A run of a timed bundle, which makes so many kernel `calls`; what they took is read afterwards."""

    def __init__(self, session: Session, calls: int, inputs: Mapping[str, npt.NDArray[np.generic]]) -> None:
        shape = (timing.THREADS, calls, 2)
        raw = session.exported(timing.SYMBOL, ctypes.c_uint64 * int(np.prod(shape)))
        self._table: Times = np.ctypeslib.as_array(raw).reshape(shape)[: session.threads]
        self._session, self._inputs = session, inputs
        self._runs: list[float] = []
        self._snapshots: list[Times] = []

    def __call__(self) -> None:
        """Run once, and write down what the clocks say."""
        self._table[:] = 0
        started = time.perf_counter()
        self._session.run(self._inputs)
        self._runs.append(time.perf_counter() - started)
        self._snapshots.append(self._table.copy())

    def read(self) -> tuple[float, npt.NDArray[np.float64], npt.NDArray[np.uint64]]:
        """Seconds of a run; of each call seconds (the mean of the threads'), and how often it is made."""
        # Of the runs that nobody interrupted: then the calls add up to the run.
        quick = np.argsort(self._runs)[: max(1, len(self._runs) // 4)]
        every = np.array(self._snapshots)[quick]
        spent = np.median(every[..., 0].mean(axis=1), axis=0) / 1e9
        return float(np.median(np.array(self._runs)[quick])), spent, every[-1, :, :, 1].sum(axis=0)


def profile(
    session: Session,
    calls: Sequence[Mapping[str, object]],
    inputs: Mapping[str, npt.NDArray[np.generic]],
    sizes: Mapping[str, int],
    limits: Roofline,
    seconds: float,
) -> Profile:
    """Time the kernel calls of a timed bundle; `calls` are those of its report.json, in the plan's order."""
    arithmetic, memory = limits.arithmetic(), limits.memory()
    clock = Clock(session, len(calls), inputs)
    _, operations, traffic = alternate([clock, arithmetic.run, memory.run], seconds)
    run_seconds, spent, uses = clock.read()
    rows = (
        Row(
            str(call["op"]),
            str(call["kernel"]),
            str(call["node"]),
            float(taken),
            int(count),
            2.0 * _size(call["multiply_adds"], sizes),
            float(_size(call["bytes"], sizes)),
        )
        for call, taken, count in zip(calls, spent, uses, strict=True)
    )
    roof = Roof(arithmetic.amount / operations.best, memory.amount / traffic.best)
    return Profile(tuple(rows), run_seconds, roof)


def _size(text: object, sizes: Mapping[str, int]) -> int:
    return evaluate_dim(parse_dim(str(text)), sizes)
