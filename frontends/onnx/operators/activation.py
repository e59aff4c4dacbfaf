"""Activations, written with the ops there are."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.ops import pointwise as ops


def relu(node: Node) -> Tensor:
    return node.b.op(ops.relu, node[0])


def gelu(node: Node) -> Tensor:
    kind = node.text("approximate", "none")
    if kind not in ("none", "tanh"):
        raise node.unsupported(f"approximate={kind!r}; known: none, tanh")
    return node.b.op(ops.gelu if kind == "none" else ops.gelu_tanh, node[0])


def _choose(node: Node, x: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """`positive` where x >= 0, else `negative`."""
    return node.b.op(ops.where, node.b.op(ops.greater_equal, x, node.like(0, x)), positive, negative)


def scaled(node: Node, x: Tensor, factor: float) -> Tensor:
    """x * factor."""
    return x if factor == 1 else node.b.op(ops.mul, x, node.like(factor, x))


def _exp_minus_1(node: Node, x: Tensor) -> Tensor:
    # Only used where x < 0; the minimum keeps the unused side finite.
    clipped = node.b.op(ops.minimum, x, node.like(0, x))
    return node.b.op(ops.sub, node.b.op(ops.exp, clipped), node.like(1, x))


def leaky_relu(node: Node) -> Tensor:
    return leaky(node, node[0], node.number("alpha", 0.01))


def leaky(node: Node, x: Tensor, slope: float) -> Tensor:
    """x where it is not negative, else slope * x."""
    return _choose(node, x, x, scaled(node, x, slope))


def p_relu(node: Node) -> Tensor:
    x = node[0]
    return _choose(node, x, x, node.b.op(ops.mul, x, node[1]))


def thresholded_relu(node: Node) -> Tensor:
    x = node[0]
    above = node.b.op(ops.greater, x, node.like(node.number("alpha", 1.0), x))
    return node.b.op(ops.where, above, x, node.like(0, x))


def elu(node: Node) -> Tensor:
    x = node[0]
    return _choose(node, x, x, scaled(node, _exp_minus_1(node, x), node.number("alpha", 1.0)))


def celu(node: Node) -> Tensor:
    x, alpha = node[0], node.number("alpha", 1.0)
    return _choose(node, x, x, scaled(node, _exp_minus_1(node, scaled(node, x, 1 / alpha)), alpha))


def selu(node: Node) -> Tensor:
    x = node[0]
    alpha = node.number("alpha", 1.67326319217681884765625)
    gamma = node.number("gamma", 1.05070102214813232421875)
    negative = scaled(node, _exp_minus_1(node, x), alpha)
    return scaled(node, _choose(node, x, x, negative), gamma)


def _hard_sigmoid(node: Node, x: Tensor, alpha: float, beta: float) -> Tensor:
    line = node.b.op(ops.add, scaled(node, x, alpha), node.like(beta, x))
    return node.b.op(ops.maximum, node.b.op(ops.minimum, line, node.like(1, x)), node.like(0, x))


def hard_sigmoid(node: Node) -> Tensor:
    return _hard_sigmoid(node, node[0], node.number("alpha", 0.2), node.number("beta", 0.5))


def hard_swish(node: Node) -> Tensor:
    return node.b.op(ops.mul, node[0], _hard_sigmoid(node, node[0], 1 / 6, 0.5))


def softplus(node: Node) -> Tensor:
    return _softplus(node, node[0])


def _softplus(node: Node, x: Tensor) -> Tensor:
    """log(1 + exp x) as max(x, 0) + log(1 + exp -|x|), which cannot overflow."""
    small = node.b.op(ops.exp, node.b.op(ops.neg, node.b.op(ops.absolute, x)))
    rest = node.b.op(ops.log, node.b.op(ops.add, small, node.like(1, x)))
    return node.b.op(ops.add, node.b.op(ops.relu, x), rest)


def softsign(node: Node) -> Tensor:
    x = node[0]
    return node.b.op(ops.div, x, node.b.op(ops.add, node.b.op(ops.absolute, x), node.like(1, x)))


def mish(node: Node) -> Tensor:
    return node.b.op(ops.mul, node[0], node.b.op(ops.tanh, _softplus(node, node[0])))


def swish(node: Node) -> Tensor:
    x, alpha = node[0], node.number("alpha", 1.0)
    if alpha == 1:
        return node.b.op(ops.silu, x)
    return node.b.op(ops.mul, x, node.b.op(ops.sigmoid, scaled(node, x, alpha)))


def shrink(node: Node) -> Tensor:
    x, bias, limit = node[0], node.number("bias", 0.0), node.number("lambd", 0.5)
    above = node.b.op(ops.sub, x, node.like(bias, x))
    below = node.b.op(ops.add, x, node.like(bias, x))
    inner = node.b.op(ops.where, node.b.op(ops.less, x, node.like(-limit, x)), below, node.like(0, x))
    return node.b.op(ops.where, node.b.op(ops.greater, x, node.like(limit, x)), above, inner)


OPERATORS: Mapping[str, Importer] = {
    "Celu": celu,
    "Elu": elu,
    "Gelu": gelu,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "LeakyRelu": leaky_relu,
    "Mish": mish,
    "PRelu": p_relu,
    "Relu": relu,
    "Selu": selu,
    "Shrink": shrink,
    "Softplus": softplus,
    "Softsign": softsign,
    "Swish": swish,
    "ThresholdedRelu": thresholded_relu,
}
