"""Element types, encodings and tensor types."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

from isthmus.ir.dims import Dim, Shape, product, simplify, substitute
from isthmus.ir.read import NAME, Scanner, TextError, read_dim

# The element type is checked at run time, by TensorType.
Array = npt.NDArray[Any]


class DType(Enum):
    """Element types: name in text, bits, C type."""

    F32 = ("f32", 32, "float")
    F16 = ("f16", 16, "uint16_t")
    BF16 = ("bf16", 16, "uint16_t")
    F64 = ("f64", 64, "double")
    I8 = ("i8", 8, "int8_t")
    I16 = ("i16", 16, "int16_t")
    I32 = ("i32", 32, "int32_t")
    I64 = ("i64", 64, "int64_t")
    U8 = ("u8", 8, "uint8_t")
    U16 = ("u16", 16, "uint16_t")
    U32 = ("u32", 32, "uint32_t")
    U64 = ("u64", 64, "uint64_t")
    BOOL = ("bool", 8, "uint8_t")

    @property
    def bits(self) -> int:
        return self.value[1]

    @property
    def bytes(self) -> int:
        return self.value[1] // 8

    @property
    def c(self) -> str:
        return self.value[2]

    @property
    def numpy(self) -> np.dtype[np.generic]:
        return _NUMPY[self]

    @property
    def is_float(self) -> bool:
        return self in (DType.F32, DType.F16, DType.BF16, DType.F64)

    @property
    def is_integer(self) -> bool:
        return not self.is_float and self is not DType.BOOL

    def __str__(self) -> str:
        return self.value[0]

    @classmethod
    def parse(cls, text: str) -> DType:
        """The type called `text`. Raises ValueError listing the known ones."""
        for dtype in cls:
            if str(dtype) == text:
                return dtype
        raise ValueError(f"no element type {text!r}; known: {', '.join(map(str, cls))}")

    @classmethod
    def of(cls, dtype: np.dtype[np.generic]) -> DType:
        """The type of a NumPy dtype. Raises ValueError when there is none."""
        for known, candidate in _NUMPY.items():
            if candidate == dtype:
                return known
        raise ValueError(f"no element type for NumPy {dtype}")


_NUMPY: Mapping[DType, np.dtype[np.generic]] = {
    DType.F32: np.dtype(np.float32),
    DType.F16: np.dtype(np.float16),
    DType.BF16: np.dtype(ml_dtypes.bfloat16),
    DType.F64: np.dtype(np.float64),
    DType.I8: np.dtype(np.int8),
    DType.I16: np.dtype(np.int16),
    DType.I32: np.dtype(np.int32),
    DType.I64: np.dtype(np.int64),
    DType.U8: np.dtype(np.uint8),
    DType.U16: np.dtype(np.uint16),
    DType.U32: np.dtype(np.uint32),
    DType.U64: np.dtype(np.uint64),
    DType.BOOL: np.dtype(np.bool_),
}


class Encoding(Protocol):
    """How the elements of a weight are stored, when not simply one after the other in row order.

    `encode` turns the plain array into the stored one; `decode` is its inverse up to the encoding's own
    rounding. The stored array is what lies in the weights file.
    """

    def __str__(self) -> str: ...
    def nbytes(self, shape: tuple[int, ...], dtype: DType) -> int: ...
    def encode(self, plain: Array) -> Array: ...
    def decode(self, stored: Array, shape: tuple[int, ...]) -> Array: ...


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


# How each encoding is read back from its text. A new encoding is one class and one line here.
ENCODINGS: Mapping[str, Callable[[str], Encoding]] = {
    r"panels\(([1-9]\d{0,8})\)": lambda width: Panels(int(width)),
    r"padded\(([1-9]\d{0,8})\)": lambda multiple: Padded(int(multiple)),
}


def parse_encoding(text: str) -> Encoding:
    """Read an encoding as printed. Raises ValueError."""
    for pattern, make in ENCODINGS.items():
        if found := re.fullmatch(pattern, text):
            return make(*found.groups())
    raise ValueError(f"not an encoding: {text!r}")


MAX_RANK = 32


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type and shape; `encoding` is None when stored plainly in row order."""

    dtype: DType
    shape: Shape
    encoding: Encoding | None = None

    def __str__(self) -> str:
        text = f"{self.dtype}[{','.join(map(str, self.shape))}]"
        return f"{text} as {self.encoding}" if self.encoding else text

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Dim:
        """The number of elements."""
        return product(self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape when every dim is an integer. Raises ValueError otherwise."""
        if not all(isinstance(d, int) for d in self.shape):
            raise ValueError(f"{self} has symbolic dims")
        return tuple(d for d in self.shape if isinstance(d, int))

    @property
    def is_static(self) -> bool:
        return all(isinstance(d, int) for d in self.shape)

    @property
    def nbytes(self) -> Dim:
        """Bytes of storage, encoding included."""
        if self.encoding is None:
            return self.size * self.dtype.bytes
        return self.encoding.nbytes(self.static_shape, self.dtype)

    def with_shape(self, shape: Shape) -> TensorType:
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def substitute(self, known: Mapping[str, Dim]) -> TensorType:
        return TensorType(self.dtype, tuple(substitute(d, known) for d in self.shape), self.encoding)

    def simplify(self, bounds: Mapping[str, tuple[int, int | None]]) -> TensorType:
        return TensorType(self.dtype, tuple(simplify(d, bounds) for d in self.shape), self.encoding)


_ENCODING = re.compile(r"\w+(\([^()\s]{0,40}\))?", re.ASCII)


def parse_type(text: str) -> TensorType:
    """Read a type as printed, e.g. `f32[batch,seq,384]`. Raises ValueError."""
    scanner = Scanner(text)
    type_ = read_type(scanner)
    if not scanner.at_end:
        raise scanner.error("the end of the type")
    return type_


def read_type(scanner: Scanner) -> TensorType:
    """A type at the scanner's position. Raises TextError."""
    dtype = read_dtype(scanner)
    scanner.expect("[", ", a shape")
    shape: list[Dim] = []
    while not scanner.skip("]"):
        if shape:
            scanner.expect(",", " or ']'")
        shape.append(read_dim(scanner))
        if len(shape) > MAX_RANK:
            raise TextError(f"a shape has more than {MAX_RANK} dims", scanner.position)
    encoding = None
    if scanner.word("as"):
        start = scanner.position
        try:
            encoding = parse_encoding(scanner.need(_ENCODING, "an encoding"))
        except ValueError as error:
            raise TextError(str(error), start) from None
    return TensorType(dtype, tuple(shape), encoding)


def read_dtype(scanner: Scanner) -> DType:
    """An element type at the scanner's position. Raises TextError."""
    start = scanner.position
    try:
        return DType.parse(scanner.need(NAME, "an element type, such as f32"))
    except ValueError as error:
        raise TextError(str(error), start) from None
