"""Ops that move elements and compute nothing, and those that make tensors out of indices."""

from __future__ import annotations

import math

import numpy as np

from isthmus.ir.dims import Dim, Shape, floordiv, product
from isthmus.ir.graph import Kind, Op, Trait, TypeMismatch
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ops import rules

MOVEMENT = frozenset({Trait.MOVEMENT})


def _reshape_infer(x: TensorType, *, shape: Shape) -> TensorType:
    rules.check_shape(shape)
    if product(shape) != x.size:
        raise TypeMismatch(f"cannot reshape {x} to [{','.join(map(str, shape))}]: the element counts differ")
    return x.with_shape(shape)


def _reshape_reference(x: Array, *, shape: tuple[int, ...]) -> Array:
    return x.reshape(shape)


reshape = Op("reshape", _reshape_infer, _reshape_reference, (1, 1), {"shape": Kind.DIMS}, traits=MOVEMENT)


def _transpose_infer(x: TensorType, *, perm: tuple[int, ...]) -> TensorType:
    if sorted(perm) != list(range(x.rank)):
        raise TypeMismatch(f"{perm} is not a permutation of the axes of {x}")
    return x.with_shape(tuple(x.shape[p] for p in perm))


def _transpose_reference(x: Array, *, perm: tuple[int, ...]) -> Array:
    return x.transpose(perm)


transpose = Op(
    "transpose", _transpose_infer, _transpose_reference, (1, 1), {"perm": Kind.INTS}, traits=MOVEMENT
)


def _broadcast_infer(x: TensorType, *, shape: Shape) -> TensorType:
    rules.check_shape(shape)
    if rules.broadcast_shapes(x.shape, shape) != shape:
        raise TypeMismatch(f"{x} does not broadcast to [{','.join(map(str, shape))}]")
    return x.with_shape(shape)


def _broadcast_reference(x: Array, *, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(x, shape)


broadcast = Op(
    "broadcast", _broadcast_infer, _broadcast_reference, (1, 1), {"shape": Kind.DIMS}, traits=MOVEMENT
)


def _slice_infer(x: TensorType, *, starts: Shape, sizes: Shape, steps: tuple[int, ...]) -> TensorType:
    if not len(starts) == len(sizes) == len(steps) == x.rank:
        raise TypeMismatch(f"slice of {x} needs one start, size and step for each axis")
    if 0 in steps:
        raise TypeMismatch("a step may not be 0")
    rules.check_shape(sizes)
    for axis, (start, size, step) in enumerate(zip(starts, sizes, steps, strict=True)):
        length = x.shape[axis]
        if not (isinstance(start, int) and isinstance(size, int) and isinstance(length, int)) or size == 0:
            continue
        last = start + (size - 1) * step
        if not (0 <= start < length and 0 <= last < length):
            raise TypeMismatch(f"slice takes {start}..{last} of axis {axis} of {x}")
    return x.with_shape(sizes)


def _slice_reference(
    x: Array, *, starts: tuple[int, ...], sizes: tuple[int, ...], steps: tuple[int, ...]
) -> Array:
    for axis, (start, size, step) in enumerate(zip(starts, sizes, steps, strict=True)):
        x = np.take(x, start + step * np.arange(max(size, 0)), axis)
    return x


slice_ = Op(
    "slice",
    _slice_infer,
    _slice_reference,
    (1, 1),
    {"starts": Kind.DIMS, "sizes": Kind.DIMS, "steps": Kind.INTS},
    traits=MOVEMENT,
    doc="Element i along an axis is element start + i * step of the argument; all of them lie inside.",
)


def _windows_infer(
    x: TensorType,
    *,
    axes: tuple[int, ...],
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> TensorType:
    if not len(axes) == len(sizes) == len(strides) == len(dilations):
        raise TypeMismatch("windows need one size, stride and dilation for each axis")
    if len(set(axes)) != len(axes):
        raise TypeMismatch(f"windows along axes {axes}, which names one axis twice")
    for axis in axes:
        rules.check_axis(axis, x.rank)
    if any(n < 1 for n in (*sizes, *strides, *dilations)):
        raise TypeMismatch("sizes, strides and dilations of windows are at least 1")
    shape = list(x.shape)
    for axis, size, stride, dilation in zip(axes, sizes, strides, dilations, strict=True):
        shape[axis] = window_count(x.shape[axis], size, stride, dilation)
    result = (*shape, *sizes)
    rules.check_shape(result)
    return x.with_shape(result)


def window_count(length: Dim, size: int, stride: int, dilation: int) -> Dim:
    """How many windows of `size` elements, `dilation` apart, lie on `length` elements, one every `stride`."""
    return floordiv(length - (size - 1) * dilation - 1, stride) + 1


def _windows_reference(
    x: Array,
    *,
    axes: tuple[int, ...],
    sizes: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> Array:
    spans = tuple((size - 1) * dilation + 1 for size, dilation in zip(sizes, dilations, strict=True))
    if any(x.shape[axis] < span for axis, span in zip(axes, spans, strict=True)):
        counts = [
            window_count(x.shape[a], *rest) for a, *rest in zip(axes, sizes, strides, dilations, strict=True)
        ]
        shape = [counts[axes.index(i)] if i in axes else n for i, n in enumerate(x.shape)]
        return np.empty((*shape, *sizes), x.dtype)  # type: ignore[arg-type]
    every = np.lib.stride_tricks.sliding_window_view(x, spans, axes)
    outer = tuple(slice(None, None, strides[axes.index(i)] if i in axes else 1) for i in range(x.ndim))
    return np.asarray(every[(*outer, *(slice(None, None, d) for d in dilations))])


windows = Op(
    "windows",
    _windows_infer,
    _windows_reference,
    (1, 1),
    {"axes": Kind.INTS, "sizes": Kind.INTS, "strides": Kind.INTS, "dilations": Kind.INTS},
    traits=MOVEMENT,
    doc=(
        "Sliding windows along some axes. Each of these axes becomes the number of windows, and one axis for "
        "each is added at the end: element [.., o, .., k] is element o * stride + k * dilation of x."
    ),
)


def _concat_infer(*types: TensorType, axis: int) -> TensorType:
    rules.check_axis(axis, types[0].rank)
    rules.same_dtype(*types)
    total: Dim = 0
    for t in types:
        if t.rank != types[0].rank or any(
            a != b for i, (a, b) in enumerate(zip(t.shape, types[0].shape, strict=True)) if i != axis
        ):
            raise TypeMismatch(f"cannot concatenate {', '.join(map(str, types))} along axis {axis}")
        total = total + t.shape[axis]
    return types[0].with_shape((*types[0].shape[:axis], total, *types[0].shape[axis + 1 :]))


def _concat_reference(*arrays: Array, axis: int) -> Array:
    return np.concatenate(arrays, axis)


MANY = 1 << 20
concat = Op("concat", _concat_infer, _concat_reference, (1, MANY), {"axis": Kind.INT}, traits=MOVEMENT)


def _pad_infer(x: TensorType, *, before: Shape, after: Shape, value: float) -> TensorType:
    if not len(before) == len(after) == x.rank:
        raise TypeMismatch(f"pad of {x} needs two amounts for each axis")
    rules.check_shape((*before, *after))
    return x.with_shape(tuple(b + d + a for b, d, a in zip(before, x.shape, after, strict=True)))


def _pad_reference(x: Array, *, before: tuple[int, ...], after: tuple[int, ...], value: float) -> Array:
    widths = list(zip(before, after, strict=True))
    return np.pad(x, widths, constant_values=np.asarray(value).astype(x.dtype)) if x.ndim else x


pad = Op(
    "pad",
    _pad_infer,
    _pad_reference,
    (1, 1),
    {"before": Kind.DIMS, "after": Kind.DIMS, "value": Kind.FLOAT},
    traits=MOVEMENT,
    doc="Grow each axis by constant elements; amounts are not negative.",
)


def _full_infer(*, shape: Shape, value: float, dtype: DType) -> TensorType:
    rules.check_shape(shape)
    if not dtype.is_float and not _fits(value, dtype):
        raise TypeMismatch(f"{value} is not a value of {dtype}")
    return TensorType(dtype, shape)


def _fits(value: float, dtype: DType) -> bool:
    """Whether an integer or bool can hold `value`."""
    if not math.isfinite(value) or value != int(value):
        return False
    if dtype is DType.BOOL:
        return value in (0, 1)
    limits = np.iinfo(dtype.numpy.name)
    return int(limits.min) <= int(value) <= int(limits.max)


def _full_reference(*, shape: tuple[int, ...], value: float, dtype: DType) -> Array:
    return np.full(shape, value, dtype.numpy)


full = Op(
    "full",
    _full_infer,
    _full_reference,
    (0, 0),
    {"shape": Kind.DIMS, "value": Kind.FLOAT, "dtype": Kind.DTYPE},
    traits=MOVEMENT,
    doc="All elements equal; the value must be exact in f64.",
)


def _iota_infer(*, shape: Shape, axis: int, dtype: DType) -> TensorType:
    rules.check_axis(axis, len(shape))
    rules.check_shape(shape)
    if dtype is DType.BOOL:
        raise TypeMismatch("iota makes numbers")
    return TensorType(dtype, shape)


def _iota_reference(*, shape: tuple[int, ...], axis: int, dtype: DType) -> Array:
    line = np.arange(shape[axis]).astype(dtype.numpy)
    return np.broadcast_to(line.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)


iota = Op(
    "iota",
    _iota_infer,
    _iota_reference,
    (0, 0),
    {"shape": Kind.DIMS, "axis": Kind.INT, "dtype": Kind.DTYPE},
    traits=MOVEMENT,
    doc="Each element is its index along `axis`.",
)


def _dim_value_infer(*, dim: Shape, dtype: DType) -> TensorType:
    if len(dim) != 1:
        raise TypeMismatch("dim_value takes one dim")
    if dtype is DType.BOOL:
        raise TypeMismatch("dim_value makes a number")
    return TensorType(dtype, ())


def _dim_value_reference(*, dim: tuple[int, ...], dtype: DType) -> Array:
    return np.asarray(dim[0], dtype.numpy)


dim_value = Op(
    "dim_value",
    _dim_value_infer,
    _dim_value_reference,
    (0, 0),
    {"dim": Kind.DIMS, "dtype": Kind.DTYPE},
    traits=MOVEMENT,
    doc="A dimension as a scalar, where a model computes with sizes.",
)


def _gather_infer(x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
    rules.check_axis(axis, x.rank)
    if not indices.dtype.is_integer:
        raise TypeMismatch(f"indices must be integers, got {indices}")
    return x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _gather_reference(x: Array, indices: Array, *, axis: int) -> Array:
    return np.asarray(np.take(x, indices.astype(np.int64), axis))


gather = Op(
    "gather",
    _gather_infer,
    _gather_reference,
    (2, 2),
    {"axis": Kind.INT},
    doc=(
        "Rows of the first argument picked by the second; negative indices count from the end; out of range "
        "is an error."
    ),
)


def _gather_elements_infer(x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
    rules.check_axis(axis, x.rank)
    if x.rank != indices.rank or not indices.dtype.is_integer:
        raise TypeMismatch(f"gather_elements of {x} by {indices}")
    for i, (have, want) in enumerate(zip(x.shape, indices.shape, strict=True)):
        if i != axis and isinstance(have, int) and isinstance(want, int) and want > have:
            raise TypeMismatch(f"gather_elements of {x} by {indices}: axis {i} of the indices is longer")
    return x.with_shape(indices.shape)


def _gather_elements_reference(x: Array, indices: Array, *, axis: int) -> Array:
    # Other axes of x may be longer than those of the indices.
    cut = tuple(slice(None) if i == axis else slice(n) for i, n in enumerate(indices.shape))
    wide = indices.astype(np.int64)  # the length of the axis may not fit the type of the indices
    return np.asarray(np.take_along_axis(x[cut], np.where(wide < 0, wide + x.shape[axis], wide), axis))


gather_elements = Op(
    "gather_elements", _gather_elements_infer, _gather_elements_reference, (2, 2), {"axis": Kind.INT}
)


def _gather_nd_infer(x: TensorType, indices: TensorType, *, batch_dims: int) -> TensorType:
    depth = indices.shape[-1] if indices.rank else None
    if not isinstance(depth, int) or depth < 1 or not indices.dtype.is_integer:
        raise TypeMismatch(f"gather_nd of {x} by {indices}")
    if not 0 <= batch_dims < indices.rank or batch_dims + depth > x.rank:
        raise TypeMismatch(f"gather_nd of {x} by {indices}")
    if x.shape[:batch_dims] != indices.shape[:batch_dims]:
        raise TypeMismatch(f"gather_nd of {x} by {indices}: the first {batch_dims} axes differ")
    return x.with_shape((*indices.shape[:-1], *x.shape[batch_dims + depth :]))


def _gather_nd_reference(x: Array, indices: Array, *, batch_dims: int) -> Array:
    grid = np.ogrid[tuple(slice(n) for n in indices.shape[:batch_dims])] if batch_dims else ()
    lead = tuple(g.reshape(g.shape + (1,) * (indices.ndim - 1 - batch_dims)) for g in grid)
    wide = indices.astype(np.int64)
    return np.asarray(x[(*lead, *(wide[..., i] for i in range(indices.shape[-1])))])


gather_nd = Op("gather_nd", _gather_nd_infer, _gather_nd_reference, (2, 2), {"batch_dims": Kind.INT})

ALL = (
    reshape, transpose, broadcast, slice_, concat, pad, full, iota, dim_value, gather, gather_elements,
    gather_nd, windows,
)  # fmt: skip
