"""Encodings of matrices with zeros: what is stored are the blocks that hold anything else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from isthmus.ir.types import Array, DType

# Places of blocks are stored in 16 bits, two to a word; one more than there are is the place of padding.
MOST_PLACES = 0xFFFF
WORD = 4
# Words of zeros behind the last value: vectors of values may be read from wherever one begins.
SPARE = 16
# Places of a mask, and lists whose masks lie together.
MASK, TOGETHER = 16, 4
# Rows of which half are stored by a byte of bits; and how many of how many consecutive ones these may be.
PART_ROWS = 8
HALVED = ((2, 4), (4, 8))


@dataclass(frozen=True, slots=True)
class Blocks:
    """A matrix [K, N] as the blocks of `outputs` columns by `inputs` rows that are not all zero.

    K is cut into windows of `window` rows, N into groups of `outputs` columns; each group has a list of
    blocks in each window. Stored as words of 32 bits: first where each list begins, window after window, and
    where the last ends, in pairs. Then the lists, each in the order of K, its blocks two and two: of all
    lists first a word for each pair with both places (rows from the window's beginning / inputs; the first in
    the lower half), then the values of all blocks, input by input, and `SPARE` words of zeros. A list with an
    odd number of blocks ends with one of zeros at the place window / inputs, which is beyond the window.
    Columns and rows that are lacking to whole blocks are zero. `pairs` is how many pairs all lists have, so
    that the type alone tells the size.

    Of elements narrower than a word, as many neighbouring inputs as fill one lie together, and `inputs` is
    whole words of them: 1 x 4 bytes are the word that is multiplied at once. The words of lists and places
    are then little-endian, whatever the chip: what swaps the bytes of elements does not see them.

    `masked`: behind where lists begin, there are masks that say the same as the places. A list has one for
    every `MASK` places of its window, with a bit for each block, the first in the lowest. Those of `TOGETHER`
    lists lie together: [window][lists / TOGETHER][places / MASK][TOGETHER], two in a word like places; of
    lists and places that are lacking to whole ones they are zero.
    """

    outputs: int
    inputs: int
    window: int
    pairs: int
    masked: bool = False

    def __str__(self) -> str:
        tail = ",masks)" if self.masked else ")"
        if self.outputs == self.inputs == 1:
            return f"csr({self.window},{self.pairs}{tail}"
        return f"block({self.outputs}x{self.inputs},{self.window},{self.pairs}{tail}"

    def value_words(self, group: int = 1) -> int:
        """Words of the values of all blocks, of elements of which `group` fill a word."""
        return 2 * self.pairs * (self.outputs * self.inputs // group)

    def lists(self, depth: int, columns: int) -> int:
        """How many lists there are."""
        return -(-depth // self.window) * -(-columns // self.outputs)

    def runs(self) -> int:
        """How many masks a list has."""
        return -(-self.window // (self.inputs * MASK))

    def mask_words(self, depth: int, columns: int) -> int:
        """Words of all masks."""
        together = -(-columns // (self.outputs * TOGETHER))
        return -(-depth // self.window) * together * self.runs() * TOGETHER // 2 if self.masked else 0

    def nbytes(self, shape: tuple[int, ...], dtype: DType) -> int:
        if not self._holds(dtype.bytes):
            raise ValueError(f"{self} stores elements of 32 bits, or words of narrower ones, not {dtype}")
        words = self.lists(*shape) + 1 + self.mask_words(*shape)
        return WORD * (words + self.pairs + self.value_words(WORD // dtype.bytes) + SPARE)

    def _holds(self, itemsize: int) -> bool:
        """Whether blocks of elements of so many bytes are whole words."""
        return itemsize <= WORD and self.inputs * itemsize % WORD == 0

    def encode(self, plain: Array) -> Array:
        tiles = self.tiled(plain)
        lists, places = tiles.shape[:2]
        if not self._holds(plain.dtype.itemsize) or places > MOST_PLACES:
            raise ValueError(f"{self} cannot store {plain.dtype}{list(plain.shape)}")
        which, place = np.nonzero(tiles.any(axis=(2, 3)))
        counts = np.bincount(which, minlength=lists)
        pairs = (counts + 1) // 2
        if int(pairs.sum()) != self.pairs:
            raise ValueError(f"{self}: the matrix has {int(pairs.sum())} pairs of blocks")
        first = np.concatenate([[0], np.cumsum(pairs)])
        slots = 2 * first[which] + np.arange(len(which)) - np.concatenate([[0], np.cumsum(counts)])[which]
        numbers = np.full(2 * self.pairs, places, np.uint32)
        numbers[slots] = place
        group, order = _words_of(plain.dtype)
        values = np.zeros((2 * self.pairs, self.outputs * self.inputs), plain.dtype)
        together = (
            tiles[which, place].reshape(len(which), self.inputs // group, group, self.outputs).swapaxes(2, 3)
        )
        values[slots] = together.reshape(len(which), self.outputs * self.inputs)
        heads = [first, *([self._masks(plain.shape, which, place)] if self.masked else []), _halves(numbers)]
        words = [*(head.astype(order) for head in heads), values.reshape(-1).view(order)]
        return np.concatenate([*words, np.zeros(SPARE, order)]).view(plain.dtype)

    def _masks(self, shape: tuple[int, ...], which: Array, place: Array) -> Array:
        """The words of masks, of blocks at `place` of list `which`."""
        depth, columns = shape
        windows, groups = -(-depth // self.window), -(-columns // self.outputs)
        bits = np.zeros((windows, -(-groups // TOGETHER), self.runs(), TOGETHER, MASK), np.uint32)
        window, group = which // groups, which % groups
        bits[window, group // TOGETHER, place // MASK, group % TOGETHER, place % MASK] = 1
        return _halves((bits << np.arange(MASK, dtype=np.uint32)).sum(axis=-1, dtype=np.uint32).reshape(-1))

    def decode(self, stored: Array, shape: tuple[int, ...]) -> Array:
        depth, columns = shape
        lists, places = self.lists(depth, columns), self.window // self.inputs
        group, order = _words_of(stored.dtype)
        words = stored.reshape(-1).view(order)
        ends = words[: lists + 1].astype(np.int64)
        counts = ends[1:] - ends[:-1]
        which = np.repeat(np.arange(lists), 2 * counts)
        behind = lists + 1 + self.mask_words(depth, columns)
        both, values = np.split(words[behind : len(words) - SPARE], [self.pairs])
        numbers = np.stack([both & np.uint32(0xFFFF), both >> np.uint32(16)], 1).reshape(-1)
        tiles = np.zeros((lists, places + 1, self.inputs, self.outputs), stored.dtype)
        together = values.view(stored.dtype).reshape(-1, self.inputs // group, self.outputs, group)
        together = together.swapaxes(2, 3)
        tiles[which, numbers] = together.reshape(-1, self.inputs, self.outputs)
        windows, groups = -(-depth // self.window), -(-columns // self.outputs)
        whole = tiles[:, :places].reshape(windows, groups, places, self.inputs, self.outputs)
        flat = whole.transpose(0, 2, 3, 1, 4).reshape(windows * self.window, groups * self.outputs)
        return np.ascontiguousarray(flat[:depth, :columns])

    def tiled(self, plain: Array) -> Array:
        """The matrix [K, N] as [list, place, inputs, outputs], zero where blocks go beyond it."""
        depth, columns = plain.shape
        whole = np.pad(plain, ((0, -depth % self.window), (0, -columns % self.outputs)))
        windows, groups = whole.shape[0] // self.window, whole.shape[1] // self.outputs
        tiles = whole.reshape(windows, -1, self.inputs, groups, self.outputs).transpose(0, 3, 1, 2, 4)
        return np.ascontiguousarray(tiles).reshape(windows * groups, -1, self.inputs, self.outputs)

    @classmethod
    def of(cls, plain: Array, window: int, outputs: int = 1, inputs: int = 1, masked: bool = False) -> Blocks:
        """The encoding of `plain`, a matrix [K, N], in blocks of this shape; `window` is whole blocks."""
        empty = cls(outputs, inputs, window, 0)
        counts = empty.tiled(plain).any(axis=(2, 3)).sum(axis=1)
        return cls(outputs, inputs, window, int(((counts + 1) // 2).sum()), masked)


@dataclass(frozen=True, slots=True)
class NM:
    """A matrix [K, N] of which every `group` consecutive rows hold at most `kept` numbers in each column.

    Stored as [kept * ceil(K / group)] rows of values, then their places within the group, the fewest bits
    each that hold them, one after the other from the lowest bits of words of 32 bits, column by column of
    each row of values. Numbers that are lacking are zeros at place 0.
    """

    kept: int
    group: int

    def __str__(self) -> str:
        return f"nm({self.kept}:{self.group})"

    @property
    def bits(self) -> int:
        """Bits of a place."""
        return max(1, (self.group - 1).bit_length())

    def nbytes(self, shape: tuple[int, ...], dtype: DType) -> int:
        count = self._rows(shape[0]) * shape[1]
        return -(-count * dtype.bytes // WORD) * WORD + -(-count * self.bits // 32) * WORD

    def _rows(self, depth: int) -> int:
        return -(-depth // self.group) * self.kept

    def encode(self, plain: Array) -> Array:
        depth, columns = plain.shape
        whole = np.pad(plain, ((0, -depth % self.group), (0, 0))).reshape(-1, self.group, columns)
        if int((whole != 0).sum(axis=1).max(initial=0)) > self.kept:
            raise ValueError(f"{self}: a group has more than {self.kept} numbers")
        order = np.argsort(whole == 0, axis=1, kind="stable")[:, : self.kept]
        values = np.ascontiguousarray(np.take_along_axis(whole, order, 1))
        places = np.where(values == 0, 0, order).astype(np.uint8).reshape(-1)
        spread = places[:, None] >> np.arange(self.bits, dtype=np.uint8) & np.uint8(1)
        packed = np.packbits(spread.reshape(-1), bitorder="little")
        return np.concatenate([_words(values.reshape(-1).view(np.uint8)), _words(packed)]).view(plain.dtype)

    def decode(self, stored: Array, shape: tuple[int, ...]) -> Array:
        depth, columns = shape
        rows = self._rows(depth)
        raw = stored.reshape(-1).view(np.uint8)
        used = rows * columns * stored.dtype.itemsize
        values = raw[:used].view(stored.dtype).reshape(-1, self.kept, columns)
        bits = np.unpackbits(raw[-(-used // WORD) * WORD :], bitorder="little")[: rows * columns * self.bits]
        weights = (1 << np.arange(self.bits)).astype(np.int64)
        places = (bits.reshape(-1, self.bits) @ weights).reshape(values.shape)
        whole = np.zeros((values.shape[0], self.group, columns), stored.dtype)
        # A lacking number must not overwrite the one that is at place 0.
        block, slot, column = np.nonzero(values)
        whole[block, places[block, slot, column], column] = values[block, slot, column]
        return np.ascontiguousarray(whole.reshape(-1, columns)[:depth])


@dataclass(frozen=True, slots=True)
class MaskedPanels:
    """A matrix [K, N] of bytes of which every 4 consecutive rows hold at most 2 numbers in each column.

    As `interleaved(width,4)`, but of `lanes` columns and four rows only a mask is stored, a bit for each of
    the 4 * `lanes` bytes from the lowest of its first byte on, and the bytes that have a one there, in
    order. Of every four these are exactly two: of zeros, the first that are needed for that. So all masks
    have half of their bits, and places do not depend on them. lanes divide the width.
    """

    width: int
    lanes: int

    def __str__(self) -> str:
        return f"nm(2:4,{self.width},{self.lanes})"

    @property
    def vector_bytes(self) -> int:
        """What is stored of `lanes` columns of four rows: the mask and half of the bytes."""
        return self.lanes * WORD // 8 + self.lanes * WORD // 2

    def vectors(self, shape: tuple[int, ...]) -> int:
        """How many of these there are."""
        depth, columns = shape
        return -(-columns // self.width) * -(-depth // WORD) * (self.width // self.lanes)

    def nbytes(self, shape: tuple[int, ...], dtype: DType) -> int:
        if dtype.bytes != 1:
            raise ValueError(f"{self} stores bytes, not {dtype}")
        return self.vectors(shape) * self.vector_bytes

    def encode(self, plain: Array) -> Array:
        depth, columns = plain.shape
        padded = np.pad(plain, ((0, -depth % WORD), (0, -columns % self.width)))
        cut = padded.reshape(padded.shape[0] // WORD, WORD, -1, self.width)
        words = cut.transpose(2, 0, 3, 1).reshape(-1, WORD)
        if int(np.count_nonzero(words, axis=1).max(initial=0)) > 2:
            raise ValueError(f"{self}: a group has more than 2 numbers")
        order = np.sort(np.argsort(words == 0, axis=1, kind="stable")[:, :2], axis=1)
        taken = np.zeros(words.shape, np.uint8)
        np.put_along_axis(taken, order, 1, 1)
        values = np.take_along_axis(words, order, 1).reshape(-1, self.lanes * WORD // 2)
        masks = np.packbits(taken.reshape(len(values), -1), axis=1, bitorder="little")
        return np.concatenate([masks.view(plain.dtype), values], axis=1)

    def decode(self, stored: Array, shape: tuple[int, ...]) -> Array:
        depth, columns = shape
        raw = stored.reshape(-1, self.vector_bytes)
        masks, values = np.split(raw, [self.lanes * WORD // 8], axis=1)
        taken = np.unpackbits(np.ascontiguousarray(masks).view(np.uint8), axis=1, bitorder="little")
        words = np.zeros((len(raw), self.lanes * WORD), stored.dtype)
        words[taken.astype(np.bool_)] = values.reshape(-1)
        panels, steps = -(-columns // self.width), -(-depth // WORD)
        cut = words.reshape(panels, steps, self.width, WORD).transpose(1, 3, 0, 2)
        return np.ascontiguousarray(cut.reshape(steps * WORD, panels * self.width)[:depth, :columns])


@dataclass(frozen=True, slots=True)
class GroupPanels:
    """A matrix [K, N] of which every `group` (4 or 8) consecutive rows hold at most `kept`, half of them,
    in each column.

    As panels of `width` columns, each of which is stored in parts of `PART_ROWS` rows: first a byte for each
    column, whose bits say which of the rows are there, the first in the lowest, and bytes of zero up to whole
    words; then of each column the rows that are there, in order, in words: those that fill one lie together,
    [words][width]. In every group exactly `kept` are there: of zeros, the first that are needed for that. So
    places do not depend on the bits. Bytes of bits are the lowest first in elements of the matrix's type,
    whatever the chip. Rows and columns that are lacking to whole parts and panels are zero.
    """

    kept: int
    group: int
    width: int

    def __str__(self) -> str:
        return f"nm({self.kept}:{self.group},{self.width})"

    def nbytes(self, shape: tuple[int, ...], dtype: DType) -> int:
        self._require(dtype.bytes)
        depth, columns = shape
        panels, parts = -(-columns // self.width), -(-depth // PART_ROWS)
        return panels * parts * WORD * part_words(self.width, dtype.bytes)

    def _require(self, itemsize: int) -> None:
        if (self.kept, self.group) not in HALVED or itemsize > WORD:
            raise ValueError(f"{self} stores half of 4 or of 8 rows of up to 4 bytes, not of {itemsize}")

    def encode(self, plain: Array) -> Array:
        size = plain.dtype.itemsize
        self._require(size)
        depth, columns = plain.shape
        padded = np.pad(plain, ((0, -depth % PART_ROWS), (0, -columns % self.width)))
        groups = padded.reshape(-1, self.group, padded.shape[1])
        if int(np.count_nonzero(groups, axis=1).max(initial=0)) > self.kept:
            raise ValueError(f"{self}: a group has more than {self.kept} numbers")
        order = np.sort(np.argsort(groups == 0, axis=1, kind="stable")[:, : self.kept], axis=1)
        taken = np.zeros(groups.shape, np.bool_)
        np.put_along_axis(taken, order, True, 1)
        bits = np.packbits(taken.reshape(-1, PART_ROWS, padded.shape[1]), axis=1, bitorder="little")
        heads = np.pad(self._panels(bits)[:, :, 0], ((0, 0), (0, 0), (0, -self.width % WORD)))
        values = np.take_along_axis(groups, order, 1).reshape(-1, PART_ROWS // 2, padded.shape[1])
        words = self._panels(values).reshape(*heads.shape[:2], size, WORD // size, self.width)
        tails = np.ascontiguousarray(words.swapaxes(3, 4)).reshape(*heads.shape[:2], -1).view(np.uint8)
        return np.concatenate([heads, tails], axis=2).reshape(-1).view(plain.dtype)

    def _panels(self, rows: Array) -> Array:
        """Rows of parts [parts, rows, N] as [panels, parts, rows, width]."""
        return rows.reshape(*rows.shape[:2], -1, self.width).transpose(2, 0, 1, 3)

    def decode(self, stored: Array, shape: tuple[int, ...]) -> Array:
        depth, columns = shape
        size, panels, parts = stored.dtype.itemsize, -(-columns // self.width), -(-depth // PART_ROWS)
        raw = stored.reshape(-1).view(np.uint8).reshape(panels, parts, WORD * part_words(self.width, size))
        heads, tails = np.split(raw, [WORD * -(-self.width // WORD)], axis=2)
        bits = np.unpackbits(heads[:, :, None, : self.width], axis=2, bitorder="little").astype(np.bool_)
        words = np.ascontiguousarray(tails).view(stored.dtype)
        words = words.reshape(panels, parts, size, self.width, WORD // size).swapaxes(3, 4)
        values = words.reshape(panels, parts, PART_ROWS // 2, self.width)
        # Of a column its rows are in order, so the bits have to be taken column by column.
        whole = np.zeros((panels, parts, self.width, PART_ROWS), stored.dtype)
        whole[bits.swapaxes(2, 3)] = values.swapaxes(2, 3).reshape(-1)
        flat = whole.transpose(1, 3, 0, 2).reshape(parts * PART_ROWS, panels * self.width)
        return np.ascontiguousarray(flat[:depth, :columns])


def part_words(width: int, itemsize: int) -> int:
    """Words of a part of a panel that is stored as `GroupPanels`, of elements of so many bytes."""
    return -(-width // WORD) + itemsize * width


def _words_of(dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
    """How many elements fill a word, and the type of the words of lists and places among them."""
    return WORD // dtype.itemsize, np.dtype(np.uint32 if dtype.itemsize == WORD else "<u4")


def _halves(numbers: Array) -> Array:
    """Numbers of 16 bits, two to a word, the first in the lower half."""
    both: Array = numbers[0::2] | numbers[1::2] << np.uint32(16)
    return both


def _words(raw: Array) -> Array:
    """Bytes, padded to whole words."""
    return np.pad(raw, (0, -len(raw) % WORD))
