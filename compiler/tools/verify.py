"""Is a bundle right: against the answers stored in it, or against onnxruntime on inputs of many sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isthmus.bundle.manifest import DimBounds, Port
from isthmus.bundle.selftest import Case, Tolerance
from isthmus.tools.compare import Difference, compare
from isthmus.tools.inputs import random_inputs, sizes_of

Array = npt.NDArray[np.generic]
LARGEST_SIZE = 512  # of a dim in a random request, unless asked for: larger ones take long to answer

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True, slots=True)
class Check:
    """One request and how its outputs compare."""

    what: str
    differences: tuple[Difference, ...]

    @property
    def passed(self) -> bool:
        """Whether every output is close enough."""
        return not any(difference.reason for difference in self.differences)


def replay(cases: Sequence[Case], run: Run) -> Iterator[Check]:
    """The self-test: each stored request, against its stored answer."""
    for number, case in enumerate(cases):
        yield Check(f"stored {number}", compare(run(case.inputs), case.outputs, case.tolerance))


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which sizes random requests take: each dim between its bounds, small ones as likely as large ones."""

    ports: tuple[Port, ...]
    examples: Mapping[str, Array]
    ranges: Mapping[str, tuple[int, int]]

    def draw(self, rng: np.random.Generator) -> tuple[dict[str, int], dict[str, Array]]:
        """Sizes by dim, and inputs by name."""
        sizes = {name: _log_uniform(low, high, rng) for name, (low, high) in self.ranges.items()}
        return sizes, random_inputs(self.ports, sizes, self.examples, rng)


def sampling(
    ports: Sequence[Port],
    bounds: Sequence[DimBounds],
    cases: Sequence[Case],
    asked: Mapping[str, tuple[int, int]],
) -> Sampling:
    """Sizes that are known to be valid: what was `asked`, else what the bundle says of its dims.

    A free dim has no largest size, and a model may still break beyond one that it does not tell; then the
    largest in the stored cases is the limit.
    """
    seen = [sizes_of(ports, case.inputs) for case in cases]
    ranges: dict[str, tuple[int, int]] = {}
    for bound in bounds:
        largest = max([bound.low, *(sizes.get(bound.name, 1) for sizes in seen)])
        high = largest if bound.high is None else max(bound.low, min(bound.high, LARGEST_SIZE))
        ranges[bound.name] = asked.get(bound.name, (max(bound.low, 1), high))
    return Sampling(tuple(ports), merge_examples(cases), ranges)


def merge_examples(cases: Sequence[Case]) -> dict[str, Array]:
    """For each input, all values of all cases, flattened: what random values are drawn between."""
    return {name: np.concatenate([case.inputs[name].ravel() for case in cases]) for name in cases[0].inputs}


def against(
    run: Run,
    reference: Run,
    choice: Sampling,
    samples: int,
    tolerance: Tolerance,
    min_cosine: float,
    seed: int,
) -> Iterator[Check]:
    """`samples` random requests, answered by both."""
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        sizes, inputs = choice.draw(rng)
        what = ", ".join(f"{name}={size}" for name, size in sizes.items()) or "fixed sizes"
        yield Check(what, compare(run(inputs), reference(inputs), tolerance, min_cosine))


def _log_uniform(low: int, high: int, rng: np.random.Generator) -> int:
    exact = math.exp(rng.uniform(math.log(low), math.log(high + 1)))
    return min(max(int(exact), low), high)
