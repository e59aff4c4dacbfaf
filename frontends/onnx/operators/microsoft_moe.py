"""com.microsoft: a mixture of experts, of which each token uses a few."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.activation import scaled
from isthmus.ops import nn, pointwise, reduce

# onnxruntime takes the tanh approximation of GELU here.
ACTIVATIONS = {"relu": pointwise.relu, "gelu": pointwise.gelu_tanh, "silu": pointwise.silu}


def mixture_of_experts(node: Node) -> Tensor:
    """Every expert on every token, weighted; the weight of an expert that a token does not use is 0."""
    x, up, down = node[0], node[2], node[4]
    experts = up.shape[0]
    if not isinstance(experts, int):
        raise node.error(Code.DATA_DEPENDENT_SHAPE, f"{node.operator}: {experts} experts")
    if node.integer("use_sparse_mixer", 0):
        raise node.unsupported("use_sparse_mixer=1")
    if node.get(6) is not None or node.get(7) is not None:
        raise node.unsupported("a third layer of weights", "export the model with swiglu_fusion=1")
    shares = node.b.reshape(_shares(node, experts), (*x.shape[:-1], experts))
    total: Tensor | None = None
    for index in range(experts):
        inner = _activated(node, _layer(node, x, up, node.get(3), index))
        share = node.b.cut(shares, x.rank - 1, index, 1)
        part = node.b.op(pointwise.mul, _layer(node, inner, down, node.get(5), index), share)
        total = part if total is None else node.b.op(pointwise.add, total, part)
    assert total is not None
    return total


def _layer(node: Node, x: Tensor, weights: Tensor, bias: Tensor | None, index: int) -> Tensor:
    """x @ w^T + bias with the weights [experts, out, in] and bias [experts, out] of one expert."""
    w = node.b.reshape(node.b.cut(weights, 0, index, 1), weights.shape[1:])
    product = node.b.op(nn.matmul, x, node.b.swap(w, 0, 1))
    if bias is None:
        return product
    return node.b.op(pointwise.add, product, node.b.reshape(node.b.cut(bias, 0, index, 1), bias.shape[1:]))


def _shares(node: Node, experts: int) -> Tensor:
    """Softmax of the router's scores [tokens, experts] where an expert is among the best k, else 0.

    Among equals the later expert wins, as in onnxruntime.
    """
    scores = node.b.op(nn.softmax, node[1])
    tokens = scores.shape[0]
    # Place of each expert in the order of all: how many come before it.
    mine = node.b.reshape(scores, (tokens, experts, 1))
    others = node.b.reshape(scores, (tokens, 1, experts))
    number = node.b.iota((experts, 1), 0), node.b.iota((1, experts), 1)
    later = node.b.op(pointwise.greater, number[1], number[0])
    tied = node.b.op(pointwise.logical_and, node.b.op(pointwise.equal, others, mine), later)
    ahead = node.b.op(pointwise.logical_or, node.b.op(pointwise.greater, others, mine), tied)
    place = node.b.op(reduce.reduce_sum, node.b.cast(ahead, scores.dtype), axes=(2,))
    place = node.b.reshape(place, scores.shape)
    chosen = node.b.op(pointwise.less, place, node.like(node.integer("k", 1), place))
    shares = node.b.op(pointwise.where, chosen, scores, node.like(0, scores))
    if not node.integer("normalize_routing_weights", 0):
        return shares
    return node.b.op(pointwise.div, shares, node.b.op(reduce.reduce_sum, shares, axes=(1,)))


def _activated(node: Node, x: Tensor) -> Tensor:
    kind = node.text("activation_type", "relu")
    alpha, beta = node.number("activation_alpha", 1.0), node.number("activation_beta", 0.0)
    limit, fusion = node.number("swiglu_limit", float("inf")), node.integer("swiglu_fusion", 0)
    if kind in ACTIVATIONS:
        return node.b.op(ACTIVATIONS[kind], x)
    if kind == "identity":
        return x
    if kind != "swiglu" or fusion not in (1, 2):
        raise node.unsupported(f"activation_type={kind!r}, swiglu_fusion={fusion}")
    gate, line = _halves(node, x, interleaved=fusion == 1)
    if limit != float("inf"):
        gate = node.b.op(pointwise.minimum, gate, node.like(limit, gate))
        line = node.b.op(pointwise.minimum, line, node.like(limit, line))
        line = node.b.op(pointwise.maximum, line, node.like(-limit, line))
    swish = node.b.op(pointwise.mul, gate, node.b.op(pointwise.sigmoid, scaled(node, gate, alpha)))
    return node.b.op(pointwise.mul, swish, node.b.op(pointwise.add, line, node.like(beta, line)))


def _halves(node: Node, x: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    """Every other element of each row, or its first and its second half."""
    last = x.rank - 1
    half = node.b.quotient((x.shape[last],), (2,))
    if not interleaved:
        return node.b.cut(x, last, 0, half), node.b.cut(x, last, half, half)
    sizes, steps = (*x.shape[:last], half), (*(1,) * last, 2)
    starts = (0,) * last
    return node.b.slice(x, (*starts, 0), sizes, steps), node.b.slice(x, (*starts, 1), sizes, steps)


OPERATORS: Mapping[str, Importer] = {
    "com.microsoft::MoE": mixture_of_experts,
}
