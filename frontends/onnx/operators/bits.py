"""Bits of integers, and bits read as another type."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.pointwise import same
from isthmus.ir.types import DType
from isthmus.ops import pointwise as ops


def bit_shift(node: Node) -> Tensor:
    direction = node.text("direction", "")
    if direction not in ("LEFT", "RIGHT"):
        raise node.error(Code.INVALID_GRAPH, f"{node.operator}: direction {direction!r}; known: LEFT, RIGHT")
    return node.b.op(ops.shift_left if direction == "LEFT" else ops.shift_right, node[0], node[1])


def bitwise_not(node: Node) -> Tensor:
    """All bits turned: those that differ from the number with all bits set."""
    x = node[0]
    signed = str(x.dtype).startswith("i")
    if signed:
        return node.b.op(ops.sub, node.like(-1, x), x)
    zero = node.like(0, x)
    return node.b.op(ops.sub, node.b.op(ops.sub, zero, node.like(1, x)), x)


def bit_cast(node: Node) -> Tensor:
    x = node[0]
    dtype = node.dtype("to", x.dtype)
    if DType.BOOL in (x.dtype, dtype):
        # A bool is a byte that is 0 or 1.
        byte = node.b.cast(x, DType.U8) if x.dtype is DType.BOOL else _read(node, x, DType.U8)
        return node.b.cast(byte, dtype) if dtype is DType.BOOL else _read(node, byte, dtype)
    return _read(node, x, dtype)


def _read(node: Node, x: Tensor, dtype: DType) -> Tensor:
    return x if dtype is x.dtype else node.b.op(ops.bitcast, x, dtype=dtype)


OPERATORS: Mapping[str, Importer] = {
    "BitCast": bit_cast,
    "BitShift": bit_shift,
    "BitwiseAnd": same(ops.bit_and),
    "BitwiseNot": bitwise_not,
    "BitwiseOr": same(ops.bit_or),
    "BitwiseXor": same(ops.bit_xor),
}
