"""Products of quantized numbers become the ops that have kernels on integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from isthmus.ir.dims import Shape
from isthmus.ir.graph import Attr, Program, Value, constant, weight_of
from isthmus.ir.rewrite import Rule, Watch, splat
from isthmus.ir.small_floats import are_numbers
from isthmus.ir.types import Array, DType
from isthmus.ops.integer import (
    BLOCK_FLOATS,
    FEWEST_BYTES,
    MOST_TERMS,
    block_linear,
    integer_block_linear,
    integer_linear,
    quantize_rows,
)
from isthmus.ops.movement import full, reshape
from isthmus.ops.nn import ACTIVATIONS, linear
from isthmus.ops.pointwise import add, cast, mul, neg
from isthmus.ops.quantize import limits, quantize
from isthmus.passes.constants import array_of, is_constant, name_of, weight_from
from isthmus.passes.integers import (
    MOVES,
    block_matrix,
    fits_e8m0,
    fits_f16,
    is_block_matrix,
    is_integer_product,
    is_integer_rows,
    without_axes,
)
from isthmus.passes.steps import mapped
from isthmus.target import Target


@dataclass(frozen=True, slots=True)
class IntegerLinear:
    """`linear(dequantize(q, s[, z]), integer matrix, ..)` becomes `integer_linear`, and `quantize` of whole
    rows before it `quantize_rows`."""

    @property
    def name(self) -> str:
        return "integer-linear"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        made: dict[Value, Value] = {}
        return program.map_graphs(lambda g: mapped(g, partial(_integer_linear, made), watch, self.name))


def _integer_linear(made: dict[Value, Value], node: Value, new: Value) -> Value | None:
    if new.op is not linear or not is_integer_product(*new.args[:2]):
        return None
    w, w_scale = new.args[1].args
    q, x_scale, zero = _rows(new.args[0])
    q = made.setdefault(q, _quantized_rows(q))
    offset = _number(0, DType.I32, w.shape[1:]) if zero is None else _offset(zero, w)
    return integer_linear(
        q, w, offset, x_scale, w_scale, *new.args[2:], loc=new.loc, activation=new.attr("activation")
    )


def _rows(x: Value) -> tuple[Value, Value, Value | None]:
    """Rows of bytes with their scale and zero point: what moves dequantized numbers moves the bytes."""
    if x.op in MOVES:
        q, scale, zero = _rows(x.args[0])
        return x.op(q, loc=x.loc, **dict(x.attrs)), scale, zero
    q, scale, *point = x.args
    each = scale.shape == (*x.shape[:-1], 1) and x.t.rank > 1
    return q, scale if each else without_axes(scale), without_axes(point[0]) if point else None


def _quantized_rows(q: Value) -> Value:
    """`q` as `quantize_rows`, if it is that."""
    if q.op is not quantize or q.args[0].dtype is not DType.F32 or q.attr("bits"):
        return q
    x, scale, *zero = q.args
    each = scale.shape == (*x.shape[:-1], 1) and x.t.rank > 1
    if scale.dtype is not DType.F32 or not (each or scale.t.size == 1) or any(z.t.size != 1 for z in zero):
        return q
    point = without_axes(zero[0]) if zero else _number(0, q.dtype)
    return quantize_rows(x, scale if each else without_axes(scale), point, loc=q.loc)


def _number(value: float, dtype: DType, shape: Shape = ()) -> Value:
    return full(shape=shape, value=float(value), dtype=dtype)


def _sums(w: Value) -> Array:
    """The sum of each column of a constant matrix of bytes."""
    return np.asarray(array_of(w).sum(0, dtype=np.int32))


def _offset(zero: Value, w: Value) -> Value:
    """-zero * (sum of each column of w), as i32."""
    sums, name = _sums(w), f"{name_of(w)}.offset"
    number = splat(zero)
    if number is not None:
        return constant(name, -int(number) * sums)
    return mul(neg(cast(zero, dtype=DType.I32)), constant(name, sums))


@dataclass(frozen=True, slots=True)
class BlockLinear:
    """`linear(x, block matrix, ..)` becomes `block_linear`, and what follows the product ops of their own;
    where x are bytes without a zero point, `integer_block_linear`.

    Rows of 16 bits that are cast to f32 for it are read as they are.
    """

    @property
    def name(self) -> str:
        return "block-linear"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        made: dict[Value, Value] = {}
        return program.map_graphs(lambda g: mapped(g, partial(_block_linear, made), watch, self.name))


def _block_linear(made: dict[Value, Value], node: Value, new: Value) -> Value | None:
    if new.op is not linear or new.args[2].dtype is not DType.F32 or is_constant(new.args[0]):
        return None
    x, w, *_ = new.args
    matrix = w if is_block_matrix(w) else block_matrix(w)
    if matrix is None:
        return None
    q, scale = matrix.args[0].args
    storage = _storage(array_of(q))
    if storage is None:
        return None
    flat = weight_from(reshape(q, shape=matrix.shape), f"{name_of(q)}.flat")
    scales = reshape(scale, shape=(scale.shape[0], scale.shape[2]))
    numbers = array_of(scale)
    if fits_e8m0(numbers) or fits_f16(numbers):
        scales = cast(scales, dtype=DType.F8E8M0 if fits_e8m0(numbers) else DType.F16)
    scales = weight_from(scales, f"{name_of(q)}.scales")
    in_bytes = _sums_bytes(x, q) and not storage.get("floats", True)
    if in_bytes:
        total = _sum_of_bytes(made, new, flat, scales, storage)
    else:
        total = _sum_of_floats(new, flat, scales, storage)
    return total if new.dtype is DType.F32 else cast(total, dtype=new.dtype, loc=new.loc)


def _sum_of_bytes(
    made: dict[Value, Value], new: Value, flat: Value, scales: Value, storage: dict[str, Attr]
) -> Value:
    x, _, bias, *residual = new.args
    rows, x_scale, _ = _rows(x)
    rows = made.setdefault(rows, _quantized_rows(rows))
    attributes = {"bits": storage["bits"], "activation": new.attr("activation")}
    return integer_block_linear(rows, flat, scales, x_scale, bias, *residual, loc=new.loc, **attributes)


def _sum_of_floats(new: Value, flat: Value, scales: Value, storage: dict[str, Attr]) -> Value:
    x, _, bias, *residual = new.args
    total = block_linear(_as_stored(x), flat, scales, bias, loc=new.loc, **storage)
    for added in residual:
        total = add(total, added, loc=new.loc)
    activation = new.attr("activation")
    return total if activation == "none" else ACTIVATIONS[activation](total, loc=new.loc)


def _as_stored(x: Value) -> Value:
    """Rows of f32 as they were before they were widened."""
    if x.op in MOVES:
        inner = _as_stored(x.args[0])
        return x if inner is x.args[0] else x.op(inner, loc=x.loc, **dict(x.attrs))
    return x.args[0] if x.op is cast and x.args[0].dtype in BLOCK_FLOATS else x


def _sums_bytes(x: Value, q: Value) -> bool:
    """Whether x are bytes, with no zero point, that are worth being summed as such within blocks of q."""
    size = q.t.static_shape[1]
    if not is_integer_rows(x) or size % FEWEST_BYTES or size > MOST_TERMS:
        return False
    rows, _, zero = _rows(x)
    return rows.dtype is DType.I8 and (zero is None or splat(zero) == 0)


def _storage(q: Array) -> dict[str, Attr] | None:
    """In how few bits the kernel can have `q`, as attributes of the product; None: it cannot."""
    if q.dtype != np.int8:
        # It knows numbers only.
        return {} if bool(np.isfinite(q).all()) else None
    low, high = limits(DType.I8, 4)
    whole = bool(low <= q.min() and q.max() <= high)
    floats = not whole and are_numbers(q)
    return {"bits": 4 if whole or floats else 8, "floats": floats}


@dataclass(frozen=True, slots=True)
class IntegerForm:
    """Rows of bytes as the target's products take them, signed or not: u8 is i8 + 128."""

    @property
    def name(self) -> str:
        return "integer-form"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        wanted = DType.U8 if target.unsigned_bytes else DType.I8
        made: dict[Value, Value] = {}
        return program.map_graphs(lambda g: mapped(g, partial(_formed, wanted, made), watch, self.name))


def _formed(wanted: DType, made: dict[Value, Value], node: Value, new: Value) -> Value | None:
    if new.op is not integer_linear or new.args[0].dtype is wanted:
        return None
    q, w, offset, *rest = new.args
    shift = 128 if wanted is DType.U8 else -128
    moved = made.setdefault(q, _shifted(q, shift, wanted))
    correction = -shift * _sums(w)
    if weight_of(offset) is not None or offset.op is full:
        offset = constant(f"{name_of(w)}.offset", array_of(offset) + correction)
    else:
        offset = add(offset, constant(f"{name_of(w)}.shift", correction))
    return integer_linear(moved, w, offset, *rest, loc=new.loc, **dict(new.attrs))


def _shifted(q: Value, shift: int, dtype: DType) -> Value:
    """q + shift, as another kind of bytes."""
    if q.op is quantize_rows:
        x, scale, zero = q.args
        return quantize_rows(x, scale, _shifted(zero, shift, dtype), loc=q.loc)
    if q.op in MOVES:
        return q.op(_shifted(q.args[0], shift, dtype), loc=q.loc, **dict(q.attrs))
    number = splat(q) if not q.shape else None
    if number is not None:
        return _number(number + shift, dtype)
    return cast(add(cast(q, dtype=DType.I32), _number(shift, DType.I32)), dtype=dtype)
