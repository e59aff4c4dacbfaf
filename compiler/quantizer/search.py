"""The search within a budget: which layers may be in few bits, so that accuracy drops by so much at most.

Each layer goes from f32 to what costs least in steps (`menu`), in the order of what they save for the noise
that they make. All of them may be taken; else the longest beginning of that order that is accurate enough is
found by halving, and then those of the others that may follow after all, one by one. Each try is a compile
and a run on held out requests.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias, get_args

from isthmus.driver import Options
from isthmus.errors import Code, ModelError, Problem, QualityError, nearest
from isthmus.ir.graph import Program
from isthmus.ir.types import Array
from isthmus.passes.quantize.layers import layers_of
from isthmus.passes.quantize.phase import Quantize
from isthmus.passes.quantize.recipe import Recipe
from isthmus.quantizer.ladder import climb
from isthmus.quantizer.menu import Menu, Save, after, costs_of, layers_by_name, steps_of
from isthmus.quantizer.metric import Answers, Judge, drop_of, metric_of, source_of, value_of
from isthmus.quantizer.native import running
from isthmus.quantizer.report import stored_bytes
from isthmus.target import Target
from isthmus.tools.data import Request

MOST_EVALUATIONS = 20
# The part of the budget that is spent: what is chosen on some requests loses more on others.
SPENT = 0.8
_REPEATS = 3


# The schemes of some layers, by their names; the others are in f32.
Key: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """Some layers in few bits, each in a scheme: accuracy, how far below that of f32 it is, and the cost."""

    choice: Key
    value: float
    drop: float
    seconds: float
    matrix_bytes: int

    @property
    def layers(self) -> tuple[str, ...]:
        """Those that are not in f32."""
        return tuple(name for name, _ in self.choice)

    @property
    def counts(self) -> dict[str, int]:
        """How many layers are in each scheme."""
        return dict(Counter(scheme for _, scheme in self.choice))


def _silent(_: Sequence[Tried]) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Budget:
    """Accuracy may drop by `max_drop` of that in f32 (0.005: half a percent), as `metric` has it.

    `metric` is "cosine" or "mse" of the outputs, "module:function", or a function of (answers, requests), a
    list of outputs by name for a list of inputs, that is the larger the better. `keep`: what comes closest is
    taken even where nothing meets the budget. `save` is what the layers' schemes are chosen for, "latency" or
    "size". `show` is told everything that was tried.
    """

    max_drop: float = 0.005
    metric: str | Judge = "cosine"
    keep: bool = False
    save: Save = "latency"
    show: Callable[[Sequence[Tried]], None] = field(default=_silent, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            text = f"a drop of {self.max_drop:.3%} is not between 0 and 100 %"
            raise ModelError(Problem(Code.BAD_OPTION, text, "--max-drop"))
        if self.save not in get_args(Save):
            hint = nearest(str(self.save), get_args(Save))
            raise ModelError(Problem(Code.BAD_OPTION, f"nothing saves {self.save!r}", "--save", hint))


@dataclass(slots=True)
class _Bench:
    """Evaluates choices of layers; remembers them, on disk too where there is a cache."""

    exact: Program
    menu: Menu
    target: Target
    requests: Sequence[Request]
    budget: Budget
    judge: Judge
    options: Options
    memory: Path | None
    answers: Answers = ()
    base: float = 0.0
    tried: dict[Key, Tried] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return MOST_EVALUATIONS - len(self.tried)

    def fits(self, tried: Tried) -> bool:
        return tried.drop <= SPENT * self.budget.max_drop

    def evaluate(self, choice: Mapping[str, str]) -> Tried:
        """The model with the layers that `choice` names in the schemes it has for them."""
        key = tuple((name, choice[name]) for name in self.menu.layers if name in choice)
        if key not in self.tried:
            self.options.progress(f"evaluation {len(self.tried) + 1}: {len(key)} layers in few bits")
            value, seconds = self._recalled(key) or self._measured(key)
            if not key:
                self.base = value
            drop = drop_of(self.base, value)
            size = stored_bytes(layers_of(self.exact.main), self.menu.recipe(choice))
            self.tried[key] = Tried(key, value, drop, seconds, size)
        return self.tried[key]

    def noise(self, scheme: str) -> dict[str, float]:
        """What each layer makes by itself in `scheme`, over its signal."""
        found = self._read(scheme)
        if isinstance(found, dict):
            return {str(name): float(noise) for name, noise in found.items()}
        self.options.progress(f"sensitivity to {scheme}")
        low = Quantize(self.menu.ways[scheme])(self.exact, self.target, lambda _: None)
        ladder = climb(self.exact, low, self.requests, self.options)
        noise = {rung.name: rung.alone.noise / (rung.alone.signal or 1) for rung in ladder.rungs}
        self._write(scheme, noise)
        return noise

    def _measured(self, key: Key) -> tuple[float, float]:
        program = Quantize(self.menu.recipe(dict(key)))(self.exact, self.target, lambda _: None)
        answers, seconds = answer(program, self.requests, self.options)
        if not key:
            self.answers = answers
        value = value_of(self.budget.metric, self.judge, answers, self._exact_answers(), self.requests)
        self._write(key, [value, seconds])
        return value, seconds

    def _exact_answers(self) -> Answers:
        if not self.answers:
            self.answers, _ = answer(self.exact, self.requests, self.options)
        return self.answers

    def _recalled(self, key: Key) -> tuple[float, float] | None:
        match self._read(key):
            case [float(value), float(seconds)]:
                return value, seconds
            case _:
                return None

    def _read(self, key: Key | str) -> object:
        """What was written down about `key`; None where nothing was, or only a part of it."""
        if self.memory is None:
            return None
        try:
            return json.loads((self.memory / _file(key)).read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def _write(self, key: Key | str, found: object) -> None:
        if self.memory is not None:
            self.memory.mkdir(parents=True, exist_ok=True)
            (self.memory / _file(key)).write_text(json.dumps(found), "utf-8")


def _file(key: Key | str) -> str:
    return f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"


def answer(
    program: Program, requests: Sequence[Request], options: Options
) -> tuple[list[dict[str, Array]], float]:
    """What `program` answers to each request, and the seconds that all of them take, each at its fastest."""
    answers, seconds = [], 0.0
    with running(program, options) as run:
        for request in requests:
            times = []
            for _ in range(_REPEATS):
                started = time.perf_counter()
                found = run(request)
                times.append(time.perf_counter() - started)
            answers.append(found)
            seconds += min(times)
    return answers, seconds


def search(
    exact: Program,
    menu: Menu,
    target: Target,
    requests: Sequence[Request],
    budget: Budget,
    options: Options,
) -> Recipe:
    """What of `menu` each layer may be in within `budget`, as measured on `requests`.

    `exact` went through the phase `fuse`. Raises QualityError where not one layer may, unless the budget says
    to keep what comes closest; ModelError (bad-metric) for a metric that raises or gives no number.
    """
    judge = metric_of(budget.metric)
    memory = _memory(exact, menu, requests, budget, options)
    bench = _Bench(exact, menu, target, requests, budget, judge, options, memory)
    bench.evaluate({})
    best = _cheapest(bench)
    tried = tuple(bench.tried.values())
    budget.show(tried)
    if best is None:
        closest = min((t for t in tried if t.layers), key=lambda t: t.drop)
        if closest.drop > budget.max_drop and not budget.keep:
            text = (
                f"no layer in few bits keeps the drop below {budget.max_drop:.4%}: the best reached is "
                f"{closest.drop:.4%}, with {len(closest.layers)} of {len(menu.layers)} layers"
            )
            raise QualityError(
                Problem(Code.NOT_ACCURATE, text, "--max-drop", "--keep takes that all the same")
            )
        best = closest
    return menu.recipe(dict(best.choice))


def _cheapest(bench: _Bench) -> Tried | None:
    """The choice that takes the most steps; None if each step by itself is too much."""
    layers = layers_by_name(bench.exact, bench.menu.layers)
    # Who names a scheme wants it wherever it may be.
    save = bench.budget.save if len(bench.menu.ways) > 1 else "size"
    costs = {name: costs_of(layer, bench.menu, bench.target, save) for name, layer in layers.items()}
    # Where all steps are taken their order says nothing, and it takes measuring.
    least = {name: min(of, key=of.__getitem__) for name, of in costs.items()}
    whole = bench.evaluate({name: scheme for name, scheme in least.items() if scheme})
    if bench.fits(whole):
        return whole
    noise = {(n, way): made for way in bench.menu.ways for n, made in bench.noise(way).items()}
    steps = steps_of(costs, noise)
    good, bad = 0, len(steps)  # all of them in f32 is good
    while bad - good > 1 and bench.left > 0:
        middle = (good + bad) // 2
        if bench.fits(bench.evaluate(after(steps[:middle]))):
            good = middle
        else:
            bad = middle
    chosen = bench.evaluate(after(steps[:good]))
    # Noise is of layers by themselves: some may follow after all, those that save most for it first.
    refused: set[str] = set()
    for step in steps[good:]:
        if bench.left <= 0:
            break
        if step.layer in refused:
            continue
        more = bench.evaluate(after([step], dict(chosen.choice)))
        if bench.fits(more):
            chosen = more
        else:
            refused.add(step.layer)
    return chosen if chosen.layers else None


def front(tried: Sequence[Tried]) -> list[Tried]:
    """Those that no other is better than in accuracy, time and size at once, the most accurate first."""

    def key(t: Tried) -> tuple[float, float, int]:
        return t.drop, t.seconds, t.matrix_bytes

    def beaten(t: Tried) -> bool:
        return any(
            key(o) != key(t) and all(a <= b for a, b in zip(key(o), key(t), strict=True)) for o in tried
        )

    return sorted((t for t in tried if not beaten(t)), key=key)


def _memory(
    exact: Program, menu: Menu, requests: Sequence[Request], budget: Budget, options: Options
) -> Path | None:
    """Where evaluations of the same model, data, recipes and metric lie. A function has no name to go by."""
    if options.cache is None or not isinstance(budget.metric, str):
        return None
    digest = hashlib.sha256(f"{exact.origin} {budget.metric} ".encode() + source_of(budget.metric))
    for weight in exact.main.weights():
        digest.update(weight.digest.encode())
    for request in requests:
        for name, array in sorted(request.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    for way, recipe in menu.ways.items():
        digest.update(f"{way} {recipe.text} {recipe.attention} {recipe.narrow}".encode())
        for layer in recipe.layers.values():
            digest.update(layer.matrix.q.tobytes())
    return options.cache / "search" / digest.hexdigest()[:32]


def parse_drop(text: str) -> float:
    """`0.5%` or `0.005`. Raises ModelError."""
    number = text.removesuffix("%")
    try:
        return float(number) * (1 if number == text else 0.01)
    except ValueError:
        raise ModelError(
            Problem(Code.BAD_OPTION, f"{text!r} is no drop", "--max-drop", "such as 0.5%")
        ) from None
