"""The search within a budget: which layers may be in few bits, so that accuracy drops by so much at most.

Layers are put in the order of what they cost: the noise that each makes by itself, for each multiply-add that
it saves. All of them may do; else the fewest of that order that have to stay in f32 are found by halving, and
then those of them that may go after all, one by one. Each step is a compile and a run on held out requests.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from isthmus.driver import Options
from isthmus.errors import Code, ModelError, Problem, QualityError
from isthmus.ir.graph import Program
from isthmus.ir.types import Array
from isthmus.passes.quantize.layers import layers_of
from isthmus.passes.quantize.phase import Quantize
from isthmus.passes.quantize.recipe import Recipe
from isthmus.quantizer.ladder import climb
from isthmus.quantizer.metric import Answers, Judge, drop_of, metric_of, value_of
from isthmus.quantizer.native import running
from isthmus.quantizer.report import stored_bytes
from isthmus.target import Target
from isthmus.tools.data import Request

MOST_EVALUATIONS = 20
_REPEATS = 3


@dataclass(frozen=True, slots=True)
class Tried:
    """Some layers in few bits, by name: accuracy, how far it is below that of f32, and what it costs."""

    layers: tuple[str, ...]
    value: float
    drop: float
    seconds: float
    matrix_bytes: int


def _silent(_: Sequence[Tried]) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Budget:
    """Accuracy may drop by `max_drop` of that in f32 (0.005: half a percent), as `metric` has it.

    `metric` is "cosine" or "mse" of the outputs, "module:function", or a function of (answers, requests), a
    list of outputs by name for a list of inputs, that is the larger the better. `keep`: what comes closest is
    taken even where nothing meets the budget. `show` is told everything that was tried.
    """

    max_drop: float = 0.005
    metric: str | Judge = "cosine"
    keep: bool = False
    show: Callable[[Sequence[Tried]], None] = field(default=_silent, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            text = f"a drop of {self.max_drop:.3%} is not between 0 and 100 %"
            raise ModelError(Problem(Code.BAD_OPTION, text, "--max-drop"))


@dataclass(slots=True)
class _Bench:
    """Evaluates choices of layers; remembers them, on disk too where there is a cache."""

    exact: Program
    recipe: Recipe
    target: Target
    requests: Sequence[Request]
    budget: Budget
    judge: Judge
    options: Options
    memory: Path | None
    answers: Answers = ()
    base: float = 0.0
    tried: dict[tuple[str, ...], Tried] = field(default_factory=dict)

    @property
    def left(self) -> int:
        return MOST_EVALUATIONS - len(self.tried)

    def fits(self, tried: Tried) -> bool:
        return tried.drop <= self.budget.max_drop

    def evaluate(self, names: Sequence[str]) -> Tried:
        """The model with the layers called `names` in few bits."""
        key = tuple(name for name in self.recipe.layers if name in names)
        if key not in self.tried:
            self.options.progress(f"evaluation {len(self.tried) + 1}: {len(key)} layers in few bits")
            value, seconds = self._recalled(key) or self._measured(key)
            if not key:
                self.base = value
            drop = drop_of(self.base, value)
            chosen = {name: self.recipe.layers[name] for name in key}
            size = stored_bytes(layers_of(self.exact.main), chosen)
            self.tried[key] = Tried(key, value, drop, seconds, size)
        return self.tried[key]

    def _measured(self, key: tuple[str, ...]) -> tuple[float, float]:
        others = [name for name in self.recipe.layers if name not in key]
        program = Quantize(self.recipe.without(others))(self.exact, self.target, lambda _: None)
        answers, seconds = answer(program, self.requests, self.options)
        if not key:
            self.answers = answers
        value = value_of(self.budget.metric, self.judge, answers, self._exact_answers(), self.requests)
        if self.memory is not None:
            self.memory.mkdir(parents=True, exist_ok=True)
            (self.memory / _file(key)).write_text(json.dumps([value, seconds]))
        return value, seconds

    def _exact_answers(self) -> Answers:
        if not self.answers:
            self.answers, _ = answer(self.exact, self.requests, self.options)
        return self.answers

    def _recalled(self, key: tuple[str, ...]) -> tuple[float, float] | None:
        if self.memory is None:
            return None
        try:
            value, seconds = json.loads((self.memory / _file(key)).read_text())
            return float(value), float(seconds)
        except (OSError, ValueError):
            return None


def _file(key: tuple[str, ...]) -> str:
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
    recipe: Recipe,
    target: Target,
    requests: Sequence[Request],
    budget: Budget,
    options: Options,
) -> Recipe:
    """The layers of `recipe` that may be in few bits within `budget`, as measured on `requests`.

    `exact` went through the phase `fuse`. Raises QualityError where not one layer may, unless the budget says
    to keep what comes closest; ModelError (bad-metric) for a metric that raises or gives no number.
    """
    judge = metric_of(budget.metric)
    memory = _memory(exact, recipe, requests, budget, options)
    bench = _Bench(exact, recipe, target, requests, budget, judge, options, memory)
    bench.evaluate(())
    whole = bench.evaluate(tuple(recipe.layers))
    best = whole if bench.fits(whole) else _fewest(bench, _by_cost(bench))
    tried = tuple(bench.tried.values())
    budget.show(tried)
    if best is None:
        closest = min((t for t in tried if t.layers), key=lambda t: t.drop)
        if not budget.keep:
            text = (
                f"no layer in few bits keeps the drop below {budget.max_drop:.4%}: the best reached is "
                f"{closest.drop:.4%}, with {len(closest.layers)} of {len(recipe.layers)} layers"
            )
            raise QualityError(
                Problem(Code.NOT_ACCURATE, text, "--max-drop", "--keep takes that all the same")
            )
        best = closest
    return recipe.without([name for name in recipe.layers if name not in best.layers])


def _by_cost(bench: _Bench) -> list[str]:
    """The layers, those first that make most noise for the arithmetic they save."""
    low = Quantize(bench.recipe)(bench.exact, bench.target, lambda _: None)
    ladder = climb(bench.exact, low, bench.requests, bench.options)
    size = {layer.name: math.prod(layer.matrix.t.static_shape) for layer in layers_of(bench.exact.main)}
    noise = {rung.name: rung.alone.noise / (rung.alone.signal or 1) for rung in ladder.rungs}
    return sorted(bench.recipe.layers, key=lambda name: -noise.get(name, 0.0) / size[name])


def _fewest(bench: _Bench, order: Sequence[str]) -> Tried | None:
    """The choice that leaves the fewest layers in f32; None if each layer by itself is too much."""
    bad, good = 0, len(order)  # all of them in f32 is good
    while good - bad > 1 and bench.left > 0:
        middle = (bad + good) // 2
        if bench.fits(bench.evaluate(order[middle:])):
            good = middle
        else:
            bad = middle
    chosen = bench.evaluate(order[good:])
    # The order is of layers by themselves: some that stayed may go after all, the cheapest first.
    for name in reversed(order[:good]):
        if bench.left <= 0:
            break
        more = bench.evaluate((*chosen.layers, name))
        chosen = more if bench.fits(more) else chosen
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
    exact: Program, recipe: Recipe, requests: Sequence[Request], budget: Budget, options: Options
) -> Path | None:
    """Where evaluations of the same model, data, recipe and metric lie. A function has no name to go by."""
    if options.cache is None or not isinstance(budget.metric, str):
        return None
    digest = hashlib.sha256(f"{exact.origin} {recipe.text} {budget.metric} ".encode())
    for weight in exact.main.weights():
        digest.update(weight.digest.encode())
    for request in requests:
        for name, array in sorted(request.items()):
            digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
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
