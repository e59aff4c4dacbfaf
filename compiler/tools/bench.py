"""Timing engines against each other: in one process, in turns, so that a slow minute hits all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Run = Callable[[], object]

# A turn lasts about this long. Its first part is thrown away: caches and processors still belong to the
# engine whose turn it was before (onnxruntime's worker threads were seen to spin for 30 ms after a run).
TURN_SECONDS = 0.12
SETTLE_SECONDS = 0.06


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per run of one engine; `turns` holds the best of each turn."""

    best: float
    median: float
    runs: int
    turns: tuple[float, ...]


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


def ratio(ours: Timing, theirs: Timing) -> float:
    """Our time over theirs, robustly: the median over turns of the ratio of each turn's best runs."""
    return statistics.median(a / b for a, b in zip(ours.turns, theirs.turns, strict=True))


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
    return Timing(min(every), statistics.median(every), len(every), tuple(min(turn) for turn in turns))
