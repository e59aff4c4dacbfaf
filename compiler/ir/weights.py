"""Weights are handles: where the bytes are and what they hash to. Nothing is read until asked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np

from isthmus.ir.types import Array, DType, Encoding, TensorType


class Source(Protocol):
    """Where the plain bytes of a weight come from."""

    def read(self, type_: TensorType) -> Array: ...
    def digest(self, type_: TensorType) -> str: ...


@dataclass(frozen=True)
class InMemory:
    """Bytes that are already in memory, e.g. inside a parsed model or computed by folding."""

    data: bytes

    def read(self, type_: TensorType) -> Array:
        return np.frombuffer(self.data, type_.dtype.numpy).reshape(type_.static_shape)

    def digest(self, type_: TensorType) -> str:
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class InFile:
    """Bytes that stay on disk until someone needs them."""

    path: Path
    offset: int
    nbytes: int

    def read(self, type_: TensorType) -> Array:
        if self.nbytes == 0:
            return np.zeros(type_.static_shape, type_.dtype.numpy)
        flat = np.memmap(self.path, np.uint8, "r", self.offset, (self.nbytes,))
        return flat.view(type_.dtype.numpy).reshape(type_.static_shape)

    def digest(self, type_: TensorType) -> str:
        return self._sha256

    @cached_property
    def _sha256(self) -> str:
        with self.path.open("rb") as file:
            file.seek(self.offset)
            hashed = hashlib.sha256()
            left = self.nbytes
            while left and (chunk := file.read(min(left, 1 << 20))):
                hashed.update(chunk)
                left -= len(chunk)
            return hashed.hexdigest()


@dataclass(frozen=True)
class Unpacked:
    """Numbers of 1, 2 or 4 bits, several to a byte, the first in the lowest bits; read as numbers of 8.

    `count` numbers lie one after the other in `packed`, which is read as bytes.
    """

    packed: Source
    bits: int
    signed: bool
    count: int

    @property
    def _bytes(self) -> TensorType:
        return TensorType(DType.U8, (-(-self.count * self.bits // 8),))

    def read(self, type_: TensorType) -> Array:
        shifts = np.arange(0, 8, self.bits, dtype=np.uint8)
        numbers = self.packed.read(self._bytes)[:, None] >> shifts & np.uint8((1 << self.bits) - 1)
        if self.signed:
            # The highest bit counts negative.
            high = np.uint8(1 << self.bits - 1)
            numbers = (numbers ^ high) - high
        return numbers.reshape(-1)[: self.count].view(type_.dtype.numpy).reshape(type_.static_shape)

    def digest(self, type_: TensorType) -> str:
        text = f"{self.packed.digest(self._bytes)} {self.bits} {self.signed} {self.count}"
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Weight:
    """A named constant tensor. `type` may carry an encoding; `read` gives the plain array all the same."""

    name: str
    type: TensorType
    source: Source

    def read(self) -> Array:
        """The plain, unencoded array; do not write to it."""
        return self.source.read(TensorType(self.type.dtype, self.type.shape))

    def stored(self) -> Array:
        """The array as it lies in the weights file."""
        plain = self.read()
        return plain if self.type.encoding is None else self.type.encoding.encode(plain)

    @property
    def digest(self) -> str:
        """Equal digests (of plain contents) and equal types mean equal weights."""
        return self.source.digest(self.type)

    def encoded(self, encoding: Encoding) -> Weight:
        """The same contents stored otherwise; nothing is computed until the weights file is written."""
        return Weight(self.name, TensorType(self.type.dtype, self.type.shape, encoding), self.source)

    def renamed(self, name: str) -> Weight:
        return Weight(name, self.type, self.source)

    @classmethod
    def of(cls, name: str, array: Array) -> Weight:
        """A weight that holds a copy of `array`. Raises ValueError for an element type we do not have."""
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        return cls(name, TensorType(DType.of(array.dtype), array.shape), InMemory(array.tobytes()))
