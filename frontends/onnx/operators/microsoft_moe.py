"""com.microsoft: a mixture of experts, of which each token uses a few."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.activation import scaled
from isthmus.frontends.onnx.operators.microsoft_quantized import IN_INT8, in_int8, zero_points
from isthmus.frontends.onnx.operators.quantize import dequantized, unpacked
from isthmus.ops import nn, pointwise, reduce

# onnxruntime takes the tanh approximation of GELU here.
ACTIVATIONS = {"relu": pointwise.relu, "gelu": pointwise.gelu_tanh, "silu": pointwise.silu}


@dataclass(frozen=True, slots=True)
class Layer:
    """A matrix [experts, out, in] and a bias [experts, out] of each expert; `around` is applied to what goes
    in, where products are made of numbers of few bits."""

    weights: Tensor
    bias: Tensor | None
    around: Callable[[Tensor], Tensor] = lambda x: x


def mixture_of_experts(node: Node) -> Tensor:
    if node.get(6) is not None or node.get(7) is not None:
        raise node.unsupported("a third layer of weights", "export the model with swiglu_fusion=1")
    normal = bool(node.integer("normalize_routing_weights", 0))
    return mixed(node, Layer(node[2], node.get(3)), Layer(node[4], node.get(5)), None, normal)


def mixed(node: Node, up: Layer, down: Layer, choice: Tensor | None, normal: bool) -> Tensor:
    """Every expert on every token, weighted; the weight of an expert that a token does not use is 0.

    The router's scores choose and weigh the experts; with `choice` they only choose, and it weighs. If
    `normal`, the weights of each token add up to 1.
    """
    x, experts = node[0], up.weights.shape[0]
    if not isinstance(experts, int):
        raise node.error(Code.DATA_DEPENDENT_SHAPE, f"{node.operator}: {experts} experts")
    if node.integer("use_sparse_mixer", 0):
        raise node.unsupported("use_sparse_mixer=1")
    shares = node.b.reshape(_shares(node, experts, choice, normal), (*x.shape[:-1], experts))
    total: Tensor | None = None
    for index in range(experts):
        inner = _activated(node, _layer(node, x, up, index))
        share = node.b.cut(shares, x.rank - 1, index, 1)
        part = node.b.op(pointwise.mul, _layer(node, inner, down, index), share)
        total = part if total is None else node.b.op(pointwise.add, total, part)
    assert total is not None
    return total


def _layer(node: Node, x: Tensor, layer: Layer, index: int) -> Tensor:
    """x @ w^T + bias of one expert."""
    weights, bias = layer.weights, layer.bias
    w = node.b.reshape(node.b.cut(weights, 0, index, 1), weights.shape[1:])
    product = node.b.op(nn.matmul, layer.around(x), node.b.swap(node.b.cast(w, x.dtype), 0, 1))
    if bias is None:
        return product
    return node.b.op(pointwise.add, product, node.b.reshape(node.b.cut(bias, 0, index, 1), bias.shape[1:]))


def _shares(node: Node, experts: int, choice: Tensor | None, normal: bool) -> Tensor:
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
    weights = scores if choice is None else choice
    shares = node.b.op(pointwise.where, chosen, weights, node.like(0, scores))
    if not normal:
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


# --- quantized -----------------------------------------------------------------------------------


def q_mixture_of_experts(node: Node) -> Tensor:
    """Weights as packed integers, with a scale for each row or for each block of it."""
    kind, packing = node.text("quant_type", "int"), node.integer("weights_prepacked", -1)
    if kind != "int" or packing == 1:
        raise node.unsupported(f"quant_type={kind!r}, weights_prepacked={packing}")
    third = [i for i in (8, 9, 10, 13) if node.get(i) is not None]
    if third:
        raise node.unsupported("a third layer of weights", "export the model with swiglu_fusion=1")
    node.ignore("fc3_expert_weight_bits")
    up = _quantized(node, 2, "fc1_expert_weight_bits", node.get(11))
    down = _quantized(node, 5, "fc2_expert_weight_bits", node.get(12))
    # onnxruntime takes the softmax over the experts chosen, unless their weights are given.
    choice, normal = node.get(14), bool(node.integer("normalize_routing_weights", 0))
    return mixed(node, up, down, choice, normal or choice is None)


def _quantized(node: Node, first: int, bits_name: str, zero: Tensor | None) -> Layer:
    """Weights, scales and bias from input `first` on."""
    packed, scales = node[first], node[first + 1]
    bits = node.integer(bits_name, node.integer("expert_weight_bits", 4))
    if bits not in (2, 4, 8):
        raise node.unsupported(f"{bits_name}={bits}")
    experts, rows, width = packed.type.static_shape
    depth = width * 8 // bits
    block = node.integer("block_size", 0) or depth
    count = -(-depth // block)
    if depth % block or math.prod(scales.type.static_shape) != experts * rows * count:
        text = f"{node.operator}: scales {scales.type} of {depth} numbers in blocks of {block}"
        raise node.error(Code.SHAPE_MISMATCH, text)
    flat = (experts * rows, count)
    q = unpacked(node, packed, bits, (*flat, block))
    step = node.b.reshape(scales, (*flat, 1))
    middle = _middles(node, zero, bits, (experts, rows, count), step)
    wide = node.b.reshape(dequantized(node, q, step, middle), (experts, rows, depth))
    # onnxruntime has kernels for blocks of 8 bits in integers only.
    coarse = node.integer("block_size", 0) > 0 and (bits == 8 or node.integer("accuracy_level", 0) == IN_INT8)

    def around(x: Tensor) -> Tensor:
        return in_int8(node, x, count, block) if coarse else x

    return Layer(wide, node.get(first + 2), around)


def _middles(node: Node, zero: Tensor | None, bits: int, shape: tuple[int, int, int], step: Tensor) -> Tensor:
    """Zero points of blocks [experts, rows, count]; without blocks, those of all rows are packed together."""
    experts, rows, count = shape
    if zero is None or zero.rank == 3:
        return zero_points(node, zero, bits, (experts * rows, count), step)
    every = zero_points(node, zero, bits, (experts, rows), step)
    return node.b.reshape(every, (experts * rows, 1, 1))


OPERATORS: Mapping[str, Importer] = {
    "com.microsoft::MoE": mixture_of_experts,
    "com.microsoft::QMoE": q_mixture_of_experts,
}
