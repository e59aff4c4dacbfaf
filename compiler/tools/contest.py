"""A bundle against other engines, at every combination of threads and sizes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isthmus.bundle.manifest import Port
from isthmus.bundle.reader import open_bundle
from isthmus.bundle.selftest import Case
from isthmus.errors import BundleError, Code, Problem
from isthmus.ir.dims import evaluate_dim
from isthmus.ir.read import parse_dim
from isthmus.runtime import load
from isthmus.target import Target
from isthmus.tools.bench import Ratio, Timing, alternate, pinned, ratio
from isthmus.tools.inputs import random_inputs, sizes_of
from isthmus.tools.peers import open_engine
from isthmus.tools.peers.engine import Engine
from isthmus.tools.roofline import Limit, roofline
from isthmus.tools.verify import merge_examples

Array = npt.NDArray[np.generic]
Calls = Sequence[Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Rival:
    """Another engine at one point: its time, ours over it, and how far its answers are from ours.

    `missed` are outputs that only one of the two computes; `difference` is of the others.
    """

    timing: Timing
    ratio: Ratio
    difference: float
    missed: tuple[str, ...]
    version: str
    precision: str
    shapes: str


@dataclass(frozen=True, slots=True)
class Point:
    """One cell of the grid. `limit`: operations a second the machine reached, and the share of it we did."""

    threads: int
    sizes: Mapping[str, int]
    ours: Timing
    rivals: Mapping[str, Rival]
    limit: tuple[float, Ratio] | None = None


@dataclass(frozen=True, slots=True)
class Contest:
    """What is to be measured. `limit`: the target whose arithmetic limit is timed as well; `fixed`: inputs
    of the model that are constants of the bundle; `models`: what engines have to run instead of `model`, by
    their names; `tell` hears what is about to take long."""

    bundle: Path
    cases: tuple[Case, ...]
    ports: tuple[Port, ...]
    threads: tuple[int, ...]
    grid: tuple[dict[str, int], ...]
    seconds: float
    model: Path | None = None
    peers: tuple[str, ...] = ()
    pin: bool = True
    limit: Target | None = None
    fixed: Mapping[str, Array] = field(default_factory=dict)
    models: Mapping[str, Path] = field(default_factory=dict)
    tell: Callable[[str], None] = field(default=lambda _: None)

    def inputs(self, sizes: Mapping[str, int]) -> dict[str, Array]:
        """The request for these sizes: random, the same every time."""
        return random_inputs(self.ports, sizes, merge_examples(self.cases), np.random.default_rng(0))

    def points(self) -> Iterator[Point]:
        """Time every point of the grid, most threads first; the engines of one take turns.

        An engine may count the processors it has once in a process: it would never use more afterwards.
        """
        for threads in sorted(self.threads, reverse=True):
            with pinned(threads) if self.pin else nullcontext():
                yield from self._points(threads)

    def _points(self, threads: int) -> Iterator[Point]:
        with ExitStack() as stack:
            session = stack.enter_context(load(self.bundle, threads, verify=False))
            engines = {name: self._open(name, threads) for name in self.peers}
            limit = None
            if self.limit is not None:
                limit = stack.enter_context(roofline(self.limit, threads)).arithmetic()
            for sizes in self.grid:
                inputs = self.inputs(sizes)
                yield self._point(threads, sizes, partial(session.run, inputs), inputs, engines, limit)

    def _open(self, name: str, threads: int) -> Engine:
        model = self.models.get(name, self.model)
        assert model is not None
        self.tell(f"{name}: loading the model")
        return open_engine(name, model, threads, self.fixed)

    def _point(
        self,
        threads: int,
        sizes: Mapping[str, int],
        run: Callable[[], Mapping[str, Array]],
        inputs: Mapping[str, Array],
        engines: Mapping[str, Engine],
        limit: Limit | None,
    ) -> Point:
        requests = {}
        for name, engine in engines.items():
            if engine.shapes == "each":
                self.tell(f"{name}: compiling for {sizes_text(sizes)}")
            requests[name] = engine.request(inputs)
        answer = run()
        answers = {name: request.read(request.run()) for name, request in requests.items()}
        self.tell(f"timing {sizes_text(sizes)} on {threads} thread{'s' if threads > 1 else ''}")
        runs = [run, *(request.run for request in requests.values()), *([limit.run] if limit else [])]
        ours, *others = alternate(runs, self.seconds)
        rivals = {
            name: Rival(
                timing,
                ratio(ours, timing),
                _difference(answer, answers[name]),
                _missed(answer, answers[name]),
                engine.version,
                engine.precision,
                engine.shapes,
            )
            for (name, engine), timing in zip(engines.items(), others, strict=False)
        }
        reached = None if limit is None else self._share(ours, others[-1], limit, sizes)
        return Point(threads, sizes, ours, rivals, reached)

    def _share(
        self, ours: Timing, roof: Timing, limit: Limit, sizes: Mapping[str, int]
    ) -> tuple[float, Ratio]:
        """The limit's operations a second, and the time it would need for this model over ours."""
        scale = 2 * multiply_adds(calls_of(self.bundle), sizes) / limit.amount
        over = ratio(roof, ours)
        return limit.amount / roof.best, Ratio(over.low * scale, over.median * scale, over.high * scale)


def sizes_grid(
    ports: Sequence[Port], cases: Sequence[Case], asked: Mapping[str, list[int]]
) -> tuple[dict[str, int], ...]:
    """Every combination of the sizes `asked`; other dims have the size they have in the first case."""
    choices = {**{name: [size] for name, size in sizes_of(ports, cases[0].inputs).items()}, **asked}
    return tuple(dict(zip(choices, sizes, strict=True)) for sizes in itertools.product(*choices.values()))


def sizes_text(sizes: Mapping[str, int]) -> str:
    """`batch=1, seq=16`."""
    return ", ".join(f"{name}={size}" for name, size in sizes.items()) or "fixed sizes"


def calls_of(bundle: Path) -> Calls:
    """The kernel calls of the bundle, in the plan's order, as its report.json tells: see `tools.report`."""
    opened = open_bundle(bundle, verify=False)
    report = json.loads(opened.file("report.json").read_text("utf-8"))
    calls: Calls = report["calls"]
    if any("multiply_adds" not in call for call in calls):
        text = "report.json does not say what the kernel calls cost"
        raise BundleError(Problem(Code.NOT_A_BUNDLE, text, str(bundle), "compile the model again"))
    return calls


def multiply_adds(calls: Calls, sizes: Mapping[str, int]) -> int:
    """Of all `calls` together."""
    return sum(evaluate_dim(parse_dim(str(call["multiply_adds"])), sizes) for call in calls)


def _difference(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> float:
    """The largest in the outputs that both have; infinite if these have other shapes, or are none."""
    pairs = [(ours[name], theirs[name]) for name in ours if name in theirs]
    if not pairs or any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    return max(
        (float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) for a, b in pairs if a.size),
        default=0.0,
    )


def _missed(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> tuple[str, ...]:
    """Outputs that only one of the two has. An array that is there under several names is one output."""
    shared = {id(theirs[name]) for name in ours if name in theirs}
    extra = {id(array): name for name, array in theirs.items() if id(array) not in shared}
    return tuple(sorted([*(name for name in ours if name not in theirs), *extra.values()]))


# As JSON


def point_json(point: Point) -> dict[str, object]:
    """All that was measured at `point`; milliseconds."""
    plain: dict[str, object] = {
        "threads": point.threads,
        "sizes": dict(point.sizes),
        "isthmus": timing_json(point.ours),
        "peers": {
            name: {
                **timing_json(rival.timing),
                "ratio": ratio_json(rival.ratio),
                "max_abs_difference": rival.difference,
                "outputs_not_compared": list(rival.missed),
            }
            for name, rival in point.rivals.items()
        },
    }
    if point.limit is not None:
        rate, share = point.limit
        plain["limit"] = {"gflops": rate / 1e9, "share": ratio_json(share)}
    return plain


def timing_json(timing: Timing) -> dict[str, object]:
    low, median, high = (1e3 * value for value in timing.quartiles)
    best = {"best_ms": timing.best * 1e3, "median_ms": median, "quartiles_ms": [low, high]}
    return {**best, "runs": timing.runs, "turns": len(timing.turns)}


def ratio_json(value: Ratio) -> dict[str, object]:
    return {"median": value.median, "quartiles": [value.low, value.high]}


def engines_json(points: Sequence[Point], version: str, precision: str) -> dict[str, object]:
    """Version and precision of every engine; whether one compiled model serves any size."""
    plain: dict[str, object] = {"isthmus": {"version": version, "precision": precision, "shapes": "any"}}
    for point in points:
        for name, rival in point.rivals.items():
            plain[name] = {"version": rival.version, "precision": rival.precision, "shapes": rival.shapes}
    return plain
