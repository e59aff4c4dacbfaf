"""What zeros a matrix has, and how they lie."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from isthmus.ir.sparse import HALVED
from isthmus.ir.types import Array
from isthmus.ir.weights import Weight

# Blocks that kernels take, outputs x inputs, by how many elements fill a word: those that share a load first.
BLOCKS_OF = {1: ((1, 1), (1, 4), (4, 1), (4, 4)), 2: ((1, 2), (1, 4), (4, 2), (4, 4)), 4: ((1, 4), (4, 4))}
BLOCKS = tuple(dict.fromkeys(shape for shapes in BLOCKS_OF.values() for shape in shapes))
# Blocks are the pattern where nearly all that is in them are numbers.
FULL = 0.9
GROUPS = (4, 8, 16, 32)
# With fewer zeros than these nobody asks how they lie.
FEWEST_ZEROS = 0.05


@dataclass(frozen=True, slots=True)
class Pattern:
    """A matrix [K, N]: how many numbers are not zero, and what shape the zeros have.

    `blocks` says for each shape of block how many are not all zero; `group` is (n, m) when every m
    consecutive rows hold at most n numbers of each column, n <= m / 2. `halved`: the least number of rows, of
    those whose halves can be stored, of which at most half are numbers, if the matrix went on with zeros; 0
    if there is none. `empty_inputs` rows and `empty_outputs` columns hold nothing.
    """

    shape: tuple[int, int]
    numbers: int
    blocks: dict[tuple[int, int], int] = field(default_factory=dict)
    group: tuple[int, int] | None = None
    empty_inputs: int = 0
    empty_outputs: int = 0
    halved: int = 0

    @property
    def density(self) -> float:
        """The share of numbers that are not zero; 1 for a matrix without any."""
        size = self.shape[0] * self.shape[1]
        return self.numbers / size if size else 1.0

    @property
    def block(self) -> tuple[int, int]:
        """The largest shape of block that is full of numbers wherever it is not empty."""
        full = [s for s, count in self.blocks.items() if self.numbers >= FULL * count * s[0] * s[1]]
        return max(full, key=lambda shape: shape[0] * shape[1], default=(1, 1))

    def __str__(self) -> str:
        if self.numbers == 0:
            return "all zero"
        if 1 - self.density < FEWEST_ZEROS:
            return "dense"
        rest = (self.shape[0] - self.empty_inputs) * (self.shape[1] - self.empty_outputs)
        names = []
        if self.numbers <= (1 - FEWEST_ZEROS) * rest:
            # Empty rows and columns are not all there is to it.
            names.append(self._shape())
        if self.empty_outputs:
            names.append(f"{self.empty_outputs} empty columns")
        if self.empty_inputs:
            names.append(f"{self.empty_inputs} empty rows")
        return ", ".join(names)

    def _shape(self) -> str:
        if self.group is not None:
            return f"{self.group[0]}:{self.group[1]}"
        return "unstructured" if self.block == (1, 1) else f"block {self.block[0]}x{self.block[1]}"


# Contents do not change, and what they look like is asked for by every target.
_KNOWN: dict[tuple[str, tuple[int, ...]], Pattern] = {}


def pattern_of(weight: Weight) -> Pattern:
    """The pattern of a matrix; it is read once."""
    key = (weight.digest, weight.type.static_shape)
    if key not in _KNOWN:
        _KNOWN[key] = pattern(weight.read())
    return _KNOWN[key]


def pattern(plain: Array) -> Pattern:
    """The pattern of a matrix [K, N]. A NaN is a number like others."""
    depth, columns = plain.shape
    present = np.asarray(plain != 0)
    numbers = int(np.count_nonzero(present))
    found = Pattern((depth, columns), numbers)
    if numbers == 0 or 1 - found.density < FEWEST_ZEROS:
        return found
    return Pattern(
        (depth, columns),
        numbers,
        {shape: _blocks(present, *shape) for shape in BLOCKS},
        _group(present),
        depth - int(np.count_nonzero(present.any(axis=1))),
        columns - int(np.count_nonzero(present.any(axis=0))),
        next((group for kept, group in HALVED if _most(present, group) <= kept), 0),
    )


def _most(present: Array, group: int) -> int:
    """The most numbers that so many consecutive rows hold, if the matrix went on with zeros."""
    depth, columns = present.shape
    whole = np.pad(present, ((0, -depth % group), (0, 0)))
    return int(whole.reshape(-1, group, columns).sum(axis=1).max())


def _blocks(present: Array, outputs: int, inputs: int) -> int:
    """Blocks that are not all zero."""
    depth, columns = present.shape
    whole = np.pad(present, ((0, -depth % inputs), (0, -columns % outputs)))
    tiles = whole.reshape(whole.shape[0] // inputs, inputs, whole.shape[1] // outputs, outputs)
    return int(np.count_nonzero(tiles.any(axis=(1, 3))))


def _group(present: Array) -> tuple[int, int] | None:
    """(n, m) if at most n of every m rows are there, with the least m, and most of them are."""
    depth, columns = present.shape
    for size in GROUPS:
        if depth % size:
            continue
        most = int(present.reshape(-1, size, columns).sum(axis=1).max())
        if 0 < most <= size // 2 and np.count_nonzero(present) >= FULL * present.size * most / size:
            return most, size
    return None
