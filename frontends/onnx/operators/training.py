"""Steps of optimisers. Inputs: rate, step, then all tensors, all gradients, all states."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.ir.graph import Op
from isthmus.ops import pointwise as ops

# One tensor's step: (node, rate, step count, tensor and gradient and states) to (tensor and states).
Step = Callable[[Node, Tensor, Tensor, list[Tensor]], list[Tensor]]


def _do(node: Node, op: Op, a: Tensor, b: Tensor | float) -> Tensor:
    return node.b.op(op, a, b if isinstance(b, Tensor) else node.like(b, a))


def _regularized(node: Node, x: Tensor, gradient: Tensor) -> Tensor:
    weight = node.number("norm_coefficient", 0.0)
    return _do(node, ops.add, gradient, _do(node, ops.mul, x, weight)) if weight else gradient


def _optimiser(step: Step, parts: int) -> Importer:
    """`parts` inputs for each tensor, of which all but the gradient are outputs."""

    def importer(node: Node) -> list[Tensor]:
        rate, count, *rest = node.every()
        if not rest or len(rest) % parts:
            raise node.error(Code.INVALID_GRAPH, f"{node.operator} has {len(node.inputs)} inputs")
        n = len(rest) // parts
        rate, count = node.b.reshape(rate, ()), node.b.reshape(count, ())
        results = [step(node, rate, count, rest[i::n]) for i in range(n)]
        return [one[part] for part in range(parts - 1) for one in results]

    return importer


def _adagrad(node: Node, rate: Tensor, count: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """Duchi, Hazan and Singer 2011."""
    x, gradient, squares = parts
    gradient = _regularized(node, x, gradient)
    times = _do(node, ops.mul, node.b.cast(count, x.dtype), node.number("decay_factor", 0.0))
    rate = _do(node, ops.div, rate, _do(node, ops.add, times, 1.0))
    squares = _do(node, ops.add, squares, _do(node, ops.mul, gradient, gradient))
    root = _do(node, ops.add, node.b.op(ops.sqrt, squares), node.number("epsilon", 1e-6))
    change = _do(node, ops.div, _do(node, ops.mul, rate, gradient), root)
    return [_do(node, ops.sub, x, change), squares]


def _adam(node: Node, rate: Tensor, count: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """Kingma and Ba 2015; the rate is corrected from the first step on."""
    x, gradient, mean, squares = parts
    alpha, beta = node.number("alpha", 0.9), node.number("beta", 0.999)
    gradient = _regularized(node, x, gradient)
    mean = _blend(node, mean, alpha, gradient)
    squares = _blend(node, squares, beta, _do(node, ops.mul, gradient, gradient))
    root = _do(node, ops.add, node.b.op(ops.sqrt, squares), node.number("epsilon", 1e-6))
    times = node.b.cast(count, x.dtype)
    corrections = [
        _do(node, ops.sub, node.like(1, x), _do(node, ops.pow_, node.like(b, x), times))
        for b in (beta, alpha)
    ]
    corrected = _do(
        node, ops.div, _do(node, ops.mul, rate, node.b.op(ops.sqrt, corrections[0])), corrections[1]
    )
    started = node.b.op(ops.greater, count, node.like(0, count))
    change = _do(node, ops.div, mean, root)
    x = _do(node, ops.sub, x, _do(node, ops.mul, node.b.op(ops.where, started, corrected, rate), change))
    shrink = node.number("norm_coefficient_post", 0.0)
    return [_do(node, ops.mul, x, 1 - shrink) if shrink else x, mean, squares]


def _blend(node: Node, old: Tensor, share: float, new: Tensor) -> Tensor:
    return _do(node, ops.add, _do(node, ops.mul, old, share), _do(node, ops.mul, new, 1 - share))


def _momentum(node: Node, rate: Tensor, count: Tensor, parts: list[Tensor]) -> list[Tensor]:
    """Polyak's, or Nesterov's."""
    x, gradient, velocity = parts
    alpha, beta = node.number("alpha", 0.0), node.number("beta", 0.0)
    mode = node.text("mode", "standard")
    if mode not in ("standard", "nesterov"):
        raise node.unsupported(f"mode={mode!r}; known: standard, nesterov")
    gradient = _regularized(node, x, gradient)
    first = node.b.op(ops.greater, count, node.like(0, count))
    weight = node.b.op(ops.where, first, node.like(beta, x), node.like(1, x))
    velocity = _do(node, ops.add, _do(node, ops.mul, velocity, alpha), _do(node, ops.mul, gradient, weight))
    change = velocity
    if mode == "nesterov":
        change = _do(node, ops.add, gradient, _do(node, ops.mul, velocity, alpha))
    return [_do(node, ops.sub, x, _do(node, ops.mul, change, rate)), velocity]


OPERATORS: Mapping[str, Importer] = {
    "ai.onnx.preview.training::Adagrad": _optimiser(_adagrad, 3),
    "ai.onnx.preview.training::Adam": _optimiser(_adam, 4),
    "ai.onnx.preview.training::Momentum": _optimiser(_momentum, 3),
}
