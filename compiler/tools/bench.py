"""Timing engines against each other: in one process, in turns, so that a slow minute hits all of them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

Run = Callable[[], object]

# A turn lasts about this long. Its first part is thrown away: caches and processors still belong to the
# engine whose turn it was before (onnxruntime's worker threads were seen to spin for 30 ms after a run).
TURN_SECONDS = 0.12
SETTLE_SECONDS = 0.06

_STAT = Path("/proc/self/stat")


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per run of one engine: of all counted runs, the least, the quartiles and how many there were;
    `turns` holds the best of each turn."""

    best: float
    quartiles: tuple[float, float, float]
    runs: int
    turns: tuple[float, ...]

    @property
    def median(self) -> float:
        return self.quartiles[1]


@dataclass(frozen=True, slots=True)
class Ratio:
    """The time of one engine over that of another: the median over turns, and the quartiles around it."""

    low: float
    median: float
    high: float


def alternate(engines: Sequence[Run], seconds: float, min_turns: int = 5) -> tuple[Timing, ...]:
    """Time each engine in turns for `seconds` in all and at least `min_turns` turns each.

    The order reverses from one round to the next, so that no engine always follows the same other.
    """
    samples: list[list[list[float]]] = [[] for _ in engines]
    for run in engines:
        run()  # allocations, page faults, lazy initialisation
    deadline = time.perf_counter() + seconds
    order = list(range(len(engines)))
    while len(samples[0]) < min_turns or time.perf_counter() < deadline:
        for index in order:
            samples[index].append(_turn(engines[index]))
        order.reverse()
    return tuple(_summary(turns) for turns in samples)


def ratio(ours: Timing, theirs: Timing) -> Ratio:
    """Our time over theirs, robustly: quartiles over turns of the ratio of each turn's best runs."""
    return Ratio(*quartiles([a / b for a, b in zip(ours.turns, theirs.turns, strict=True)]))


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """What a quarter, a half and three quarters of `values` do not exceed, interpolated."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


@contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...]]:
    """This process, and every thread started meanwhile, on as many processors as there are `threads`.

    The processors: the one it runs on, which the scheduler chose, and the next ones it may use; all of them
    where threads are more, and none where the system cannot say.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield ()
        return
    allowed = os.sched_getaffinity(0)
    here = _processor()
    chosen = tuple(sorted(allowed, key=lambda number: (number < here, number))[:threads])
    os.sched_setaffinity(0, chosen)
    try:
        yield chosen
    finally:
        os.sched_setaffinity(0, allowed)


def _processor() -> int:
    """The number of the processor this thread ran on last; 0 where the system does not tell."""
    try:
        text = _STAT.read_text("utf-8")
    except OSError:
        return 0
    # proc(5): field 39, counted from the state, which is the third and follows the name in parentheses.
    return int(text.rpartition(")")[2].split()[36])


def _turn(run: Run) -> list[float]:
    """Seconds of each counted run in one turn; at least one."""
    started = time.perf_counter()
    run()
    while time.perf_counter() - started < SETTLE_SECONDS:
        run()
    counted: list[float] = []
    while not counted or time.perf_counter() - started < TURN_SECONDS:
        before = time.perf_counter()
        run()
        counted.append(time.perf_counter() - before)
    return counted


def _summary(turns: Sequence[Sequence[float]]) -> Timing:
    every = [sample for turn in turns for sample in turn]
    return Timing(min(every), quartiles(every), len(every), tuple(min(turn) for turn in turns))
