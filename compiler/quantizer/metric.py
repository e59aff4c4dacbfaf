"""What accuracy is: the cosine or the error of the outputs, or a function of the user's."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from isthmus.errors import Code, ModelError, Problem
from isthmus.ir.types import Array
from isthmus.quantizer.ladder import Distance
from isthmus.tools.data import Request
from isthmus.tools.functions import function_of

Answers: TypeAlias = Sequence[Mapping[str, Array]]
# A user's own: the answers to the requests, and the requests; the larger the better.
Judge: TypeAlias = Callable[[Answers, Sequence[Request]], float]
NAMES = ("cosine", "mse")


def metric_of(name: str | Judge, folder: Path | None = None) -> Judge:
    """`cosine`, `mse`, `module:function`, or a function itself. Raises ModelError (bad-metric).

    The module is looked for in `folder`, by default the working folder, and then as any other."""
    if not isinstance(name, str):
        return name
    if name in NAMES:
        return _missing
    if ":" not in name:
        hint = "cosine, mse, or MODULE:FUNCTION"
        raise ModelError(Problem(Code.BAD_METRIC, f"no metric called {name!r}", "--metric", hint))
    return function_of(name, Code.BAD_METRIC, "--metric", folder)


def source_of(name: str) -> bytes:
    """The file of the module that `name`, which `metric_of` found, is in: what it says may change."""
    found = sys.modules.get(name.partition(":")[0])
    file = getattr(found, "__file__", None)
    return Path(file).read_bytes() if file and Path(file).is_file() else b""


def _missing(answers: Answers, requests: Sequence[Request]) -> float:
    raise AssertionError("cosine and mse are of two sets of answers")


def drop_of(exact: float, value: float) -> float:
    """By what share of that in f32 the metric is lower; never below 0."""
    return max(0.0, (exact - value) / abs(exact)) if exact else max(0.0, -value)


def value_of(
    metric: str | Judge, judge: Judge, found: Answers, exact: Answers, requests: Sequence[Request]
) -> float:
    """The metric of `found`: cosine and mse against `exact`, a user's own of what was found alone.

    Of the worst output: cosine, or for mse, noise over signal, counted down from 1.
    """
    if metric in NAMES:
        distances = {name: Distance() for name, array in exact[0].items() if array.dtype.kind == "f"}
        for got, wanted in zip(found, exact, strict=True):
            for name, distance in distances.items():
                distance.add(got[name], wanted[name])
        if metric == "cosine":
            values = [distance.cosine for distance in distances.values()]
        else:
            values = [1 - d.noise / d.signal for d in distances.values() if d.signal]
        value = min(values, default=1.0)
    else:
        try:
            value = float(judge(found, requests))
        except Exception as error:
            text = f"the metric raised {type(error).__name__}: {error}"
            raise ModelError(Problem(Code.BAD_METRIC, text, "--metric")) from error
    if not math.isfinite(value):
        raise ModelError(Problem(Code.BAD_METRIC, f"the metric is {value}, which is no number", "--metric"))
    return value
