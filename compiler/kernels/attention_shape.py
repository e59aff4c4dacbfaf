"""The sizes of an attention kernel: its tile, how it takes V, its scratch memory and the parts of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from isthmus.kernels.builder import Memory
from isthmus.target import Target

Mask = Literal["none", "row", "full"]
# What q, k, v and powers in f32 are rounded to before they are multiplied, if to anything.
Rounds = Literal["", "bf16", "i8"]

# bf16, or bytes, in a word.
PAIR, FOUR = 2, 4

# Vectors of scores a query has in one block of keys.
BLOCK_VECTORS = 2
# Keys whose scores are kept at a time; a multiple of every block.
CHUNK = 512
# Tiles of queries that take one such chunk of K and V after the other, while it is in the second-level cache.
GROUP_TILES = 8
# Up to so many queries a head, K and V are read as they lie: to rearrange them would cost more.
FEW_QUERIES = 3


@dataclass(frozen=True, slots=True)
class Scratch:
    """Floats of scratch memory a thread needs: `per_key` * (keys rounded up to `block`) + `constant`."""

    per_key: int
    constant: int
    block: int


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes known at compile time, in elements."""

    lanes: int
    rows: int
    block: int
    width: int
    value_width: int
    value_pitch: int
    value_vectors: int
    elements: int = 1

    @property
    def words(self) -> int:
        """Of 4 bytes, in a row of q or k: an f32 each, or two bf16."""
        return -(-self.width // self.elements)

    @property
    def group(self) -> int:
        """Queries of one group of tiles."""
        return GROUP_TILES * self.rows

    @property
    def few_lanes(self) -> int:
        """The widest vectors that rows of K, as they lie, consist of."""
        return math.gcd(self.width, self.lanes)

    @property
    def few_value_lanes(self) -> int:
        """The same for V."""
        return math.gcd(self.value_width, self.lanes)

    @property
    def stage(self) -> int:
        """Words of a block of keys that are written row by row, in whole vectors."""
        return self.block * self.words + self.lanes

    def passes(self) -> tuple[int, int, int]:
        """How V's vectors are taken: (passes, vectors in each of them, vectors in one more pass).

        A pass has as many as the registers hold beside the rows, or fewer, if all can then have the same. A
        last vector that is not whole goes into the pass of its own.
        """
        total = self.value_pitch // self.lanes
        limit = min(self.value_vectors, total)
        each = next((n for n in range(limit, 1, -1) if total % n == 0), limit)
        passes, rest = divmod(total, each)
        if rest == 0 and self.value_width % self.lanes:
            return passes - 1, each, each
        return passes, each, rest


def shape_of(target: Target, head_dim: int, value_dim: int, elements: int = 1) -> Shape:
    """The shape that fits the target's registers, for words of so many elements."""
    lanes = target.vector.lanes(32)
    many = target.vector.registers >= 32
    return Shape(
        lanes=lanes,
        rows=8 if many else 6,
        block=BLOCK_VECTORS * lanes,
        width=head_dim,
        value_width=value_dim,
        value_pitch=-(-value_dim // lanes) * lanes,
        value_vectors=3 if many else 2,
        elements=elements,
    )


def elements_of(mixed: bool, rounds: Rounds) -> int:
    """Elements in a word of 4 bytes as they are multiplied."""
    return PAIR if mixed else {"": 1, "bf16": PAIR, "i8": FOUR}[rounds]


def scratch(
    target: Target, head_dim: int, value_dim: int, mask: Mask, mixed: bool = False, rounds: Rounds = ""
) -> Scratch:
    """What `kernel` of the same parameters needs."""
    shape = shape_of(target, head_dim, value_dim, elements_of(mixed, rounds))
    per_key = shape.words + -(-shape.value_pitch // shape.elements) + (mask == "row")
    per_query = shape.words + shape.value_pitch + shape.lanes + (shape.block if mask == "full" else 0)
    constant = shape.group * per_query + shape.rows * CHUNK
    if shape.elements == FOUR:
        return Scratch(per_key + 2, constant + shape.stage, shape.block)
    return Scratch(per_key, constant, shape.block)


@dataclass(frozen=True, slots=True)
class Extra:
    """What rows of bytes need besides: `scales` [key], `initial` [key] (i32), what their sums start with, and
    `stage` for a block of keys before it is transposed."""

    scales: Memory
    initial: Memory
    stage: Memory


@dataclass(frozen=True, slots=True)
class Parts:
    """Parts of the scratch memory. Rows are those of a group of tiles, `shape.rows` a tile."""

    packed_k: Memory
    packed_v: Memory
    queries: Memory  # [row][width], times the scale
    scores: Memory  # of one tile: [block][row][key]
    results: Memory  # [row][value_pitch]: sums over the chunks so far
    sums: Memory  # [row][lanes]: of the powers so far
    mask: Memory  # a row mask, padded; or what the last block, when partial, has of a full mask
    powers: Memory  # the scores' place, as elements of what is multiplied with v
    extra: Extra | None = None
