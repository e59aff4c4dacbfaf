"""M models x N chips: everything that is not in the cache yet is made, checked and measured.

`build_matrix` is the whole of it: the configuration > pairs > keys > tasks > bundles in place > cells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import isthmus.targets
from isthmus.bundle import manifest, writer
from isthmus.bundle.manifest import NAME as MANIFEST
from isthmus.bundle.reader import open_bundle
from isthmus.chips import discover
from isthmus.errors import BundleError, Code, Problem
from isthmus.matrix import keys, stages
from isthmus.matrix.cache import Cache, Entry, Where
from isthmus.matrix.cells import cell, failed
from isthmus.matrix.config import Config
from isthmus.matrix.memory import memory_here
from isthmus.matrix.plans import Matrix, Plan
from isthmus.matrix.pool import NO_LIMIT, Task, problems_in, run_tasks, workers
from isthmus.matrix.results import BuildResult, PairResult, Work
from isthmus.matrix.stages import Gone, ModelJob, PairJob
from isthmus.tools.hardware import hardware

# Of memory: a worker with TVM, and what a compile holds for each byte of the model; measured: 250 MB and 1.5.
WORKER_BYTES, PER_MODEL_BYTE = 300 << 20, 4


@dataclass(frozen=True, slots=True)
class Event:
    """Something began or ended: a model, a pair, a measurement; `number` of `total` are done."""

    kind: Literal["begin", "done", "failed", "cached"]
    what: str
    number: int
    total: int
    seconds: float = 0.0
    problems: tuple[Problem, ...] = ()


def _silent(_: object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Request:
    """How to build. `places` is the cache; `scheduler` the address of a Dask cluster; `memory` is in bytes;
    without `measure` nothing is timed, and every latency is an estimate."""

    places: Where
    output: Path
    jobs: int = 1
    memory: int = field(default_factory=memory_here)
    scheduler: str | None = None
    measure: bool = True
    tell: Callable[[Event], None] = _silent
    warn: Callable[[Problem], None] = _silent


def build_matrix(config: Config, matrix: Matrix, request: Request) -> BuildResult:
    """Build what changed of a matrix that was planned, and say what became of every pair."""
    began = time.perf_counter()
    plans = matrix.plans
    build = _Build(request, plans)
    build.make()
    lost = build.place_all(plans)
    if lost:  # damaged or deleted since
        build.make(lost)
        build.give_up(build.place_all(lost))
    machine = asdict(hardware(_flags()))
    measured = build.measure(machine) if request.measure else {}
    cells = [
        replace(
            _cell(build, plan, measured),
            path=plan.pair.path,
            line=config.lines.get(("models", plan.pair.model), 1),
        )
        for plan in plans
    ]
    return BuildResult(
        pairs=tuple(cells),
        names=matrix.names,
        models=tuple(dict.fromkeys(plan.pair.model for plan in plans)),
        chips=tuple(dict.fromkeys(plan.pair.chip for plan in plans)),
        output=request.output,
        file=Path(config.file),
        currency=config.currency,
        machine=machine,
        tools=keys.tools(),
        work=build.work,
        seconds=time.perf_counter() - began,
        warnings=tuple(dict.fromkeys(build.warnings)),
    )


def _flags() -> set[str]:
    return {flag for target in discover(isthmus.targets).values() for flag in target.cpu_flags}


class _Build:
    """One build under way: what was found in the cache, what is being made, what failed."""

    def __init__(self, request: Request, plans: Sequence[Plan]) -> None:
        self._request = request
        self._plans = plans
        self.output = request.output
        self._checked: dict[str, bool] = {}
        self._steps = 0
        self._total = 0
        self.cache = Cache(request.places, self._warn)
        self.warnings: list[Problem] = []
        self.failures: dict[str, tuple[Problem, ...]] = {}
        self.seconds: dict[str, float] = {}
        self.made: set[str] = set()
        self._wanted: dict[str, Plan] = {}
        self._held: dict[str, list[Plan]] = {}  # pairs that wait for their model
        self._again: set[str] = set()  # pairs whose model was gone once
        self.work = Work()

    def _warn(self, problem: Problem) -> None:
        if problem not in self.warnings:
            self.warnings.append(problem)
            self._request.warn(problem)

    def make(self, plans: Sequence[Plan] | None = None) -> None:
        """Everything that the cache does not have, by the workers; failures are kept."""
        chosen = self._plans if plans is None else plans
        there = {plan.model for plan in chosen if self._has(plan.model)}
        wanted = [plan for plan in chosen if not self._is_done(plan)]
        absent = {plan.model: plan for plan in wanted if plan.model not in there}
        self._steps, self._total = 0, len(wanted) + len(absent)
        self._wanted = {plan.pair.name: plan for plan in wanted}
        for plan in chosen:
            if plan.pair.name not in self._wanted:
                self._request.tell(Event("cached", plan.pair.name, 0, self._total))
        if not wanted:
            return
        self._held = {model: [plan for plan in wanted if plan.model == model] for model in absent}
        first = [self._model_task(plan) for plan in absent.values()]
        first += [self._pair_task(plan) for plan in wanted if plan.model in there]
        request = self._request
        with workers(request.jobs, request.scheduler) as pool:
            run_tasks(first, pool, request.memory, self._began, self._finished)

    def _finished(self, task: Task, outcome: Any) -> Iterable[Task]:
        """What follows when a task is done: the pairs of a model, or the model again if it is gone."""
        if task.function is stages.make_model:
            held = self._held.pop(task.arguments[0].key)
            if self._ended(task, outcome):
                self.work = replace(self.work, models=self.work.models + 1)
                return [self._pair_task(plan) for plan in held]
            self.failures |= {plan.pair.name: problems_in(outcome, task.name) for plan in held}
            self._steps += len(held)  # they are over, too
            return ()
        plan = self._wanted[task.name]
        if isinstance(outcome, Gone) and task.name not in self._again:
            return self._make_again(plan)
        if self._ended(task, outcome):
            pairs, checks = self.work.pairs + outcome.built, self.work.checks + outcome.checked
            self.work = replace(self.work, pairs=pairs, checks=checks)
            self.made |= {task.name} if outcome.built else set()
        else:
            self.failures[task.name] = problems_in(outcome, task.name)
        return ()

    def _make_again(self, plan: Plan) -> Iterable[Task]:
        """The model of a pair, unless that is under way; the pair waits for it."""
        self._again.add(plan.pair.name)
        under_way = plan.model in self._held
        self._held.setdefault(plan.model, []).append(plan)
        if under_way:
            return ()
        self._total += 1
        return (self._model_task(plan),)

    def _is_done(self, plan: Plan) -> bool:
        return self._has(plan.bundle) and (plan.check is None or self.cache.load(plan.check) is not None)

    def _has(self, key: str) -> bool:
        entry = self.cache.load(key)
        return entry is not None and self.cache.whole(entry["files"].values(), self._checked)

    def _model_task(self, plan: Plan) -> Task:
        pair = plan.pair
        job = ModelJob(
            plan.model,
            pair.model,
            pair.path,
            pair.dims,
            pair.fix,
            pair.outputs,
            pair.drop_padding,
            pair.asked,
            pair.judged,
            pair.folder.absolute(),
        )
        return Task(pair.model, stages.make_model, (job, self._request.places), _memory(plan), here=True)

    def _pair_task(self, plan: Plan) -> Task:
        pair = plan.pair
        job = PairJob(
            plan.bundle,
            plan.model,
            pair.model,
            pair.target,
            pair.fix,
            pair.drop_padding,
            pair.at,
            pair.threads,
            plan.check,
            pair.metric,
            pair.folder.absolute(),
            pair.decisions,
        )
        places = self._request.places
        if self._request.scheduler is not None and places.url is not None:
            places = replace(places, folder=None)  # a folder of this machine means nothing on others
        return Task(pair.name, stages.make_pair, (job, places), _memory(plan))

    def _began(self, task: Task) -> None:
        self._request.tell(Event("begin", task.name, self._steps, self._total))

    def _ended(self, task: Task, outcome: Any) -> bool:
        """Note what became of a task; whether it is done."""
        self._steps += 1
        done = not isinstance(outcome, BaseException)
        seconds = outcome.seconds if done else 0.0
        problems = () if done else problems_in(outcome, task.name)
        if done:
            for problem in outcome.warnings:
                self._warn(problem)
        self.seconds[task.name] = seconds
        kind: Literal["done", "failed"] = "done" if done else "failed"
        self._request.tell(Event(kind, task.name, self._steps, self._total, seconds, problems))
        return done

    def place_all(self, plans: Sequence[Plan]) -> list[Plan]:
        """Put bundles where they belong; those whose files turned out to be damaged or gone."""
        lost = [plan for plan in plans if plan.pair.name not in self.failures and not self._place(plan)]
        if lost:
            self._checked.clear()
        return lost

    def _place(self, plan: Plan) -> bool:
        """Put the bundle where it belongs, unless it is there; whether all of its files were to be had."""
        entry = self.cache.load(plan.bundle)
        raw = None if entry is None else self.cache.read(entry["files"][MANIFEST])
        if entry is None or raw is None:
            return False
        destination = self.output / plan.pair.name
        if self._is_wrong(plan) or _is_there(destination, raw):
            return True
        paths = {path: self.cache.local(d) for path, d in entry["files"].items() if path != MANIFEST}
        contents = {path: found for path, found in paths.items() if found is not None}
        if contents.keys() != paths.keys():
            return False
        draft = manifest.parse(raw.decode(), destination)
        try:
            writer.write(destination, draft, contents, _same(raw))
        except _NotTheSame:
            return False
        except BundleError as error:
            self.failures[plan.pair.name] = error.problems
        return True

    def give_up(self, plans: Sequence[Plan]) -> None:
        """Bundles that cannot be had, although they were made."""
        for plan in plans:
            text = "the cache keeps losing the bundle"
            self.failures[plan.pair.name] = (Problem(Code.CANNOT_WRITE, text, plan.pair.name),)

    def measure(self, machine: Mapping[str, object]) -> dict[str, Entry]:
        """Time what this machine can run, one after the other; by pair."""
        found: dict[str, Entry] = {}
        todo: list[tuple[Plan, str]] = []
        for plan in self._plans:
            if not plan.native or plan.pair.name in self.failures:
                continue
            key = keys.measure_key(plan.bundle, machine)
            entry = self.cache.load(key)
            if entry is not None:
                found[plan.pair.name] = entry
            elif not self._is_wrong(plan):
                todo.append((plan, key))
        if not todo:
            return found
        self._steps, self._total = 0, len(todo)
        tasks = [self._measure_task(plan, key) for plan, key in todo]
        names = {task.name: (plan, key) for task, (plan, key) in zip(tasks, todo, strict=True)}

        def finished(task: Task, outcome: Any) -> Iterable[Task]:
            plan, key = names[task.name]
            if self._ended(task, outcome) and (entry := self.cache.load(key)) is not None:
                found[plan.pair.name] = entry
                self.work = replace(self.work, measurements=self.work.measurements + 1)
            elif isinstance(outcome, BaseException):
                for problem in problems_in(outcome, task.name):
                    self._warn(problem)
            return ()

        with workers(1) as pool:
            # Looking at processes would take time from the one that is timed.
            run_tasks(tasks, pool, NO_LIMIT, self._began, finished)
        return found

    def _is_wrong(self, plan: Plan) -> bool:
        """Whether the bundle was run, and did not answer as it should."""
        entry = None if plan.check is None else self.cache.load(plan.check)
        return entry is not None and bool(entry.get("wrong"))

    def _measure_task(self, plan: Plan, key: str) -> Task:
        entry = self.cache.load(plan.bundle)
        assert entry is not None
        arguments = (plan.bundle, plan.pair.threads, entry["facts"]["sizes"], key, self._request.places)
        return Task(f"{plan.pair.name} timed", stages.measure, arguments)


def _memory(plan: Plan) -> int:
    """Bytes that compiling takes, roughly."""
    folder = plan.pair.path.parent
    files = [
        plan.pair.path,
        *(folder / name for name, digest in plan.files.items() if name != "." and digest),
    ]
    return WORKER_BYTES + PER_MODEL_BYTE * sum(path.stat().st_size for path in files if path.is_file())


def _is_there(destination: Path, raw: bytes) -> bool:
    """Whether the bundle with this manifest is in its place, and whole."""
    try:
        if (destination / MANIFEST).read_bytes() != raw:
            return False
        open_bundle(destination)
    except (OSError, BundleError):
        return False
    return True


def _same(raw: bytes) -> Callable[[Path], None]:
    """Refuse to put a bundle into its place that is not the one wanted."""

    def check(folder: Path) -> None:
        if (folder / MANIFEST).read_bytes() != raw:
            raise _NotTheSame

    return check


class _NotTheSame(Exception):
    """A file in the cache changed between being checked and being copied."""


def _cell(build: _Build, plan: Plan, measured: Mapping[str, Entry]) -> PairResult:
    name = plan.pair.name
    if name in build.failures:
        return failed(plan.pair, build.failures[name], build.seconds.get(name, 0.0))
    entry = build.cache.load(plan.bundle)
    assert entry is not None
    raw = build.cache.read(entry["files"][MANIFEST])
    report = build.cache.read(entry["files"]["report.json"])
    assert raw is not None and report is not None
    check = None if plan.check is None else build.cache.load(plan.check)
    return cell(
        plan.pair,
        entry,
        manifest.parse(raw.decode()),
        report,
        runner=plan.runner,
        check=check,
        measured=measured.get(name),
        built=name in build.made,
        took=build.seconds.get(name, 0.0),
        place=build.output / name,
    )
