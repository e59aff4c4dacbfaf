"""weights.bin: every weight as its kernel reads it, one after the other, aligned for vectors and mmap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from isthmus.ir.weights import Weight

ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class WeightsLayout:
    """Offsets of the plan's weights, in bytes, and the size of the file."""

    weights: tuple[Weight, ...]
    offsets: tuple[int, ...]
    total: int

    def pieces(self) -> Iterator[memoryview]:
        """The file's contents in order; one weight is in memory at a time."""
        position = 0
        for weight, offset in zip(self.weights, self.offsets, strict=True):
            if offset > position:
                yield memoryview(bytes(offset - position))
            stored = weight.stored()
            yield stored.reshape(-1).view(np.uint8).data
            position = offset + stored.nbytes
        if self.total > position:
            yield memoryview(bytes(self.total - position))


def lay_out(weights: Sequence[Weight]) -> WeightsLayout:
    """Give each weight the next aligned offset, in the given order."""
    offsets = []
    end = 0
    for weight in weights:
        size = weight.type.nbytes
        assert isinstance(size, int)
        offsets.append(end)
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return WeightsLayout(tuple(weights), tuple(offsets), end)
