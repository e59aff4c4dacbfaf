"""The ladder: for each layer, how far what it computes is from what it computes in f32."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isthmus.driver import Options
from isthmus.errors import Code, ModelError, Problem
from isthmus.ir.graph import Graph, Program, Value, weight_of
from isthmus.ir.types import Array
from isthmus.passes.quantize.layers import products
from isthmus.quantizer.mix import alone, mixed
from isthmus.quantizer.native import running, watched
from isthmus.tools.data import Request


@dataclass(slots=True)
class Distance:
    """Of some numbers from those they should be, over any number of arrays."""

    signal: float = 0.0
    noise: float = 0.0
    found: float = 0.0
    product: float = 0.0
    largest: float = 0.0

    def add(self, found: Array, exact: Array) -> None:
        """Take in an array and what it should be."""
        a, b = found.astype(np.float64).reshape(-1), exact.astype(np.float64).reshape(-1)
        self.signal += float(b @ b)
        self.noise += float((a - b) @ (a - b))
        self.found += float(a @ a)
        self.product += float(a @ b)
        self.largest = max(self.largest, float(np.abs(a - b).max(initial=0)))

    @property
    def sqnr(self) -> float:
        """Signal over noise, in dB; infinite without noise, -infinite where something is no number."""
        if not math.isfinite(self.noise):
            return -math.inf
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf

    @property
    def cosine(self) -> float:
        """Of the angle between the two."""
        lengths = math.sqrt(self.signal) * math.sqrt(self.found)
        return self.product / lengths if lengths else float(self.signal == self.found)


@dataclass(frozen=True, slots=True)
class Rung:
    """A layer: `alone` on exact rows, and `together` with what all layers before it did to its rows."""

    name: str
    alone: Distance
    together: Distance


@dataclass(frozen=True, slots=True)
class Ladder:
    """All layers that differ, in the order in which they compute, and the outputs of the model."""

    rungs: tuple[Rung, ...]
    outputs: Mapping[str, Distance]
    requests: int

    def worst(self, count: int = 3) -> tuple[Rung, ...]:
        """The layers that lose most by themselves, worst first."""
        return tuple(sorted(self.rungs, key=lambda rung: rung.alone.sqnr)[:count])


def climb(exact: Program, low: Program, requests: Sequence[Request], options: Options) -> Ladder:
    """Measure `low` against `exact`, both after the phase `quantize`, on `requests`."""
    reference, single = products(exact.main), alone(exact.main, low.main)
    names = [name for name in reference if _differs(reference[name], products(low.main)[name])]
    whole, together = mixed((exact.main, low.main), dict.fromkeys(names, 1))
    pairs = [(single[name], reference[name]) for name in names]
    pairs += [(together[name], reference[name]) for name in names]
    pairs += [
        (made, wanted) for (_, made), (_, wanted) in zip(whole.outputs, exact.main.outputs, strict=True)
    ]
    distances = measure(exact, pairs, requests, options)
    rungs = zip(names, distances[: len(names)], distances[len(names) : 2 * len(names)], strict=True)
    outputs = {n: d for (n, _), d in zip(whole.outputs, distances[2 * len(names) :], strict=True)}
    return Ladder(tuple(Rung(*rung) for rung in rungs), outputs, len(requests))


def _differs(exact: Value, low: Value) -> bool:
    a, b = weight_of(exact.args[1]), weight_of(low.args[1])
    return a is None or b is None or a.digest != b.digest


def measure(
    program: Program, pairs: Sequence[tuple[Value, Value]], requests: Sequence[Request], options: Options
) -> list[Distance]:
    """How far the first value of each pair is from the second, over all requests."""
    values = list(dict.fromkeys(value for pair in pairs for value in pair))
    place = {value: str(number) for number, value in enumerate(values)}
    distances = [Distance() for _ in pairs]
    with running(watched(program, values), options) as run:
        for request in requests:
            outputs = run(request)
            for distance, (found, exact) in zip(distances, pairs, strict=True):
                distance.add(outputs[place[found]], outputs[place[exact]])
    return distances


def restored(
    exact: Program, low: Program, names: Sequence[str], requests: Sequence[Request], options: Options
) -> dict[str, dict[str, Distance]]:
    """For each of `names`: the model's outputs, if that layer alone were in f32 again."""
    pairs: list[tuple[Value, Value]] = []
    for name in names:
        pairs += _outputs(exact.main, low.main, {n: 1 for n in products(exact.main) if n != name})
    distances = iter(measure(exact, pairs, requests, options))
    return {name: {output: next(distances) for output, _ in exact.main.outputs} for name in names}


def _outputs(exact: Graph, low: Graph, choice: Mapping[str, int]) -> list[tuple[Value, Value]]:
    made, _ = mixed((exact, low), choice)
    return [(value, wanted) for (_, value), (_, wanted) in zip(made.outputs, exact.outputs, strict=True)]


# A layer is broken, and not only coarse, when without it this part of the noise is gone.
MOST_OF_IT = 0.75


@dataclass(frozen=True, slots=True)
class Culprit:
    """The layer that makes most of the noise in the outputs, and the share it makes; no name: none does."""

    name: str
    share: float
    steps: int


def bisect(exact: Program, low: Program, requests: Sequence[Request], options: Options) -> Culprit:
    """Find the layer that breaks the result, halving: the first n layers of `low`, the others exact.

    The noise of the outputs grows with n; where it passes half of what it comes to is a layer that is then
    put back alone, to see whether it was that one or all of them a little.
    """
    names = list(products(exact.main))

    def noise(choice: Mapping[str, int]) -> float:
        pairs = _outputs(exact.main, low.main, choice)
        found = [d for d in measure(exact, pairs, requests, options) if d.signal]
        # Outputs count alike, whatever their size.
        return sum(d.noise / d.signal for d in found)

    whole = noise(dict.fromkeys(names, 1))
    if not whole:
        raise ModelError(Problem(Code.BAD_OPTION, "the two programs answer alike: there is nothing to find"))
    first, last, steps = 0, len(names), 1
    while last - first > 1:
        middle = (first + last) // 2
        steps += 1
        if _exceeds(noise(dict.fromkeys(names[:middle], 1)), whole / 2):
            last = middle
        else:
            first = middle
    suspect = names[first]
    left = noise({name: 1 for name in names if name != suspect})
    share = 1 - left / whole if math.isfinite(whole) else float(math.isfinite(left))
    return Culprit(suspect if share >= MOST_OF_IT else "", share, steps + 1)


def _exceeds(noise: float, limit: float) -> bool:
    return not math.isfinite(noise) or noise > limit
