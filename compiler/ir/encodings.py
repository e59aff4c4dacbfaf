"""How weights are stored: the layouts that kernels read, and numbers in fewer bits; see also `sparse`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from isthmus.ir.small_floats import from_codes, to_codes
from isthmus.ir.sparse import NM, Blocks, GroupPanels, MaskedPanels
from isthmus.ir.types import Array, DType, Encoding


@dataclass(frozen=True, slots=True)
class Panels:
    """A matrix [K, N] cut into column panels: stored [ceil(N/width)][K][width], zero padded.

    The layout a GEMM kernel reads: one panel is streamed from its first to its last byte.
    """

    width: int

    def __str__(self) -> str:
        return f"panels({self.width})"

    def nbytes(self, shape: tuple[int, ...], dtype: DType) -> int:
        rows, columns = shape
        return -(-columns // self.width) * self.width * rows * dtype.bytes

    def encode(self, plain: Array) -> Array:
        rows, columns = plain.shape
        count = -(-columns // self.width)
        padded = np.zeros((rows, count * self.width), plain.dtype)
        padded[:, :columns] = plain
        return np.ascontiguousarray(padded.reshape(rows, count, self.width).transpose(1, 0, 2))

    def decode(self, stored: Array, shape: tuple[int, ...]) -> Array:
        rows, columns = shape
        count = -(-columns // self.width)
        wide = stored.reshape(count, rows, self.width).transpose(1, 0, 2).reshape(rows, count * self.width)
        return np.ascontiguousarray(wide[:, :columns])


@dataclass(frozen=True, slots=True)
class Interleaved:
    """A matrix [K, N] in column panels whose words hold `group` neighbours of K: stored
    [ceil(N/width)][ceil(K/group)][width][group], zero padded.

    What instructions for narrow products read, tiles included: line by line a word (4 bytes) a column.
    """

    width: int
    group: int

    def __str__(self) -> str:
        return f"interleaved({self.width},{self.group})"

    def nbytes(self, shape: tuple[int, ...], dtype: DType) -> int:
        rows, columns = shape
        whole = -(-rows // self.group) * self.group
        return -(-columns // self.width) * self.width * whole * dtype.bytes

    def encode(self, plain: Array) -> Array:
        rows, columns = plain.shape
        padded = np.pad(plain, ((0, -rows % self.group), (0, -columns % self.width)))
        words, panels = padded.shape[0] // self.group, padded.shape[1] // self.width
        cut = padded.reshape(words, self.group, panels, self.width)
        return np.ascontiguousarray(cut.transpose(2, 0, 3, 1))

    def decode(self, stored: Array, shape: tuple[int, ...]) -> Array:
        rows, columns = shape
        words, panels = -(-rows // self.group), -(-columns // self.width)
        cut = stored.reshape(panels, words, self.width, self.group).transpose(1, 3, 0, 2)
        return np.ascontiguousarray(cut.reshape(words * self.group, panels * self.width)[:rows, :columns])


@dataclass(frozen=True, slots=True)
class Nibbles:
    """`interleaved(width,8)` of integers of 4 bits, two to a byte: a word of 4 bytes holds 8 neighbours of a
    column, the first four in the low bits of its bytes, the others in the high bits. Either half becomes a
    word of `interleaved(width,4)` by a mask."""

    width: int

    def __str__(self) -> str:
        return f"nibbles({self.width})"

    def nbytes(self, shape: tuple[int, ...], dtype: DType) -> int:
        return Interleaved(self.width, 8).nbytes(shape, dtype) // 2

    def encode(self, plain: Array) -> Array:
        cut = Interleaved(self.width, 8).encode(plain).view(np.uint8) & np.uint8(15)
        return np.ascontiguousarray(cut[..., :4] | cut[..., 4:] << np.uint8(4)).view(plain.dtype)

    def decode(self, stored: Array, shape: tuple[int, ...]) -> Array:
        rows, columns = shape
        packed = stored.reshape(-(-columns // self.width), -(-rows // 8), self.width, 4).view(np.uint8)
        nibbles = np.concatenate([packed & np.uint8(15), packed >> np.uint8(4)], -1)
        if stored.dtype.kind == "i":
            # The highest bit counts negative.
            nibbles = (nibbles ^ np.uint8(8)) - np.uint8(8)
        return Interleaved(self.width, 8).decode(nibbles.view(stored.dtype), shape)


@dataclass(frozen=True, slots=True)
class Padded:
    """A vector [N] padded with zeros to a multiple of `multiple`, so that kernels may read whole panels."""

    multiple: int

    def __str__(self) -> str:
        return f"padded({self.multiple})"

    def nbytes(self, shape: tuple[int, ...], dtype: DType) -> int:
        (length,) = shape
        return -(-length // self.multiple) * self.multiple * dtype.bytes

    def encode(self, plain: Array) -> Array:
        return np.pad(plain, (0, -len(plain) % self.multiple))

    def decode(self, stored: Array, shape: tuple[int, ...]) -> Array:
        return stored.reshape(-1)[: shape[0]]


@dataclass(frozen=True, slots=True)
class Packed:
    """Integers of `bits` (4 or 2) in the low bits of bytes, stored several to a byte in row order, the first
    in the lowest bits; the last byte is filled up with zeros."""

    bits: int

    def __str__(self) -> str:
        return f"packed({self.bits})"

    def nbytes(self, shape: tuple[int, ...], dtype: DType) -> int:
        return -(-math.prod(shape) * self.bits // 8)

    def encode(self, plain: Array) -> Array:
        each = 8 // self.bits
        flat = plain.reshape(-1).view(np.uint8) & np.uint8((1 << self.bits) - 1)
        lanes = np.pad(flat, (0, -len(flat) % each)).reshape(-1, each)
        shifted = lanes << np.arange(0, 8, self.bits, dtype=np.uint8)
        return np.asarray(np.bitwise_or.reduce(shifted, 1)).view(plain.dtype)

    def decode(self, stored: Array, shape: tuple[int, ...]) -> Array:
        shifts = np.arange(0, 8, self.bits, dtype=np.uint8)
        lanes = stored.reshape(-1, 1).view(np.uint8) >> shifts & np.uint8((1 << self.bits) - 1)
        numbers = lanes.reshape(-1)[: math.prod(shape)]
        if stored.dtype.kind == "i":
            # The highest bit counts negative.
            high = np.uint8(1 << self.bits - 1)
            numbers = (numbers ^ high) - high
        return np.ascontiguousarray(numbers).view(stored.dtype).reshape(shape)


@dataclass(frozen=True, slots=True)
class SmallFloats:
    """Floats of 4 bits (E2M1), which are i8 as `ir.small_floats` has them: their codes as `packed(4)` has
    integers; with a `width` as `nibbles(width)` has them."""

    width: int = 0

    def __str__(self) -> str:
        return f"e2m1({self.width})" if self.width else "e2m1"

    @property
    def codes(self) -> Encoding:
        """How the codes are stored."""
        return Nibbles(self.width) if self.width else Packed(4)

    def nbytes(self, shape: tuple[int, ...], dtype: DType) -> int:
        return self.codes.nbytes(shape, dtype)

    def encode(self, plain: Array) -> Array:
        return self.codes.encode(to_codes(plain))

    def decode(self, stored: Array, shape: tuple[int, ...]) -> Array:
        return from_codes(self.codes.decode(stored, shape))


@dataclass(frozen=True, slots=True)
class Halves:
    """Numbers of f32 stored as f16, which holds each of them exactly: scales that were rounded to it."""

    def __str__(self) -> str:
        return "halves"

    def nbytes(self, shape: tuple[int, ...], dtype: DType) -> int:
        return math.prod(shape) * 2

    def encode(self, plain: Array) -> Array:
        return plain.astype(np.float16)

    def decode(self, stored: Array, shape: tuple[int, ...]) -> Array:
        return stored.astype(np.float32).reshape(shape)


@dataclass(frozen=True, slots=True)
class Powers:
    """Numbers of f32 that are powers of two, stored by their exponents alone: f8e8m0."""

    def __str__(self) -> str:
        return "powers"

    def nbytes(self, shape: tuple[int, ...], dtype: DType) -> int:
        return math.prod(shape)

    def encode(self, plain: Array) -> Array:
        return plain.astype(DType.F8E8M0.numpy)

    def decode(self, stored: Array, shape: tuple[int, ...]) -> Array:
        return stored.view(DType.F8E8M0.numpy).astype(np.float32).reshape(shape)


def _blocks(outputs: str, inputs: str, window: str, pairs: str, masks: str | None) -> Blocks:
    return Blocks(int(outputs), int(inputs), int(window), int(pairs), masks is not None)


_SIZE, _COUNT = r"([1-9]\d{0,8})", r"(0|[1-9]\d{0,8})"
# How each encoding is read back from its text. A new encoding is one class and one line here.
ENCODINGS: Mapping[str, Callable[..., Encoding]] = {
    r"panels\(([1-9]\d{0,8})\)": lambda width: Panels(int(width)),
    r"interleaved\(([1-9]\d{0,8}),([1-9]\d{0,3})\)": lambda width, group: Interleaved(int(width), int(group)),
    r"nibbles\(([1-9]\d{0,8})\)": lambda width: Nibbles(int(width)),
    r"padded\(([1-9]\d{0,8})\)": lambda multiple: Padded(int(multiple)),
    r"packed\(([24])\)": lambda bits: Packed(int(bits)),
    r"e2m1": lambda: SmallFloats(),
    r"e2m1\(([1-9]\d{0,8})\)": lambda width: SmallFloats(int(width)),
    r"halves": lambda: Halves(),
    r"powers": lambda: Powers(),
    rf"csr\({_SIZE},{_COUNT}(,masks)?\)": lambda *sizes: _blocks("1", "1", *sizes),
    rf"block\({_SIZE}x{_SIZE},{_SIZE},{_COUNT}(,masks)?\)": lambda *sizes: _blocks(*sizes),
    rf"nm\({_SIZE}:{_SIZE}\)": lambda kept, group: NM(int(kept), int(group)),
    rf"nm\({_SIZE}:{_SIZE},{_SIZE}\)": lambda *sizes: GroupPanels(*map(int, sizes)),
    rf"nm\(2:4,{_SIZE},{_SIZE}\)": lambda width, lanes: MaskedPanels(int(width), int(lanes)),
}


def parse_encoding(text: str) -> Encoding:
    """Read an encoding as printed. Raises ValueError."""
    for pattern, make in ENCODINGS.items():
        if found := re.fullmatch(pattern, text):
            return make(*found.groups())
    raise ValueError(f"not an encoding: {text!r}")
