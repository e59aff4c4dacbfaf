"""Quantized numbers: integers that stand for (q - zero_point) * scale.

Scale and zero point broadcast against the elements: `[]` for one scale, `[1,C,1]` for one per channel. Blocks
are an axis of their own: [N, K] in blocks of 32 is [N, K/32, 32] with scales [N, K/32, 1].
"""

from __future__ import annotations

import numpy as np

from isthmus.ir.graph import Kind, Op, TypeMismatch
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ops import rules

# What quantized numbers are stored in. Numbers of 4 or 2 bits lie in the low bits of 8.
STORAGE = (DType.I8, DType.U8, DType.I16, DType.U16, DType.I32)
# Floats that weights are stored in, without zero points.
SMALL_FLOATS = (DType.F8E4M3, DType.F8E5M2, DType.F8E4M3FNUZ, DType.F8E5M2FNUZ, DType.F4E2M1)


def _fits(x: TensorType, scale: TensorType, *zero_point: TensorType) -> None:
    if not scale.dtype.is_float:
        raise TypeMismatch(f"a scale is floating-point, got {scale}")
    shape = rules.broadcast_shapes(x.shape, scale.shape, *(z.shape for z in zero_point))
    if shape != x.shape:
        raise TypeMismatch(f"scales {scale} of {x}")


def limits(dtype: DType, bits: int = 0) -> tuple[int, int]:
    """The least and the greatest number of `bits` bits; 0: as many as `dtype` has."""
    signed = not str(dtype).startswith("u")
    width = bits or dtype.bits
    return (-(1 << width - 1), (1 << width - 1) - 1) if signed else (0, (1 << width) - 1)


def _quantize_infer(
    x: TensorType, scale: TensorType, *zero_point: TensorType, dtype: DType, bits: int
) -> TensorType:
    _fits(x, scale, *zero_point)
    if not x.dtype.is_float:
        raise TypeMismatch(f"quantize takes floating-point elements, got {x}")
    if dtype not in STORAGE[:4] or not 0 <= bits <= dtype.bits:
        raise TypeMismatch(f"quantize to {bits or dtype.bits} bits of {dtype}")
    if zero_point and zero_point[0].dtype is not dtype:
        raise TypeMismatch(f"a zero point {zero_point[0]} for {dtype}")
    return x.with_dtype(dtype)


def _quantize_reference(x: Array, scale: Array, *zero_point: Array, dtype: DType, bits: int) -> Array:
    whole = np.rint(x.astype(np.float32) / scale.astype(np.float32))
    if zero_point:
        whole = whole + zero_point[0].astype(np.float32)
    return np.clip(whole, *limits(dtype, bits)).astype(dtype.numpy)


quantize = Op(
    "quantize",
    _quantize_infer,
    _quantize_reference,
    (2, 3),
    {"dtype": Kind.DTYPE, "bits": Kind.INT},
    {"bits": 0},
    doc="saturate(round(x / scale) + zero_point), computed in f32; halves go to the even neighbour.",
)


def _dequantize_infer(q: TensorType, scale: TensorType, *zero_point: TensorType) -> TensorType:
    _fits(q, scale, *zero_point)
    if q.dtype not in (*STORAGE, *SMALL_FLOATS) or (zero_point and q.dtype in SMALL_FLOATS):
        raise TypeMismatch(f"dequantize takes small integers, or small floats without zero point, got {q}")
    if zero_point and zero_point[0].dtype not in (q.dtype, scale.dtype):
        raise TypeMismatch(f"a zero point {zero_point[0]} for {q}")
    return q.with_dtype(scale.dtype)


def _dequantize_reference(q: Array, scale: Array, *zero_point: Array) -> Array:
    distance = q
    if zero_point and zero_point[0].dtype.kind in "iu":
        distance = q.astype(np.int32) - zero_point[0].astype(np.int32)
    elif zero_point:
        distance = q.astype(np.float32) - zero_point[0].astype(np.float32)
    return np.asarray(distance.astype(np.float32) * scale.astype(np.float32))


dequantize = Op(
    "dequantize",
    _dequantize_infer,
    _dequantize_reference,
    (2, 3),
    doc="(q - zero_point) * scale, computed in f32. The zero point may be a fraction; q of f8 have none.",
)


def _step_reference(low: Array, high: Array) -> Array:
    return np.asarray(np.where(high == low, low.dtype.type(1), (high - low) / low.dtype.type(255)))


# An op of its own, because passes turn a division by a number into a multiplication: that is another scale in
# the last bit, and so other integers.
step = Op(
    "step",
    rules.floating,
    _step_reference,
    (2, 2),
    doc="The scale at which 8 bits reach from low to high: (high - low) / 255, and 1 where they are equal.",
)


def _row_scale_infer(x: TensorType) -> TensorType:
    if x.rank < 1 or not x.dtype.is_float:
        raise TypeMismatch(f"row_scale takes rows of floating-point elements, got {x}")
    return TensorType(DType.F32, (*x.shape[:-1], 1))


def _row_scale_reference(x: Array) -> Array:
    largest = np.max(np.abs(x.astype(np.float32)), -1, keepdims=True, initial=0)
    scale = largest / np.float32(127)
    return np.asarray(np.where(scale == 0, np.float32(1), scale))


row_scale = Op(
    "row_scale",
    _row_scale_infer,
    _row_scale_reference,
    (1, 1),
    doc=(
        "The scale at which 8 bits reach the largest |x| of each row: max |x| / 127 over the last axis, that "
        "stays with size 1, in f32; 1 where that is zero. A row with NaN has scale NaN, one with an infinity "
        "has scale infinity: what is quantized and dequantized with either is NaN throughout."
    ),
)


def _integer_matmul_infer(a: TensorType, b: TensorType) -> TensorType:
    if a.dtype not in (DType.I8, DType.U8) or b.dtype not in (DType.I8, DType.U8):
        raise TypeMismatch(f"integer_matmul takes bytes, got {a} and {b}")
    if a.rank != 2 or b.rank != 2 or a.shape[1] != b.shape[0]:
        raise TypeMismatch(f"cannot multiply {a} by {b}")
    return TensorType(DType.I32, (a.shape[0], b.shape[1]))


def _integer_matmul_reference(a: Array, b: Array) -> Array:
    return np.asarray(np.matmul(a.astype(np.int32), b.astype(np.int32)))


integer_matmul = Op(
    "integer_matmul",
    _integer_matmul_infer,
    _integer_matmul_reference,
    (2, 2),
    doc="Two matrices of bytes, [M, K] and [K, N], signed or not; sums in i32, which wrap.",
)

ALL = (quantize, dequantize, step, row_scale, integer_matmul)
