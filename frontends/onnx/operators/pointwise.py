"""Arithmetic, comparisons, logic, and choosing."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.small_floats import cast_to
from isthmus.ir.graph import Op
from isthmus.ir.types import DType
from isthmus.ops import pointwise as ops


def same(op: Op) -> Importer:
    """An operator that is exactly one of our ops."""

    def importer(node: Node) -> Tensor:
        return node.b.op(op, *node.every())

    return importer


def folded(op: Op) -> Importer:
    """An operator of one or more inputs, combined from the left."""

    def importer(node: Node) -> Tensor:
        first, *rest = node.every()
        for tensor in rest:
            first = node.b.op(op, first, tensor)
        return first

    return importer


def mean(node: Node) -> Tensor:
    total = folded(ops.add)(node)
    assert isinstance(total, Tensor)
    return node.b.op(ops.div, total, node.like(len(node.inputs), total))


def power(node: Node) -> Tensor:
    base, exponent = node[0], node[1]
    if exponent.dtype is base.dtype:
        return node.b.op(ops.pow_, base, exponent)
    if not base.dtype.is_float and exponent.dtype.is_float:
        # The result has the type of the base, but 4 ** 0.5 is 2.
        wide = node.b.op(ops.pow_, node.b.cast(base, exponent.dtype), exponent)
        return node.b.cast(wide, base.dtype)
    return node.b.op(ops.pow_, base, node.b.cast(exponent, base.dtype))


def modulo(node: Node) -> Tensor:
    a, b = node[0], node[1]
    if not node.integer("fmod", 0):
        if a.dtype.is_float and node.opset < 28:
            raise node.error(Code.INVALID_GRAPH, "Mod of floating-point numbers needs fmod=1")
        return node.b.op(ops.mod, a, b)
    quotient = node.b.op(ops.div, a, b)
    if a.dtype.is_float:
        size = node.b.op(ops.floor, node.b.op(ops.absolute, quotient))
        quotient = node.b.op(ops.mul, node.b.op(ops.sign, quotient), size)
    return node.b.op(ops.sub, a, node.b.op(ops.mul, quotient, b))


def cast(node: Node) -> Tensor:
    x = node[0]
    if not node.has("to"):
        raise node.error(Code.INVALID_GRAPH, "Cast without the attribute 'to'")
    return cast_to(node, x, node.dtype("to", x.dtype))


def cast_like(node: Node) -> Tensor:
    return cast_to(node, node[0], node[1].dtype)


def clip(node: Node) -> Tensor:
    x = node[0]
    low, high = node.get(1), node.get(2)
    if node.opset < 11:
        low = node.like(node.number("min", 0.0), x) if node.has("min") else None
        high = node.like(node.number("max", 0.0), x) if node.has("max") else None
    # A minimum above the maximum gives the maximum.
    if low is not None:
        x = node.b.op(ops.maximum, x, node.b.reshape(low, ()))
    return x if high is None else node.b.op(ops.minimum, x, node.b.reshape(high, ()))


def is_inf(node: Node) -> Tensor:
    x = node[0]
    negative, positive = node.integer("detect_negative", 1), node.integer("detect_positive", 1)
    infinite = node.b.op(ops.is_inf, x)
    if negative and positive:
        return infinite
    if not negative and not positive:
        return node.b.full(x.shape, 0, DType.BOOL)
    sign = ops.less if negative else ops.greater
    return node.b.op(ops.logical_and, infinite, node.b.op(sign, x, node.like(0, x)))


OPERATORS: Mapping[str, Importer] = {
    "Abs": same(ops.absolute),
    "Add": same(ops.add),
    "And": same(ops.logical_and),
    "Cast": cast,
    "CastLike": cast_like,
    "Ceil": same(ops.ceil),
    "Clip": clip,
    "Cos": same(ops.cos),
    "Div": same(ops.div),
    "Equal": same(ops.equal),
    "Erf": same(ops.erf),
    "Exp": same(ops.exp),
    "Floor": same(ops.floor),
    "Greater": same(ops.greater),
    "GreaterOrEqual": same(ops.greater_equal),
    "IsInf": is_inf,
    "IsNaN": same(ops.is_nan),
    "Less": same(ops.less),
    "LessOrEqual": same(ops.less_equal),
    "Log": same(ops.log),
    "Max": folded(ops.maximum),
    "Mean": mean,
    "Min": folded(ops.minimum),
    "Mod": modulo,
    "Mul": same(ops.mul),
    "Neg": same(ops.neg),
    "Not": same(ops.logical_not),
    "Or": same(ops.logical_or),
    "Pow": power,
    "Reciprocal": same(ops.reciprocal),
    "Round": same(ops.round_even),
    "Sigmoid": same(ops.sigmoid),
    "Sign": same(ops.sign),
    "Sin": same(ops.sin),
    "Sqrt": same(ops.sqrt),
    "Sub": same(ops.sub),
    "Sum": folded(ops.add),
    "Tanh": same(ops.tanh),
    "Where": same(ops.where),
    "Xor": same(ops.logical_xor),
}
