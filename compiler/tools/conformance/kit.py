"""Runs the kit on a chip: many cases a program, one program a bundle, and who was right.

Whoever calls says how a program becomes answers (`Answer`): this module knows neither compiling nor running.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np

from isthmus.bundle.selftest import Case as Question
from isthmus.bundle.selftest import differences
from isthmus.errors import CompilerBug, IsthmusError, RunnerError
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program
from isthmus.ir.types import Array, DType
from isthmus.machine import processors
from isthmus.tools.conformance.cases import Case, program
from isthmus.tools.conformance.kernels import kernel_cases
from isthmus.tools.conformance.models import model_cases
from isthmus.tools.conformance.narrow import narrow_cases
from isthmus.tools.conformance.ops import integer_cases, op_cases, special_cases
from isthmus.tools.samples import storable

Answer: TypeAlias = Callable[[Program, Mapping[str, Array]], Mapping[str, Array]]
# A program that fails is cut in two to find who is to blame, so often at most: a chip on which nothing works
# is known soon.
MOST_CUTS = 24
BF16 = DType.BF16.numpy


@cache
def all_cases() -> tuple[Case, ...]:
    """The kit, in the order in which it is told. Case names are unique."""
    found = (
        *op_cases(),
        *special_cases(),
        *integer_cases(),
        *kernel_cases(),
        *narrow_cases(),
        *model_cases(),
    )
    names: dict[str, Case] = {}
    for case in found:
        names.setdefault(case.name, case)
    return tuple(names.values())


@dataclass(frozen=True, slots=True)
class Outcome:
    """One case on one chip; `reason` says what went wrong, and is empty when nothing did."""

    case: Case
    reason: str
    integers: bytes = b""  # the answer, least significant byte first, where it is not of floats

    @property
    def passed(self) -> bool:
        return not self.reason


@dataclass(frozen=True, slots=True)
class Score:
    """What the kit found."""

    outcomes: tuple[Outcome, ...]

    def groups(self) -> dict[str, tuple[int, int]]:
        """(passed, all) by group."""
        found: dict[str, tuple[int, int]] = {}
        for outcome in self.outcomes:
            passed, total = found.get(outcome.case.group, (0, 0))
            found[outcome.case.group] = (passed + outcome.passed, total + 1)
        return found

    @property
    def failures(self) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if not outcome.passed)

    @property
    def digest(self) -> str:
        """SHA-256 over all answers that are not of floats, the same on every chip; empty without any."""
        whole = [outcome for outcome in self.outcomes if not outcome.case.value.dtype.is_float]
        total = hashlib.sha256()
        for outcome in whole:
            total.update(f"{outcome.case.name}\0{len(outcome.integers)}\0".encode() + outcome.integers)
        return total.hexdigest() if whole else ""


@dataclass(slots=True)
class _Run:
    answer: Answer
    cuts_left: int = MOST_CUTS

    def outcomes(self, cases: Sequence[Case]) -> list[Outcome]:
        whole, arrays = program(cases)
        try:
            given = {name: storable(array) for name, array in arrays.items()}
            answers = self.answer(whole, given)
        except RunnerError:
            raise
        except (IsthmusError, CompilerBug) as error:
            if len(cases) == 1 or self.cuts_left <= 0:
                return [Outcome(case, str(error)) for case in cases]
            self.cuts_left -= 1
            middle = len(cases) // 2
            return self.outcomes(cases[:middle]) + self.outcomes(cases[middle:])
        expected = evaluate(whole.main, arrays)
        return [_judged(case, answers, expected[case.name]) for case in cases]


def _judged(case: Case, answers: Mapping[str, Array], expected: Array) -> Outcome:
    wanted = expected.astype(np.float32) if expected.dtype == BF16 else expected
    question = Question("main", {}, {case.name: wanted}, case.tolerance(wanted))
    reason = "; ".join(differences(question, answers))
    if case.value.dtype.is_float or case.name not in answers:
        return Outcome(case, reason)
    got = np.ascontiguousarray(answers[case.name])
    return Outcome(case, reason, got.astype(got.dtype.newbyteorder("<")).tobytes())


def score(parts: Sequence[Sequence[Case]], answer: Answer) -> Iterator[Sequence[Outcome]]:
    """The outcomes of each part, in order, as they are known.

    `answer` is called from several threads. Raises `RunnerError` when nothing executes the chip's code.
    """
    run = _Run(answer)
    with ThreadPoolExecutor(max_workers=processors()) as pool:
        yield from pool.map(run.outcomes, parts)
