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
from isthmus.ir.types import Array, DType
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
        return _real_signal(node, x, axis, 2 * length - 2 if node.get(1) is None else length)
    x = _of_length(node, x, axis, length)
    count = floordiv(length, 2) + 1 if onesided and not inverse else length
    real, imaginary = (
        node.b.reshape(node.b.cut(x, x.rank - 1, i, 1), x.shape[:-1]) if i < _parts(x) else None
        for i in (0, 1)
    )
    assert real is not None
    lines = [None if p is None else node.b.swap(p, axis, p.rank - 1) for p in (real, imaginary)]
    assert lines[0] is not None
    a, b = transformed(node, lines[0], lines[1], length, count, inverse)
    return _joined(node, node.b.swap(a, axis, a.rank - 1), node.b.swap(b, axis, b.rank - 1))


def _real_signal(node: Node, x: Tensor, axis: int, length: Dim) -> Tensor:
    """The signal of `length` whose first frequencies are `x`; the others are their conjugates."""
    if x.shape[-1] != 2 or not isinstance(length, int):
        raise node.unsupported(
            "onesided=1 with inverse=1 of other than complex numbers, or of an open length"
        )
    count = length // 2 + 1
    x = _of_length(node, x, axis, count)
    cosines, sines = _tables(node, length, count)
    # All but the first, and the middle one of an even number, stand for two.
    times = np.array([1 if k == 0 or 2 * k == length else 2 for k in range(count)]) / length
    total: Tensor | None = None
    for i, table in ((0, cosines * times), (1, -sines * times)):
        part = node.b.reshape(node.b.cut(x, x.rank - 1, i, 1), x.shape[:-1])
        line = node.b.swap(part, axis, part.rank - 1)
        term = node.b.op(nn.matmul, line, node.b.array(table.T.astype(x.dtype.numpy)))
        total = term if total is None else node.b.op(pointwise.add, total, term)
    assert total is not None
    signal = node.b.swap(total, axis, total.rank - 1)
    return node.b.reshape(signal, (*signal.shape, 1))


def _tables(node: Node, length: int, count: int) -> tuple[Array, Array]:
    """cos and sin of 2 pi j k / length, f64[length, count]."""
    if length > LONGEST:
        raise node.unsupported(f"a length of {length}; up to {LONGEST}")
    turns = np.outer(np.arange(length), np.arange(count)) % length * (2 * math.pi / length)
    return np.cos(turns), np.sin(turns)


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
    cosines, sines = _matrices(node, length, count, real.dtype)
    # e^(-ix) = cos x - i sin x, and the other way round for the inverse.
    sign, other = (pointwise.add, pointwise.sub) if not inverse else (pointwise.sub, pointwise.add)
    a = node.b.op(nn.matmul, real, cosines)
    b = node.b.op(nn.matmul, real, sines)
    if imaginary is None:
        b = b if inverse else node.b.op(pointwise.neg, b)
    else:
        c, d = node.b.op(nn.matmul, imaginary, cosines), node.b.op(nn.matmul, imaginary, sines)
        a, b = node.b.op(sign, a, d), node.b.op(other, c, b)
    if not inverse:
        return a, b
    size = node.b.dim(length, real.dtype)
    return node.b.op(pointwise.div, a, size), node.b.op(pointwise.div, b, size)


def _matrices(node: Node, length: Dim, count: Dim, dtype: DType) -> tuple[Tensor, Tensor]:
    """cos and sin of 2 pi j k / length, [length, count]."""
    if isinstance(length, int) and isinstance(count, int):
        cosines, sines = _tables(node, length, count)
        return node.b.array(cosines.astype(dtype.numpy)), node.b.array(sines.astype(dtype.numpy))
    b = node.b
    rows, columns = (b.iota((length, count), axis) for axis in (0, 1))
    # The remainder first: large angles lose digits.
    turn = b.op(pointwise.mod, b.op(pointwise.mul, rows, columns), b.dim(length))
    turns = b.op(pointwise.mul, b.cast(turn, dtype), node.like(2 * math.pi, dtype))
    angle = b.op(pointwise.div, turns, b.dim(length, dtype))
    return b.op(pointwise.cos, angle), b.op(pointwise.sin, angle)


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


def mel_weight_matrix(node: Node) -> Tensor:
    """[frequencies, bands]: triangles that overlap, evenly spaced on the mel scale."""
    bands, length, rate = (int(node.one_number(i, "its setting")) for i in range(3))
    low, high = (2595 * math.log10(1 + node.one_number(i, "an edge") / 700) for i in (3, 4))
    if bands < 1 or not 1 <= length <= 1 << 20 or rate < 1:
        raise node.error(Code.INVALID_GRAPH, f"{node.operator}: {bands} bands of {length} at {rate} Hz")
    mel = low + np.arange(bands + 2) * (high - low) / (bands + 2)
    edges = ((length + 1) * (700 * (10 ** (mel / 2595) - 1)) // rate).astype(np.int64)
    j = np.arange(length // 2 + 1)[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    with np.errstate(all="ignore"):
        rising = np.where(centre == left, j == centre, (j - left) / (centre - left))
        falling = np.where(right == centre, j == centre, (right - j) / (right - centre))
    up = np.where((j >= left) & (j <= centre), rising, 0.0)
    weights = np.where((j >= centre) & (j < right), falling, up)
    return node.b.array(weights.astype(node.dtype("output_datatype", DType.F32).numpy))


OPERATORS: Mapping[str, Importer] = {"DFT": dft, "MelWeightMatrix": mel_weight_matrix, "STFT": stft}
