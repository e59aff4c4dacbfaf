"""How a bundle answers: its own self-test, and a metric against the model as it came."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isthmus.bundle import selftest
from isthmus.bundle.reader import Bundle
from isthmus.codegen.cache import cache_dir
from isthmus.ir.types import Array
from isthmus.quantizer.metric import NAMES, metric_of, value_of
from isthmus.target import Target
from isthmus.tools.compare import Difference, compare
from isthmus.tools.emulator import answering, fits

Cases = Sequence[selftest.Case]
Answers = Sequence[Mapping[str, Array]]
EXACT = 1.0  # of cosine and mse


def check(
    bundle: Bundle, target: Target, threads: int, reference: Cases, metric: str, folder: Path | None
) -> dict[str, Any]:
    """What `bundle` answers on this machine or under its chip's emulator, held against its self-test, and
    `metric` against `reference`; without any, against the self-test.

    `folder` is where the module of a user's own metric is looked for. `exact` is the metric of the reference
    itself. Raises `ModelError` (bad-metric)."""
    if not fits(bundle, target):
        return {"ran": False}
    own = selftest.load(bundle)
    judged = reference or own
    with answering(bundle, target, cache_dir(os.environ), threads) as run:
        answers = [run(case.inputs) for case in own]
        pairs = zip(own, answers, strict=True)
        wrong = [text for case, got in pairs for text in selftest.differences(case, got)]
        if not _same_requests(own, judged):
            answers = [run(case.inputs) for case in judged]
    answers = [_widened(got, case) for got, case in zip(answers, judged, strict=True)]
    found = [
        one
        for case, got in zip(judged, answers, strict=True)
        for one in compare(got, case.outputs, case.tolerance)
    ]
    value, exact = _judged(metric, folder, answers, judged, found)
    return {
        "ran": True,
        "wrong": wrong,
        "accuracy": value,
        "exact": exact,
        "max_abs": max((one.max_abs for one in found), default=None),
    }


def _judged(
    metric: str, folder: Path | None, answers: Answers, judged: Cases, found: Sequence[Difference]
) -> tuple[float | None, float]:
    """The metric of the answers, and what it is of the reference; None where there is nothing to judge."""
    if metric == NAMES[0]:
        return min((one.cosine for one in found), default=None), EXACT
    if not judged:
        return None, EXACT
    judge, exact = metric_of(metric, folder), [case.outputs for case in judged]
    requests = [case.inputs for case in judged]
    value = value_of(metric, judge, answers, exact, requests)
    return value, EXACT if metric in NAMES else value_of(metric, judge, exact, exact, requests)


def _same_requests(ones: Cases, others: Cases) -> bool:
    return len(ones) == len(others) and all(
        one.inputs.keys() == other.inputs.keys()
        and all(np.array_equal(one.inputs[name], other.inputs[name]) for name in one.inputs)
        for one, other in zip(ones, others, strict=True)
    )


def _widened(answer: Mapping[str, Array], case: selftest.Case) -> dict[str, Array]:
    """`answer` with bf16 as f32, as the case has it."""
    return {
        name: selftest.bf16_to_f32(array)
        if array.dtype == np.uint16 and name in case.outputs and case.outputs[name].dtype == np.float32
        else array
        for name, array in answer.items()
    }
