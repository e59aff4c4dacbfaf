"""The conformance kit: what it holds, and that it finds a chip that computes wrongly."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from isthmus.errors import Code, InputError, Problem, RunnerError
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program, walk
from isthmus.ir.types import DType
from isthmus.ir.verify import check
from isthmus.ops import OPS
from isthmus.tools.conformance import kit
from isthmus.tools.conformance.cases import MOST_PORTS, Case, batches, program
from isthmus.tools.conformance.kit import Score, all_cases, score
from isthmus.tools.samples import storable

Arrays = Mapping[str, np.ndarray]
# A few of everything: enough to see how the kit judges.
SOME = [
    case
    for group in dict.fromkeys(c.group for c in all_cases())
    for case in itertools.islice((c for c in all_cases() if c.group == group), 3)
]


def right(whole: Program, inputs: Arrays) -> dict[str, np.ndarray]:
    """A chip that computes as NumPy does."""
    halves = {
        v.attr("name"): inputs[v.attr("name")].view(DType.BF16.numpy)
        for v in whole.main.inputs
        if v.dtype is DType.BF16
    }
    found = evaluate(whole.main, {**inputs, **halves})
    return {name: storable(array) for name, array in found.items()}


def judged(cases: Sequence[Case], answer: kit.Answer = right) -> Score:
    return Score(tuple(o for part in score(batches(cases), answer) for o in part))


def test_every_op_and_every_dtype_is_in_it() -> None:
    cases = all_cases()
    assert len({case.name for case in cases}) == len(cases) > 500
    ops = {node.op.name for case in cases for node in walk((case.value,))}
    assert set(OPS) <= ops
    # What is only stored is no result of a bundle, but it lies between.
    nodes = {node.dtype for case in cases for node in walk((case.value,))}
    assert nodes == set(DType)
    assert {case.value.dtype for case in cases} == {d for d in DType if not d.is_stored}
    assert sum(case.group.startswith("model: ") for case in cases) >= 6


def test_it_is_the_same_every_time() -> None:
    one, two = ({c.name: c.inputs for c in make()} for make in (all_cases, all_cases.__wrapped__))
    assert one.keys() == two.keys()
    for name, inputs in one.items():
        assert inputs.keys() == two[name].keys()
        assert all(a.tobytes() == two[name][key].tobytes() for key, a in inputs.items())


def test_its_programs_are_valid_and_within_the_ports() -> None:
    parts = batches(all_cases())
    assert [case for part in parts for case in part] == list(all_cases())
    for part in parts:
        whole, arrays = program(part)
        check(whole, "kit")
        assert len(whole.main.inputs) == len(arrays) <= MOST_PORTS + 1
        assert len(whole.main.outputs) == len(part) <= MOST_PORTS


def test_a_chip_that_is_right_passes() -> None:
    found = judged(SOME)
    assert not [(o.case.name, o.reason) for o in found.failures]
    assert all(passed == total for passed, total in found.groups().values())
    assert found.digest == judged(SOME).digest


def test_a_chip_that_is_wrong_fails() -> None:
    """Integers off by one, floats off by a thousandth: each case fails, and the digest is another."""

    def wrong(whole: Program, inputs: Arrays) -> dict[str, np.ndarray]:
        bf16 = {name for name, value in whole.main.outputs if value.dtype is DType.BF16}
        return {
            name: (a ^ 1 if a.dtype.kind in "iub" else a * np.asarray(1.5, a.dtype) + np.asarray(1, a.dtype))
            if name not in bf16
            else a ^ 64
            for name, a in right(whole, inputs).items()
        }

    some = [case for case in SOME if case.value.t.size != 0 and "special" not in case.name]
    found = judged(some, wrong)
    empty = {"bf16[2,0]", "i32[0,3]", "f32[2,0]"}
    passed = [o.case.name for o in found.outcomes if o.passed and str(o.case.value.t) not in empty]
    assert not passed
    assert found.digest != judged(some).digest


def test_what_crashes_is_found_among_the_rest() -> None:
    guilty = SOME[7].name

    def crash(whole: Program, inputs: Arrays) -> dict[str, np.ndarray]:
        if any(name == guilty for name, _ in whole.main.outputs):
            raise InputError(Problem(Code.RUN_FAILED, "illegal instruction"))
        return right(whole, inputs)

    found = judged(SOME, crash)
    assert [(o.case.name, "illegal instruction" in o.reason) for o in found.failures] == [(guilty, True)]


def test_a_chip_on_which_nothing_works_is_known_soon() -> None:
    calls = []

    def broken(whole: Program, inputs: Arrays) -> dict[str, np.ndarray]:
        calls.append(1)
        raise InputError(Problem(Code.RUN_FAILED, "no"))

    found = judged(all_cases(), broken)
    assert len(found.failures) == len(all_cases())
    assert len(calls) <= len(batches(all_cases())) + 2 * kit.MOST_CUTS


def test_without_a_runner_there_is_no_score() -> None:
    def none(whole: Program, inputs: Arrays) -> dict[str, np.ndarray]:
        raise RunnerError(Problem(Code.NO_RUNNER, "no"))

    with pytest.raises(RunnerError):
        judged(SOME, none)
