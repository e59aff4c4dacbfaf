"""Which pass breaks a result: the evaluator's answer before and after, halving."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isthmus.driver import Options
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program
from isthmus.ir.types import Array
from isthmus.passes import pipeline
from isthmus.passes.pipeline import QUANTIZE, Step
from isthmus.quantizer.ladder import Distance
from isthmus.target import Target
from isthmus.tools.data import Request

# Roundings of f16 leave more than this; whatever computes something else, less.
LEAST = 30.0  # dB


@dataclass(frozen=True, slots=True)
class Broken:
    """The first pass after which the program answers something else, and how far off it is."""

    phase: str
    name: str
    sqnr: float


def broken_pass(program: Program, target: Target, request: Request, options: Options) -> Broken | None:
    """The pass that changes what `program`, as imported, answers to `request`; None if none does.

    Quantizing is meant to change it, a little, and is judged by its layers: what comes after it is held
    against what it left.
    """
    steps: list[Step] = []
    pipeline.run(program, target, start=options.start, watch=steps.append, quantize=options.quantize)
    names = [phase.name for phase in pipeline.PHASES]
    before = [s for s in steps if names.index(s.phase) < names.index(QUANTIZE.name)]
    after = [s for s in steps if names.index(s.phase) > names.index(QUANTIZE.name)]
    return _first(program, before, request) or (_first(after[0].before, after, request) if after else None)


def _first(start: Program, steps: Sequence[Step], request: Request) -> Broken | None:
    changed = [step for step in steps if step.after is not step.before]
    exact = evaluate(start.main, request)
    if not changed or _off(changed[-1].after, exact, request) >= LEAST:
        return None
    good, bad = -1, len(changed) - 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if _off(changed[middle].after, exact, request) >= LEAST:
            good = middle
        else:
            bad = middle
    return Broken(changed[bad].phase, changed[bad].name, _off(changed[bad].after, exact, request))


def _off(program: Program, exact: dict[str, Array], request: Request) -> float:
    """The least SQNR of an output."""
    distances = []
    for name, found in evaluate(program.main, request).items():
        distances.append(Distance())
        distances[-1].add(found, exact[name])
    return min((distance.sqnr for distance in distances), default=float("inf"))
