"""What calibration data says about the rows of each layer, gathered in one pass over the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from isthmus.errors import Code, ModelError, Problem
from isthmus.ir.types import Array

# Bins on each side of zero.
BINS = 2048


@dataclass(slots=True)
class Histogram:
    """How often numbers fall into equal bins over [-reach, reach]; `reach` is a power of two that grows.

    Growing joins pairs of bins, so the order of the data hardly matters and no second pass is needed.
    """

    reach: float = 0.0
    counts: Array = field(default_factory=lambda: np.zeros(2 * BINS, np.int64))

    def add(self, x: Array) -> None:
        """Count finite numbers."""
        most = float(np.max(np.abs(x), initial=0))
        if most == 0:
            most = float(np.finfo(np.float32).tiny)
        wanted = 2.0 ** np.ceil(np.log2(most))
        if self.reach == 0:
            self.reach = wanted
        while self.reach < wanted:
            pairs = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate(
                [np.zeros(BINS // 2, np.int64), pairs, np.zeros(BINS // 2, np.int64)]
            )
            self.reach *= 2
        places = np.floor(x.reshape(-1) * np.float32(BINS / self.reach)).astype(np.int64) + BINS
        self.counts += np.bincount(np.clip(places, 0, 2 * BINS - 1), minlength=2 * BINS)

    @property
    def centres(self) -> Array:
        """The middle of each bin."""
        return np.asarray((np.arange(2 * BINS) - BINS + 0.5) * (self.reach / BINS))


@dataclass(slots=True, eq=False)
class Observed:
    """The rows [.., K] of one layer: how many, and for each of the K columns the least, the largest, the sum,
    the sum of magnitudes and that of squares; how often numbers occur; `gram` [K, K]: the sum of x^T x, if
    wanted."""

    width: int
    rows: int = 0
    lows: Array = field(init=False)
    highs: Array = field(init=False)
    total: Array = field(init=False)
    magnitude: Array = field(init=False)
    squares: Array = field(init=False)
    gram: Array | None = None
    histogram: Histogram = field(default_factory=Histogram)

    def __post_init__(self) -> None:
        self.lows, self.highs = np.full(self.width, np.inf), np.full(self.width, -np.inf)
        self.total, self.magnitude, self.squares = np.zeros((3, self.width))

    def add(self, x: Array, wants_gram: bool = False) -> None:
        """Take in rows [.., K] of f32. Raises ValueError where one is not finite, or its square."""
        flat = x.reshape(-1, self.width)
        if not np.isfinite(flat).all():
            raise ValueError("NaN or infinity")
        if not flat.size:
            return
        self.rows += len(flat)
        self.lows = np.minimum(self.lows, flat.min(0))
        self.highs = np.maximum(self.highs, flat.max(0))
        self.total = self.total + flat.sum(0, dtype=np.float64)
        self.magnitude = self.magnitude + np.abs(flat).sum(0, dtype=np.float64)
        self.squares = self.squares + np.square(flat, dtype=np.float64).sum(0)
        self.histogram.add(flat)
        if wants_gram:
            # In f32, whose errors are far below those that are to be corrected.
            with np.errstate(over="ignore", invalid="ignore"):
                product = (flat.T @ flat).astype(np.float64)
            if not np.isfinite(product).all():
                raise ValueError("numbers whose squares are infinite")
            self.gram = product if self.gram is None else self.gram + product

    @property
    def low(self) -> float:
        return float(self.lows.min())

    @property
    def high(self) -> float:
        return float(self.highs.max())

    @property
    def largest(self) -> Array:
        """The largest magnitude in each column."""
        return np.maximum(-self.lows, self.highs)

    @property
    def mean(self) -> Array:
        """Of each column."""
        return self.total / max(self.rows, 1)


Statistics = Mapping[str, Observed]


def check(statistics: Statistics) -> None:
    """Raise ModelError (bad-calibration) naming every layer about which the data says nothing."""
    problems = [
        Problem(
            Code.BAD_CALIBRATION,
            "the rows of this layer are the same number everywhere" if seen.rows else "no row reached it",
            name,
            "give data like that which the model will see",
        )
        for name, seen in statistics.items()
        if seen.rows == 0 or seen.low == seen.high
    ]
    if problems:
        raise ModelError(problems)
