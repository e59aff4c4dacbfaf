"""The range that integers of static rows reach over: four ways to choose it from what was observed.

Percentile, mean squared error and entropy after what is known as post-training calibration: H. Wu et al.,
"Integer Quantization for Deep Learning Inference" (arXiv 2004.09602), section 4.1. Entropy is the divergence
of Kullback and Leibler between the numbers cut off at the range and their integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from isthmus.ir.types import Array
from isthmus.passes.quantize.options import Observer
from isthmus.passes.quantize.statistics import Histogram, Observed

KEPT = 0.9999  # of all numbers, half of the rest beyond each end
STEPS = 255
# Fractions of the whole range that are tried, for each end.
_CUTS = np.linspace(1.0, 0.2, 41)

Range = tuple[float, float]


def _minmax(seen: Observed) -> Range:
    return seen.low, seen.high


def _percentile(seen: Observed) -> Range:
    below = np.cumsum(seen.histogram.counts) / seen.histogram.counts.sum()
    half = (1 - KEPT) / 2
    first, last = np.searchsorted(below, [half, 1 - half])
    centres = seen.histogram.centres
    return max(float(centres[first]), seen.low), min(float(centres[last]), seen.high)


def _mse(seen: Observed) -> Range:
    return _search(seen, _squared_error)


def _entropy(seen: Observed) -> Range:
    return _search(seen, _divergence)


OBSERVERS: Mapping[Observer, Callable[[Observed], Range]] = {
    "minmax": _minmax,
    "percentile": _percentile,
    "mse": _mse,
    "entropy": _entropy,
}


def range_of(seen: Observed, observer: Observer) -> Range:
    """(low, high) for what was `seen`, as `observer` chooses it."""
    return OBSERVERS[observer](seen)


def _search(seen: Observed, loss: Callable[[Histogram, Range], float]) -> Range:
    """The range with the least loss, one end after the other: the two hardly depend on each other."""
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    high = min((loss(seen.histogram, (low, high * cut)), -cut, high * cut) for cut in map(float, _CUTS))[2]
    low = min((loss(seen.histogram, (low * cut, high)), -cut, low * cut) for cut in map(float, _CUTS))[2]
    return low, high


def _placed(histogram: Histogram, ends: Range) -> tuple[Array, float]:
    """The integer, from 0, of each bin's centre; and the step."""
    low, high = ends
    step = max(high - low, 1e-30) / STEPS
    return np.clip(np.rint((histogram.centres - low) / step), 0, STEPS), step


def _squared_error(histogram: Histogram, ends: Range) -> float:
    whole, step = _placed(histogram, ends)
    return float(histogram.counts @ np.square(whole * step + ends[0] - histogram.centres))


def _divergence(histogram: Histogram, ends: Range) -> float:
    """Of the observed distribution, from the one in which the bins of a step share its numbers evenly."""
    whole, _ = _placed(histogram, ends)
    place = whole.astype(np.int64)
    inside = (histogram.centres >= ends[0]) & (histogram.centres <= ends[1])
    counts = histogram.counts.astype(np.float64)
    # What is beyond an end counts as its last bin does, but has no place among the integers' own numbers.
    cut = np.where(inside, counts, 0)
    kept = np.flatnonzero(inside)
    if not kept.size:
        return np.inf
    p = cut.copy()
    p[kept[0]] += counts[: kept[0]].sum()
    p[kept[-1]] += counts[kept[-1] + 1 :].sum()
    used = cut > 0
    totals = np.bincount(place, cut, STEPS + 1)
    shares = np.bincount(place, used, STEPS + 1)
    q = np.where(used, totals[place] / np.maximum(shares[place], 1), 0)
    p, q = p / p.sum(), q / max(q.sum(), 1e-30)
    both = p > 0
    return float(np.sum(p[both] * np.log(p[both] / np.maximum(q[both], 1e-12))))
