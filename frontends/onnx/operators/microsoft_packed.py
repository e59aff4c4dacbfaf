"""com.microsoft: tokens of several sequences in a row, without padding, and attention within each sequence.

How many tokens there are is a dim of its own; `ends` holds where the sequences start and end: 0, the length
of the first, that of the first two together, and so on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.attention import Heads, split_heads
from isthmus.frontends.onnx.operators.microsoft_attention import attended, in_three, widths_of
from isthmus.frontends.onnx.operators.nn import product_of
from isthmus.frontends.onnx.operators.scatter import scattered_rows
from isthmus.ir.dims import Dim
from isthmus.ir.types import DType
from isthmus.ops import movement, pointwise, reduce


def packed_attention(node: Node) -> Tensor:
    """[q | k | v] = x @ weights + bias, then attention."""
    projected = node.b.op(pointwise.add, product_of(node, node[0], node[1]), node[2])
    q, k, v = in_three(node, projected, widths_of(node, projected))
    return _attended(node, q, k, v, node[4], node.get(5))


def packed_multi_head_attention(node: Node) -> Tensor:
    q, k, v, bias = node[0], node.get(1), node.get(2), node.get(3)
    node.ignore("mask_filter_value")  # tokens of other sequences are not there at all
    if q.rank == 4:
        # [tokens, heads, 3, width]
        tokens, count, _, width = q.shape
        q, k, v = (node.b.reshape(node.b.cut(q, 2, i, 1), (tokens, count * width)) for i in range(3))
    if k is None or v is None:
        raise node.error(Code.INVALID_GRAPH, f"{node.operator} needs a key and a value")
    if bias is not None:
        terms = in_three(node, bias, (q.shape[-1], k.shape[-1], v.shape[-1]))
        q, k, v = (node.b.op(pointwise.add, t, term) for t, term in zip((q, k, v), terms, strict=True))
    return _attended(node, q, k, v, node[5], node.get(6))


def _attended(node: Node, q: Tensor, k: Tensor, v: Tensor, ends: Tensor, bias: Tensor | None) -> Tensor:
    """Attention of [tokens, width] to the tokens of the same sequence."""
    b, count = node.b, node.integer("num_heads", 0)
    tokens, ends = q.shape[0], b.cast(ends, DType.I64)
    number = _sequence_numbers(node, ends, tokens)
    queries, keys = (1, 1, tokens, 1), (1, 1, 1, tokens)
    same = b.op(pointwise.equal, b.reshape(number, queries), b.reshape(number, keys))
    added = node.like(0, q) if bias is None else _bias_between(node, bias, number, ends)
    mask = b.op(pointwise.where, same, added, node.like(-math.inf, q))
    one, other, values = (split_heads(node, b.reshape(t, (1, *t.shape)), count) for t in (q, k, v))
    return b.reshape(attended(node, Heads(one, other, values, 0), mask), (tokens, v.shape[-1]))


def _sequence_numbers(node: Node, ends: Tensor, tokens: Dim) -> Tensor:
    """Which sequence each token belongs to: how many of them end before it."""
    b = node.b
    sequences = ends.shape[0] - 1
    last = b.reshape(b.cut(ends, 0, 1, sequences), (1, sequences))
    after = b.op(pointwise.less_equal, last, b.iota((tokens, 1), 0))
    return b.reshape(b.op(reduce.reduce_sum, b.cast(after, DType.I64), axes=(1,)), (tokens,))


def _bias_between(node: Node, bias: Tensor, number: Tensor, ends: Tensor) -> Tensor:
    """[batch or 1, heads or 1, length, length] for pairs of tokens: [1, heads or 1, tokens, tokens]."""
    b = node.b
    (tokens,) = number.shape
    length = b.dim(bias.shape[2] - 1)
    place = b.op(pointwise.sub, b.iota((tokens,), 0), b.op(movement.gather, ends, number, axis=0))
    if bias.shape[0] == 1:
        number = b.op(pointwise.mul, number, node.like(0, number))

    def spread(line: Tensor, axis: int) -> Tensor:
        wide = b.reshape(line, (tokens, 1) if axis == 0 else (1, tokens))
        return b.reshape(b.broadcast(wide, (tokens, tokens)), (tokens, tokens, 1))

    # A pair of different sequences may have no place; any will do.
    limited = b.op(pointwise.minimum, place, length)
    pairs = b.concat([spread(number, 0), spread(limited, 0), spread(limited, 1)], 2)
    rows = b.transpose(bias, (0, 2, 3, 1))
    found = b.op(movement.gather_nd, rows, pairs, batch_dims=0)
    return b.reshape(b.transpose(found, (2, 0, 1)), (1, bias.shape[1], tokens, tokens))


def restore_padding(node: Node) -> Tensor:
    """[tokens, width] put at the places of a padded [batch, length, width], zeros elsewhere."""
    x, offsets, b = node[0], node[1], node.b
    batch, length = offsets.shape
    places = b.cut(b.reshape(b.cast(offsets, DType.I64), (batch * length,)), 0, 0, x.shape[0])
    empty = b.full((batch * length, x.shape[1]), 0, x.dtype)
    return b.reshape(scattered_rows(node, empty, places, x), (batch, length, x.shape[1]))


def remove_padding(node: Node) -> Tensor:
    text = f"{node.operator}: how many tokens are left depends on data ({node.input_names[1]!r})"
    hint = (
        "compile the model as it was before packing, or its part behind this node, which takes packed tokens"
    )
    raise node.error(Code.DATA_DEPENDENT_SHAPE, text, hint)


OPERATORS: Mapping[str, Importer] = {
    "com.microsoft::PackedAttention": packed_attention,
    "com.microsoft::PackedMultiHeadAttention": packed_multi_head_attention,
    "com.microsoft::RemovePadding": remove_padding,
    "com.microsoft::RestorePadding": restore_padding,
}
