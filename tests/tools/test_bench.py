"""Timing in turns."""

from __future__ import annotations

import os
import threading
import time

import pytest

from isthmus.tools.bench import alternate, pinned, quartiles, ratio


def busy(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def test_a_slower_engine_is_seen_to_be_slower() -> None:
    fast, slow = alternate([lambda: busy(0.0005), lambda: busy(0.001)], seconds=0.2)
    assert fast.best == pytest.approx(0.0005, rel=0.5)
    assert ratio(slow, fast).median == pytest.approx(2, rel=0.3)
    assert fast.runs > slow.runs
    assert fast.best <= fast.quartiles[0] <= fast.median <= fast.quartiles[2]


def test_long_runs_get_their_turns_too() -> None:
    (only,) = alternate([lambda: busy(0.04)], seconds=0.0, min_turns=3)
    assert len(only.turns) == 3


def test_engines_alternate() -> None:
    calls: list[str] = []
    engines = [lambda: (calls.append("a"), busy(0.02)), lambda: (calls.append("b"), busy(0.02))]
    alternate(engines, seconds=0.0, min_turns=2)
    turns = [name for i, name in enumerate(calls) if i == 0 or calls[i - 1] != name]
    assert turns == ["a", "b", "a", "b", "a"]


def test_quartiles() -> None:
    assert quartiles([4.0]) == (4, 4, 4)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2, 3, 4)


def test_pinned_holds_the_process_and_new_threads() -> None:
    before = os.sched_getaffinity(0)
    with pinned(1) as chosen:
        assert os.sched_getaffinity(0) == set(chosen)
        assert len(chosen) == 1
        assert set(chosen) <= before
        seen: list[set[int]] = []
        thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
        assert seen == [set(chosen)]
    assert os.sched_getaffinity(0) == before
    with pinned(10_000) as chosen:
        assert set(chosen) == before
