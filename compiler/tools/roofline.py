"""What the machine reaches at its best, right now: multiply-adds in registers, and reading memory.

Clocks move and neighbours interfere, so a share of the limit means something only when the limit was timed
in the same run, in turns with what it is compared to.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from isthmus.codegen.cache import cache_dir
from isthmus.codegen.native import Call, load
from isthmus.kernels import peak
from isthmus.target import Target

# Seconds that one call lasts on each thread: long against the time it takes to hand it out.
CALL_SECONDS = 2e-3
# Bytes a thread reads: as much as the weights of a model of 64 million parameters.
STREAM_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Limit:
    """Work that is as fast as the machine is: `run` does `amount` of it (operations, or bytes)."""

    run: Callable[[], object]
    amount: float


class Roofline:
    """The two limits of one target, on up to `threads` threads of this process."""

    def __init__(self, target: Target, threads: int, pool: ThreadPoolExecutor, folder: Path) -> None:
        self._target = target
        self._pool = pool
        self._threads = threads
        self._calls = load(
            [peak.multiply_adds(target), peak.read_stream(target)], target, folder, cache_dir(os.environ)
        )

    def arithmetic(self) -> Limit:
        """Floating-point operations; a multiply-add is two."""
        lanes = peak.chains(self._target) * self._target.vector.lanes(32)
        memories = [np.full(lanes, 0.5, np.float32) for _ in range(self._threads)]
        turns = _calibrate(partial(self._calls["peak"], memories[0]))
        works = [partial(self._calls["peak"], memory, turns) for memory in memories]
        return Limit(partial(self._together, works), 2.0 * lanes * turns * self._threads)

    def memory(self) -> Limit:
        """Bytes read."""
        step = peak.stream_step(self._target)
        steps = STREAM_BYTES // 4 // step
        works = []
        for _ in range(self._threads):
            # Written, or it would be one page of zeros.
            source, sums = np.ones(steps * step, np.float32), np.zeros(step, np.float32)
            works.append(partial(self._calls["stream"], source, sums, steps))
        return Limit(partial(self._together, works), float(self._threads * steps * step * 4))

    def _together(self, works: Sequence[Callable[[], None]]) -> None:
        places = _processors(len(works))
        apart = list(zip(places, works, strict=True))
        helpers = [self._pool.submit(_at, place, work) for place, work in apart[1:]]
        _at(places[0], works[0])
        for helper in helpers:
            helper.result()


def _processors(threads: int) -> list[int | None]:
    """A processor for each thread; None where the system does not let us choose, or there are not enough."""
    if not hasattr(os, "sched_setaffinity"):
        return [None] * threads
    allowed = sorted(os.sched_getaffinity(0))
    return list(allowed[:threads]) if len(allowed) >= threads else [None] * threads


def _at(processor: int | None, work: Callable[[], None]) -> None:
    """Do `work` on one processor: schedulers wake a helper beside its waker and leave it there."""
    if processor is None:
        work()
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {processor})
    try:
        work()
    finally:
        os.sched_setaffinity(0, allowed)


def _calibrate(call: Call) -> int:
    """Turns that take about CALL_SECONDS."""
    turns = 1000
    while True:
        taken = min(_seconds(call, turns) for _ in range(3))
        if taken > CALL_SECONDS / 4:
            return max(1, int(turns * CALL_SECONDS / taken))
        turns *= 4


def _seconds(call: Call, turns: int) -> float:
    started = time.perf_counter()
    call(turns)
    return time.perf_counter() - started


@contextmanager
def roofline(target: Target, threads: int) -> Iterator[Roofline]:
    """The limits of `target`, which this machine must be able to run; compiles two kernels."""
    with ThreadPoolExecutor(max(threads - 1, 1)) as pool, tempfile.TemporaryDirectory() as folder:
        yield Roofline(target, threads, pool, Path(folder))
