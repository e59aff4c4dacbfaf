"""Who does the work: processes of this machine, or a Dask cluster, behind the interface of executors.

`run_tasks` hands out tasks as long as there are workers and memory for them; one that fails stops no other.
How much memory a task takes is a guess that is held against what its process holds: see `_hold_to`.
"""

from __future__ import annotations

import importlib.util
import pickle
import queue
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from isthmus.errors import Code, IsthmusError, ModelError, Problem
from isthmus.matrix.memory import end, held_by

ATTEMPTS = 2  # of a task whose worker dies
LOOK_S = 0.25  # between two looks at how much memory workers hold
NO_LIMIT = sys.maxsize  # of memory: nobody looks
_REFUSED = "the cluster cannot be reached"


class WorkerDied(Exception):
    """The process that had the task is gone: killed, out of memory, or a crash in native code."""


class TooMuchMemory(Exception):
    """A task held more than all workers may together."""

    def __init__(self, held: int, limit: int) -> None:
        self.held, self.limit = held, limit
        super().__init__(
            f"it held {_megabytes(held)} by itself; all workers together may hold {_megabytes(limit)}"
        )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


@dataclass(slots=True)
class _Serving:
    """The process that has a call, as long as it has it; `stopped`: it was ended on the way."""

    process: subprocess.Popen[bytes] | None = None
    stopped: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class LocalWorkers(Executor):
    """Processes of this machine, started when they are needed; one that dies fails its own task only."""

    def __init__(self, jobs: int) -> None:
        self._threads = ThreadPoolExecutor(jobs)
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._all: list[subprocess.Popen[bytes]] = []
        self._serving: dict[Future[Any], _Serving] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        serving = _Serving()
        future = self._threads.submit(self._call, serving, fn, args)
        self._serving[future] = serving
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for process in self._all:
            if not wait:
                process.kill()
        self._threads.shutdown(wait=wait, cancel_futures=True)
        for process in self._all:
            process.kill()
            process.communicate()

    def held(self) -> tuple[dict[Future[Any], int], int]:
        """Bytes that the process of each call holds, with all that it started; and all processes together."""
        self._serving = {future: one for future, one in self._serving.items() if not future.done()}
        served = {future: one.process for future, one in self._serving.items()}
        found = held_by(process.pid for process in self._all if process.poll() is None)
        by_call = {
            future: found.get(process.pid, 0) for future, process in served.items() if process is not None
        }
        return by_call, sum(found.values())

    def stop(self, future: Future[Any]) -> None:
        """End the process that has this call, with all that it started; the call raises `WorkerDied`."""
        serving = self._serving[future]
        with serving.lock:
            serving.stopped = True
            if serving.process is not None:
                end(serving.process.pid)

    def end_idle(self) -> None:
        """End the processes that have nothing to do: they keep what TVM takes."""
        while True:
            try:
                process = self._idle.get_nowait()
            except queue.Empty:
                return
            process.kill()
            process.wait()

    def _call(self, serving: _Serving, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        process = self._take()
        assert process.stdin is not None and process.stdout is not None
        serving.process = process
        try:
            pickle.dump((function, arguments), process.stdin)
            process.stdin.flush()
            good, answer = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            raise WorkerDied(f"its process ended with status {process.wait()}") from None
        finally:
            with serving.lock:  # nobody may end it for this call any more
                serving.process = None
        if not serving.stopped:
            self._idle.put(process)
        if good:
            return answer
        raise answer

    def _take(self) -> subprocess.Popen[bytes]:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            command = [sys.executable, "-m", "isthmus.matrix.worker"]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self._all.append(process)
            return process


@dataclass(frozen=True, slots=True)
class Task:
    """A call for a worker. `memory`: bytes it takes, roughly. `here`: it needs files of this machine.
    `alone`: there was no room for it beside others, so nothing else runs meanwhile."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    memory: int = 0
    here: bool = False
    attempt: int = 1
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Workers:
    """`jobs` workers: `local` ones on this machine, the others the same or elsewhere."""

    jobs: int
    local: Executor
    others: Executor

    def submit(self, task: Task) -> Future[Any]:
        """Hand it to a worker."""
        executor = self.local if self.is_here(task) else self.others
        return executor.submit(task.function, *task.arguments)

    def is_here(self, task: Task) -> bool:
        """Whether it takes memory of this machine; that of a cluster's machines is the cluster's affair."""
        return task.here or self.others is self.local

    def has_room(self, task: Task, running: Iterable[Task], memory: int) -> bool:
        """Whether `task` may begin beside those that are `running`, with `memory` bytes for all of this
        machine's."""
        if not self.is_here(task):
            return True
        beside = [one for one in running if self.is_here(one)]
        if task.alone or any(one.alone for one in beside):
            return not beside
        return not beside or sum(one.memory for one in beside) + task.memory <= memory


@contextmanager
def workers(jobs: int, scheduler: str | None = None) -> Iterator[Workers]:
    """`jobs` processes; or, for all that need not be done here, those of the Dask cluster at the address
    `scheduler`. Raises `ModelError`: missing-package, bad-option."""
    local = LocalWorkers(jobs)
    try:
        if scheduler is None:
            yield Workers(jobs, local, local)
        else:
            with _cluster(scheduler) as (cluster, threads):
                yield Workers(threads, local, cluster)
    except BaseException:
        local.shutdown(wait=False)
        raise
    local.shutdown()


@contextmanager
def _cluster(address: str) -> Iterator[tuple[Executor, int]]:
    if importlib.util.find_spec("distributed") is None:
        text = "dask's package distributed is not installed"
        hint = "pip install 'isthmus[dask]'"
        raise ModelError(Problem(Code.MISSING_PACKAGE, text, "--scheduler", hint))
    # Imported when asked for: a second, and most installations do not have it.
    import distributed

    try:
        client = distributed.Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        hint = "start one with `dask scheduler` and `dask worker ADDRESS --nthreads 1`"
        raise ModelError(
            Problem(Code.BAD_OPTION, f"{_REFUSED}: {error}", f"--scheduler {address}", hint)
        ) from None
    with client:
        threads = max(1, sum(client.nthreads().values()))
        yield client.get_executor(pure=False, retries=ATTEMPTS), threads


Finish = Callable[[Task, Any], Iterable[Task]]


def run_tasks(
    first: Iterable[Task],
    pool: Workers,
    memory: int,
    started: Callable[[Task], None],
    finished: Finish,
) -> None:
    """Do all tasks: as many at a time as there are workers and `memory` bytes for, each at least alone.

    `finished` is told the result of a task or the exception it raised, and says what is to be done next.
    Where workers hold more than `memory`, one is stopped and its task done again alone, unless it holds more
    by itself: then the task ends with `TooMuchMemory`.
    """
    waiting = deque(first)
    running: dict[Future[Any], Task] = {}
    stopped: dict[Future[Any], int] = {}
    while waiting or running:
        while waiting and len(running) < pool.jobs:
            beside = tuple(running.values())
            fitting = next((task for task in waiting if pool.has_room(task, beside, memory)), None)
            if fitting is None:
                break
            waiting.remove(fitting)
            started(fitting)
            running[pool.submit(fitting)] = fitting
        for future in wait(running, LOOK_S, return_when=FIRST_COMPLETED).done:
            task = running.pop(future)
            error = future.exception()
            died = isinstance(error, WorkerDied)
            if died and stopped.get(future, 0) > memory:
                waiting.extend(finished(task, TooMuchMemory(stopped[future], memory)))
            elif died and future in stopped:
                waiting.append(replace(task, alone=True))
            elif died and task.attempt < ATTEMPTS:
                waiting.append(replace(task, attempt=task.attempt + 1))
            else:
                waiting.extend(finished(task, error or future.result()))
        stopped |= _hold_to(memory, pool.local, running)


def _hold_to(memory: int, local: Executor, running: Mapping[Future[Any], Task]) -> dict[Future[Any], int]:
    """Where processes hold more than `memory` bytes together, end one; which call it had, and what it held.

    The one that is furthest above what it was thought to take."""
    if memory == NO_LIMIT or not isinstance(local, LocalWorkers) or local.held()[1] <= memory:
        return {}
    local.end_idle()
    by_call, together = local.held()
    held = {future: count for future, count in by_call.items() if future in running}
    if together <= memory or not held:
        return {}
    worst = max(held, key=lambda future: held[future] - running[future].memory)
    local.stop(worst)
    return {worst: held[worst]}


# Options of `isthmus compile` in a hint, and what isthmus.toml calls them.
_OPTIONS = (
    (re.compile(r"--dim ([\w.]+)=([^\s,]+)"), r'dims.\1 = "\2"'),
    (re.compile(r"--fix ([\w.]+)=([^\s,]+)"), r"fix.\1 = \2"),
    (re.compile(r"--(precision|calibration|tokenizer|sparsity|metric)\b"), r"\1"),
    (re.compile(r"--max-drop\b"), "budgets.accuracy_drop"),
    (re.compile(r"--sparsity-method\b"), "sparsity_method"),
    (re.compile(r"--target "), "chip "),
)


def _in_words_of_the_file(problem: Problem) -> Problem:
    """`problem` with the keys of isthmus.toml, where it speaks of options that `isthmus build` has not."""
    hint, where = problem.hint, problem.where
    for option, key in _OPTIONS:
        hint, where = option.sub(key, hint), option.sub(key, where)
    return replace(problem, hint=hint, where=where)


def problems_in(error: BaseException, name: str) -> tuple[Problem, ...]:
    """What to say of the exception that a task raised."""
    if isinstance(error, IsthmusError):
        return tuple(_in_words_of_the_file(problem) for problem in error.problems)
    if isinstance(error, WorkerDied):
        hint = "less at a time: --jobs 1, --memory; if it dies alone, please send the model to the project"
        return (Problem(Code.WORKER_DIED, f"the worker died {ATTEMPTS} times: {error}", name, hint),)
    if isinstance(error, TooMuchMemory):
        hint = "give it more with --memory, or build it on a larger machine: --scheduler"
        return (Problem(Code.OVER_MEMORY, f"it takes more memory than there is: {error}", name, hint),)
    text = f"{type(error).__name__}: {error}"
    return (Problem(Code.WORKER_DIED, text, name, "this is a bug in Isthmus: please report it"),)
