"""Convolutions: patches times a matrix.

Patches are sliding windows, read in place until one copy puts each into a row; the product with the kernel
as a matrix is then what any linear layer is. Images are walked with the channels last wherever there are
enough of them: that is how the product leaves them, and rows are copied in long runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.movement import padded
from isthmus.frontends.onnx.operators.spatial import (
    Geometry,
    channels_first,
    channels_last,
    check_image,
    geometry,
    pads_attribute,
    slide,
)
from isthmus.ir.dims import Dim, Shape, product
from isthmus.ir.types import DType
from isthmus.ops import nn, pointwise, reduce


def conv(node: Node) -> Tensor:
    return convolved(node, node[0], node[1], node.get(2))


def convolved(node: Node, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """As the attributes say: `x` [batch, channels, ...], `w` [out, channels / group, ...]."""
    check_image(node, x)
    kernel = kernel_of(node, w, x.rank, w.shape[2:])
    return convolution(node, x, w, bias, geometry(node, x.shape[2:], kernel), node.integer("group", 1))


def kernel_of(node: Node, w: Tensor, rank: int, sizes: Shape) -> tuple[int, ...]:
    """The sizes of the kernel. Raises `ModelError` when they are open, or differ from the attribute."""
    if w.rank != rank:
        raise node.error(
            Code.SHAPE_MISMATCH, f"{node.operator}: a kernel {w.type} for a tensor of rank {rank}"
        )
    known = tuple(k for k in sizes if isinstance(k, int))
    if len(known) != len(sizes):
        raise node.error(
            Code.DATA_DEPENDENT_SHAPE, f"{node.operator}: the size of the kernel {w.type} is open"
        )
    said = node.integers("kernel_shape")
    if said is not None and said != known:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: kernel_shape {list(said)} of {w.type}")
    return known


def convolution(
    node: Node, x: Tensor, w: Tensor, bias: Tensor | None, g: Geometry, groups: int = 1
) -> Tensor:
    """The convolution of `x` [batch, channels, ...] with `w` [out, channels / groups, kernel ...]."""
    channels, out = x.shape[1], w.shape[0]
    if groups < 1 or not isinstance(out, int) or out % groups:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: {w.type} in {groups} groups")
    node.b.must_equal(channels, w.shape[1] * groups, f"{node.operator}: the channels of {x.type}")
    if groups == 1:
        result = _dense(node, x, w, g)
    elif w.shape[1] == 1:
        result = _depthwise(node, x, w, g, groups)
    else:
        result = _grouped(node, x, w, g, groups)
    if bias is not None:
        result = node.b.op(pointwise.add, result, bias)
    return channels_first(node, result)


def _dense(node: Node, x: Tensor, w: Tensor, g: Geometry) -> Tensor:
    """One row of channels and kernel places for each window, times one matrix; the channels come last."""
    rank = len(g.kernel)
    outer, inner = range(1, 1 + rank), range(2 + rank, 2 + 2 * rank)
    out, channels = w.shape[:2]
    spatial = range(2, 2 + rank)
    if isinstance(channels, int) and channels < g.kernel[-1]:
        # Few channels: the last kernel axis is the longest run in memory.
        cut = slide(node, x, 2, g)
        rows = node.b.transpose(cut, (0, *spatial, 1, *inner))
        matrix = node.b.transpose(w, (1, *spatial, 0))
    else:
        cut = slide(node, channels_last(node, x), 1, g)
        rows = node.b.transpose(cut, (0, *outer, *inner, 1 + rank))
        matrix = node.b.transpose(w, (*spatial, 1, 0))
    size = channels * product(g.kernel)
    rows = node.b.reshape(rows, (*rows.shape[: 1 + rank], size))
    return node.b.op(nn.matmul, rows, node.b.reshape(matrix, (size, out)))


def _depthwise(node: Node, x: Tensor, w: Tensor, g: Geometry, groups: int) -> Tensor:
    """Each channel on its own: a weighted sum over the window, channels innermost."""
    rank = len(g.kernel)
    cut = slide(node, channels_last(node, x), 1, g)
    outer, inner = range(1, 1 + rank), range(2 + rank, 2 + 2 * rank)
    cut = node.b.transpose(cut, (0, *outer, *inner, 1 + rank))
    out = w.shape[0]
    assert isinstance(out, int)
    each = out // groups
    matrix = node.b.transpose(w, (*range(2, 2 + rank), 1, 0))
    if each == 1:
        matrix = node.b.reshape(matrix, (*g.kernel, groups))
    else:
        cut = node.b.reshape(cut, (*cut.shape, 1))
        matrix = node.b.reshape(matrix, (*g.kernel, groups, each))
    # Products of halves are summed before they are rounded.
    wide = DType.F32 if x.dtype in (DType.F16, DType.BF16) else x.dtype
    terms = node.b.op(pointwise.mul, node.b.cast(cut, wide), node.b.cast(matrix, wide))
    total = node.b.op(reduce.reduce_sum, terms, axes=tuple(range(1 + rank, 1 + 2 * rank)))
    return node.b.cast(node.b.reshape(total, (*cut.shape[: 1 + rank], out)), x.dtype)


def _grouped(node: Node, x: Tensor, w: Tensor, g: Geometry, groups: int) -> Tensor:
    """A batch of products, one for each group of channels."""
    rank = len(g.kernel)
    out, each = w.shape[:2]
    assert isinstance(out, int)
    cut = slide(node, channels_last(node, x), 1, g)
    spatial = cut.shape[1 : 1 + rank]
    cut = node.b.reshape(cut, (*cut.shape[: 1 + rank], groups, each, *g.kernel))
    outer, inner = range(1, 1 + rank), range(3 + rank, 3 + 2 * rank)
    rows = node.b.transpose(cut, (0, 1 + rank, *outer, *inner, 2 + rank))
    size = each * product(g.kernel)
    rows = node.b.reshape(rows, (x.shape[0], groups, product(spatial), size))
    matrix = node.b.reshape(w, (groups, out // groups, each, *g.kernel))
    matrix = node.b.transpose(matrix, (0, *range(3, 3 + rank), 2, 1))
    matrix = node.b.reshape(matrix, (groups, size, out // groups))
    result = node.b.transpose(node.b.op(nn.matmul, rows, matrix), (0, 2, 1, 3))
    return node.b.reshape(result, (x.shape[0], *spatial, out))


# --- transposed ----------------------------------------------------------------------------------


def conv_transpose(node: Node) -> Tensor:
    """The gradient of a convolution: zeros between the elements, then a convolution, kernel reversed."""
    x, w, bias = node[0], node[1], node.get(2)
    check_image(node, x)
    rank = x.rank - 2
    groups = node.integer("group", 1)
    kernel = kernel_of(node, w, x.rank, w.shape[2:])
    channels, each = w.shape[:2]
    if groups < 1 or not isinstance(channels, int) or channels % groups or not isinstance(each, int):
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: {w.type} in {groups} groups")
    node.b.must_equal(x.shape[1], channels, f"{node.operator}: the channels of {x.type}")
    g, more = _transposed_geometry(node, x.shape[2:], kernel)
    apart = g.strides == g.kernel and groups == 1 and not any((*g.before, *g.after, *more))
    if apart and all(d == 1 for d in g.dilations):
        return _tiles(node, x, w, bias, kernel)
    split = node.b.reshape(w, (groups, channels // groups, each, *kernel))
    swapped = node.b.swap(split, 1, 2)
    flat = node.b.reshape(swapped, (groups * each, channels // groups, *kernel))
    starts = (0, 0, *(k - 1 for k in kernel))
    reversed_ = node.b.slice(flat, starts, flat.shape, (1, 1, *(-1,) * rank))
    before = tuple(span - 1 - b for span, b in zip(g.spans, g.before, strict=True))
    after = tuple(span - 1 - a + m for span, a, m in zip(g.spans, g.after, more, strict=True))
    once = replace(g, strides=(1,) * rank, before=before, after=after)
    return convolution(node, spread(node, x, g.strides), reversed_, bias, once, groups)


def _transposed_geometry(
    node: Node, spatial: Shape, kernel: tuple[int, ...]
) -> tuple[Geometry, tuple[Dim, ...]]:
    """The geometry, and what is added to the end of the output of each axis."""
    rank = len(spatial)
    wanted = node.integers("output_shape")
    mode = node.text("auto_pad", "NOTSET") or "NOTSET"
    more = node.integers("output_padding") or (0,) * rank
    strides = node.integers("strides") or (1,) * rank
    dilations = node.integers("dilations") or (1,) * rank
    if not len(more) == len(strides) == len(dilations) == rank:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: attributes for other than {rank} axes")
    plain = Geometry(kernel, strides, dilations, (0,) * rank, (0,) * rank)
    if wanted is None and mode in ("NOTSET", "VALID"):
        before, after = pads_attribute(node, rank) if mode == "NOTSET" else (plain.before, plain.after)
        return replace(plain, before=before, after=after), more
    node.ignore("pads")
    low: list[Dim] = []
    high: list[Dim] = []
    beyond: list[Dim] = []
    targets: Shape = tuple(d * s for d, s in zip(spatial, strides, strict=True))
    targets = targets if wanted is None else wanted[-rank:]
    for dim, stride, span, extra, target in zip(spatial, strides, plain.spans, more, targets, strict=True):
        total = node.b.facts.resolve((dim - 1) * stride + extra + span - target)
        if not isinstance(total, int):
            raise node.unsupported("output_shape where the size of the input is open")
        small, large = max(total, 0) // 2, max(total, 0) - max(total, 0) // 2
        low.append(small if mode == "SAME_UPPER" else large)
        high.append(large if mode == "SAME_UPPER" else small)
        # What is wanted beyond all that the kernel reaches lies at the end.
        beyond.append(extra + max(-total, 0))
    return replace(plain, before=tuple(low), after=tuple(high)), tuple(beyond)


def spread(node: Node, x: Tensor, strides: tuple[int, ...]) -> Tensor:
    """`strides - 1` zeros between neighbours along each spatial axis."""
    for axis, stride in enumerate(strides, 2):
        if stride == 1:
            continue
        dim = x.shape[axis]
        wide = node.b.reshape(x, (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
        after = [stride - 1 if i == axis + 1 else 0 for i in range(wide.rank)]
        wide = padded(node, wide, [0] * wide.rank, after, "constant", 0.0)
        flat = node.b.reshape(wide, (*x.shape[:axis], dim * stride, *x.shape[axis + 1 :]))
        x = node.b.cut(flat, axis, 0, (dim - 1) * stride + 1)
    return x


def _tiles(node: Node, x: Tensor, w: Tensor, bias: Tensor | None, kernel: tuple[int, ...]) -> Tensor:
    """Kernels that lie side by side: every element becomes one tile."""
    rank = len(kernel)
    channels, out = w.shape[:2]
    matrix = node.b.transpose(w, (0, *range(2, 2 + rank), 1))
    size = product(kernel) * out
    rows = channels_last(node, x)
    result = node.b.op(nn.matmul, rows, node.b.reshape(matrix, (channels, size)))
    if bias is not None:
        every = node.b.reshape(node.b.broadcast(bias, (product(kernel), out)), (size,))
        result = node.b.op(pointwise.add, result, every)
    result = node.b.reshape(result, (*rows.shape[:-1], *kernel, out))
    pairs = [axis for i in range(rank) for axis in (1 + i, 1 + rank + i)]
    result = node.b.transpose(result, (0, 1 + 2 * rank, *pairs))
    spatial = tuple(d * k for d, k in zip(x.shape[2:], kernel, strict=True))
    return node.b.reshape(result, (x.shape[0], out, *spatial))


# --- com.microsoft -------------------------------------------------------------------------------


def fused_conv(node: Node) -> Tensor:
    """com.microsoft: activation(conv(x, w, b) [+ z])."""
    result, z = conv(node), node.get(3)
    if z is not None:
        result = node.b.op(pointwise.add, result, z)
    return activated(node, result, node.text("activation", ""), node.numbers("activation_params") or ())


def _leaky(node: Node, x: Tensor, slope: float = 0.01) -> Tensor:
    positive = node.b.op(pointwise.greater_equal, x, node.like(0, x))
    return node.b.op(pointwise.where, positive, x, node.b.op(pointwise.mul, x, node.like(slope, x)))


def _clip(node: Node, x: Tensor, low: float = -3.402823e38, high: float = 3.402823e38) -> Tensor:
    return node.b.op(
        pointwise.minimum, node.b.op(pointwise.maximum, x, node.like(low, x)), node.like(high, x)
    )


def _hard_sigmoid(node: Node, x: Tensor, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    line = node.b.op(pointwise.add, node.b.op(pointwise.mul, x, node.like(alpha, x)), node.like(beta, x))
    return _clip(node, line, 0.0, 1.0)


ACTIVATIONS: Mapping[str, Callable[..., Tensor]] = {
    "Relu": lambda node, x: node.b.op(pointwise.relu, x),
    "Tanh": lambda node, x: node.b.op(pointwise.tanh, x),
    "Sigmoid": lambda node, x: node.b.op(pointwise.sigmoid, x),
    "LeakyRelu": _leaky,
    "Clip": _clip,
    "HardSigmoid": _hard_sigmoid,
}


def activated(node: Node, x: Tensor, name: str, parameters: tuple[float, ...]) -> Tensor:
    """What onnxruntime fuses into a convolution or product; no name: nothing."""
    if not name:
        return x
    if name not in ACTIVATIONS:
        raise node.unsupported(f"activation={name!r}; known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name](node, x, *parameters)


def nhwc_conv(node: Node) -> Tensor:
    """com.microsoft: channels last in images, and in kernels [out, kernel ..., channels / group]."""
    x, w = channels_first(node, node[0]), channels_first(node, node[1])
    return channels_last(node, convolved(node, x, w, node.get(2)))


OPERATORS: Mapping[str, Importer] = {
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "com.microsoft::FusedConv": fused_conv,
    "com.microsoft::NhwcConv": nhwc_conv,
}
