"""Blocks put back into the image they were cut from."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.conv import spread
from isthmus.frontends.onnx.operators.movement import padded
from isthmus.ops import pointwise
from isthmus.ops.movement import window_count


def col2im(node: Node) -> Tensor:
    """The sum of all blocks at their places: [batch, channels * block, blocks] to [batch, channels, ...]."""
    x, b = node[0], node.b
    image, block = node.ints(1, "the shape of the image"), node.ints(2, "the shape of a block")
    rank = len(block)
    strides, dilations = (node.integers(n) or (1,) * rank for n in ("strides", "dilations"))
    pads = node.integers("pads") or (0,) * (2 * rank)
    if x.rank != 3 or not len(image) == len(strides) == len(dilations) == rank or len(pads) != 2 * rank:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator} of {x.type} to {list(image)}")
    sizes = [d + pads[i] + pads[rank + i] for i, d in enumerate(image)]
    counts = tuple(window_count(*each) for each in zip(sizes, block, strides, dilations, strict=True))
    channels = b.quotient((x.shape[1],), (math.prod(block),))
    split = b.reshape(x, (x.shape[0], channels, math.prod(block), *counts))
    total: Tensor | None = None
    for i, place in enumerate(np.ndindex(*block)):
        part = b.reshape(b.cut(split, 2, i, 1), (x.shape[0], channels, *counts))
        part = spread(node, part, strides)
        before = [k * d for k, d in zip(place, dilations, strict=True)]
        after = [n - s - f for n, s, f in zip(sizes, part.shape[2:], before, strict=True)]
        part = padded(node, part, [0, 0, *before], [0, 0, *after], "constant", 0.0)
        total = part if total is None else b.op(pointwise.add, total, part)
    assert total is not None
    return b.slice(total, (0, 0, *pads[:rank]), (*total.shape[:2], *image))


OPERATORS: Mapping[str, Importer] = {"Col2Im": col2im}
