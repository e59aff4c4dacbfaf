"""Which sizes must agree for an op to accept its arguments: what to look at when it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from isthmus.ir.dims import Dim, Shape, product
from isthmus.ir.graph import Attr, Op, Trait
from isthmus.ir.types import TensorType

Pairs = Iterator[tuple[Dim, Dim]]


def equations(op: Op, types: Sequence[TensorType], attrs: Mapping[str, Attr]) -> Pairs:
    """Pairs of dims that `op` wants equal."""
    if Trait.POINTWISE in op.traits:
        return broadcasting([t.shape for t in types])
    find = FINDERS.get(op.name)
    return find(types, attrs) if find is not None else iter(())


def broadcasting(shapes: Sequence[Shape]) -> Pairs:
    """Dims at the same place from the right, unless one of them is 1."""
    rank = max(map(len, shapes), default=0)
    for axis in range(-rank, 0):
        wide = [s[axis] for s in shapes if len(s) >= -axis and s[axis] != 1]
        yield from ((wide[0], other) for other in wide[1:])


def _matmul(types: Sequence[TensorType], attrs: Mapping[str, Attr]) -> Pairs:
    a, b = types
    if a.rank >= 2 and b.rank >= 2:
        yield a.shape[-1], b.shape[-2]
        yield from broadcasting([a.shape[:-2], b.shape[:-2]])


def _concat(types: Sequence[TensorType], attrs: Mapping[str, Attr]) -> Pairs:
    for other in types[1:]:
        if other.rank == types[0].rank:
            pairs = enumerate(zip(types[0].shape, other.shape, strict=True))
            yield from (pair for axis, pair in pairs if axis != attrs["axis"])


def _broadcast(types: Sequence[TensorType], attrs: Mapping[str, Attr]) -> Pairs:
    shape = attrs["shape"]
    assert isinstance(shape, tuple)
    for axis in range(-min(types[0].rank, len(shape)), 0):
        if types[0].shape[axis] != 1:
            yield types[0].shape[axis], shape[axis]


def _reshape(types: Sequence[TensorType], attrs: Mapping[str, Attr]) -> Pairs:
    """What is left of both shapes when equal dims are taken away."""
    shape = attrs["shape"]
    assert isinstance(shape, tuple)
    left, right = list(types[0].shape), []
    for dim in shape:
        if dim in left:
            left.remove(dim)
        else:
            right.append(dim)
    if len(left) == len(right):
        yield from zip(left, right, strict=True)
    yield product(tuple(left)), product(tuple(right))


def _normalised(types: Sequence[TensorType], attrs: Mapping[str, Attr]) -> Pairs:
    x, *rest = types
    if x.rank:
        yield from ((x.shape[-1], t.shape[-1]) for t in rest if t.rank)


def _quantized(types: Sequence[TensorType], attrs: Mapping[str, Attr]) -> Pairs:
    yield from broadcasting([t.shape for t in types])


def _attention(types: Sequence[TensorType], attrs: Mapping[str, Attr]) -> Pairs:
    q, k, v = types[:3]
    if q.rank == k.rank == v.rank == 4:
        yield from ((q.shape[0], k.shape[0]), (q.shape[0], v.shape[0]), (q.shape[3], k.shape[3]))
        yield from ((k.shape[2], v.shape[2]), (k.shape[1], v.shape[1]))
        if len(types) > 3:
            yield from broadcasting([types[3].shape, (*q.shape[:3], k.shape[2])])


FINDERS: Mapping[str, Callable[[Sequence[TensorType], Mapping[str, Attr]], Pairs]] = {
    "matmul": _matmul,
    "concat": _concat,
    "broadcast": _broadcast,
    "reshape": _reshape,
    "layer_norm": _normalised,
    "rms_norm": _normalised,
    "attention": _attention,
    "dequantize": _quantized,
    "quantize": _quantized,
}
