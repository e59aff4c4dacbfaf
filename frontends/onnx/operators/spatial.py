"""What convolutions and pools have in common: kernel, strides, dilations and padding, and sliding windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Node
from isthmus.frontends.onnx.operators.movement import padded
from isthmus.ir.dims import Dim, Shape, floordiv, interval, maximum
from isthmus.ops import movement
from isthmus.ops.movement import window_count


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a kernel slides over the spatial axes; one entry for each of them."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: Shape
    after: Shape

    @property
    def spans(self) -> tuple[int, ...]:
        """How many elements a kernel reaches over."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))


def geometry(node: Node, spatial: Shape, kernel: tuple[int, ...]) -> Geometry:
    """The geometry that the attributes say, over spatial axes of these sizes."""
    rank = len(spatial)
    strides = _each(node, "strides", rank)
    dilations = _each(node, "dilations", rank)
    if len(kernel) != rank or any(k < 1 for k in kernel):
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: a kernel {list(kernel)} over {rank} axes")
    plain = Geometry(kernel, strides, dilations, (0,) * rank, (0,) * rank)
    before, after = _padding(node, spatial, plain)
    return Geometry(kernel, strides, dilations, before, after)


def _each(node: Node, name: str, rank: int) -> tuple[int, ...]:
    given = node.integers(name) or (1,) * rank
    if len(given) != rank or any(n < 1 for n in given):
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: {name} {list(given)} over {rank} axes")
    return given


def pads_attribute(node: Node, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The attribute `pads`: before and after."""
    pads = node.integers("pads") or (0,) * (2 * rank)
    if len(pads) != 2 * rank:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: {len(pads)} pads for {rank} axes")
    return pads[:rank], pads[rank:]


def _padding(node: Node, spatial: Shape, plain: Geometry) -> tuple[Shape, Shape]:
    mode = node.text("auto_pad", "NOTSET") or "NOTSET"
    if mode == "NOTSET":
        return pads_attribute(node, len(spatial))
    node.ignore("pads")
    if mode == "VALID":
        return plain.before, plain.after
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        raise node.unsupported(f"auto_pad={mode!r}; known: NOTSET, VALID, SAME_UPPER, SAME_LOWER")
    low: list[Dim] = []
    high: list[Dim] = []
    for dim, stride, span in zip(spatial, plain.strides, plain.spans, strict=True):
        count = floordiv(dim + stride - 1, stride)
        total = node.b.facts.resolve((count - 1) * stride + span - dim)
        # Kernels that overlap always need some.
        total = total if span >= stride else node.b.facts.resolve(maximum(0, total))
        small = floordiv(total, 2)
        low.append(small if mode == "SAME_UPPER" else total - small)
        high.append(total - small if mode == "SAME_UPPER" else small)
    return tuple(low), tuple(high)


def slide(node: Node, x: Tensor, first: int, g: Geometry, fill: float = 0.0) -> Tensor:
    """`x` padded with `fill` and cut into windows along the axes from `first` on; kernel axes come last."""
    rank = len(g.kernel)
    behind = x.rank - first - rank
    before, after = ((*(0,) * first, *amounts, *(0,) * behind) for amounts in (g.before, g.after))
    x = padded(node, x, before, after, "constant", fill)
    for axis, size, stride, dilation in zip(
        range(first, x.rank), g.kernel, g.strides, g.dilations, strict=False
    ):
        count = window_count(x.shape[axis], size, stride, dilation)
        known = node.b.facts.resolve(count)
        require_positive(node, known)
        if known != count and isinstance(known, int):
            # What is known of the count must show in the type.
            x = node.b.cut(x, axis, 0, node.b.facts.resolve((known - 1) * stride + (size - 1) * dilation + 1))
    if all(n == 1 for n in (*g.kernel, *g.strides)):
        return node.b.reshape(x, (*x.shape, *g.kernel))
    axes = tuple(range(first, first + rank))
    return node.b.op(movement.windows, x, axes=axes, sizes=g.kernel, strides=g.strides, dilations=g.dilations)


def require_positive(node: Node, dim: Dim) -> None:
    """A kernel must fit at least once: that bounds the sizes of inputs. Raises `ModelError`, or `Restart`."""
    high = interval(dim, node.b.facts.bounds)[1]
    if high is not None and high < 1:
        raise node.error(
            Code.SHAPE_MISMATCH, f"{node.operator}: the kernel is larger than what it slides over"
        )
    node.b.must_reach(dim, 1)


def channels_last(node: Node, x: Tensor) -> Tensor:
    """[batch, channels, ...] as [batch, ..., channels]."""
    return node.b.transpose(x, (0, *range(2, x.rank), 1))


def channels_first(node: Node, x: Tensor) -> Tensor:
    """[batch, ..., channels] as [batch, channels, ...]."""
    return node.b.transpose(x, (0, x.rank - 1, *range(1, x.rank - 1)))


def check_image(node: Node, x: Tensor, least: int = 3) -> None:
    """Batch, channels, and at least one more axis."""
    if x.rank < least:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator} of {x.type}, which has too few axes")


def across(tensor: Sequence[Dim], axis: int, rank: int) -> tuple[Dim, ...]:
    """The shape of a vector that lies along `axis` of a tensor of `rank`."""
    return (*(1,) * axis, *tensor, *(1,) * (rank - axis - 1))
