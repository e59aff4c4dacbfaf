"""Products of bytes with bytes: exact sums of integers, and what becomes of them in f32."""

from __future__ import annotations

import numpy as np

from isthmus.ir.graph import Kind, Op, TypeMismatch
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ops.nn import ACTIVATIONS, epilogue_reference, matmul_reference
from isthmus.ops.quantize import quantize

BYTES = (DType.I8, DType.U8)
# Sums of products of bytes (less than 2^15 each) stay inside i32 up to here.
MOST_TERMS = (1 << 31) // (255 * 128)


def _integer_linear_infer(
    x: TensorType,
    w: TensorType,
    offset: TensorType,
    x_scale: TensorType,
    w_scale: TensorType,
    bias: TensorType,
    *rest: TensorType,
    activation: str,
) -> TensorType:
    if x.dtype not in BYTES or w.dtype is not DType.I8:
        raise TypeMismatch(f"integer_linear takes bytes and a matrix of i8, got {x} and {w}")
    if w.rank != 2 or x.rank < 1 or x.shape[-1] != w.shape[0]:
        raise TypeMismatch(f"integer_linear of {x} by {w}")
    columns = (w.shape[1],)
    if offset != TensorType(DType.I32, columns, offset.encoding):
        raise TypeMismatch(f"the offset must be i32 for each column of {w}, got {offset}")
    if any(v != TensorType(DType.F32, columns, v.encoding) for v in (w_scale, bias)):
        raise TypeMismatch(f"scales and bias must be f32 for each column of {w}, got {w_scale}, {bias}")
    if x_scale.dtype is not DType.F32 or x_scale.shape not in ((), (*x.shape[:-1], 1)):
        raise TypeMismatch(f"one scale in f32, or one for each row of {x}, got {x_scale}")
    if activation != "none" and activation not in ACTIVATIONS:
        raise TypeMismatch(f"no activation {activation!r}; known: none, {', '.join(ACTIVATIONS)}")
    result = TensorType(DType.F32, (*x.shape[:-1], *columns))
    if rest and rest[0] != result:
        raise TypeMismatch(f"the residual must be {result}, got {rest[0]}")
    return result


def integer_sums(x: Array, w: Array, offset: Array) -> Array:
    """x @ w + offset in i32, which wraps."""
    # Sums of products of bytes are exact in f64, and its products are fast.
    total = np.matmul(x.astype(np.float64), w.astype(np.float64)).astype(np.int64) + offset
    return np.asarray(total.astype(np.int32))


def _integer_linear_reference(
    x: Array,
    w: Array,
    offset: Array,
    x_scale: Array,
    w_scale: Array,
    bias: Array,
    *rest: Array,
    activation: str,
) -> Array:
    total = integer_sums(x, w, offset).astype(np.float32) * (x_scale * w_scale) + bias
    return epilogue_reference(total, rest, activation)


integer_linear = Op(
    "integer_linear",
    _integer_linear_infer,
    _integer_linear_reference,
    (6, 7),
    {"activation": Kind.TEXT},
    {"activation": "none"},
    doc=(
        "activation(f32(x @ w + offset) * (x_scale * w_scale) + bias [+ residual]); x [..., K] of bytes, w "
        "i8 [K, N], offset i32 [N], x_scale f32 [] or [..., 1], w_scale and bias f32 [N], residual [..., N]. "
        "Sums are exact in i32, and wrap; each step in f32 rounds once, in the order written, and no two are "
        "fused: but for activations other than relu, every chip gives the same bits. GELU may be off by 2e-4 "
        "where nothing but `quantize_rows` reads the result, at scales of rows or steps of 1/256 or more. A "
        "zero point z of x is the offset -z * (sum of w over K)."
    ),
)


def _quantize_rows_infer(x: TensorType, scale: TensorType, zero: TensorType) -> TensorType:
    if x.dtype is not DType.F32 or scale.dtype is not DType.F32 or x.rank < 1:
        raise TypeMismatch(f"quantize_rows takes rows of f32 and scales of f32, got {x} and {scale}")
    if scale.shape not in ((), (*x.shape[:-1], 1)):
        raise TypeMismatch(f"one scale, or one for each row of {x}, got {scale}")
    if zero.dtype not in BYTES or zero.shape != ():
        raise TypeMismatch(f"the zero point is one byte, got {zero}")
    return x.with_dtype(zero.dtype)


def _quantize_rows_reference(x: Array, scale: Array, zero: Array) -> Array:
    return quantize.reference(x, scale, zero, dtype=DType.of(zero.dtype), bits=0)


quantize_rows = Op(
    "quantize_rows",
    _quantize_rows_infer,
    _quantize_rows_reference,
    (3, 3),
    doc=(
        "`quantize` to bytes with one scale, or one for each row, which is what there is a kernel for; the "
        "zero point, i8 or u8 [], says which bytes."
    ),
)


# What block_linear takes as rows, as matrix, and as scales.
BLOCK_FLOATS = (DType.F32, DType.BF16, DType.F16)
BLOCK_TYPES = (DType.I8, DType.F8E4M3, DType.F8E5M2)
BLOCK_SCALES = (DType.F32, DType.F16, DType.F8E8M0)
# Rows of a matrix whose sums of bytes are worth a step in floats; larger blocks are multiples of it.
FEWEST_BYTES = 32


def is_block_size(rows: int) -> bool:
    """Whether blocks of so many rows of a matrix are a power of two of whole words, of 4 or 8 bits."""
    return rows >= 8 and rows & (rows - 1) == 0


def _block_linear_infer(
    x: TensorType, q: TensorType, scale: TensorType, bias: TensorType, *, bits: int, floats: bool
) -> TensorType:
    if x.dtype not in BLOCK_FLOATS:
        known = ", ".join(map(str, BLOCK_FLOATS))
        raise TypeMismatch(f"block_linear takes rows of {known}, got {x}")
    if q.dtype not in BLOCK_TYPES or q.rank != 2 or x.shape[-1:] != q.shape[:1]:
        known = ", ".join(map(str, BLOCK_TYPES))
        raise TypeMismatch(f"block_linear takes rows and a matrix of {known}, got {x} and {q}")
    (k, n), columns = q.static_shape, q.shape[1:]
    if scale.dtype not in BLOCK_SCALES or scale.rank != 2 or scale.shape[1:] != columns:
        known = ", ".join(map(str, BLOCK_SCALES))
        raise TypeMismatch(f"scales must be {known} for each block and column of {q}, got {scale}")
    blocks = scale.static_shape[0]
    if blocks < 1 or k % blocks or not is_block_size(k // blocks) or bits not in (4, 8):
        raise TypeMismatch(f"{blocks} blocks of {k} rows in {bits} bits")
    if (floats and bits != 4) or (q.dtype is not DType.I8 and bits != 8):
        raise TypeMismatch(f"{bits} bits of {q.dtype}{', floats' * floats}")
    if bias != TensorType(DType.F32, columns, bias.encoding):
        raise TypeMismatch(f"the bias must be f32 for each column of {q}, got {bias}")
    return TensorType(DType.F32, (*x.shape[:-1], n))


def _block_linear_reference(
    x: Array, q: Array, scale: Array, bias: Array, *, bits: int, floats: bool = False
) -> Array:
    w = q.astype(np.float32) * np.repeat(scale.astype(np.float32), q.shape[0] // scale.shape[0], 0)
    return np.asarray(matmul_reference(x, w) + bias)


block_linear = Op(
    "block_linear",
    _block_linear_infer,
    _block_linear_reference,
    (4, 4),
    {"bits": Kind.INT, "floats": Kind.BOOL},
    {"bits": 8, "floats": False},
    doc=(
        "x @ (q * scale) + bias in f32; x f32, bf16 or f16 [..., K], q i8 [K, N] that "
        "fits `bits` (4 or 8), or finite numbers of f8e4m3 or f8e5m2, scale f32, f16 or f8e8m0 [G, N], one "
        "for each K / G rows of q (a power of two from 8 on), bias f32 [N]. With `floats` q are twice what "
        "floats of 4 bits (E2M1) stand for: 0, 1, 2, 3, 4, 6, 8, 12, with either sign."
    ),
)


def _integer_block_linear_infer(
    x: TensorType,
    q: TensorType,
    scale: TensorType,
    x_scale: TensorType,
    bias: TensorType,
    *rest: TensorType,
    bits: int,
    activation: str,
) -> TensorType:
    if x.dtype is not DType.I8 or q.dtype is not DType.I8 or x.rank < 1:
        raise TypeMismatch(f"integer_block_linear takes rows and a matrix of i8, got {x} and {q}")
    result = _block_linear_infer(x.with_dtype(DType.F32), q, scale, bias, bits=bits, floats=False)
    depth, blocks = q.static_shape[0], scale.static_shape[0]
    if depth // blocks % FEWEST_BYTES or depth // blocks > MOST_TERMS:
        raise TypeMismatch(f"{blocks} blocks of {depth} rows; each has a multiple of {FEWEST_BYTES}")
    if x_scale.dtype is not DType.F32 or x_scale.shape not in ((), (*x.shape[:-1], 1)):
        raise TypeMismatch(f"one scale in f32, or one for each row of {x}, got {x_scale}")
    if activation != "none" and activation not in ACTIVATIONS:
        raise TypeMismatch(f"no activation {activation!r}; known: none, {', '.join(ACTIVATIONS)}")
    if rest and rest[0] != result:
        raise TypeMismatch(f"the residual must be {result}, got {rest[0]}")
    return result


def _integer_block_linear_reference(
    x: Array,
    q: Array,
    scale: Array,
    x_scale: Array,
    bias: Array,
    *rest: Array,
    bits: int,
    activation: str,
) -> Array:
    size = q.shape[0] // scale.shape[0]
    total = np.zeros((*x.shape[:-1], q.shape[1]), np.float32)
    for block, factors in enumerate(scale.astype(np.float32)):
        part = slice(block * size, (block + 1) * size)
        total += integer_sums(x[..., part], q[part], np.zeros(1, np.int32)).astype(np.float32) * factors
    return epilogue_reference(total * x_scale + bias, rest, activation)


integer_block_linear = Op(
    "integer_block_linear",
    _integer_block_linear_infer,
    _integer_block_linear_reference,
    (5, 6),
    {"bits": Kind.INT, "activation": Kind.TEXT},
    {"bits": 8, "activation": "none"},
    doc=(
        "activation((sum over blocks g of f32(x[.., g] @ q[g]) * scale[g]) * x_scale + bias [+ residual]); "
        "x [..., K] and q [K, N] of i8, q of numbers that fit `bits` (4 or 8), scale f32, f16 or f8e8m0 "
        "[G, N], one for each K / G rows of q (a power of two from 32 on), x_scale f32 [] or [..., 1], bias "
        "f32 [N], residual [..., N]. Sums of a block are exact in i32; blocks are added in f32 from the "
        "first to the last, to 0. Each step in f32 rounds once, in the order written, and no two are fused: "
        "but for activations other than relu, every chip gives the same bits. GELU may be off by 2e-4 where "
        "nothing but `quantize_rows` reads the result."
    ),
)

ALL = (integer_linear, quantize_rows, block_linear, integer_block_linear)
