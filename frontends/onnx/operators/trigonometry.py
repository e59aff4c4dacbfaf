"""Trigonometric and hyperbolic functions, written with the ops there are."""

from __future__ import annotations

import math
from collections.abc import Mapping

from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.ir.graph import Op
from isthmus.ir.types import DType
from isthmus.ops import pointwise as ops

# atan x = x + x^3 * p(x^2) for |x| <= tan(pi/8), to 2e-8 (Moshier's Cephes, atanf).
ATAN = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)


def _do(node: Node, op: Op, a: Tensor, b: Tensor | float) -> Tensor:
    return node.b.op(op, a, b if isinstance(b, Tensor) else node.like(b, a))


def tan(node: Node) -> Tensor:
    return node.b.op(ops.div, node.b.op(ops.sin, node[0]), node.b.op(ops.cos, node[0]))


def arctan(node: Node, x: Tensor) -> Tensor:
    """atan x, for x of either sign. Raises `ModelError` for f64, which needs a longer series."""
    if x.dtype is DType.F64:
        raise node.unsupported("f64; the series is for f32")
    size = node.b.op(ops.absolute, x)
    steep, middle = (
        _do(node, ops.greater, size, limit) for limit in (math.tan(3 * math.pi / 8), math.tan(math.pi / 8))
    )
    far = node.b.op(ops.neg, node.b.op(ops.reciprocal, size))
    near = node.b.op(ops.div, _do(node, ops.sub, size, 1), _do(node, ops.add, size, 1))
    y = node.b.op(ops.where, steep, far, node.b.op(ops.where, middle, near, size))
    quarter = node.b.op(ops.where, middle, node.like(math.pi / 4, x), node.like(0, x))
    start = node.b.op(ops.where, steep, node.like(math.pi / 2, x), quarter)
    square = node.b.op(ops.mul, y, y)
    series = node.like(ATAN[0], x)
    for factor in ATAN[1:]:
        series = _do(node, ops.add, node.b.op(ops.mul, series, square), factor)
    series = _do(node, ops.add, _do(node, ops.mul, node.b.op(ops.mul, series, square), y), y)
    total = node.b.op(ops.add, start, series)
    return node.b.op(ops.where, _do(node, ops.less, x, 0), node.b.op(ops.neg, total), total)


def atan(node: Node) -> Tensor:
    return arctan(node, node[0])


def _arcsin(node: Node, x: Tensor) -> Tensor:
    """atan(x / sqrt((1 - x) (1 + x))); at 1 the quotient is infinite, and right."""
    one = node.like(1, x)
    under = node.b.op(ops.mul, node.b.op(ops.sub, one, x), node.b.op(ops.add, one, x))
    return arctan(node, node.b.op(ops.div, x, node.b.op(ops.sqrt, under)))


def asin(node: Node) -> Tensor:
    return _arcsin(node, node[0])


def acos(node: Node) -> Tensor:
    """2 atan(sqrt((1 - x) / (1 + x))), which does not cancel near 1."""
    x = node[0]
    one = node.like(1, x)
    ratio = node.b.op(ops.div, node.b.op(ops.sub, one, x), node.b.op(ops.add, one, x))
    return _do(node, ops.mul, arctan(node, node.b.op(ops.sqrt, ratio)), 2)


def _exponentials(node: Node) -> tuple[Tensor, Tensor]:
    x = node[0]
    return node.b.op(ops.exp, x), node.b.op(ops.exp, node.b.op(ops.neg, x))


def sinh(node: Node) -> Tensor:
    """tanh x * cosh x: the difference of two exponentials loses digits near 0."""
    x = node[0]
    up, down = _exponentials(node)
    large = _do(node, ops.mul, node.b.op(ops.sub, up, down), 0.5)
    small = node.b.op(ops.mul, node.b.op(ops.tanh, x), _do(node, ops.mul, node.b.op(ops.add, up, down), 0.5))
    is_large = _do(node, ops.greater, node.b.op(ops.absolute, x), 1)
    return node.b.op(ops.where, is_large, large, small)


def cosh(node: Node) -> Tensor:
    up, down = _exponentials(node)
    return _do(node, ops.mul, node.b.op(ops.add, up, down), 0.5)


def asinh(node: Node) -> Tensor:
    """sign x * log(|x| + sqrt(x^2 + 1))."""
    x = node[0]
    size = node.b.op(ops.absolute, x)
    root = node.b.op(ops.sqrt, _do(node, ops.add, node.b.op(ops.mul, x, x), 1))
    return node.b.op(ops.mul, node.b.op(ops.sign, x), node.b.op(ops.log, node.b.op(ops.add, size, root)))


def acosh(node: Node) -> Tensor:
    """log(x + sqrt((x - 1) (x + 1)))."""
    x = node[0]
    under = node.b.op(ops.mul, _do(node, ops.sub, x, 1), _do(node, ops.add, x, 1))
    return node.b.op(ops.log, node.b.op(ops.add, x, node.b.op(ops.sqrt, under)))


def atanh(node: Node) -> Tensor:
    """log((1 + x) / (1 - x)) / 2."""
    x = node[0]
    one = node.like(1, x)
    ratio = node.b.op(ops.div, node.b.op(ops.add, one, x), node.b.op(ops.sub, one, x))
    return _do(node, ops.mul, node.b.op(ops.log, ratio), 0.5)


OPERATORS: Mapping[str, Importer] = {
    "Acos": acos,
    "Acosh": acosh,
    "Asin": asin,
    "Asinh": asinh,
    "Atan": atan,
    "Atanh": atanh,
    "Cosh": cosh,
    "Sinh": sinh,
    "Tan": tan,
}
