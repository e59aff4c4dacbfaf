"""Cases of products of narrow elements: deep sums of bytes, and bf16, with results rounded and not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from isthmus.ir.graph import Value, constant
from isthmus.ir.sparse import HALVED
from isthmus.ir.types import DType
from isthmus.ops import nn, pointwise
from isthmus.ops.integer import block_linear, integer_linear
from isthmus.passes.sparsify.patterns import BLOCKS_OF
from isthmus.tools.conformance.cases import SUM, Case, Maker
from isthmus.tools.conformance.zeros import half_of, without_most

# A quantum of bytes in queries, keys, values and powers, a unit of bf16: in a hundred there are several.
ROUNDED = 3e-2
# Rows (of SIZES: 1, 3, 5 and 15 of them), K and N: whole blocks of steps and rests of every kind, and a K of
# more than one chunk on every chip with 256 KiB of second-level cache.
_DEPTHS = (("1", 128, 24), ("m", 131, 25), ("n", 263, 12), ("m,n", 390, 7), ("m", 11000, 5))


def narrow_cases() -> Iterator[Case]:
    """All of them."""
    for rows, k, n in _DEPTHS:
        for dtype in (DType.I8, DType.U8):
            yield _bytes(rows, k, n, dtype)
    for dtype in (DType.I8, DType.U8):
        for x_at, w_at in (("low", "low"), ("low", "high"), ("high", "low"), ("high", "high")):
            yield _extremes(dtype, x_at, w_at)
    yield _equal_blocks()
    yield from _linear()
    yield from _sparse()
    yield from _attention()
    yield from _norms()


def _product(maker: Maker, x: Value, w: Value, n: int) -> Case:
    scale = constant(f"{maker.name} scale", np.asarray(0.004, np.float32))
    vectors = [constant(f"{maker.name} {i}", maker.scales(n)) for i in range(2)]
    offset = constant(f"{maker.name} offset", np.arange(n, dtype=np.int32) * 1009 - 20000)
    return maker.case(integer_linear(x, w, offset, scale, *vectors), 0.0)


def _bytes(rows: str, k: int, n: int, dtype: DType) -> Case:
    maker = Maker("bytes", f"sums of {k} products of {dtype}[{rows},{k}] x {n}")
    return _product(maker, maker.integers(f"{dtype}[{rows},{k}]"), maker.whole_weight(k, n), n)


def _extremes(dtype: DType, x_at: str, w_at: str) -> Case:
    """All bytes at a limit: where pairs of products are summed in 16 bits, those saturate."""
    maker = Maker("bytes", f"products of {dtype} at the {x_at}est by weights at the {w_at}est")
    most = {DType.I8: {"low": -128, "high": 127}, DType.U8: {"low": 0, "high": 255}}
    x = maker.integers(f"{dtype}[n,133]", most[dtype][x_at], most[dtype][x_at])
    w = np.full((133, 17), most[DType.I8][w_at], np.int8)
    return _product(maker, x, constant(f"{maker.name} weight", w), 17)


def _equal_blocks() -> Case:
    """A matrix of one number only."""
    maker = Maker("blocks", "block_linear of equal weights")
    q = constant(f"{maker.name} q", np.full((64, 20), -8, np.int8))
    scales = constant(f"{maker.name} scales", np.tile(maker.scales(20), (2, 1)))
    return maker.case(block_linear(maker.floats("f32[n,64]"), q, scales, maker.weight(20), bits=4), SUM)


def _bf16(value: Value) -> Value:
    return pointwise.cast(value, dtype=DType.BF16)


def _linear() -> Iterator[Case]:
    for rounded in (False, True):
        for activation, residual in (("none", False), ("none", True), ("relu", True), ("gelu", False)):
            for rows, k, n in (("n,b", 7, 5), ("m,n", 66, 70), ("1", 128, 48)):
                tail = f"{'+residual' * residual}{' rounded' * rounded}"
                maker = Maker("bf16", f"linear bf16 {activation}{tail} [{rows},{k}] x {n}")
                x = maker.floats(f"bf16[{rows},{k}]")
                rest = [maker.floats(f"f32[{rows},{n}]")] if residual else []
                w = _bf16(maker.weight(k, n, scale=k**-0.5))
                value = nn.linear(x, w, maker.weight(n), *rest, activation=activation, rounded=rounded)
                yield maker.case(value, None if rounded else SUM)


# Rows, activation, residual, rounded.
_EPILOGUES = (("none", False, False), ("relu", True, False), ("gelu", False, True))


def _sparse() -> Iterator[Case]:
    """Matrices with so many zeros that they are stored without, in each shape of block, or by halves."""
    for outputs, inputs in BLOCKS_OF[2]:
        what = f"sparse linear bf16 of {outputs}x{inputs} blocks"
        without = partial(without_most, outputs=outputs, inputs=inputs, of=24)
        yield from _with_zeros(what, without, ("1", "b,n", "m,n"))
    for kept, group in HALVED:
        yield from _with_zeros(
            f"linear bf16 by {kept}:{group}", partial(half_of, group=group), ("1", "5", "30")
        )


def _with_zeros(what: str, without: Callable[[Value], Value], dims: Sequence[str]) -> Iterator[Case]:
    for rows, (activation, residual, rounded) in zip(dims, _EPILOGUES, strict=True):
        tail = f"{'+residual' * residual}{' rounded' * rounded}"
        maker = Maker("bf16", f"{what} {activation}{tail} [{rows},131]")
        x = maker.floats(f"bf16[{rows},131]")
        rest = [maker.floats(f"f32[{rows},70]")] if residual else []
        w = _bf16(without(maker.weight(131, 70, scale=0.2)))
        value = nn.linear(x, w, maker.weight(70), *rest, activation=activation, rounded=rounded)
        yield maker.case(value, None if rounded else SUM)


def _attention() -> Iterator[Case]:
    for mask in (None, "f32[b,1,1,m]", "f32[b,1,n,m]"):
        maker = Maker("bf16", f"attention mixed mask {mask or 'none'}")
        q = maker.floats("bf16[b,4,n,16]")
        k, v = maker.floats("bf16[b,2,m,16]"), maker.floats("bf16[b,2,m,16]")
        masks = [maker.floats(mask, -4, 0)] if mask else []
        yield maker.case(nn.attention(q, k, v, *masks, scale=0.25, mixed=True))
    maker = Maker("bf16", "attention mixed of one query")
    q = maker.floats("bf16[b,4,1,20]")
    k, v = maker.floats("bf16[b,2,m,20]"), maker.floats("bf16[b,2,m,12]")
    yield maker.case(nn.attention(q, k, v, scale=0.25, mixed=True))
    yield from _rounded_attention()


def _rounded_attention() -> Iterator[Case]:
    """On f32 that may be rounded: to bytes, or to bf16, where an instruction multiplies them."""
    for rounds, group in (("i8", "bytes"), ("bf16", "bf16")):
        for mask, width, value_width in ((None, 16, 16), ("f32[b,1,1,m]", 20, 12), ("f32[b,1,n,m]", 5, 3)):
            maker = Maker(group, f"attention to {rounds} width {width}/{value_width} mask {mask or 'none'}")
            q, k = maker.floats(f"f32[b,4,n,{width}]"), maker.floats(f"f32[b,2,m,{width}]")
            v, masks = maker.floats(f"f32[b,2,m,{value_width}]"), [maker.floats(mask, -4, 0)] if mask else []
            yield maker.case(nn.attention(q, k, v, *masks, scale=width**-0.5, rounds=rounds), ROUNDED)


def _norms() -> Iterator[Case]:
    for width in (1, 19, 64):
        maker = Maker("bf16", f"layer_norm rounded width {width}")
        row, gains = maker.floats(f"f32[b,n,{width}]"), (maker.weight(width), maker.weight(width))
        yield maker.case(nn.layer_norm(row, *gains, epsilon=1e-5, rounded=True))
        maker = Maker("bf16", f"rms_norm rounded width {width}")
        row = maker.floats(f"f32[b,n,{width}]")
        yield maker.case(nn.rms_norm(row, maker.weight(width), epsilon=1e-6, rounded=True))
