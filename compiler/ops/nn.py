"""The ops a Transformer is made of: matmul and its fused forms, softmax, normalisation, attention."""

from __future__ import annotations

from collections.abc import Sequence

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
    rules.computing(a, b)
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
    x: TensorType, w: TensorType, bias: TensorType, *rest: TensorType, activation: str, rounded: bool
) -> TensorType:
    if w.rank != 2 or x.rank < 1 or x.shape[-1] != w.shape[0] or bias.shape != (w.shape[1],):
        raise TypeMismatch(f"linear of {x} by {w} with bias {bias}")
    if activation != "none" and activation not in ACTIVATIONS:
        raise TypeMismatch(f"no activation {activation!r}; known: none, {', '.join(ACTIVATIONS)}")
    rules.computing(x, w, bias)
    sums = rules.same_dtype(bias, *rest)
    if (x.dtype, w.dtype, sums) == (DType.F32, DType.F16, DType.F32):
        factors = sums
    else:
        factors = rules.same_dtype(x, w)
    if not factors.is_float or (factors is not sums and (factors, sums) != (DType.BF16, DType.F32)):
        raise TypeMismatch(
            f"linear takes floating-point elements of one type, or bf16 and sums of f32: {x}, {w}, {bias}"
        )
    if rest and rest[0].shape != (*x.shape[:-1], w.shape[1]):
        raise TypeMismatch(f"the residual must be [{','.join(map(str, x.shape[:-1]))},..], got {rest[0]}")
    return TensorType(_rounded(sums, rounded), (*x.shape[:-1], w.shape[1]))


def _rounded(dtype: DType, rounded: bool) -> DType:
    """The type of a result computed in `dtype`: f32 may be rounded to bf16."""
    if rounded and dtype is not DType.F32:
        raise TypeMismatch(f"what is rounded to bf16 is f32, not {dtype}")
    return DType.BF16 if rounded else dtype


def epilogue_reference(total: Array, rest: Sequence[Array], activation: str) -> Array:
    """activation(total [+ residual]): what follows the sums and the bias of a product."""
    if rest:
        total = total + rest[0]
    return np.asarray(total) if activation == "none" else ACTIVATIONS[activation].reference(total)


def _linear_reference(x: Array, w: Array, bias: Array, *rest: Array, activation: str, rounded: bool) -> Array:
    return epilogue_reference(matmul_reference(x, w) + bias, rest, activation)


linear = Op(
    "linear",
    _linear_infer,
    _linear_reference,
    (3, 4),
    {"activation": Kind.TEXT, "rounded": Kind.BOOL},
    {"activation": "none", "rounded": False},
    doc=(
        "activation(x @ w + bias [+ residual]); x [..., K], w [K, N], bias [N], residual [..., N]. x and w "
        "may be bf16 beside f32, or w alone f16. rounded: the result, of f32 sums, is rounded to bf16."
    ),
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
    x: TensorType, scale: TensorType, bias: TensorType, *rest: TensorType, epsilon: float, rounded: bool
) -> TensorType:
    if x.rank < 1 or scale.shape != x.shape[-1:] or bias.shape != x.shape[-1:]:
        raise TypeMismatch(f"layer_norm of {x} with scale {scale} and bias {bias}")
    if rest and rest[0].shape != x.shape:
        raise TypeMismatch(f"the residual must be {x}, got {rest[0]}")
    result = rules.floating(x, scale, bias, *rest)
    return result.with_dtype(_rounded(result.dtype, rounded))


def _layer_norm_reference(
    x: Array, scale: Array, bias: Array, *rest: Array, epsilon: float, rounded: bool
) -> Array:
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
    {"epsilon": Kind.FLOAT, "rounded": Kind.BOOL},
    {"rounded": False},
    doc=(
        "(v - mean v) / sqrt(var v + epsilon) * scale + bias over the last axis, v = x [+ residual]. "
        "rounded: the result, of f32, is rounded to bf16  (Ba et al. 2016)."
    ),
)


def _rms_norm_infer(x: TensorType, scale: TensorType, *, epsilon: float, rounded: bool) -> TensorType:
    if x.rank < 1 or scale.shape != x.shape[-1:]:
        raise TypeMismatch(f"rms_norm of {x} with scale {scale}")
    result = rules.floating(x, scale)
    return result.with_dtype(_rounded(result.dtype, rounded))


def _rms_norm_reference(x: Array, scale: Array, *, epsilon: float, rounded: bool) -> Array:
    wide = x.astype(np.float64)
    return np.asarray(wide / np.sqrt(np.mean(np.square(wide), -1, keepdims=True) + epsilon) * scale)


rms_norm = Op(
    "rms_norm",
    _rms_norm_infer,
    _rms_norm_reference,
    (2, 2),
    {"epsilon": Kind.FLOAT, "rounded": Kind.BOOL},
    {"rounded": False},
    doc=(
        "x / sqrt(mean x^2 + epsilon) * scale over the last axis. rounded: the result, of f32, is rounded to "
        "bf16  (Zhang and Sennrich 2019)."
    ),
)


# What attention in f32 may round to, if to anything.
ROUNDS = ("", "bf16", "i8")


def _attention_infer(
    q: TensorType,
    k: TensorType,
    v: TensorType,
    *mask: TensorType,
    scale: float,
    safe: bool,
    causal: bool,
    mixed: bool,
    rounds: str,
) -> TensorType:
    check_elements("attention", (q, k, v), mask, mixed)
    check_rounds("attention", rounds)
    if not q.rank == k.rank == v.rank == 4:
        raise TypeMismatch(f"attention takes [batch, heads, length, width], got {q}, {k}, {v}")
    fits = q.shape[3] == k.shape[3] and k.shape[2] == v.shape[2] and k.shape[:2] == v.shape[:2]
    if not fits or q.shape[0] != k.shape[0] or not divides(k.shape[1], q.shape[1]):
        raise TypeMismatch(f"attention of {q}, {k}, {v}")
    scores = (*q.shape[:3], k.shape[2])
    if mask and rules.broadcast_shapes(mask[0].shape, scores) != scores:
        raise TypeMismatch(f"the mask {mask[0]} does not broadcast to [{','.join(map(str, scores))}]")
    return q.with_shape((*q.shape[:3], v.shape[3]))


def check_elements(name: str, factors: Sequence[TensorType], mask: Sequence[TensorType], mixed: bool) -> None:
    """Raise `TypeMismatch` unless q, k, v and mask are of types that attention takes: floats of one type, or,
    mixed, bf16 and f32."""
    rules.computing(*factors)
    dtype = rules.same_dtype(*factors, *(() if mixed else mask))
    if not dtype.is_float:
        raise TypeMismatch(f"{name} takes floating-point elements, got {factors[0]}")
    if mixed and (dtype is not DType.BF16 or any(m.dtype is not DType.F32 for m in mask)):
        raise TypeMismatch(f"mixed {name} takes bf16 and a mask of f32, got {factors[0]} {mask}")


def check_rounds(name: str, rounds: str) -> None:
    """Raise `TypeMismatch` unless `rounds` is known."""
    if rounds not in ROUNDS:
        raise TypeMismatch(
            f"{name} rounds to {', '.join(filter(None, ROUNDS))} or not at all, got {rounds!r}"
        )


def divides(part: Dim, whole: Dim) -> bool:
    """Whether `part` heads can be shared by groups of `whole` heads."""
    return part == whole or (
        isinstance(part, int) and isinstance(whole, int) and part > 0 and whole % part == 0
    )


def _attention_reference(
    q: Array,
    k: Array,
    v: Array,
    *mask: Array,
    scale: float,
    safe: bool,
    causal: bool,
    mixed: bool = False,
    rounds: str = "",
) -> Array:
    group = q.shape[1] // k.shape[1] if k.shape[1] else 1
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    # Scores are rounded to their type at each step, as when scaling and masking were ops of their own: a mask
    # of -10000 leaves few digits to a score, and that must show.
    wide = np.dtype(np.float32) if mixed else q.dtype
    scores = matmul_reference(q, k.swapaxes(2, 3)).astype(wide) * np.asarray(scale, wide)
    if mask:
        scores = scores + mask[0]
    if causal:
        queries, keys = scores.shape[2:]
        seen = np.tri(queries, keys, keys - queries, dtype=bool)
        scores = np.where(seen, scores, -np.inf)
    if mixed:
        return _mixed_attention(scores, v, safe)
    weights = softmax_reference(scores)
    if safe:
        weights = np.where(np.isnan(weights), 0, weights)
    return matmul_reference(weights.astype(q.dtype), v)


def _mixed_attention(scores: Array, v: Array, safe: bool) -> Array:
    """Powers of the scores, rounded as v is, times v; divided by the sum of the powers as they were."""
    powers = np.exp(scores - np.max(scores, -1, keepdims=True, initial=-np.inf))
    sums = np.sum(powers.astype(np.float64), -1, keepdims=True)
    result = matmul_reference(powers.astype(v.dtype), v) / sums
    return np.where(np.isnan(sums), 0, result) if safe else result


attention = Op(
    "attention",
    _attention_infer,
    _attention_reference,
    (3, 4),
    {"scale": Kind.FLOAT, "safe": Kind.BOOL, "causal": Kind.BOOL, "mixed": Kind.BOOL, "rounds": Kind.TEXT},
    {"safe": False, "causal": False, "mixed": False, "rounds": ""},
    doc=(
        "softmax(q k^T * scale [+ mask]) v over [batch, heads, length, width]; k and v may have fewer heads, "
        "each shared by a group. safe: a row that is masked out entirely gives zeros, not NaN. causal: query "
        "i of S sees the keys j <= i + T - S of T; values of the others need not be read. mixed: q, k, v and "
        "the result are bf16, mask, scores and sums f32, and the powers of the scores are rounded to bf16. "
        "rounds: where that is faster, q, k, v and the powers may be rounded to bf16, or, for i8, q and k to "
        "bytes at a scale for each row, v at one for each head, powers to integers up to 127 or more "
        "(Vaswani et al. 2017; Zhang et al. 2024, arXiv 2410.02367)."
    ),
)

ALL = (matmul, linear, softmax, layer_norm, rms_norm, attention)
