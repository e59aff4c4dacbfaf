"""Products of quantized numbers, in the one form in which passes hand them on.

That is `matmul` or `linear` of `dequantize(q, scale[, zero])`, where q are bytes that are computed, and an
`integer matrix`: `dequantize(w, scales)` of a constant i8 [K, N], with a scale for each column and no zero
point.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isthmus.ir.graph import Value, constant, weight_of
from isthmus.ir.types import Array, DType
from isthmus.ops import movement
from isthmus.ops.integer import BLOCK_FLOATS, BLOCK_TYPES, BYTES, MOST_TERMS, is_block_size
from isthmus.ops.movement import concat, reshape
from isthmus.ops.pointwise import add, cast, sub
from isthmus.ops.quantize import dequantize, limits
from isthmus.passes.constants import Computed, array_of, is_constant, name_of, weight_from

# The kind of a matrix that is neither.
FLOATS = ("floats", 0)
# Ops that move the elements of one argument about, whatever they are.
MOVES = (movement.reshape, movement.transpose, movement.slice_, movement.broadcast, movement.windows)


def is_quantized(matrix: Value) -> bool:
    """Whether `matrix` is what a constant of integers or small floats stands for, in blocks or not."""
    inner = matrix.args[0] if matrix.op is movement.reshape else matrix
    return inner.op is dequantize and weight_of(inner.args[0]) is not None


def is_integer_matrix(value: Value) -> bool:
    """Whether `value` is an integer matrix as above."""
    if value.op is not dequantize or len(value.args) != 2 or value.t.rank != 2:
        return False
    w, scales = value.args
    known = weight_of(w) is not None and is_constant(scales)
    return known and w.dtype is DType.I8 and scales.dtype is DType.F32 and scales.shape == w.shape[1:]


def is_integer_rows(value: Value) -> bool:
    """Whether `value` are rows of bytes with one scale, or one for each row, that moved at most."""
    moved = False
    while value.op in MOVES:
        value, moved = value.args[0], True
    if value.op is not dequantize or value.args[0].dtype not in BYTES or is_constant(value.args[0]):
        return False
    scale, zero = value.args[1], value.args[2:]
    single = scale.t.size == 1 and all(z.t.size == 1 for z in zero)
    each = not zero and not moved and scale.shape == (*value.shape[:-1], 1)
    return scale.dtype is DType.F32 and (single or each) and all(z.dtype in BYTES for z in zero)


def is_integer_product(x: Value, w: Value) -> bool:
    """Whether x @ w is one of bytes. (A longer sum might wrap.)"""
    return is_integer_matrix(w) and is_integer_rows(x) and w.args[0].t.static_shape[0] <= MOST_TERMS


def integer_matrix(w: Value) -> Value | None:
    """The constant `w`, a dequantized matrix or its transpose, as an integer matrix; None if it is none."""
    turned = w.op is movement.transpose
    inner = w.args[0] if turned else w
    if inner.op is not dequantize or inner.t.rank != 2 or weight_of(inner.args[0]) is None:
        return None
    q, scale, *zero = inner.args
    columns = 0 if turned else 1
    if scale.dtype is not DType.F32 or not all(
        _each_column(p, inner.t.rank, columns) for p in (scale, *zero)
    ):
        return None
    narrow = matrix_of_bytes(q, zero[0] if zero else None)
    if narrow is None:
        return None
    if turned:
        narrow = weight_from(movement.transpose(narrow, perm=(1, 0)), f"{name_of(narrow)}.transposed")
    return dequantize(narrow, scales_of_columns(scale, narrow), loc=w.loc)


def _each_column(parameter: Value, rank: int, axis: int) -> bool:
    """A constant that is one number, or one for each place along `axis`."""
    shape = (*(1,) * (rank - parameter.t.rank), *parameter.shape)
    return is_constant(parameter) and all(d == 1 for i, d in enumerate(shape) if i != axis)


def matrix_of_bytes(q: Value, zero: Value | None = None) -> Value | None:
    """q - zero as a weight of i8; None where that does not fit. `q` is a constant of integers."""
    if zero is not None and not array_of(zero).any():
        zero = None
    if zero is None and q.dtype is DType.I8:
        return q
    if not q.dtype.is_integer or (zero is not None and not zero.dtype.is_integer):
        return None
    wide = cast(q, dtype=DType.I32)
    if zero is not None:
        wide = sub(wide, cast(zero, dtype=DType.I32))
    return narrowed(wide)


def narrowed(wide: Value) -> Value | None:
    """The constant expression `wide`, of integers, as a weight of i8; None where it does not fit."""
    numbers = Computed(wide).read(wide.t)
    low, high = limits(DType.I8)
    if numbers.size and not (low <= numbers.min() and numbers.max() <= high):
        return None
    return weight_from(cast(wide, dtype=DType.I8), f"{name_of(wide)}.i8")


def fits_f16(scales: Array) -> bool:
    """Whether each is a normal number of f16, or zero: what kernels read with integer instructions alone."""
    size = np.abs(scales)
    halves = np.finfo(np.float16)
    inside = (size == 0) | ((size >= float(halves.tiny)) & (size <= float(halves.max)))
    # In f16 only after that: larger numbers would overflow, with a warning.
    return bool(inside.all()) and bool((scales.astype(np.float16) == scales).all())


def fits_e8m0(scales: Array) -> bool:
    """Whether each is a power of two that is a normal number of f32."""
    mantissa, exponent = np.frexp(scales)
    return bool((mantissa == 0.5).all()) and bool(((exponent > -126) & (exponent < 129)).all())


def scales_of_columns(scale: Value, w: Value) -> Value:
    """A constant for all, or one for each column of w [K, N], as f32 [N]."""
    count = w.t.static_shape[1]
    numbers = np.broadcast_to(array_of(scale).reshape(-1), (count,))
    return constant(f"{name_of(w)}.scales", numbers)


def is_block_matrix(value: Value) -> bool:
    """Whether `value` is a constant matrix [K, N] in blocks of rows: `reshape(dequantize(w, scales))` of i8
    or small floats [G, K / G, N] and f32 [G, 1, N]."""
    if value.op is not movement.reshape or value.args[0].op is not dequantize or value.t.rank != 2:
        return False
    q, *parameters = value.args[0].args
    if len(parameters) != 1 or weight_of(q) is None or q.dtype not in BLOCK_TYPES or q.t.rank != 3:
        return False
    (scale,), (groups, size, columns) = parameters, q.t.static_shape
    fits = scale.dtype is DType.F32 and scale.shape == (groups, 1, columns) and is_constant(scale)
    return fits and is_block_size(size) and value.shape == (groups * size, columns)


def block_matrix(w: Value) -> Value | None:
    """The constant `w`, dequantized in blocks of one column, as a block matrix, in f32 where it is narrower;
    None if it is none."""
    found = _dequantized_blocks(w)
    if found is None:
        return None
    inner, turned = found
    q, scale, *zero = inner.args
    axis = 2 if turned else 1
    if weight_of(q) is None or q.t.rank != 3 or not all(_of_blocks(p, q, axis) for p in (scale, *zero)):
        return None
    size, count = q.t.static_shape[axis], q.t.static_shape[axis - 1]
    if not is_block_size(size) or w.shape[0] != size * count or count < 2:
        return None
    numbers = array_of(scale)
    narrow: Value | None = q
    if q.dtype is DType.F4E2M1:
        # Twice the numbers are integers: `ir.small_floats`.
        wide = cast(q, dtype=DType.F32)
        narrow, numbers = narrowed(add(wide, wide)), numbers / 2
    elif q.dtype not in BLOCK_TYPES[1:]:
        narrow = matrix_of_bytes(q, zero[0] if zero else None)
    if narrow is None or scale.dtype not in BLOCK_FLOATS:
        return None
    numbers = numbers.astype(np.float32)
    scales = np.broadcast_to(numbers, tuple(1 if i == axis else d for i, d in enumerate(q.t.static_shape)))
    if turned:
        narrow = weight_from(movement.transpose(narrow, perm=(1, 2, 0)), f"{name_of(narrow)}.transposed")
        scales = scales.transpose(1, 2, 0)
    inner = dequantize(narrow, constant(f"{name_of(narrow)}.scales", np.ascontiguousarray(scales)), loc=w.loc)
    return reshape(inner, shape=w.shape, loc=w.loc)


def float_blocks(w: Value) -> Value | None:
    """The constant `w`, floats of 8 bits with one scale or one for each column, or its transpose, as a block
    matrix whose blocks of a column have the same scale; None if it is none."""
    turned = w.op is movement.transpose
    inner = w.args[0] if turned else w
    if inner.op is not dequantize or inner.t.rank != 2 or inner.args[0].dtype not in BLOCK_TYPES[1:]:
        return None
    q, scale = inner.args
    if weight_of(q) is None or not _each_column(scale, 2, 0 if turned else 1):
        return None
    if scale.dtype not in BLOCK_FLOATS:
        return None
    if turned:
        q = weight_from(movement.transpose(q, perm=(1, 0)), f"{name_of(q)}.transposed")
    depth, columns = q.t.static_shape
    # The largest power of two that divides it.
    size = depth & -depth
    if not is_block_size(size):
        return None
    blocks = weight_from(reshape(q, shape=(depth // size, size, columns)), f"{name_of(q)}.blocks")
    numbers = array_of(scale).astype(np.float32).reshape(-1)
    scales = np.broadcast_to(numbers, (depth // size, 1, columns))
    whole = dequantize(blocks, constant(f"{name_of(q)}.scales", np.ascontiguousarray(scales)), loc=w.loc)
    return reshape(whole, shape=w.shape, loc=w.loc)


def _dequantized_blocks(w: Value) -> tuple[Value, bool] | None:
    """What of [G, K / G, N] the matrix `w` [K, N] is laid out from, or of [N, G, K / G] (True)."""
    if w.t.rank != 2 or not w.args:
        return None
    (inner,) = w.args[:1]
    match w.op.name, inner.op.name:
        case "reshape", "dequantize":
            return inner, False
        case "reshape", "transpose" if inner.attr("perm") == (1, 2, 0):
            found = inner.args[0]
        case "transpose", "reshape" if w.attr("perm") == (1, 0):
            found = inner.args[0]
        case _:
            return None
    return (found, True) if found.op is dequantize and found.t.rank == 3 else None


def _of_blocks(parameter: Value, q: Value, axis: int) -> bool:
    """A constant that is one number, or one for each block."""
    wanted = tuple(1 if i == axis else d for i, d in enumerate(q.shape))
    return is_constant(parameter) and parameter.shape in ((), wanted)


def kind_of(matrix: Value) -> tuple[str, int]:
    """What matrices have to have in common to be put side by side as they are: form, and size of blocks."""
    if is_block_matrix(matrix):
        q = matrix.args[0].args[0]
        return f"blocks of {q.dtype}", q.t.static_shape[1]
    return ("integers", 0) if is_integer_matrix(matrix) else FLOATS


def joined(parts: Sequence[Value]) -> Value:
    """Integer matrices, or block matrices with blocks of one size, side by side."""
    if is_block_matrix(parts[0]):
        inner = [part.args[0] for part in parts]
        sides = (concat(*(v.args[i] for v in inner), axis=2) for i in (0, 1))
        whole = dequantize(*(weight_from(v, f"{name_of(v)}.wide") for v in sides))
        return reshape(whole, shape=(parts[0].shape[0], whole.shape[2]))
    w, scales = (concat(*(p.args[i] for p in parts), axis=axis) for i, axis in ((0, 1), (1, 0)))
    return dequantize(*(weight_from(v, f"{name_of(v)}.wide") for v in (w, scales)))


def without_axes(value: Value) -> Value:
    """One number, without axes."""
    return reshape(value, shape=()) if value.shape else value
