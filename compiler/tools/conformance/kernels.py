"""Cases of the kernels that heavy ops have: every epilogue, mask, width and layout that is compiled in."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from isthmus.ir.dims import symbol
from isthmus.ir.graph import Value, constant
from isthmus.ir.small_floats import from_codes
from isthmus.ir.types import Array, DType
from isthmus.ops import lines, movement, nn, pointwise, ragged, reduce
from isthmus.ops.integer import (
    BLOCK_SCALES,
    BLOCK_TYPES,
    block_linear,
    integer_block_linear,
    integer_linear,
    quantize_rows,
)
from isthmus.ops.quantize import dequantize, limits, quantize, row_scale
from isthmus.passes.legalize.layout import Layout, layout_of
from isthmus.tools.conformance.cases import SUM, Case, Maker
from isthmus.tools.conformance.zeros import halved_floats, sparse_bytes, sparse_floats

B, N = symbol("b"), symbol("n")


def kernel_cases() -> Iterator[Case]:
    """All of them."""
    yield from _linear()
    yield from sparse_floats()
    yield from halved_floats()
    yield from _attention()
    yield from _ragged()
    yield from _norms()
    yield from _matmul()
    yield from _loops()
    yield from _scans()
    yield from _quantized()


def _linear() -> Iterator[Case]:
    for activation in ("none", *nn.ACTIVATIONS):
        for residual in (False, True):
            for rows, k, n in (("b,n", 7, 5), ("n,b,m", 33, 70), ("1", 16, 48)):
                tail = "+residual" if residual else ""
                maker = Maker("linear", f"linear {activation}{tail} [{rows},{k}] x {n}")
                x = maker.floats(f"f32[{rows},{k}]")
                rest = [maker.floats(f"f32[{rows},{n}]")] if residual else []
                w, bias = maker.weight(k, n, scale=k**-0.5), maker.weight(n)
                yield maker.case(nn.linear(x, w, bias, *rest, activation=activation), SUM)


_MASKS = {"row": "f32[b,1,1,m]", "full": "f32[b,1,n,m]", "each": "f32[b,4,n,m]", "low": "f32[n,m]"}
# Mask, widths of a head, heads of the keys. Each width and kind of mask is a kernel of its own, large ones.
_ATTENTION = (
    *((kind, 8, 8, 4) for kind in ("none", *_MASKS)),
    ("none", 16, 12, 2),
    ("full", 32, 32, 1),
    ("row", 5, 3, 4),
)


def _attention() -> Iterator[Case]:
    for kind, width, value_width, heads in _ATTENTION:
        for safe in (False, True) if kind == "full" and width == 8 else (False,):
            group = f"{4 // heads} heads per key head"
            name = f"attention width {width}/{value_width} {group} mask {kind}{' safe' * safe}"
            maker = Maker("attention", name)
            q = maker.floats(f"f32[b,4,n,{width}]")
            k = maker.floats(f"f32[b,{heads},m,{width}]")
            v = maker.floats(f"f32[b,{heads},m,{value_width}]")
            masks = [maker.floats(_MASKS[kind], -4, 0)] if kind != "none" else []
            yield maker.case(nn.attention(q, k, v, *masks, scale=width**-0.5, safe=safe), SUM)
    yield _split_heads()


def _split_heads() -> Case:
    """Heads that lie in one wide row, as they come from one product."""
    maker = Maker("attention", "attention over heads split from one row")
    wide = maker.floats("f32[b,n,3,2,16]")
    parts = [
        movement.transpose(
            movement.reshape(
                movement.slice_(wide, starts=(0, 0, i, 0, 0), sizes=(B, N, 1, 2, 16), steps=(1, 1, 1, 1, 1)),
                shape=(B, N, 2, 16),
            ),
            perm=(0, 2, 1, 3),
        )
        for i in range(3)
    ]
    found = movement.transpose(nn.attention(*parts, scale=0.25), perm=(0, 2, 1, 3))
    return maker.case(movement.reshape(found, shape=(B, N, 32)), SUM)


# Width of a head, of its values, heads of the keys, safe, causal, with a mask, on bf16.
_RAGGED = (
    (32, 32, 4, False, False, True, False),
    (8, 6, 2, True, False, True, False),
    (5, 5, 4, False, True, False, False),
    (20, 12, 2, False, False, True, True),
)


def _ragged() -> Iterator[Case]:
    """Attention within sequences whose lengths a mask says, and the way of its rows in and out."""
    for width, value_width, heads, safe, causal, masked, mixed in _RAGGED:
        kind = f"{'masked' if masked else 'plain'}{' safe' * safe}{' causal' * causal}{' mixed' * mixed}"
        maker = Maker("attention", f"ragged attention width {width}/{value_width} {kind}")
        layout = layout_of(maker.integers("i64[b,n]", 0, 1), not masked, f"rows_{width}")

        def rows(flat: Value, layout: Layout = layout) -> Value:
            whole = movement.reshape(flat, shape=(B * N, *flat.shape[2:]))
            return movement.gather(whole, layout.place, axis=0)

        sizes = (4, width), (heads, width), (heads, value_width)
        q, k, v = (
            movement.transpose(
                rows(maker.floats(f"{'bf16' if mixed else 'f32'}[b,n,{count},{size}]")), perm=(1, 0, 2)
            )
            for count, size in sizes
        )
        masks = [rows(maker.floats("f32[b,n]", -4, 0))] if masked else []
        found = ragged.ragged_attention(
            q, k, v, layout.ends, *masks,
            longest=(N,), scale=width**-0.5, safe=safe, causal=causal, mixed=mixed,
        )  # fmt: skip
        back = movement.gather(movement.transpose(found, perm=(1, 0, 2)), layout.row, axis=0)
        yield maker.case(back, None if mixed else SUM)


def _norms() -> Iterator[Case]:
    for width in (1, 3, 16, 33, 100):
        for residual in (False, True):
            maker = Maker("normalization", f"layer_norm width {width}{' +residual' * residual}")
            x = [maker.floats(f"f32[b,n,{width}]") for _ in range(1 + residual)]
            vectors = maker.weight(width), maker.weight(width)
            yield maker.case(nn.layer_norm(x[0], *vectors, *x[1:], epsilon=1e-5), 1e-4)
        maker = Maker("normalization", f"rms_norm width {width}")
        yield maker.case(
            nn.rms_norm(maker.floats(f"f32[b,n,{width}]"), maker.weight(width), epsilon=1e-6), SUM
        )
        maker = Maker("normalization", f"softmax width {width}")
        yield maker.case(nn.softmax(maker.floats(f"f32[b,n,{width}]", -30, 30)), SUM)
    maker = Maker("normalization", "softmax of an open width")
    yield maker.case(nn.softmax(maker.floats("f32[b,m,n]", -90, 90)), SUM)


def _matmul() -> Iterator[Case]:
    for left, right in (("n,9", "9,m"), ("b,n,33", "b,33,70"), ("b,1,n,4", "m,4,n"), ("1,n", "n,1")):
        maker = Maker("matmul", f"matmul [{left}] x [{right}]")
        yield maker.case(nn.matmul(maker.floats(f"f32[{left}]"), maker.floats(f"f32[{right}]")), SUM)
    maker = Maker("matmul", "matmul by a transposed matrix")
    a, b = maker.floats("f32[b,n,6]"), maker.floats("f32[b,m,6]")
    yield maker.case(nn.matmul(a, movement.transpose(b, perm=(0, 2, 1))), SUM)


def _loops() -> Iterator[Case]:
    maker = Maker("loops", "a long expression of everything")
    x, y = maker.floats("f32[b,n,19]"), maker.floats("f32[19]", 0.5, 2)
    curved = pointwise.tanh(pointwise.mul(pointwise.exp(pointwise.neg(pointwise.absolute(x))), y))
    chosen = pointwise.where(pointwise.greater(x, y), pointwise.erf(x), pointwise.div(curved, y))
    yield maker.case(pointwise.add(chosen, pointwise.log(pointwise.add(y, pointwise.sigmoid(x)))))
    maker = Maker("loops", "transposed, reversed and strided reads")
    turned = movement.transpose(maker.floats("f32[12,n,b]"), perm=(2, 1, 0))
    parts = movement.slice_(turned, starts=(0, N - 1, 11), sizes=(B, N, 6), steps=(1, -1, -2))
    yield maker.case(pointwise.mul(parts, maker.floats("f32[b,n,6]")))
    maker = Maker("loops", "rows picked by computed indices")
    ids = pointwise.add(
        maker.integers("i64[b,n]", 0, 7), movement.iota(shape=(B, N), axis=1, dtype=DType.I64)
    )
    yield maker.case(movement.gather(maker.weight(20, 9), ids, axis=0))
    maker = Maker("loops", "a reduction over two axes of a computed value")
    yield maker.case(reduce.reduce_mean(pointwise.gelu(maker.floats("f32[b,n,4,9]")), axes=(1, 3)))
    maker = Maker("loops", "a convolution as windows")
    image = movement.pad(maker.floats("f32[b,3,6,7]"), before=(0, 0, 1, 1), after=(0, 0, 1, 1), value=0.0)
    patches = movement.windows(image, axes=(2, 3), sizes=(3, 3), strides=(2, 1), dilations=(1, 1))
    rows = movement.reshape(movement.transpose(patches, perm=(0, 2, 3, 1, 4, 5)), shape=(B, 21, 27))
    yield maker.case(nn.linear(rows, maker.weight(27, 10, scale=0.2), maker.weight(10)), SUM)
    for dtype in (DType.F16, DType.BF16, DType.F64):
        maker = Maker("loops", f"arithmetic in {dtype}")
        x, y = maker.floats(f"{dtype}[b,n,19]"), maker.floats(f"{dtype}[19]")
        yield maker.case(pointwise.add(pointwise.mul(x, y), pointwise.tanh(x)))


def _scans() -> Iterator[Case]:
    for axis in (0, 1, 2):
        maker = Maker("scans", f"cumsum along axis {axis}")
        yield maker.case(reduce.cumsum(maker.floats("f32[b,n,9]"), axis=axis, reverse=axis == 1), SUM)
        maker = Maker("scans", f"argmax along axis {axis}")
        yield maker.case(reduce.argmax(maker.integers("i32[b,n,9]", -3, 3), axis=axis, last=axis == 1))
        maker = Maker("scans", f"top_k along axis {axis}")
        x = maker.integers("i64[b,n,9]", -3, 3)
        yield maker.case(lines.top_k(x, axis=axis, count=(x.shape[axis],), descending=axis == 1))
        maker = Maker("scans", f"cumprod along axis {axis}")
        yield maker.case(reduce.cumprod(maker.floats("f32[b,n,9]", 0.5, 1.5), axis=axis), SUM)


def _quantized() -> Iterator[Case]:
    for left, right in ((DType.U8, DType.I8), (DType.I8, DType.I8), (DType.U8, DType.U8)):
        for k, n in ((7, 5), (64, 16), (600, 33)):
            maker = Maker("quantized", f"product of {left} [b,n,{k}] and weights of {right} [{k},{n}]")
            x = pointwise.cast(maker.integers(f"{left}[b,n,{k}]"), dtype=DType.I32)
            w = pointwise.cast(maker.whole_weight(k, n, dtype=right), dtype=DType.I32)
            yield maker.case(nn.matmul(x, w))
    maker = Maker("quantized", "product of u8 less a zero point and weights of i8")
    x, zero = maker.integers("u8[b,n,40]"), maker.integers("u8[]")
    shifted = pointwise.sub(*(pointwise.cast(v, dtype=DType.I32) for v in (x, zero)))
    w = pointwise.cast(maker.whole_weight(40, 12), dtype=DType.I32)
    yield maker.case(nn.matmul(shifted, w))
    maker = Maker("quantized", "product of two computed matrices of bytes")
    a, b = maker.integers("u8[b,n,9]"), maker.integers("i8[b,9,m]")
    yield maker.case(nn.matmul(*(pointwise.cast(v, dtype=DType.I32) for v in (a, b))))
    yield from _steps()
    yield from _bytes()


def _bytes() -> Iterator[Case]:
    """Products of bytes and what makes bytes of rows: every chip gives the same bits."""
    for activation, residual in (("none", False), ("none", True), ("relu", False), ("gelu", True)):
        for rows, k, n in (("n,b", 7, 5), ("m,n,b", 66, 70), ("1", 16, 48)):
            for dtype, each in ((DType.I8, True), (DType.U8, False)):
                of = "rows" if each else "all"
                name = f"integer_linear {activation}{'+residual' * residual} {dtype}[{rows},{k}] x {n}, {of}"
                maker = Maker("bytes", name)
                x = maker.integers(f"{dtype}[{rows},{k}]")
                scale = maker.floats(f"f32[{rows},1]" if each else "f32[]", 0.001, 0.02)
                vectors = [constant(f"{name} {i}", maker.scales(n)) for i in range(2)]
                offset = constant(f"{name} offset", np.arange(n, dtype=np.int32) * 101 - 2000)
                rest = [maker.floats(f"f32[{rows},{n}]")] if residual else []
                w = maker.whole_weight(k, n)
                value = integer_linear(x, w, offset, scale, *vectors, *rest, activation=activation)
                yield maker.case(value, 0.0 if activation != "gelu" else None)
    for dtype, zero in ((DType.I8, 0), (DType.I8, -7), (DType.U8, 128), (DType.U8, 3)):
        for width in (1, 19, 64):
            maker = Maker("bytes", f"quantize_rows {dtype} at {zero} width {width}")
            x = maker.floats(f"f32[b,n,{width}]", -9, 9)
            scale = maker.floats("f32[b,n,1]" if zero else "f32[]", 0.03, 0.1)
            point = constant(f"{maker.name} zero", np.asarray(zero, dtype.numpy))
            yield maker.case(quantize_rows(x, scale, point))
    for width in (1, 19, 64):
        maker = Maker("bytes", f"rows at their own scales, width {width}")
        x, n = maker.floats(f"f32[b,n,{width}]", -9, 9), 5
        scale, point = row_scale(x), constant(f"{maker.name} zero", np.asarray(0, np.int8))
        vectors = [constant(f"{maker.name} {i}", maker.scales(n)) for i in range(2)]
        offset = constant(f"{maker.name} offset", np.zeros(n, np.int32))
        w = maker.whole_weight(width, n)
        yield maker.case(integer_linear(quantize_rows(x, scale, point), w, offset, scale, *vectors), 0.0)
    yield from _bytes_at_steps()
    yield from sparse_bytes()
    yield from _blocks()
    yield from _bytes_by_blocks()
    yield from _small_floats()
    maker = Maker("bytes", "row_scale of rows, zeros among them")
    x, none = maker.floats("f32[b,n,19]", -9, 9), maker.floats("f32[b,1,1]", 0, 0)
    yield maker.case(row_scale(movement.concat(x, pointwise.mul(x, none), axis=1)), 0.0)


def _bytes_at_steps() -> Iterator[Case]:
    """Bytes at constant steps, of products, norms and other rows: whoever makes these makes the bytes."""
    for dtype, zero in ((DType.I8, -7), (DType.U8, 102)):
        for scale in (1.0, 0.031):
            for width in (5, 70):
                what = f"{dtype} at steps of {scale}, width {width}"
                maker = Maker("bytes", f"rows as {what}")
                yield maker.case(
                    _stepped(maker, maker.floats(f"f32[b,n,{width}]", -9, 9), dtype, zero, scale)
                )
                for activation, residual in (("none", True), ("relu", False)):
                    maker = Maker("bytes", f"integer_linear {activation} as {what}")
                    x = maker.integers("i8[n,b,66]")
                    vectors = [constant(f"{maker.name} {i}", maker.scales(width)) for i in range(2)]
                    offset = constant(f"{maker.name} offset", np.arange(width, dtype=np.int32) * 101 - 2000)
                    rest = [maker.floats(f"f32[n,b,{width}]")] if residual else []
                    w, of = maker.whole_weight(66, width), maker.floats("f32[]", 0.001, 0.02)
                    made = integer_linear(x, w, offset, of, *vectors, *rest, activation=activation)
                    yield maker.case(_stepped(maker, made, dtype, zero, scale))


def _stepped(maker: Maker, rows: Value, dtype: DType, zero: int, scale: float) -> Value:
    """`rows` as bytes; at steps of 1 their columns have factors."""
    if scale == 1.0:
        width = rows.t.shape[-1]
        assert isinstance(width, int)
        rows = pointwise.mul(rows, constant(f"{maker.name} factors", maker.scales(width) * np.float32(100)))
    one, point = (movement.full(shape=(), value=v, dtype=t) for v, t in ((scale, DType.F32), (zero, dtype)))
    made = quantize_rows(rows, one, point)
    # Bytes that are outputs are written on their own.
    return pointwise.add(pointwise.cast(made, dtype=DType.I32), pointwise.cast(made, dtype=DType.I32))


def _blocks() -> Iterator[Case]:
    """Weights of few bits in blocks, one row and several, whole panels and parts of them."""
    for kind, dtype in product(("4 bits", "8 bits", "floats of 4 bits", *BLOCK_TYPES[1:]), BLOCK_SCALES):
        bits, floats = 4 if str(kind).endswith("4 bits") else 8, kind == "floats of 4 bits"
        for rows, k, block, n in (("1", 64, 16, 48), ("n,b", 32, 8, 5), ("1", 256, 128, 70)):
            name = f"block_linear {kind} [{rows},{k}] x {n} by {block}, scales in {dtype}"
            maker = Maker("blocks", name)
            least, most = limits(DType.I8, bits)
            numbers = np.arange(k * n, dtype=np.int64).reshape(k, n) * 7919 % (most - least + 1) + least
            q = from_codes(numbers.astype(np.int8)) if floats else numbers.astype(np.int8)
            if isinstance(kind, DType):
                q = _finite(numbers, kind)
            scales = np.concatenate([maker.scales(n) for _ in range(k // block)]).reshape(-1, n)
            operands = (
                constant(f"{maker.name} q", q),
                constant(f"{maker.name} scales", scales.astype(dtype.numpy)),
                maker.weight(n),
            )
            x = maker.floats(f"f32[{rows},{k}]")
            yield maker.case(block_linear(x, *operands, bits=bits, floats=floats), SUM)
    yield from _blocks_by_rows_of_16_bits()


def _blocks_by_rows_of_16_bits() -> Iterator[Case]:
    """Rows of 16 bits, as they lie in memory."""
    sizes = (("1", 64, 48), ("n,b", 40, 5), ("m,n", 128, 70))
    for bits, dtype, (rows, k, n) in product((4, 8), (DType.BF16, DType.F16), sizes):
        name = f"block_linear {bits} bits {dtype}[{rows},{k}] x {n}"
        maker = Maker("blocks", name)
        least, most = limits(DType.I8, bits)
        numbers = np.arange(k * n, dtype=np.int64).reshape(k, n) * 7919 % (most - least + 1) + least
        scales = np.concatenate([maker.scales(n) for _ in range(k // 8)]).reshape(-1, n)
        operands = constant(f"{name} q", numbers.astype(np.int8)), constant(f"{name} scales", scales)
        x = maker.floats(f"{dtype}[{rows},{k}]")
        yield maker.case(block_linear(x, *operands, maker.weight(n), bits=bits), SUM)


def _bytes_by_blocks() -> Iterator[Case]:
    """The same for rows of bytes: one, some and many tiles, each end; every chip gives the same bits."""
    ends = (("none", False), ("relu", True), ("gelu", False))
    # Each kernel is a large one: an end of its own for each way in which scales are stored.
    for bits, (dtype, (activation, residual)) in product((4, 8), zip(BLOCK_SCALES, ends, strict=True)):
        for rows, k, block, n in (("1", 64, 32, 48), ("n,b", 96, 32, 5), ("m,n,b", 256, 128, 70)):
            end = f"{activation}{'+residual' * residual}"
            name = f"integer_block_linear {bits} bits {end} [{rows},{k}] x {n} by {block}, scales in {dtype}"
            maker = Maker("blocks", name)
            least, most = limits(DType.I8, bits)
            numbers = np.arange(k * n, dtype=np.int64).reshape(k, n) * 7919 % (most - least + 1) + least
            scales = np.concatenate([maker.scales(n) for _ in range(k // block)]).reshape(-1, n)
            operands = (
                constant(f"{name} q", numbers.astype(np.int8)),
                constant(f"{name} scales", scales.astype(dtype.numpy)),
                maker.floats(f"f32[{rows},1]" if residual else "f32[]", 0.001, 0.02),
                maker.weight(n),
                *([maker.floats(f"f32[{rows},{n}]")] if residual else []),
            )
            x = maker.integers(f"i8[{rows},{k}]")
            value = integer_block_linear(x, *operands, bits=bits, activation=activation)
            yield maker.case(value, 0.0 if activation != "gelu" else None)


def _small_floats() -> Iterator[Case]:
    """Floats of 8 bits and 4 from f32 and to it, by their bits, and those of f16 without a leading one."""
    maker = Maker("small floats", "f16 below 2^-14 to f32")
    codes = maker.integers("u16[b,n,19]", 1, 0x3FF)
    yield maker.case(pointwise.cast(pointwise.bitcast(codes, dtype=DType.F16), dtype=DType.F32), 0.0)
    for dtype in (d for d in DType if d.is_stored):
        maker = Maker("small floats", f"f32 to {dtype}")
        # E8M0 has no sign.
        x = pointwise.absolute(maker.floats("f32[b,n,19]", -7, 7))
        if dtype is not DType.F8E8M0:
            x = pointwise.sub(x, maker.floats("f32[19]", 0, 4))
        yield maker.case(pointwise.bitcast(pointwise.cast(x, dtype=dtype), dtype=DType.U8))
        maker = Maker("small floats", f"{dtype} to f32")
        codes = maker.integers("u8[b,n,19]", 0, 15 if dtype is DType.F4E2M1 else 255)
        yield maker.case(pointwise.cast(pointwise.bitcast(codes, dtype=dtype), dtype=DType.F32), 0.0)


def _finite(numbers: Array, dtype: DType) -> Array:
    """Codes as floats of 8 bits; 0 for those that stand for no number."""
    codes = numbers.astype(np.int8).view(dtype.numpy)
    return np.where(np.isfinite(codes), codes, np.zeros_like(codes))


def _steps() -> Iterator[Case]:
    for dtype, bits in ((DType.U8, 0), (DType.I8, 0), (DType.I8, 4), (DType.I16, 0)):
        maker = Maker("quantized", f"quantize to {bits or dtype.bits} bits of {dtype}")
        x, scale = maker.floats("f32[b,n,19]", -9, 9), maker.floats("f32[19]", 0.01, 0.2)
        yield maker.case(quantize(x, scale, maker.integers(f"{dtype}[]", 0, 5), dtype=dtype, bits=bits))
        maker = Maker("quantized", f"dequantize {dtype} ({bits})")
        q, scale = maker.integers(f"{dtype}[b,n,19]"), maker.floats("f32[19]", 0.01, 0.2)
        yield maker.case(dequantize(q, scale, _point(maker, dtype)))

    maker = Maker("quantized", "rows in 8 bits, a scale each")
    x = maker.floats("f32[b,n,19]", -9, 9)
    scale = row_scale(x)
    yield maker.case(dequantize(quantize(x, scale, dtype=DType.I8), scale))


def _point(maker: Maker, dtype: DType) -> Value:
    return maker.integers(f"{dtype}[19]", 0, 100)
