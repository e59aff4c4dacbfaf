"""The ops a Transformer is made of: matmul and its fused forms, softmax, normalisation, attention."""

from __future__ import annotations

import numpy as np

from isthmus.ir.dims import Dim
from isthmus.ir.graph import Kind, Op, TypeMismatch
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ops import pointwise, rules

# What a linear may apply to its result while it is still in registers.
ACTIVATIONS = {
    op.name: op
    for op in (
        pointwise.relu,
        pointwise.gelu,
        pointwise.gelu_tanh,
        pointwise.tanh,
        pointwise.sigmoid,
        pointwise.silu,
    )
}


def _matmul_infer(a: TensorType, b: TensorType) -> TensorType:
    if rules.same_dtype(a, b) is DType.BOOL:
        raise TypeMismatch("matmul takes numbers")
    if a.rank < 2 or b.rank < 2 or a.shape[-1] != b.shape[-2]:
        raise TypeMismatch(f"cannot multiply {a} by {b}")
    batch = rules.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return a.with_shape((*batch, a.shape[-2], b.shape[-1]))


def matmul_reference(a: Array, b: Array) -> Array:
    """a @ b, accumulated in f64; integers wrap."""
    if a.dtype.kind in "iu":
        return np.asarray(np.matmul(a, b))
    return np.asarray(np.matmul(a.astype(np.float64), b.astype(np.float64)))


matmul = Op(
    "matmul",
    _matmul_infer,
    matmul_reference,
    (2, 2),
    doc="Matrices in the last two axes, the rest broadcast.",
)


def _linear_infer(
    x: TensorType, w: TensorType, bias: TensorType, *rest: TensorType, activation: str
) -> TensorType:
    if w.rank != 2 or x.rank < 1 or x.shape[-1] != w.shape[0] or bias.shape != (w.shape[1],):
        raise TypeMismatch(f"linear of {x} by {w} with bias {bias}")
    if activation != "none" and activation not in ACTIVATIONS:
        raise TypeMismatch(f"no activation {activation!r}; known: none, {', '.join(ACTIVATIONS)}")
    if not rules.same_dtype(x, w, bias, *rest).is_float:
        raise TypeMismatch(f"linear takes floating-point elements, got {x}")
    result = x.with_shape((*x.shape[:-1], w.shape[1]))
    if rest and rest[0].shape != result.shape:
        raise TypeMismatch(f"the residual must be {result}, got {rest[0]}")
    return result


def _linear_reference(x: Array, w: Array, bias: Array, *rest: Array, activation: str) -> Array:
    total = matmul_reference(x, w) + bias
    if rest:
        total = total + rest[0]
    return np.asarray(total) if activation == "none" else ACTIVATIONS[activation].reference(total)


linear = Op(
    "linear",
    _linear_infer,
    _linear_reference,
    (3, 4),
    {"activation": Kind.TEXT},
    {"activation": "none"},
    doc="activation(x @ w + bias [+ residual]); x [..., K], w [K, N], bias [N], residual [..., N].",
)


def _softmax_infer(x: TensorType) -> TensorType:
    if x.rank < 1:
        raise TypeMismatch("softmax needs an axis")
    return rules.floating(x)


def softmax_reference(x: Array) -> Array:
    """exp(x - max) / sum over the last axis; a row of -inf gives NaN."""
    wide = x.astype(np.float64)
    shifted = np.exp(wide - np.max(wide, -1, keepdims=True, initial=-np.inf))
    return np.asarray(shifted / np.sum(shifted, -1, keepdims=True))


softmax = Op("softmax", _softmax_infer, softmax_reference, (1, 1), doc="Over the last axis.")


def _layer_norm_infer(
    x: TensorType, scale: TensorType, bias: TensorType, *rest: TensorType, epsilon: float
) -> TensorType:
    if x.rank < 1 or scale.shape != x.shape[-1:] or bias.shape != x.shape[-1:]:
        raise TypeMismatch(f"layer_norm of {x} with scale {scale} and bias {bias}")
    if rest and rest[0].shape != x.shape:
        raise TypeMismatch(f"the residual must be {x}, got {rest[0]}")
    return rules.floating(x, scale, bias, *rest)


def _layer_norm_reference(x: Array, scale: Array, bias: Array, *rest: Array, epsilon: float) -> Array:
    # The sum is rounded to the element type, as when it was an op of its own.
    wide = (x + rest[0] if rest else x).astype(np.float64)
    centred = wide - np.mean(wide, -1, keepdims=True)
    variance = np.mean(np.square(centred), -1, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + epsilon) * scale + bias)


layer_norm = Op(
    "layer_norm",
    _layer_norm_infer,
    _layer_norm_reference,
    (3, 4),
    {"epsilon": Kind.FLOAT},
    doc=(
        "(v - mean v) / sqrt(var v + epsilon) * scale + bias over the last axis, v = x [+ residual]  "
        "(Ba et al. 2016)."
    ),
)


def _rms_norm_infer(x: TensorType, scale: TensorType, *, epsilon: float) -> TensorType:
    if x.rank < 1 or scale.shape != x.shape[-1:]:
        raise TypeMismatch(f"rms_norm of {x} with scale {scale}")
    return rules.floating(x, scale)


def _rms_norm_reference(x: Array, scale: Array, *, epsilon: float) -> Array:
    wide = x.astype(np.float64)
    return np.asarray(wide / np.sqrt(np.mean(np.square(wide), -1, keepdims=True) + epsilon) * scale)


rms_norm = Op(
    "rms_norm",
    _rms_norm_infer,
    _rms_norm_reference,
    (2, 2),
    {"epsilon": Kind.FLOAT},
    doc="x / sqrt(mean x^2 + epsilon) * scale over the last axis  (Zhang and Sennrich 2019).",
)


def _attention_infer(
    q: TensorType, k: TensorType, v: TensorType, *mask: TensorType, scale: float, safe: bool
) -> TensorType:
    if not rules.same_dtype(q, k, v, *mask).is_float:
        raise TypeMismatch(f"attention takes floating-point elements, got {q}")
    if not q.rank == k.rank == v.rank == 4:
        raise TypeMismatch(f"attention takes [batch, heads, length, width], got {q}, {k}, {v}")
    fits = q.shape[3] == k.shape[3] and k.shape[2] == v.shape[2] and k.shape[:2] == v.shape[:2]
    if not fits or q.shape[0] != k.shape[0] or not _divides(k.shape[1], q.shape[1]):
        raise TypeMismatch(f"attention of {q}, {k}, {v}")
    scores = (*q.shape[:3], k.shape[2])
    if mask and rules.broadcast_shapes(mask[0].shape, scores) != scores:
        raise TypeMismatch(f"the mask {mask[0]} does not broadcast to [{','.join(map(str, scores))}]")
    return q.with_shape((*q.shape[:3], v.shape[3]))


def _divides(part: Dim, whole: Dim) -> bool:
    return part == whole or (
        isinstance(part, int) and isinstance(whole, int) and part > 0 and whole % part == 0
    )


def _attention_reference(q: Array, k: Array, v: Array, *mask: Array, scale: float, safe: bool) -> Array:
    group = q.shape[1] // k.shape[1] if k.shape[1] else 1
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    # Scores are rounded to the element type at each step, as when scaling and masking were ops of their own:
    # a mask of -10000 leaves few digits to a score, and that must show.
    scores = matmul_reference(q, k.swapaxes(2, 3)).astype(q.dtype) * np.asarray(scale, q.dtype)
    if mask:
        scores = scores + mask[0]
    weights = softmax_reference(scores)
    if safe:
        weights = np.where(np.isnan(weights), 0, weights)
    return matmul_reference(weights.astype(q.dtype), v)


attention = Op(
    "attention",
    _attention_infer,
    _attention_reference,
    (3, 4),
    {"scale": Kind.FLOAT, "safe": Kind.BOOL},
    {"safe": False},
    doc=(
        "softmax(q k^T * scale [+ mask]) v over [batch, heads, length, width]; k and v may have fewer heads, "
        "each shared by a group. safe: a row that is masked out entirely gives zeros, not NaN  "
        "(Vaswani et al. 2017)."
    ),
)

ALL = (matmul, linear, softmax, layer_norm, rms_norm, attention)
