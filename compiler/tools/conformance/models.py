"""Tiny models, one of each family, said in plain ops as an importer says them: fusing is part of the test."""

from __future__ import annotations

import math
from collections.abc import Iterator

from isthmus.ir.dims import Shape, symbol
from isthmus.ir.graph import Value, constant
from isthmus.ir.types import DType
from isthmus.ops.movement import broadcast, concat, full, gather, iota, reshape, slice_, transpose, windows
from isthmus.ops.nn import layer_norm, matmul, softmax
from isthmus.ops.pointwise import (
    absolute,
    add,
    cast,
    cos,
    div,
    erf,
    gelu_tanh,
    greater,
    less,
    log,
    maximum,
    minimum,
    mul,
    neg,
    pow_,
    reciprocal,
    relu,
    sigmoid,
    sin,
    sqrt,
    sub,
    where,
)
from isthmus.ops.quantize import dequantize, quantize
from isthmus.ops.reduce import reduce_max, reduce_mean, reduce_min, reduce_sum
from isthmus.tools.conformance.cases import Case, Maker

B, N = symbol("b"), symbol("n")
HIDDEN, HEADS, WIDTH, INNER, WORDS = 32, 4, 8, 48, 50


def model_cases() -> Iterator[Case]:
    """One model each, of two layers."""
    for name, build in _FAMILIES.items():
        maker = Maker(f"model: {name}", name)
        yield maker.case(build(maker))


# --- words of the models -------------------------------------------------------------------------


def _f32(value: float) -> Value:
    return full(shape=(), value=value, dtype=DType.F32)


def _dense(m: Maker, x: Value, columns: int, bias: bool = True) -> Value:
    depth = x.shape[-1]
    assert isinstance(depth, int)
    product = matmul(x, m.weight(depth, columns, scale=depth**-0.5))
    return add(product, m.weight(columns, scale=0.1)) if bias else product


def _words(m: Maker) -> Value:
    return gather(m.weight(WORDS, HIDDEN), m.integers("i64[b,n]", 0, WORDS - 1), axis=0)


def _layer_norm(m: Maker, x: Value) -> Value:
    return layer_norm(x, m.weight(HIDDEN), m.weight(HIDDEN, scale=0.1), epsilon=1e-5)


def _rms_norm(m: Maker, x: Value) -> Value:
    square = reduce_mean(mul(x, x), axes=(x.t.rank - 1,))
    return mul(mul(x, reciprocal(sqrt(add(square, _f32(1e-6))))), m.weight(HIDDEN))


def _gelu(x: Value) -> Value:
    return mul(mul(x, _f32(0.5)), add(erf(div(x, _f32(math.sqrt(2)))), _f32(1.0)))


def _heads(x: Value, count: int) -> Value:
    batch, length = x.shape[:2]
    return transpose(reshape(x, shape=(batch, length, count, WIDTH)), perm=(0, 2, 1, 3))


def _attend(q: Value, k: Value, v: Value, scale: float, mask: Value | None) -> Value:
    scores = mul(matmul(q, transpose(k, perm=(0, 1, 3, 2))), _f32(scale))
    weights = softmax(scores if mask is None else add(scores, mask))
    batch, heads, length, _ = q.shape
    joined = transpose(matmul(weights, v), perm=(0, 2, 1, 3))
    return reshape(joined, shape=(batch, length, heads * WIDTH))


def _self_attention(
    m: Maker, x: Value, mask: Value | None = None, bias: bool = True, scale: float = 8**-0.5
) -> Value:
    q, k, v = (_heads(_dense(m, x, HIDDEN, bias), HEADS) for _ in range(3))
    return _dense(m, _attend(q, k, v, scale, mask), HIDDEN, bias)


def _causal() -> Value:
    rows, columns = (
        iota(shape=shape, axis=axis, dtype=DType.I64)
        for axis, shape in ((2, (1, 1, N, 1)), (3, (1, 1, 1, N)))
    )
    return where(greater(columns, rows), _f32(-1e9), _f32(0.0))


def _padding(mask: Value) -> Value:
    wide = reshape(cast(mask, dtype=DType.F32), shape=(B, 1, 1, N))
    return mul(sub(_f32(1.0), wide), _f32(-10000.0))


# --- the families --------------------------------------------------------------------------------


def _encoder(m: Maker) -> Value:
    """BERT's way: padding mask, norm after the sum, gelu by erf."""
    return _encoded(m, m.integers("i64[b,n]", 0, 1))


def _encoded(m: Maker, mask: Value) -> Value:
    x = add(_words(m), reshape(_first_rows(m), shape=(1, N, HIDDEN)))
    x, hidden = _layer_norm(m, x), _padding(mask)
    for _ in range(2):
        x = _layer_norm(m, add(_self_attention(m, x, hidden), x))
        x = _layer_norm(m, add(_dense(m, _gelu(_dense(m, x, INNER)), HIDDEN), x))
    return x


def _sentence(m: Maker) -> Value:
    """The mean over what is no padding, so that padding need not be computed."""
    mask = m.integers("i64[b,n]", 0, 1)
    kept = reshape(cast(mask, dtype=DType.F32), shape=(B, N, 1))
    total = reduce_sum(mul(_encoded(m, mask), kept), axes=(1,))
    count = reduce_sum(kept, axes=(1,))
    return reshape(div(total, maximum(count, _f32(1e-9))), shape=(B, HIDDEN))


def _first_rows(m: Maker) -> Value:
    return slice_(m.weight(8, HIDDEN), starts=(0, 0), sizes=(N, HIDDEN), steps=(1, 1))


def _vision(m: Maker) -> Value:
    """ViT's way: patches by a convolution, a class token, norm before."""
    image = m.floats("f32[b,3,8,12]")
    patches = windows(image, axes=(2, 3), sizes=(4, 4), strides=(4, 4), dilations=(1, 1))
    rows = reshape(transpose(patches, perm=(0, 2, 3, 1, 4, 5)), shape=(B, 6, 48))
    token = broadcast(m.weight(1, 1, HIDDEN), shape=(B, 1, HIDDEN))
    x = add(concat(token, _dense(m, rows, HIDDEN), axis=1), m.weight(1, 7, HIDDEN))
    for _ in range(2):
        x = add(_self_attention(m, _layer_norm(m, x)), x)
        x = add(_dense(m, _gelu(_dense(m, _layer_norm(m, x), INNER)), HIDDEN), x)
    first = slice_(_layer_norm(m, x), starts=(0, 0, 0), sizes=(B, 1, HIDDEN), steps=(1, 1, 1))
    return _dense(m, reshape(first, shape=(B, HIDDEN)), 10)


def _decoder(m: Maker) -> Value:
    """GPT-2's way: one product for q, k and v, causal mask, gelu by tanh, the table again at the end."""
    table = m.weight(WORDS, HIDDEN, scale=0.3)
    x = add(gather(table, m.integers("i64[b,n]", 0, WORDS - 1), axis=0), _first_rows(m))
    for _ in range(2):
        wide = _dense(m, _layer_norm(m, x), 3 * HIDDEN)
        parts = [
            slice_(wide, starts=(0, 0, i * HIDDEN), sizes=(B, N, HIDDEN), steps=(1, 1, 1)) for i in range(3)
        ]
        q, k, v = (_heads(part, HEADS) for part in parts)
        mixed = _attend(q, k, v, 8**-0.5, _causal())
        x = add(_dense(m, mixed, HIDDEN), x)
        x = add(_dense(m, gelu_tanh(_dense(m, _layer_norm(m, x), INNER)), HIDDEN), x)
    return matmul(_layer_norm(m, x), transpose(table, perm=(1, 0)))


def _relative(m: Maker) -> Value:
    """T5's encoder: RMS norm, no biases, a table of relative positions in logarithmic buckets."""
    rows, columns = (iota(shape=s, axis=a, dtype=DType.I64) for a, s in ((0, (N, 1)), (1, (1, N))))
    distance = sub(columns, rows)
    far = absolute(distance)
    steps = mul(log(div(cast(far, dtype=DType.F32), _f32(2.0))), _f32(2 / math.log(4)))
    large = minimum(add(cast(steps, dtype=DType.I64), _i64(2)), _i64(3))
    bucket = add(
        where(less(far, _i64(2)), far, large), mul(cast(greater(distance, _i64(0)), dtype=DType.I64), _i64(4))
    )
    bias = transpose(gather(m.weight(8, HEADS), bucket, axis=0), perm=(2, 0, 1))
    x, bias = _words(m), reshape(bias, shape=(1, HEADS, N, N))
    for _ in range(2):
        x = add(_self_attention(m, _rms_norm(m, x), bias, bias=False, scale=1.0), x)
        x = add(_dense(m, relu(_dense(m, _rms_norm(m, x), INNER, False)), HIDDEN, False), x)
    return _rms_norm(m, x)


def _i64(value: int) -> Value:
    return full(shape=(), value=float(value), dtype=DType.I64)


def _rotary(m: Maker) -> Value:
    """Llama's way: rotated positions, two key heads for four query heads, SwiGLU."""
    x = _words(m)
    for _ in range(2):
        h = _rms_norm(m, x)
        q = _rotated(_heads(_dense(m, h, HIDDEN, False), HEADS))
        k = _rotated(_heads(_dense(m, h, HIDDEN // 2, False), HEADS // 2))
        v = _heads(_dense(m, h, HIDDEN // 2, False), HEADS // 2)
        mixed = _attend(q, _repeated(k), _repeated(v), 8**-0.5, _causal())
        x = add(_dense(m, mixed, HIDDEN, False), x)
        h = _rms_norm(m, x)
        gate, up = _dense(m, h, INNER, False), _dense(m, h, INNER, False)
        x = add(_dense(m, mul(mul(gate, sigmoid(gate)), up), HIDDEN, False), x)
    return _dense(m, _rms_norm(m, x), WORDS, False)


def _rotated(x: Value) -> Value:
    half = WIDTH // 2
    place = iota(shape=(N, 1), axis=0, dtype=DType.F32)
    each = iota(shape=(1, half), axis=1, dtype=DType.F32)
    angle = mul(place, pow_(_f32(10000.0), mul(each, _f32(-1 / half))))
    wide = concat(angle, angle, axis=1)
    batch, heads, length, _ = x.shape
    left, right = (
        slice_(x, starts=(0, 0, 0, start), sizes=(batch, heads, length, half), steps=(1, 1, 1, 1))
        for start in (0, half)
    )
    return add(mul(x, cos(wide)), mul(concat(neg(right), left, axis=3), sin(wide)))


def _repeated(x: Value) -> Value:
    wide: Shape = (B, HEADS // 2, 2, N, WIDTH)
    spread = broadcast(reshape(x, shape=(B, HEADS // 2, 1, N, WIDTH)), shape=wide)
    return reshape(spread, shape=(B, HEADS, N, WIDTH))


def _stored_int8(m: Maker) -> Value:
    """Quantize and dequantize around every product, with scales from calibration."""
    x = _layer_norm(m, _words(m))
    for _ in range(2):
        h = _fake(x, 0.04)
        x = _layer_norm(m, add(_int8_dense(m, relu(_fake(_int8_dense(m, h, INNER), 0.05)), HIDDEN), x))
    return x


def _fake(x: Value, scale: float) -> Value:
    step, zero = _f32(scale), full(shape=(), value=128.0, dtype=DType.U8)
    return dequantize(quantize(x, step, zero, dtype=DType.U8), step, zero)


def _int8_dense(m: Maker, x: Value, columns: int) -> Value:
    depth = x.shape[-1]
    assert isinstance(depth, int)
    scale = constant("scale", m.scales(columns))
    return add(matmul(x, dequantize(m.whole_weight(depth, columns), scale)), m.weight(columns, scale=0.1))


def _dynamic_int8(m: Maker) -> Value:
    """Scales taken from the data of each run, products of integers."""
    x = _layer_norm(m, _words(m))
    for _ in range(2):
        h = relu(_integer_dense(m, x, INNER))
        x = _layer_norm(m, add(_integer_dense(m, h, HIDDEN), x))
    return x


def _integer_dense(m: Maker, x: Value, columns: int) -> Value:
    every = tuple(range(x.t.rank))
    low, high = minimum(reduce_min(x, axes=every), _f32(0.0)), relu(reduce_max(x, axes=every))
    scale = reshape(div(sub(high, low), _f32(255.0)), shape=())
    zero = quantize(div(neg(reshape(low, shape=())), scale), _f32(1.0), dtype=DType.U8)
    q = quantize(x, scale, zero, dtype=DType.U8)
    left = sub(cast(q, dtype=DType.I32), cast(zero, dtype=DType.I32))
    depth = x.shape[-1]
    assert isinstance(depth, int)
    product = matmul(left, cast(m.whole_weight(depth, columns), dtype=DType.I32))
    step = mul(scale, constant("scale", m.scales(columns)))
    return add(mul(cast(product, dtype=DType.F32), step), m.weight(columns, scale=0.1))


_FAMILIES = {
    "encoder": _encoder,
    "sentence encoder": _sentence,
    "vision": _vision,
    "decoder": _decoder,
    "relative encoder": _relative,
    "rotary decoder": _rotary,
    "stored int8": _stored_int8,
    "dynamic int8": _dynamic_int8,
}
