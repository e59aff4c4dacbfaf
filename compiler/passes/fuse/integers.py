"""Products of quantized numbers, however a model says them, as products of what the numbers stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from isthmus.ir.graph import Graph, Program, Value, use_counts
from isthmus.ir.rewrite import Rule, Watch, splat
from isthmus.ir.types import DType
from isthmus.ops.integer import BLOCK_FLOATS, BYTES
from isthmus.ops.movement import full
from isthmus.ops.nn import matmul
from isthmus.ops.pointwise import add, cast, mul, sub
from isthmus.ops.quantize import dequantize, integer_matmul, limits
from isthmus.passes.constants import is_constant
from isthmus.passes.integers import (
    MOVES,
    block_matrix,
    float_blocks,
    integer_matrix,
    is_block_matrix,
    is_integer_matrix,
    is_integer_rows,
    narrowed,
    scales_of_columns,
    without_axes,
)
from isthmus.passes.steps import mapped
from isthmus.target import Target


@dataclass(frozen=True, slots=True)
class KeepIntegers:
    """Products of bytes with constant matrices become `matmul(dequantize(q, s[, z]), integer matrix)`, those
    of other rows with matrices in blocks, or of floats of 8 bits, `matmul(x, block matrix)`: in f32 between
    casts where the model has f16 or bf16, so that the matrix is not rounded to that.

    Said so already (QDQ), only the matrix changes: its zero points and transpositions are computed now. What
    is said as sums of integers that are scaled, `f32((q - z) @ (w - v) [+ bias]) * scale`, is the same.
    """

    @property
    def name(self) -> str:
        return "keep-integers"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        # A chip's own routine takes the sums themselves.
        sums = not any(r.op == integer_matmul.name for r in target.routines)
        return program.map_graphs(lambda graph: self._graph(graph, sums, watch))

    def _graph(self, graph: Graph, sums: bool, watch: Watch) -> Graph:
        return mapped(graph, partial(_changed, use_counts(graph), {}, sums), watch, self.name)


def _changed(
    uses: dict[Value, int], widened: dict[Value, Value], sums: bool, node: Value, new: Value
) -> Value | None:
    if new.op is matmul and new.dtype in BLOCK_FLOATS:
        return _product(widened, new)
    if sums and new.op is mul and new.dtype is DType.F32:
        found = (_scaled(uses, node, new, place) for place in (0, 1))
        return next((product for product in found if product is not None), None)
    return None


def _product(widened: dict[Value, Value], product: Value) -> Value | None:
    """`widened` has the rows that other products read in f32 as well: they may become one."""
    x, w = product.args
    if is_integer_matrix(w) or is_block_matrix(w):
        return None
    matrix = integer_matrix(w) if is_integer_rows(x) else block_matrix(w)
    matrix = float_blocks(w) if matrix is None else matrix
    if matrix is None:
        return None
    if product.dtype is DType.F32:
        return matmul(x, matrix, loc=product.loc)
    wide = widened.setdefault(x, cast(x, dtype=DType.F32, loc=x.loc))
    return cast(matmul(wide, matrix, loc=product.loc), dtype=product.dtype, loc=product.loc)


def _scaled(uses: dict[Value, int], old: Value, node: Value, place: int) -> Value | None:
    """`node`, of which argument `place` is a sum of integers in f32, and the other one its scale."""
    total, scale = node.args[place], node.args[1 - place]
    if total.op is not cast or total.args[0].dtype is not DType.I32:
        return None
    # Sums that somebody else takes are computed as such in any case.
    was = old.args[place]
    if uses.get(was, 1) != 1 or uses.get(was.args[0], 1) != 1:
        return None
    total, bias = _without_bias(total.args[0])
    if total.op is not matmul or total.shape != node.shape or (scales := _split(scale, total)) is None:
        return None
    rows = unshifted(total.args[0])
    w = narrowed(total.args[1]) if _is_known(total.args[1]) else None
    if rows is None or w is None or w.t.rank != 2:
        return None
    matrix = dequantize(w, scales_of_columns(scales[1], w))
    x = dequantize(rows[0], scales[0], *rows[1:])
    product = matmul(x, matrix, loc=node.loc)
    if not is_integer_rows(x):
        return None
    return product if bias is None else add(product, mul(cast(bias, dtype=DType.F32), scale))


def _without_bias(total: Value) -> tuple[Value, Value | None]:
    if total.op is not add:
        return total, None
    for i in (0, 1):
        product, bias = total.args[i], total.args[1 - i]
        if product.op is matmul and is_constant(bias) and product.shape == total.shape and bias.t.rank <= 1:
            return product, bias
    return total, None


def _is_known(w: Value) -> bool:
    """Whether `w` is computed from constants by the few ops that are between bytes and a product."""
    if is_constant(w):
        return True
    return w.op in (cast, sub, *MOVES) and w.t.is_static and all(map(_is_known, w.args))


def _split(scale: Value, product: Value) -> tuple[Value, Value] | None:
    """A scale of sums as one of rows, and one, constant, of columns."""
    one = full(shape=(), value=1.0, dtype=DType.F32)
    if _of_columns(scale, product):
        return one, scale
    pairs = [(scale.args[i], scale.args[1 - i]) for i in (0, 1)] if scale.op is mul else []
    for rows, columns in (*pairs, (scale, one)):
        if _of_rows(rows, product) and _of_columns(columns, product):
            return (without_axes(rows) if rows.t.size == 1 else rows), columns
    return None


def _of_columns(scale: Value, product: Value) -> bool:
    return (
        is_constant(scale)
        and scale.t.size in (1, product.shape[-1])
        and scale.t.size == (scale.shape or (1,))[-1]
    )


def _of_rows(scale: Value, product: Value) -> bool:
    return scale.t.size == 1 or scale.shape == (*product.shape[:-1], 1)


def unshifted(value: Value) -> tuple[Value, ...] | None:
    """i32 numbers as the bytes they come from and, if there is one, the zero point that was subtracted."""
    if value.op in MOVES:
        inner = unshifted(value.args[0])
        return None if inner is None else (value.op(inner[0], loc=value.loc, **dict(value.attrs)), *inner[1:])
    if value.op is cast:
        return (value.args[0],) if value.args[0].dtype in BYTES else None
    if value.op is not sub or value.args[1].t.size != 1:
        return None
    inner = unshifted(value.args[0])
    if inner is None or len(inner) != 1:
        return None
    zero = _byte(value.args[1], inner[0].dtype)
    return None if zero is None else (inner[0], zero)


def _byte(zero: Value, dtype: DType) -> Value | None:
    """The i32 `zero` as the byte it comes from."""
    if zero.op is cast and zero.args[0].dtype is dtype:
        return without_axes(zero.args[0])
    number = splat(zero)
    low, high = limits(dtype)
    if number is None or not low <= number <= high:
        return None
    return full(shape=(), value=number, dtype=dtype)
