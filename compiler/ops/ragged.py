"""Ops over the rows of sequences of different lengths, one sequence after the other, nothing between them.

How many rows there are is known when a run has looked at its mask: the dim of such rows is counted.
"""

from __future__ import annotations

import numpy as np

from isthmus.ir.dims import Expr, Shape
from isthmus.ir.graph import Kind, Op, Trait, TypeMismatch
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ops import nn


def _kept_rows_infer(count: TensorType, *, dim: Shape) -> TensorType:
    if count.dtype is not DType.I64 or count.rank < 1:
        raise TypeMismatch(f"kept_rows takes a running count in i64, got {count}")
    if len(dim) != 1 or not isinstance(dim[0], Expr) or dim[0].name is None:
        raise TypeMismatch("kept_rows names one dim, which it counts")
    return count.with_shape(dim)


def _kept_rows_reference(count: Array, *, dim: tuple[int, ...]) -> Array:
    flat = count.reshape(-1)
    before = np.concatenate([np.zeros(1, flat.dtype), flat[:-1]])[: flat.size]
    rows = np.zeros(dim, np.int64)
    (places,) = np.nonzero((flat > before) & (flat > 0) & (flat <= dim[0]))
    rows[flat[places] - 1] = places
    return rows


kept_rows = Op(
    "kept_rows",
    _kept_rows_infer,
    _kept_rows_reference,
    (1, 1),
    {"dim": Kind.DIMS},
    traits=frozenset({Trait.COUNTS}),
    doc=(
        "The places, in row order, at which a running count goes up. `dim` names their number, which is the "
        "last of the counts and not known before a run."
    ),
)


def _ragged_attention_infer(
    q: TensorType,
    k: TensorType,
    v: TensorType,
    ends: TensorType,
    *mask: TensorType,
    longest: Shape,
    scale: float,
    safe: bool,
    causal: bool,
    mixed: bool,
    rounds: str,
) -> TensorType:
    nn.check_elements("ragged_attention", (q, k, v), mask, mixed)
    nn.check_rounds("ragged_attention", rounds)
    if ends.dtype is not DType.I64 or ends.rank != 1:
        raise TypeMismatch(f"ragged_attention takes ends in i64, got {ends}")
    if not q.rank == k.rank == v.rank == 3 or len(longest) != 1:
        raise TypeMismatch(f"ragged_attention takes [heads, rows, width], got {q}, {k}, {v}")
    if not q.shape[1] == k.shape[1] == v.shape[1] or any(m.shape != q.shape[1:2] for m in mask):
        raise TypeMismatch(f"ragged_attention of {q}, {k}, {v}: rows differ")
    if q.shape[2] != k.shape[2] or k.shape[0] != v.shape[0] or not nn.divides(k.shape[0], q.shape[0]):
        raise TypeMismatch(f"ragged_attention of {q}, {k}, {v}")
    return q.with_shape((*q.shape[:2], v.shape[2]))


def _ragged_attention_reference(
    q: Array,
    k: Array,
    v: Array,
    ends: Array,
    *mask: Array,
    longest: tuple[int, ...],
    scale: float,
    safe: bool,
    causal: bool,
    mixed: bool,
    rounds: str,
) -> Array:
    result = np.zeros((*q.shape[:2], v.shape[2]), np.float64)
    start = 0
    for end in ends.tolist():
        own = slice(start, max(end, start))
        part = nn.attention.reference(
            *(a[None, :, own] for a in (q, k, v)),
            *(m[own] for m in mask),
            scale=scale,
            safe=safe,
            causal=causal,
            mixed=mixed,
        )
        result[:, own] = part[0]
        start = own.stop
    return result


ragged_attention = Op(
    "ragged_attention",
    _ragged_attention_infer,
    _ragged_attention_reference,
    (4, 5),
    {
        "longest": Kind.DIMS,
        "scale": Kind.FLOAT,
        "safe": Kind.BOOL,
        "causal": Kind.BOOL,
        "mixed": Kind.BOOL,
        "rounds": Kind.TEXT,
    },
    {"safe": False, "causal": False, "mixed": False, "rounds": ""},
    doc=(
        "attention within each sequence, over [heads, rows, width]: sequence i are the rows ends[i-1] .. "
        "ends[i]-1, at most `longest`. The mask has one number for each row, added to its scores as a key. "
        "mixed, rounds: as in attention."
    ),
)

ALL = (kept_rows, ragged_attention)
