"""What workers do: what a model is for all chips, a bundle of it for one, how that answers, how fast it is.

Each function reads what it needs from the cache and leaves what it made there, so it may run in another
process or on another machine, and be killed at any time. Arguments and results are plain data.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import isthmus.targets
from isthmus.bundle import selftest
from isthmus.bundle.manifest import NAME as MANIFEST
from isthmus.bundle.reader import Bundle, open_bundle
from isthmus.chips import discover
from isthmus.codegen.cache import cache_dir
from isthmus.codegen.session_memory import arena_bytes
from isthmus.driver import DimSpec, Options, Shared, compile_shared, read_model, share
from isthmus.errors import Code, Problem
from isthmus.ir.dims import evaluate_dim
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program
from isthmus.ir.store import WEIGHTS, dump
from isthmus.ir.types import Array
from isthmus.lowering.costs import call_costs
from isthmus.lowering.plan import Plan
from isthmus.matrix.cache import Cache, Entry, Where, file_digest
from isthmus.matrix.checks import check
from isthmus.ops import text
from isthmus.passes.sparsify.decisions import Record
from isthmus.quantizer.metric import metric_of
from isthmus.quantizer.plan import Asked, split, with_precision
from isthmus.runtime import load
from isthmus.target import Target
from isthmus.tools.bench import alternate, pinned, quartiles
from isthmus.tools.costs import port_bytes, sizes_for
from isthmus.tools.data import read_requests
from isthmus.tools.inputs import random_inputs
from isthmus.tools.samples import selftest_cases, tolerance_of
from isthmus.tools.verify import merge_examples

PROGRAM, PASSED = "program", "passed"
# Below it: what answers are compared with, where that is not the self-test.
REFERENCE = "reference"
# Requests of the calibration data that were held out, and on which accuracy is told; and for users' metrics.
MOST_HELD_OUT, MOST_JUDGED = 4, 64
SECONDS = 1.0  # that a bundle is timed for
STARTS = 5

# A worker of a cluster may have several threads; compiling takes all processors anyway.
_ONE = threading.Lock()


@dataclass(frozen=True, slots=True)
class ModelJob:
    """A model to be imported; `key` is that of the cache. `judged`: by a metric of the user's own, which
    wants more of the calibration data than a distance does, and whose module is looked for in `folder`."""

    key: str
    name: str
    path: Path
    dims: Mapping[str, DimSpec]
    fix: Mapping[str, Array]
    outputs: tuple[str, ...]
    drop_padding: bool
    asked: Asked
    judged: bool
    folder: Path


@dataclass(frozen=True, slots=True)
class PairJob:
    """A bundle to be made of the model under `model`, and to be checked if there is a `check_key`. The module
    of a metric is looked for in `folder`."""

    key: str
    model: str
    name: str
    target: Target
    fix: Mapping[str, Array]
    drop_padding: bool
    at: Mapping[str, int]
    threads: int
    check_key: str | None
    metric: str
    folder: Path
    decisions: Mapping[str, Record] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """What a worker hands back: how long it took, what is odd, and whether it made and ran a bundle."""

    seconds: float
    warnings: tuple[Problem, ...] = ()
    built: bool = False
    checked: bool = False


class Gone(Exception):
    """What an earlier stage left in the cache is not there any more."""


def make_model(job: ModelJob, places: Where) -> Done:
    """Import the model, quantize it if asked to, run the passes that chips share, and answer its self-test.

    Raises `ModelError`."""
    began = time.perf_counter()
    warnings: list[Problem] = []
    options = Options(
        name=job.name,
        dims=job.dims,
        fix=job.fix,
        outputs=job.outputs,
        drop_padding=job.drop_padding,
        cache=cache_dir(os.environ),
        warn=warnings.append,
    )
    wanted = _with_judge(job)
    with _ONE, tempfile.TemporaryDirectory(prefix="isthmus-model-") as name:
        folder = Path(name)
        imported = read_model(job.path, options)
        shared = share(imported, _plain(), with_precision(imported, _plain(), options, wanted))
        dump(shared.program, folder, PROGRAM)
        dump(shared.passed, folder, PASSED)
        cases = {"": selftest_cases(shared.program)}
        if shared.program is not imported or job.judged:
            most = MOST_JUDGED if job.judged else MOST_HELD_OUT
            cases[f"{REFERENCE}/"] = _reference(imported, wanted, most)
        for place, found in cases.items():
            for path, content in selftest.dump(found).items():
                (folder / place / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / place / path).write_bytes(content)
        cache = Cache(places, warnings.append)
        entry = {
            "files": _keep(cache, folder),
            "before": dict(shared.before),
            "fired": dict(shared.fired),
            "record": [shared.start, shared.precision, shared.pipeline, shared.quantization],
            "warnings": problems_plain(warnings),
        }
        cache.store(job.key, entry)
    return Done(time.perf_counter() - began, tuple(warnings))


def _with_judge(job: ModelJob) -> Asked:
    """What was asked, with the function of a user's metric, which is not sent from process to process."""
    budget = job.asked.budget
    if budget is None or not job.judged:
        return job.asked
    return replace(job.asked, budget=replace(budget, metric=metric_of(budget.metric, job.folder)))


def _reference(imported: Program, wanted: Asked, most: int) -> tuple[selftest.Case, ...]:
    """What the model answers as it came: to requests that were held out of calibration, or to random ones."""
    if wanted.data is None:
        return selftest_cases(imported)
    held = split(read_requests(wanted.data, imported, wanted.tokenizer))[1][:most]
    name, close = imported.main.name, tolerance_of(imported.main)
    return tuple(selftest.Case(name, r, evaluate(imported.main, r), close) for r in held)


def _plain() -> Target:
    """Any chip without routines of its own and without levels."""
    known = discover(isthmus.targets).values()
    return next(target for target in known if not target.routines and not target.levels)


def make_pair(job: PairJob, places: Where) -> Done:
    """Make the bundle, if it is not in the cache, and check it. Raises `ModelError`, and `Gone`."""
    began = time.perf_counter()
    warnings: list[Problem] = []
    cache = Cache(places, warnings.append)
    with _ONE, _model(cache, job.model) as (folder, entry):
        built = not _is_whole(cache, job.key)
        if built:
            _make_bundle(job, folder, entry, cache, warnings)
        checked = job.check_key is not None and (built or cache.load(job.check_key) is None)
        if job.check_key is not None and checked:
            cache.store(job.check_key, _check(job, folder, cache))
    return Done(time.perf_counter() - began, tuple(warnings), built, checked)


def _is_whole(cache: Cache, key: str) -> bool:
    entry = cache.load(key)
    return entry is not None and cache.whole(entry["files"].values(), {})


def _make_bundle(job: PairJob, folder: Path, model: Entry, cache: Cache, warnings: list[Problem]) -> None:
    program = text.load(folder / f"{PROGRAM}.txt")
    passed = text.load(folder / f"{PASSED}.txt")
    start, precision, passes, quantization = model["record"]
    shared = Shared(
        program,
        passed,
        model["before"],
        model["fired"],
        start,
        precision,
        passes,
        quantization,
        _plain().routines,
        _cases(folder),
    )
    plans: list[Plan] = []
    options = Options(
        name=job.name,
        fix=job.fix,
        drop_padding=job.drop_padding,
        verify=False,
        cache=cache_dir(os.environ),
        warn=warnings.append,
        planned=plans.append,
        decisions=job.decisions,
    )
    with tempfile.TemporaryDirectory(prefix="isthmus-pair-") as name:
        made = compile_shared(shared, job.target, Path(name), options)
        files = {path: file.sha256 for path, file in made.manifest.files.items()}
        for path, digest in files.items():
            cache.add(made.path / path, digest)
        files[MANIFEST] = cache.add_bytes((made.path / MANIFEST).read_bytes())
    facts = _facts(program, plans[0], job.at, job.threads)
    cache.store(job.key, {"files": files, "facts": facts, "warnings": problems_plain(warnings)})


def _facts(program: Program, plan: Plan, at: Mapping[str, int], threads: int) -> dict[str, Any]:
    """What a run at these sizes takes: bytes, and for each kernel call multiply-adds and bytes."""
    # Passes may have learned how large a dim can get.
    sizes = sizes_for(replace(program, dims=plan.dims), at)
    return {
        "sizes": sizes,
        "arena_bytes": arena_bytes(plan, sizes, threads),
        "ports_bytes": port_bytes((*plan.inputs, *plan.outputs), sizes),
        "calls": [[evaluate_dim(d, sizes) for d in costs] for costs in call_costs(plan)],
    }


def _check(job: PairJob, folder: Path, cache: Cache) -> dict[str, Any]:
    with bundle_of(cache, job.key) as bundle:
        return check(bundle, job.target, job.threads, _cases(folder / REFERENCE), job.metric, job.folder)


def measure(
    key: str, threads: int, sizes: Mapping[str, int], store_as: str, places: Where, seconds: float = SECONDS
) -> Done:
    """Time a bundle on this machine, which should have nothing else to do."""
    began = time.perf_counter()
    warnings: list[Problem] = []
    cache = Cache(places, warnings.append)
    with _ONE, bundle_of(cache, key) as bundle:
        cases = selftest.load(bundle)
        starts = [_start(bundle.path, threads, cases[0]) for _ in range(STARTS)]
        with pinned(threads), load(bundle.path, threads, verify=False) as session:
            examples = merge_examples(cases)
            inputs = random_inputs(session.inputs, sizes, examples, np.random.default_rng(0))
            (timing,) = alternate([lambda: session.run(inputs)], seconds)
    low, middle, high = timing.quartiles
    found = {"p50": middle, "low": low, "high": high, "best": timing.best, "start": quartiles(starts)[1]}
    cache.store(store_as, found)
    return Done(time.perf_counter() - began, tuple(warnings))


def _start(bundle: Path, threads: int, case: selftest.Case) -> float:
    began = time.perf_counter()
    with load(bundle, threads) as session:
        session.run(case.inputs)
    return time.perf_counter() - began


# What lies in the cache


def _keep(cache: Cache, folder: Path) -> dict[str, str]:
    """Put every file below `folder` into the cache; digests by POSIX path."""
    paths = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    digests = {name: file_digest(path) for name, path in paths.items()}
    for name, path in paths.items():
        cache.add(path, digests[name])
    return digests


def restore(cache: Cache, files: Mapping[str, str], folder: Path) -> bool:
    """Write `files`, digests by path, below `folder`; whether all of them were there and whole."""
    for path, digest in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if not cache.fetch(digest, folder / path):
            return False
    return True


@contextmanager
def _model(cache: Cache, key: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The files of a model, and its entry. Raises `Gone`."""
    entry = cache.load(key)
    with tempfile.TemporaryDirectory(prefix="isthmus-model-") as name:
        folder = Path(name)
        (folder / WEIGHTS).mkdir()
        if entry is None or not restore(cache, entry["files"], folder):
            raise Gone(key)
        yield folder, entry


@contextmanager
def bundle_of(cache: Cache, key: str) -> Iterator[Bundle]:
    """A bundle in a folder that goes away. Raises `Gone`."""
    entry = cache.load(key)
    with tempfile.TemporaryDirectory(prefix="isthmus-bundle-") as name:
        if entry is None or not restore(cache, entry["files"], Path(name)):
            raise Gone(key)
        yield open_bundle(Path(name), verify=False)


def _cases(folder: Path) -> tuple[selftest.Case, ...]:
    if not (folder / selftest.INDEX).is_file():
        return ()
    paths = (p for p in folder.rglob("*") if p.is_file())
    return selftest.read({path.relative_to(folder).as_posix(): path for path in paths})


def problems_plain(problems: list[Problem]) -> list[list[str]]:
    """Problems as JSON."""
    return [[p.code.name, p.message, p.where, p.hint] for p in problems]


def problems_of(plain: list[list[str]]) -> tuple[Problem, ...]:
    """Problems from JSON."""
    return tuple(Problem(Code[code], message, where, hint) for code, message, where, hint in plain)
