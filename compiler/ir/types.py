"""Element types and tensor types, and what an encoding is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import ml_dtypes
import numpy as np
import numpy.typing as npt

from isthmus.ir.dims import Dim, Shape, product, simplify, substitute

# The element type is checked at run time, by TensorType.
Array = npt.NDArray[Any]


class DType(Enum):
    """Element types: name in text, bits, C type."""

    F32 = ("f32", 32, "float")
    F16 = ("f16", 16, "uint16_t")
    BF16 = ("bf16", 16, "uint16_t")
    F64 = ("f64", 64, "double")
    F8E4M3 = ("f8e4m3", 8, "uint8_t")
    F8E5M2 = ("f8e5m2", 8, "uint8_t")
    F8E4M3FNUZ = ("f8e4m3fnuz", 8, "uint8_t")
    F8E5M2FNUZ = ("f8e5m2fnuz", 8, "uint8_t")
    F8E8M0 = ("f8e8m0", 8, "uint8_t")
    # In the low bits of a byte.
    F4E2M1 = ("f4e2m1", 8, "uint8_t")
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
        return self in (DType.F32, DType.F64) or self.is_narrow

    @property
    def is_narrow(self) -> bool:
        """A float of less than 32 bits: values are f32, rounded to it after each op."""
        return self in (DType.F16, DType.BF16) or self.is_stored

    @property
    def is_stored(self) -> bool:
        """A float of 8 bits or 4 that numbers are only kept in: nothing computes with it but by a cast."""
        return self.value[0].startswith(("f8", "f4"))

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
    DType.F8E4M3: np.dtype(ml_dtypes.float8_e4m3fn),
    DType.F8E5M2: np.dtype(ml_dtypes.float8_e5m2),
    DType.F8E4M3FNUZ: np.dtype(ml_dtypes.float8_e4m3fnuz),
    DType.F8E5M2FNUZ: np.dtype(ml_dtypes.float8_e5m2fnuz),
    DType.F8E8M0: np.dtype(ml_dtypes.float8_e8m0fnu),
    DType.F4E2M1: np.dtype(ml_dtypes.float4_e2m1fn),
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
