"""weights.bin: every weight as its kernel reads it, one after the other, aligned for vectors and mmap, in
the byte order of the chip."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from isthmus.ir.types import Array
from isthmus.ir.weights import Weight
from isthmus.target import ByteOrder

ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class WeightsLayout:
    """Offsets of weights, in bytes, and the size of the file."""

    weights: tuple[Weight, ...]
    offsets: Mapping[tuple[str, str], int]
    total: int
    byte_order: ByteOrder

    def offset(self, weight: Weight) -> int:
        """Where `weight` begins."""
        return self.offsets[_key(weight)]

    def pieces(self) -> Iterator[memoryview]:
        """The file's contents in order; one weight is in memory at a time."""
        position = 0
        for weight in self.weights:
            offset = self.offset(weight)
            if offset > position:
                yield memoryview(bytes(offset - position))
            stored = in_order(weight.stored(), self.byte_order)
            yield stored.reshape(-1).view(np.uint8).data
            position = offset + stored.nbytes
        if self.total > position:
            yield memoryview(bytes(self.total - position))


def in_order(array: Array, byte_order: ByteOrder) -> Array:
    """`array` with the bytes of each element in `byte_order`; the same array if they are already."""
    if byte_order == sys.byteorder or array.dtype.itemsize == 1:
        return array
    # As integers, so that types NumPy does not know take part.
    return array.view(f"u{array.dtype.itemsize}").byteswap()


def lay_out(weights: Iterable[Weight], byte_order: ByteOrder) -> WeightsLayout:
    """Give each weight the next aligned offset, in the given order; what is the same bytes is there once."""
    kept: list[Weight] = []
    offsets: dict[tuple[str, str], int] = {}
    end = 0
    for weight in weights:
        if _key(weight) in offsets:
            continue
        size = weight.type.nbytes
        assert isinstance(size, int)
        kept.append(weight)
        offsets[_key(weight)] = end
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return WeightsLayout(tuple(kept), offsets, end, byte_order)


def _key(weight: Weight) -> tuple[str, str]:
    """The same for weights that are the same bytes: the type says how they are stored."""
    return weight.digest, str(weight.type)
