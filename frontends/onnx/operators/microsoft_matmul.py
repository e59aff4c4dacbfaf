"""com.microsoft: products with what was fused into them."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.activation import leaky, scaled
from isthmus.frontends.onnx.operators.nn import gemm, product_of
from isthmus.ir.graph import Op
from isthmus.ops import pointwise

# The activations onnxruntime fuses that have no parameters.
ACTIVATIONS: Mapping[str, Op] = {
    "Relu": pointwise.relu,
    "Sigmoid": pointwise.sigmoid,
    "Tanh": pointwise.tanh,
}


def fused_matmul(node: Node) -> Tensor:
    """alpha * op(a) @ op(b)."""
    a, b = _turned(node, node[0], "A"), _turned(node, node[1], "B")
    return scaled(node, product_of(node, a, b), node.number("alpha", 1.0))


def _turned(node: Node, x: Tensor, side: str) -> Tensor:
    """An argument with its batch axes first, its rows and columns in order."""
    swapped, batch_inside = node.integer(f"trans{side}", 0), node.integer(f"transBatch{side}", 0)
    if batch_inside and x.rank > 2:
        # [rows, batch..., columns]
        x = node.b.transpose(x, (*range(1, x.rank - 1), 0, x.rank - 1))
    return node.b.swap(x, -1, -2) if swapped and x.rank > 1 else x


def activated(node: Node, x: Tensor) -> Tensor:
    """The activation that the attributes `activation` and `activation_*` name; none if there is none."""
    name = node.text("activation", "")
    node.ignore("activation_alpha", "activation_beta", "activation_gamma", "activation_axis")
    if not name:
        return x
    if name in ACTIVATIONS:
        return node.b.op(ACTIVATIONS[name], x)
    if name == "LeakyRelu":
        return leaky(node, x, node.number("activation_alpha", 0.01))
    raise node.unsupported(f"activation={name!r}; known: LeakyRelu, {', '.join(ACTIVATIONS)}")


def fused_matmul_activation(node: Node) -> Tensor:
    return activated(node, fused_matmul(node))


def fused_gemm(node: Node) -> Tensor:
    return activated(node, gemm(node))


def gemm_fast_gelu(node: Node) -> Tensor:
    """gelu_tanh(x @ w + bias)."""
    product, bias = product_of(node, node[0], node[1]), node.get(2)
    total = product if bias is None else node.b.op(pointwise.add, product, bias)
    return node.b.op(pointwise.gelu_tanh, total)


OPERATORS: Mapping[str, Importer] = {
    "com.microsoft::FusedGemm": fused_gemm,
    "com.microsoft::FusedMatMul": fused_matmul,
    "com.microsoft::FusedMatMulActivation": fused_matmul_activation,
    "com.microsoft::GemmFastGelu": gemm_fast_gelu,
    "com.microsoft::TransposeMatMul": fused_matmul,
}
