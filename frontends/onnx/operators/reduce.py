"""Reductions, scans, and the position of extremes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.ir.graph import Op
from isthmus.ir.types import DType
from isthmus.ops import pointwise
from isthmus.ops import reduce as ops

# The first opset in which axes are an input.
AXES_INPUT = {"ReduceSum": 13}
AXES_INPUT_OTHERS = 18

Step = Callable[[Node, Tensor], Tensor]


def _axes(node: Node, rank: int) -> tuple[int, ...]:
    """The axes to reduce; none at all means that there is nothing to reduce."""
    if node.opset < AXES_INPUT.get(node.op_type, AXES_INPUT_OTHERS):
        given = node.integers("axes") or ()
    else:
        given = () if node.get(1) is None else node.ints(1, "its axes")
    if not given:
        return () if node.integer("noop_with_empty_axes", 0) else tuple(range(rank))
    node.ignore("noop_with_empty_axes")
    return node.axes(given, rank)


def without(node: Node, x: Tensor, axes: Sequence[int]) -> Tensor:
    """`x` without the reduced axes, unless they should stay."""
    if node.integer("keepdims", 1):
        return x
    return node.b.reshape(x, tuple(d for i, d in enumerate(x.shape) if i not in axes))


def _plain(node: Node, x: Tensor) -> Tensor:
    return x


def _square(node: Node, x: Tensor) -> Tensor:
    return node.b.op(pointwise.mul, x, x)


def _unary(op: Op) -> Step:
    return lambda node, x: node.b.op(op, x)


def reduction(op: Op, before: Step = _plain, after: Step = _plain) -> Importer:
    """after(op(before(x)))."""

    def importer(node: Node) -> Tensor:
        axes = _axes(node, node[0].rank)
        x = before(node, node[0])
        reduced = node.b.op(op, x, axes=axes) if axes else x
        return without(node, after(node, reduced), axes)

    return importer


def _extreme(op: Op) -> Importer:
    """Booleans are ordered as numbers."""

    def importer(node: Node) -> Tensor:
        axes = _axes(node, node[0].rank)
        x = node[0]
        wide = node.b.cast(x, DType.U8) if x.dtype is DType.BOOL else x
        reduced = node.b.op(op, wide, axes=axes) if axes else wide
        return without(node, node.b.cast(reduced, x.dtype), axes)

    return importer


def log_sum_exp(node: Node) -> Tensor:
    x = node[0]
    axes = _axes(node, x.rank)
    if not axes:
        return x
    # Infinite maxima must not turn into inf - inf.
    top = node.b.op(ops.reduce_max, x, axes=axes)
    infinite = node.b.op(pointwise.is_inf, top)
    safe = node.b.op(pointwise.where, infinite, node.like(0, x), top)
    shifted = node.b.op(pointwise.exp, node.b.op(pointwise.sub, x, safe))
    total = node.b.op(pointwise.log, node.b.op(ops.reduce_sum, shifted, axes=axes))
    return without(node, node.b.op(pointwise.add, total, safe), axes)


def _position(op: Op) -> Importer:
    def importer(node: Node) -> Tensor:
        x = node[0]
        axis = node.axis("axis", 0, x.rank)
        found = node.b.op(op, x, axis=axis, last=bool(node.integer("select_last_index", 0)))
        return without(node, found, (axis,))

    return importer


def _running(op: Op) -> Importer:
    def importer(node: Node) -> Tensor:
        x = node[0]
        axis = node.normal(node.ints(1, "its axis")[0], x.rank)
        exclusive, reverse = bool(node.integer("exclusive", 0)), bool(node.integer("reverse", 0))
        return node.b.op(op, x, axis=axis, exclusive=exclusive, reverse=reverse)

    return importer


OPERATORS: Mapping[str, Importer] = {
    "ArgMax": _position(ops.argmax),
    "ArgMin": _position(ops.argmin),
    "CumProd": _running(ops.cumprod),
    "CumSum": _running(ops.cumsum),
    "ReduceL1": reduction(ops.reduce_sum, _unary(pointwise.absolute)),
    "ReduceL2": reduction(ops.reduce_sum, _square, _unary(pointwise.sqrt)),
    "ReduceLogSum": reduction(ops.reduce_sum, after=_unary(pointwise.log)),
    "ReduceLogSumExp": log_sum_exp,
    "ReduceMax": _extreme(ops.reduce_max),
    "ReduceMean": reduction(ops.reduce_mean),
    "ReduceMin": _extreme(ops.reduce_min),
    "ReduceProd": reduction(ops.reduce_prod),
    "ReduceSum": reduction(ops.reduce_sum),
    "ReduceSumSquare": reduction(ops.reduce_sum, _square),
}
