"""Numbers to floats of 8 bits and 4, as `Cast` (its table of special values) and `QuantizeLinear` have it."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Node
from isthmus.ir.types import DType
from isthmus.ops import pointwise as ops

# The largest numbers of those that can saturate.
MOST: Mapping[DType, float] = {
    DType.F8E4M3: 448.0,
    DType.F8E4M3FNUZ: 240.0,
    DType.F8E5M2: 57344.0,
    DType.F8E5M2FNUZ: 57344.0,
}
ROUND_MODES = ("up", "down", "nearest")


def cast_to(node: Node, x: Tensor, dtype: DType) -> Tensor:
    """`x` as `dtype`, with the attributes that a node has for small floats."""
    saturate, mode = node.integer("saturate", 1) != 0, node.text("round_mode", "up")
    if mode not in ROUND_MODES:
        raise node.unsupported(f"round_mode={mode!r}")
    return stored(node, x, dtype, saturate, mode) if dtype.is_stored else node.b.cast(x, dtype)


def stored(node: Node, x: Tensor, dtype: DType, saturate: bool = True, mode: str = "up") -> Tensor:
    """`x` to the nearest numbers of the small float `dtype`; f8e8m0 by `mode`, whatever the sign of `x`.

    What is beyond the largest number, infinities too, becomes that number, or without `saturate` infinite,
    and NaN where there are no infinities. f4e2m1, which has neither, always saturates.
    """
    if not x.dtype.is_float or x.dtype.is_stored or dtype is DType.F8E8M0:
        x = node.b.cast(x, DType.F32)
    if dtype is DType.F8E8M0:
        return _power(node, x, saturate, mode)
    if saturate and dtype in MOST:
        most = MOST[dtype]
        x = node.b.op(ops.maximum, x, node.like(-most, x))
        x = node.b.op(ops.minimum, x, node.like(most, x))
    return node.b.cast(x, dtype)


def _power(node: Node, x: Tensor, saturate: bool, mode: str) -> Tensor:
    """The exponents of `x` in f32, one more where it is rounded up: onnx.numpy_helper.to_float8e8m0."""
    b = node.b

    def number(value: int) -> Tensor:
        return node.like(value, DType.U32)

    bits = b.op(ops.bitcast, x, dtype=DType.U32)
    exponent = b.op(ops.bit_and, b.op(ops.shift_right, bits, number(23)), number(0xFF))
    if mode != "down":
        fraction = b.op(ops.bit_and, bits, number(0x7FFFFF))
        least = number(1)
        if mode == "nearest":
            # Halfway goes up, but from the least power.
            least = b.op(ops.where, b.op(ops.equal, exponent, number(0)), number(0x400001), number(0x400000))
        above = b.op(ops.greater_equal, fraction, least)
        room = b.op(ops.less, exponent, number(0xFE if saturate else 0xFF))
        next_one = b.op(ops.add, exponent, number(1))
        exponent = b.op(ops.where, b.op(ops.logical_and, above, room), next_one, exponent)
    return b.op(ops.bitcast, b.cast(exponent, DType.U8), dtype=DType.F8E8M0)
