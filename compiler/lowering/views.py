"""Strided views: how a value's elements lie in a buffer. Movement ops become views wherever they can."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from isthmus.ir.dims import Dim, Shape, divide_exactly, product
from isthmus.ir.types import DType

Place = Literal["input", "output", "weight", "arena"]


@dataclass(frozen=True, slots=True, eq=False)
class Buffer:
    """Memory for one value. Two buffers are the same only when they are the same object.

    `place` says who owns the memory: the caller (inputs, outputs; `index` counts them), the weights file
    or the arena. `width` is the length of a row where a kernel writes whole rows: the pitch of such a
    buffer may be chosen later, as long as every user asks for it by the buffer.
    """

    name: str
    dtype: DType
    size: Dim  # elements
    place: Place
    index: int = 0
    width: int | None = None


@dataclass(frozen=True, slots=True)
class View:
    """Element [i, j, ...] lies at `offset + i * strides[0] + j * strides[1] + ...` elements into `buffer`."""

    buffer: Buffer
    offset: Dim
    shape: Shape
    strides: Shape

    @property
    def is_contiguous(self) -> bool:
        """Row order without gaps; axes of size 1 may have any stride."""
        wanted = contiguous(self.shape)
        return all(d == 1 or s == w for d, s, w in zip(self.shape, self.strides, wanted, strict=True))

    def transposed(self, perm: tuple[int, ...]) -> View:
        return replace(
            self, shape=tuple(self.shape[p] for p in perm), strides=tuple(self.strides[p] for p in perm)
        )

    def sliced(self, starts: Shape, sizes: Shape, steps: tuple[int, ...]) -> View:
        offset = self.offset
        for start, stride in zip(starts, self.strides, strict=True):
            offset = offset + start * stride
        return View(
            self.buffer, offset, sizes, tuple(s * k for s, k in zip(self.strides, steps, strict=True))
        )

    def windowed(
        self, shape: Shape, axes: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...]
    ) -> View:
        """Sliding windows along `axes`, whose elements get axes of their own at the end of `shape`."""
        outer, inner = list(self.strides), [self.strides[axis] for axis in axes]
        for axis, stride in zip(axes, strides, strict=True):
            outer[axis] = outer[axis] * stride
        inner = [s * d for s, d in zip(inner, dilations, strict=True)]
        return replace(self, shape=shape, strides=(*outer, *inner))

    def broadcast(self, shape: Shape) -> View:
        lead = len(shape) - len(self.shape)
        strides: list[Dim] = [0] * lead
        for old, new, stride in zip(self.shape, shape[lead:], self.strides, strict=True):
            strides.append(stride if old == new else 0)
        return replace(self, shape=shape, strides=tuple(strides))

    def reshaped(self, shape: Shape) -> View | None:
        """The same elements under another shape, or None when that needs a copy.

        Axes are grouped so that each group of old axes has as many elements as its group of new ones; the
        old axes of a group must follow each other without gaps.
        """
        if shape == self.shape:
            return self
        if 0 in self.shape:
            return replace(self, shape=shape, strides=contiguous(shape))  # no elements, nowhere to be
        old = [(d, s) for d, s in zip(self.shape, self.strides, strict=True) if d != 1]
        strides: list[Dim] = []
        i, j = 0, 0
        while j < len(shape):
            if shape[j] == 1:
                strides.append(0)
                j += 1
                continue
            if i == len(old):
                return None
            first, size, wanted, start = i, old[i][0], shape[j], j
            i, j = i + 1, j + 1
            while size != wanted:
                if i < len(old) and divide_exactly(wanted, size) is not None:
                    size, i = size * old[i][0], i + 1
                elif j < len(shape) and divide_exactly(size, wanted) is not None:
                    wanted, j = wanted * shape[j], j + 1
                else:
                    return None
            group = old[first:i]
            for (_, outer), (inner_size, inner) in pairwise(group):
                if outer != inner * inner_size:
                    return None
            inside = contiguous(shape[start:j])
            strides.extend(s * group[-1][1] for s in inside)
        return replace(self, shape=shape, strides=tuple(strides)) if i == len(old) else None

    def rows(self) -> tuple[Dim, Dim] | None:
        """(number of rows, distance between rows) if all but the last axis merge into one; None otherwise.

        The last axis must be contiguous.
        """
        if not self.shape:
            return None
        if self.shape[-1] != 1 and self.strides[-1] != 1:
            return None
        merged = self.reshaped((product(self.shape[:-1]), self.shape[-1]))
        if merged is None:
            return None
        count = merged.shape[0]
        return count, self.shape[-1] if count == 1 else merged.strides[0]


def contiguous(shape: Shape) -> Shape:
    """The strides of row order."""
    strides: list[Dim] = []
    step: Dim = 1
    for dim in reversed(shape):
        strides.append(step)
        step = step * dim
    return tuple(reversed(strides))


def whole(buffer: Buffer, shape: Shape) -> View:
    """All of `buffer`, in row order."""
    return View(buffer, 0, shape, contiguous(shape))
