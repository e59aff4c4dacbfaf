"""Workers and the order of work: at once, within memory, and whatever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from isthmus.errors import Code, ModelError, Problem
from isthmus.matrix.memory import held_by, memory_here
from isthmus.matrix.pool import (
    LocalWorkers,
    Task,
    TooMuchMemory,
    WorkerDied,
    Workers,
    problems_in,
    run_tasks,
    workers,
)


def double(number: int) -> int:
    sys.stdout.write("what a function prints must not disturb anybody\n")
    return 2 * number


def refuse(number: int) -> int:
    raise ModelError(Problem(Code.BAD_OPTION, f"no {number}"))


def die(path: str) -> None:
    with open(path, "a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(path: str) -> str:
    if os.path.exists(path):
        return "alive"
    Path(path).touch()
    os.kill(os.getpid(), signal.SIGKILL)
    return ""


def grow(megabytes: int) -> int:
    """Hold so much until somebody stops us."""
    held = bytearray(b"x") * (megabytes << 20)
    time.sleep(600)
    return len(held) >> 20


def grow_beside(megabytes: int, folder: str, name: str, other: str) -> int:
    """Hold so much until the other has begun, too, and has ended, well or not."""
    (Path(folder) / name).write_text(str(os.getpid()))  # before there is a reason to stop us
    held = bytearray(b"x") * (megabytes << 20)
    began, done = Path(folder) / other, Path(folder) / f"{other} is done"
    while not (done.exists() or (began.exists() and is_gone(began.read_text()))):
        time.sleep(0.05)
    (Path(folder) / f"{name} is done").touch()
    return len(held) >> 20


def is_gone(pid: str) -> bool:
    try:
        os.kill(int(pid or os.getpid()), 0)
    except ProcessLookupError:
        return True
    return False


def grow_in_a_child(megabytes: int) -> int:
    """As a C compiler or an emulator would."""
    code = f"x = bytearray(b'x' * ({megabytes} << 20)); import time; time.sleep(600)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode


def done(
    tasks: Iterable[Task], jobs: int = 2, memory: int = 1 << 40, began: list[str] | None = None
) -> dict[str, Any]:
    """What became of each task; `began` hears of every attempt."""
    found: dict[str, Any] = {}
    started = [] if began is None else began

    def finished(task: Task, outcome: Any) -> Iterable[Task]:
        found[task.name] = outcome
        return [Task("after", double, (21,))] if task.name == "first" else ()

    with workers(jobs) as pool:
        run_tasks(tasks, pool, memory, lambda task: started.append(task.name), finished)
    return found


def test_one_that_fails_or_dies_stops_no_other(tmp_path: Path) -> None:
    tasks = [
        Task("first", double, (1,)),
        Task("bad", refuse, (7,)),
        Task("deadly", die, (str(tmp_path / "deaths"),)),
        Task("weak", die_once, (str(tmp_path / "once"),)),
        *(Task(str(number), double, (number,)) for number in range(4)),
    ]
    found = done(tasks)
    assert {name: found[name] for name in ("first", "after", "weak", "0", "1", "2", "3")} == {
        "first": 2, "after": 42, "weak": "alive", "0": 0, "1": 2, "2": 4, "3": 6,
    }  # fmt: skip
    assert isinstance(found["bad"], ModelError) and found["bad"].problems[0].message == "no 7"
    assert isinstance(found["deadly"], WorkerDied)
    assert (tmp_path / "deaths").read_text() == "xx", "it is tried twice"
    assert problems_in(found["deadly"], "deadly")[0].code is Code.WORKER_DIED


def test_processes_end_with_the_pool() -> None:
    local = LocalWorkers(2)
    assert [local.submit(double, n).result() for n in range(3)] == [0, 2, 4]
    processes = list(local._all)
    local.shutdown()
    assert processes and all(process.poll() is not None for process in processes)


def peak(memory: int, sizes: Iterable[int]) -> int:
    """The largest amount of memory that tasks of these sizes held together."""
    held, most, lock = 0, 0, threading.Lock()

    def hold(size: int) -> None:
        nonlocal held, most
        with lock:
            held += size
            most = max(most, held)
        time.sleep(0.02)
        with lock:
            held -= size

    tasks = [Task(f"{n}", hold, (size,), size) for n, size in enumerate(sizes)]
    with ThreadPoolExecutor(4) as threads:
        run_tasks(tasks, Workers(4, threads, threads), memory, lambda _: None, lambda task, outcome: ())
    return most


def test_memory_is_shared_out() -> None:
    assert peak(100, [30] * 8) <= 100
    assert peak(100, [30] * 8) > 30, "several at a time"
    assert peak(100, [300, 20, 20]) == 300, "one that is too large runs alone"


def test_who_holds_more_than_there_is_ends_and_the_others_do_not(tmp_path: Path) -> None:
    began: list[str] = []
    tasks = [
        Task("huge", grow, (600,), 1 << 20),
        Task("child", grow_in_a_child, (600,), 1 << 20),
        *(Task(str(number), double, (number,)) for number in range(3)),
    ]
    found = done(tasks, memory=400 << 20, began=began)
    assert {name: found[name] for name in "012"} == {"0": 0, "1": 2, "2": 4}
    for name in ("huge", "child"):
        assert isinstance(found[name], TooMuchMemory) and found[name].held > 400 << 20
        (problem,) = problems_in(found[name], name)
        assert problem.code is Code.OVER_MEMORY and "--memory" in problem.hint
    assert began.count("huge") <= 2 and began.count("child") <= 2


def test_two_that_are_too_much_together_are_done_one_after_the_other(tmp_path: Path) -> None:
    began: list[str] = []
    names = (("one", "two"), ("two", "one"))
    tasks = [Task(one, grow_beside, (200, str(tmp_path), one, other), 1 << 20) for one, other in names]
    found = done(tasks, memory=400 << 20, began=began)
    assert found == {"one": 200, "two": 200}
    assert len(began) == 3, "one of them was stopped, and done again alone"


def test_memory_of_this_machine(tmp_path: Path) -> None:
    whole = memory_here(limits=())
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "small").write_text("1000000\n")
    assert memory_here([tmp_path / "max", tmp_path / "absent"]) == whole
    assert memory_here([tmp_path / "max", tmp_path / "small"]) == 800_000
    assert held_by([os.getpid()], tmp_path) == {os.getpid(): 0}, "nothing is known without /proc"


def test_what_is_our_own_fault_says_so() -> None:
    (problem,) = problems_in(ZeroDivisionError("x"), "a@b")
    assert "ZeroDivisionError: x" in problem.message and "report" in problem.hint


def test_hints_speak_of_the_file_and_not_of_options_that_are_not_there() -> None:
    hint = "say how large it gets: --dim batch=1..HIGH, or fix it: --dim batch=SIZE"
    told = ModelError(Problem(Code.BAD_DIM, "no bound", "--target cortex-m7", hint))
    (problem,) = problems_in(told, "a@b")
    assert problem.where == "chip cortex-m7"
    assert problem.hint == 'say how large it gets: dims.batch = "1..HIGH", or fix it: dims.batch = "SIZE"'


def test_a_cluster_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="E1003"), workers(1, "tcp://127.0.0.1:1"):
        pass
