"""com.microsoft: activations with what was fused into them."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.activation import gelu, scaled
from isthmus.ir.graph import Op
from isthmus.ops import pointwise as ops


def _after_bias(node: Node, op: Op) -> Tensor:
    x, bias = node[0], node.get(1)
    return node.b.op(op, x if bias is None else node.b.op(ops.add, x, bias))


def bias_gelu(node: Node) -> Tensor:
    return _after_bias(node, ops.gelu)


def fast_gelu(node: Node) -> Tensor:
    return _after_bias(node, ops.gelu_tanh)


def quick_gelu(node: Node) -> Tensor:
    """x * sigmoid(alpha * x)."""
    x, alpha = node[0], node.number("alpha", 1.702)
    if alpha == 1:
        return node.b.op(ops.silu, x)
    return node.b.op(ops.mul, x, node.b.op(ops.sigmoid, scaled(node, x, alpha)))


def bias_split_gelu(node: Node) -> Tensor:
    """The left half of x + bias times the GELU of the right half."""
    total = node.b.op(ops.add, node[0], node[1])
    last = total.rank - 1
    half = node.b.quotient((total.shape[last],), (2,))
    left, right = node.b.cut(total, last, 0, half), node.b.cut(total, last, half, half)
    return node.b.op(ops.mul, left, node.b.op(ops.gelu, right))


def bias_add(node: Node) -> Tensor:
    """x + bias + skip."""
    return node.b.op(ops.add, node.b.op(ops.add, node[0], node[1]), node[2])


OPERATORS: Mapping[str, Importer] = {
    "com.microsoft::BiasAdd": bias_add,
    "com.microsoft::BiasGelu": bias_gelu,
    "com.microsoft::BiasSplitGelu": bias_split_gelu,
    "com.microsoft::FastGelu": fast_gelu,
    "com.microsoft::Gelu": gelu,
    "com.microsoft::QuickGelu": quick_gelu,
}
