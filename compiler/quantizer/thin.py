"""How much each layer may lose within a budget: shares of zeros by measured sensitivity.

Every layer is pruned to each share in turn, and the noise that this makes by itself is measured. For a noise
t each layer takes the largest share that makes no more; t is as large as the budget allows, found by halving.
Each step is a compile and a run on requests that were held out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from isthmus.driver import Options
from isthmus.errors import Code, Problem, QualityError
from isthmus.ir.graph import Program
from isthmus.ir.weights import Weight
from isthmus.passes.sparsify.options import Sparsity
from isthmus.passes.sparsify.phase import Matrices, Prune
from isthmus.quantizer.ladder import climb
from isthmus.quantizer.metric import Answers, metric_of, value_of
from isthmus.quantizer.prune import kept_layers, matrices, observed
from isthmus.quantizer.search import Budget, answer
from isthmus.target import Target
from isthmus.tools.data import Request

# Of `auto`; below the first of them hardly any kernel gains.
SHARES = (0.6, 0.7, 0.8, 0.9, 0.95)

Made = Mapping[str, Weight]


@dataclass(frozen=True, slots=True)
class _Step:
    """What becomes of one layer by itself: its new matrix, and the noise that it makes over its signal."""

    name: str
    noise: float
    matrix: Weight


def thin_pass(
    fused: Program,
    asked: Sparsity,
    used: Sequence[Request],
    held: Sequence[Request],
    target: Target,
    options: Options,
    budget: Budget,
) -> Prune:
    """The pass that prunes `fused`, a program after the phase `fuse`, as far as `budget` allows on `held`.

    Raises QualityError where not one layer may lose anything, unless the budget says to keep what comes
    closest; ModelError as `prune_pass` does, and for a metric that raises or gives no number (bad-metric).
    """
    seen = observed(fused, asked, used, options)
    rungs = [replace(asked, ratio=share, auto=False) for share in SHARES] if asked.auto else [asked]
    steps: list[_Step] = []
    for rung in rungs:
        options.progress(f"sensitivity to {rung}")
        made = matrices(fused, rung, seen)
        ladder = climb(fused, _prune(fused, rung, made)(fused, target, _nobody), used, options)
        noise = {r.name: r.alone.noise / (r.alone.signal or 1) for r in ladder.rungs}
        # A layer that is not on the ladder lost nothing: it had its zeros before.
        steps += [_Step(name, noise.get(name, 0.0), matrix) for name, matrix in made.items()]
    chosen = _most(fused, steps, held, target, options, budget)
    return Prune(Matrices(f"{asked} within {budget.max_drop:g}", chosen, kept_layers(fused)))


def _most(
    fused: Program,
    steps: Sequence[_Step],
    held: Sequence[Request],
    target: Target,
    options: Options,
    budget: Budget,
) -> Made:
    """The matrices for the largest noise by themselves that keeps the budget."""
    judge = metric_of(budget.metric)
    exact, _ = answer(fused, held, options)
    base = value_of(budget.metric, judge, exact, exact, held)
    levels = sorted({step.noise for step in steps})

    def drop(made: Made) -> float:
        options.progress(f"evaluation: {len(made)} layers pruned")
        program = Prune(Matrices("", made, {}))(fused, target, _nobody)
        found: Answers = answer(program, held, options)[0]
        value = value_of(budget.metric, judge, found, exact, held)
        return max(0.0, (base - value) / abs(base)) if base else max(0.0, -value)

    good, bad = -1, len(levels)
    lowest = drop(at_noise(steps, levels[0])) if levels else 0.0
    if lowest > budget.max_drop:
        if not budget.keep:
            text = (
                f"not one layer keeps the drop below {budget.max_drop:.4%}: the best reached is {lowest:.4%}"
            )
            hint = "--keep takes that all the same; another --sparsity may cost less"
            raise QualityError(Problem(Code.NOT_ACCURATE, text, "--max-drop", hint))
        return at_noise(steps, levels[0])
    good = 0
    while bad - good > 1:
        middle = (good + bad) // 2
        if drop(at_noise(steps, levels[middle])) <= budget.max_drop:
            good = middle
        else:
            bad = middle
    return at_noise(steps, levels[good]) if levels else {}


def at_noise(steps: Sequence[_Step], most: float) -> dict[str, Weight]:
    """Of each layer the last step that makes no more noise; steps of a layer are in order of their shares."""
    return {step.name: step.matrix for step in steps if step.noise <= most}


def _prune(fused: Program, asked: Sparsity, made: Made) -> Prune:
    return Prune(Matrices(str(asked), made, kept_layers(fused)))


def _nobody(_: object) -> None:
    return None
