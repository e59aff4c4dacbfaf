"""Shapes as values, constants, and tensors made from sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.symbolic import MAX_ELEMENTS
from isthmus.ir.dims import Dim, floordiv, maximum, product
from isthmus.ir.graph import weight_value
from isthmus.ir.types import DType
from isthmus.ops import pointwise as ops


def identity(node: Node) -> Tensor:
    found = node.value(0)
    return node[0] if found is None else found


def dropout(node: Node) -> list[Tensor]:
    node.ignore("seed", "ratio", "is_test", "consumed_inputs")
    training = node.get(2)
    if training is not None and node.one_number(2, "training_mode") and not _drops_nothing(node):
        raise node.unsupported("training_mode", "export the model for inference")
    return [node[0], node.b.full(node[0].shape, 1, DType.BOOL)] if node.uses(1) else [node[0]]


def _drops_nothing(node: Node) -> bool:
    return node.get(1) is not None and node.one_number(1, "the ratio") == 0


def constant(node: Node) -> Tensor:
    if (weight := node.tensor("value")) is not None:
        name = node.b.unique(node.outputs[0] or node.where)
        return Tensor(weight.type, None, weight_value(weight.renamed(name), node.where))
    if node.has("value_int"):
        return node.b.array(np.asarray(node.integer("value_int", 0), np.int64))
    if node.has("value_float"):
        return node.b.array(np.asarray(node.number("value_float", 0.0), np.float32))
    if (integers := node.integers("value_ints")) is not None:
        return node.b.array(np.asarray(integers, np.int64))
    if (numbers := node.numbers("value_floats")) is not None:
        return node.b.array(np.asarray(numbers, np.float32))
    kinds = ", ".join(sorted(node.attributes)) or "nothing"
    raise node.error(Code.UNSUPPORTED_DTYPE, f"Constant with {kinds} is not supported")


def shape(node: Node) -> Tensor:
    dims = node[0].shape
    start, end = node.integer("start", 0), node.integer("end", len(dims))
    return node.b.dims(dims[slice(*slice(start, end).indices(len(dims)))])


def size(node: Node) -> Tensor:
    return node.b.dim(product(node[0].shape))


def constant_of_shape(node: Node) -> Tensor:
    dims = node.dims(0, "the shape")
    weight = node.tensor("value")
    dtype = DType.F32 if weight is None else weight.type.dtype
    value = 0 if weight is None else weight.read().reshape(-1)[0].item()
    if any(isinstance(d, int) and d < 0 for d in dims):
        raise node.error(Code.SHAPE_MISMATCH, f"ConstantOfShape: negative size in {list(dims)}")
    return node.b.full(dims, value, dtype)


def range_(node: Node) -> Tensor:
    first, limit, step = (node[i] for i in range(3))
    dtype = first.dtype
    numbers = [node.known_scalar(t) for t in (first, limit, step)]
    if dtype.is_float and None not in numbers:
        return _float_range(node, [n for n in numbers if n is not None], dtype)
    start, stop = node.dims(0, "its start")[0], node.dims(1, "its limit")[0]
    by = node.ints(2, "its step")[0]
    if by == 0:
        raise node.error(Code.INVALID_GRAPH, "Range with a step of 0")
    count = node.b.facts.resolve(maximum(0, _ceil_div(stop - start, by)))
    line = node.b.iota((count,), 0, dtype)
    if by != 1:
        line = node.b.op(ops.mul, line, node.like(by, dtype))
    return line if start == 0 else node.b.op(ops.add, line, node.b.dim(start, dtype))


def _float_range(node: Node, numbers: Sequence[float], dtype: DType) -> Tensor:
    start, stop, step = numbers
    if step == 0 or not math.isfinite(start + stop + step) or (stop - start) / step > MAX_ELEMENTS:
        raise node.error(Code.INVALID_GRAPH, f"Range from {start} to {stop} by {step}")
    count = max(0, math.ceil((stop - start) / step))
    return node.b.array((start + step * np.arange(count)).astype(dtype.numpy))


def _ceil_div(a: Dim, b: int) -> Dim:
    """a / b rounded up."""
    return -1 * (floordiv(a, -b) if b < 0 else floordiv(-1 * a, b))


OPERATORS: Mapping[str, Importer] = {
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Dropout": dropout,
    "Identity": identity,
    "Range": range_,
    "Shape": shape,
    "Size": size,
}
