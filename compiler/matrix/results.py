"""What a build came to, typed; reports are made of it and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from isthmus.errors import Code, Problem
from isthmus.matrix import words

State = Literal["built", "cached", "failed"]


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of one request: the median, and quartiles where it was measured; `basis` says on what, or from
    which roofline it is estimated."""

    p50: float
    measured: bool
    basis: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A budget, and what became of it; `value` None: it is not known here. Estimates fail nothing."""

    budget: str
    limit: float
    value: float | None
    estimated: bool = False

    @property
    def over(self) -> bool:
        """Whether more was taken than the budget allows."""
        return self.value is not None and self.value > self.limit

    @property
    def fails(self) -> bool:
        """Whether that fails the build."""
        return self.over and not self.estimated


@dataclass(frozen=True, slots=True)
class PairResult:
    """One cell. `digest` is that of the bundle's manifest, and so of the bundle; amounts are in bytes and
    seconds, `cost` in the currency per million requests. `accuracy` is the `metric` of the answers, `exact`
    that of the model as it came, `accuracy_drop` the share that is lost. None: not known here. `path` is the
    model's file, `line` the one of the configuration that declares it."""

    model: str
    chip: str
    target: str
    state: State
    threads: int = 1
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    bundle: Path | None = None
    digest: str | None = None
    precision: str | None = None
    runner: str | None = None
    metric: str = "cosine"
    accuracy: float | None = None
    exact: float | None = None
    accuracy_drop: float | None = None
    max_abs: float | None = None
    wrong: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    latency: Latency | None = None
    start: float | None = None
    code_bytes: int | None = None
    weights_bytes: int | None = None
    peak_memory: int | None = None
    cost: float | None = None
    verdicts: tuple[Verdict, ...] = ()
    seconds: float = 0.0
    path: Path = field(default=Path(), repr=False)
    line: int = 1
    details: Mapping[str, object] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        return f"{self.model}@{self.chip}"

    @property
    def size(self) -> int | None:
        """Library and weights."""
        return None if self.code_bytes is None else self.code_bytes + (self.weights_bytes or 0)

    @property
    def faults(self) -> tuple[Problem, ...]:
        """What is wrong with the bundle: its answers, and the budgets it exceeds."""
        wrong = [Problem(Code.NOT_ACCURATE, text, self.name) for text in self.wrong]
        over = [
            Problem(Code.OVER_BUDGET, f"{v.budget} is {value}, the budget is {limit}", self.name)
            for v in self.verdicts
            for value, limit in [(words.limit(v.budget, v.value), words.limit(v.budget, v.limit))]
            if v.fails
        ]
        return (*wrong, *over)

    @property
    def status(self) -> Literal["pass", "over", "wrong", "failed"]:
        """`failed`: there is no bundle; `wrong`: it does not answer as it should; `over` a budget."""
        if self.state == "failed":
            return "failed"
        if self.wrong:
            return "wrong"
        return "over" if any(verdict.fails for verdict in self.verdicts) else "pass"


@dataclass(frozen=True, slots=True)
class Work:
    """What had to be done; the rest was in the cache."""

    models: int = 0
    pairs: int = 0
    checks: int = 0
    measurements: int = 0


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The cells that were asked for, and what the build took. `names` are those of all pairs, as they are
    declared."""

    pairs: tuple[PairResult, ...]
    names: tuple[str, ...]
    models: tuple[str, ...]
    chips: tuple[str, ...]
    output: Path
    file: Path
    currency: str
    machine: Mapping[str, object]
    tools: Mapping[str, str]
    work: Work
    seconds: float
    warnings: tuple[Problem, ...] = ()

    def __getitem__(self, name: str) -> PairResult:
        """The pair called `model@chip`. Raises `KeyError`."""
        return {pair.name: pair for pair in self.pairs}[name]

    @property
    def exit_code(self) -> int:
        """2 where a pair has no bundle, 1 where one is wrong or over a budget, else 0."""
        found = {pair.status for pair in self.pairs}
        return 2 if "failed" in found else int(bool(found & {"wrong", "over"}))

    @property
    def cheapest(self) -> Mapping[str, str]:
        """For each model the chip on which a million requests cost least, of those that pass."""
        best: dict[str, PairResult] = {}
        for pair in self.pairs:
            if pair.cost is None or pair.status != "pass":
                continue
            held = best.get(pair.model)
            if held is None or held.cost is None or pair.cost < held.cost:
                best[pair.model] = pair
        return {model: pair.chip for model, pair in best.items()}
