"""Fourier transforms as products with matrices of cosines and sines: lengths in a model are short."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.movement import padded
from isthmus.frontends.onnx.operators.spatial import require_positive
from isthmus.ir.dims import Dim, floordiv, minimum
from isthmus.ir.graph import Op
from isthmus.ir.types import DType
from isthmus.ops import movement, nn, pointwise
from isthmus.ops.movement import window_count

# Beyond this a matrix is more than a model file should grow by.
LONGEST = 4096


def dft(node: Node) -> Tensor:
    """X[k] = sum x[j] e^(-2 pi i j k / n), along one axis; the last axis holds real and imaginary parts."""
    x = node[0]
    if x.rank < 2 or x.shape[-1] not in (1, 2):
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator} of {x.type}")
    if node.opset < 20:
        axis = node.normal(node.integer("axis", 1), x.rank)
    else:
        axis = node.normal(-2 if node.get(2) is None else node.ints(2, "its axis")[0], x.rank)
    length = x.shape[axis] if node.get(1) is None else node.dims(1, "its length")[0]
    inverse, onesided = bool(node.integer("inverse", 0)), bool(node.integer("onesided", 0))
    if onesided and inverse:
        raise node.unsupported("onesided=1 with inverse=1")
    x = _of_length(node, x, axis, length)
    count = floordiv(length, 2) + 1 if onesided else length
    real, imaginary = (
        node.b.reshape(node.b.cut(x, x.rank - 1, i, 1), x.shape[:-1]) if i < _parts(x) else None
        for i in (0, 1)
    )
    assert real is not None
    lines = [None if p is None else node.b.swap(p, axis, p.rank - 1) for p in (real, imaginary)]
    assert lines[0] is not None
    a, b = transformed(node, lines[0], lines[1], length, count, inverse)
    return _joined(node, node.b.swap(a, axis, a.rank - 1), node.b.swap(b, axis, b.rank - 1))


def _parts(x: Tensor) -> int:
    return 2 if x.shape[-1] == 2 else 1


def _of_length(node: Node, x: Tensor, axis: int, length: Dim) -> Tensor:
    """Cut, or padded with zeros, to `length` along an axis."""
    old = x.shape[axis]
    if old == length:
        return x
    x = node.b.cut(x, axis, 0, node.b.facts.resolve(minimum(old, length)))
    after = [length - x.shape[axis] if i == axis else 0 for i in range(x.rank)]
    return padded(node, x, [0] * x.rank, after, "constant", 0.0)


def _joined(node: Node, real: Tensor, imaginary: Tensor) -> Tensor:
    return node.b.concat([node.b.reshape(p, (*p.shape, 1)) for p in (real, imaginary)], real.rank)


def transformed(
    node: Node, real: Tensor, imaginary: Tensor | None, length: Dim, count: Dim, inverse: bool
) -> tuple[Tensor, Tensor]:
    """`count` frequencies of the last axis, which has `length` elements: real and imaginary parts."""
    cosines, sines = _matrices(node, length, count, real.dtype, inverse)
    # e^(-ix) = cos x - i sin x, and the other way round for the inverse.
    sign, other = (pointwise.add, pointwise.sub) if not inverse else (pointwise.sub, pointwise.add)
    a = node.b.op(nn.matmul, real, cosines)
    b = node.b.op(nn.matmul, real, sines)
    if imaginary is None:
        return a, b if inverse else node.b.op(pointwise.neg, b)
    c, d = node.b.op(nn.matmul, imaginary, cosines), node.b.op(nn.matmul, imaginary, sines)
    return node.b.op(sign, a, d), node.b.op(other, c, b)


def _matrices(node: Node, length: Dim, count: Dim, dtype: DType, inverse: bool) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi j k / length, [length, count]; divided by the length for the inverse."""
    if isinstance(length, int) and isinstance(count, int):
        if length > LONGEST:
            raise node.unsupported(f"a length of {length}; up to {LONGEST}")
        turns = np.outer(np.arange(length), np.arange(count)) % length * (2 * math.pi / length)
        scale = 1 / length if inverse else 1
        cosines, sines = ((f(turns) * scale).astype(dtype.numpy) for f in (np.cos, np.sin))
        return node.b.array(cosines), node.b.array(sines)
    b = node.b
    rows, columns = (b.iota((length, count), axis) for axis in (0, 1))
    # The remainder first: large angles lose digits.
    turn = b.op(pointwise.mod, b.op(pointwise.mul, rows, columns), b.dim(length))
    size = b.dim(length, dtype)
    angle = b.op(pointwise.div, b.op(pointwise.mul, b.cast(turn, dtype), node.like(2 * math.pi, dtype)), size)
    scale_by = b.op(pointwise.reciprocal, size) if inverse else node.like(1, dtype)

    def table(op: Op) -> Tensor:
        return b.op(pointwise.mul, b.op(op, angle), scale_by) if inverse else b.op(op, angle)

    return table(pointwise.cos), table(pointwise.sin)


def stft(node: Node) -> Tensor:
    """The transform of windows of a signal [batch, samples, 1 or 2], as [batch, windows, frequencies, 2]."""
    x = node[0]
    if x.rank == 2:
        x = node.b.reshape(x, (*x.shape, 1))
    if x.rank != 3 or x.shape[-1] not in (1, 2):
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator} of {x.type}")
    step = int(node.one_number(1, "its step"))
    window = node.get(2)
    if node.get(3) is not None:
        length: Dim = node.ints(3, "the length of a frame")[0]
    else:
        length = x.shape[1] if window is None else window.shape[0]
    if not isinstance(length, int):
        raise node.error(Code.DATA_DEPENDENT_SHAPE, f"{node.operator}: the length of a frame is open")
    require_positive(node, node.b.facts.resolve(window_count(x.shape[1], length, step, 1)))
    frames = node.b.op(movement.windows, x, axes=(1,), sizes=(length,), strides=(step,), dilations=(1,))
    if window is not None:
        frames = node.b.op(pointwise.mul, frames, window)
    count = length // 2 + 1 if node.integer("onesided", 1) else length
    parts = [
        node.b.reshape(node.b.cut(frames, 2, i, 1), (frames.shape[0], frames.shape[1], length))
        for i in range(_parts(x))
    ]
    return _joined(
        node, *transformed(node, parts[0], parts[1] if len(parts) > 1 else None, length, count, False)
    )


OPERATORS: Mapping[str, Importer] = {"DFT": dft, "STFT": stft}
