"""com.microsoft: attention over heads, with its projection, its masks and its past."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.attention import Heads, merge_heads, spelled_out, split_heads
from isthmus.frontends.onnx.operators.nn import product_of
from isthmus.ir.dims import Dim
from isthmus.ir.types import DType
from isthmus.ops import nn, pointwise

# Where a query may not look ahead, onnxruntime puts the lowest number there is in place of the mask.
LOWEST = -3.4028234663852886e38


@dataclass(frozen=True, slots=True)
class Extent:
    """The sizes that a mask is about: `past` of the `keys` were there before."""

    batch: Dim
    queries: Dim
    keys: Dim
    past: Dim


def extent(heads: Heads) -> Extent:
    batch, _, queries, _ = heads.q.shape
    return Extent(batch, queries, heads.k.shape[2], heads.past)


def attention(node: Node) -> list[Tensor | None]:
    """Self-attention that projects its input: [q | k | v] = x @ weights + bias."""
    for name in ("do_rotary", "past_present_share_buffer"):
        if node.integer(name, 0):
            raise node.unsupported(f"{name}=1")
    node.ignore("rotary_embedding_dim")
    projected = product_of(node, node[0], node[1])
    if (bias := node.get(2)) is not None:
        projected = node.b.op(pointwise.add, projected, bias)
    return self_attention(node, projected, node.get(3), node.get(4), node.get(5))


def self_attention(
    node: Node, projected: Tensor, given: Tensor | None, past: Tensor | None, bias: Tensor | None
) -> list[Tensor | None]:
    """Attention of [q | k | v] under the mask `given` and what `bias` adds, and the past with it."""
    count = node.integer("num_heads", 0)
    q, k, v = (split_heads(node, t, count) for t in in_three(node, projected, widths_of(node, projected)))
    before: Dim = 0
    if past is not None:
        before = past.shape[3]
        old_k, old_v = (node.b.reshape(node.b.cut(past, 0, i, 1), past.shape[1:]) for i in (0, 1))
        k, v = node.b.concat([old_k, k], 2), node.b.concat([old_v, v], 2)
    heads = Heads(q, k, v, before)
    mask = total_mask(node, given, bias, extent(heads), q.dtype)
    present = _stacked(node, k, v) if node.uses(1) else None
    return [attended(node, heads, mask), present]


def widths_of(node: Node, projected: Tensor) -> tuple[Dim, ...]:
    """The widths of q, k and v."""
    if (given := node.integers("qkv_hidden_sizes")) is not None:
        return given
    return (node.b.quotient((projected.shape[-1],), (3,)),) * 3


def in_three(node: Node, x: Tensor, sizes: tuple[Dim, ...]) -> list[Tensor]:
    """`x` cut into three along its last axis."""
    total = sizes[0] + sizes[1] + sizes[2]
    node.b.must_equal(total, x.shape[-1], f"{node.operator}: q, k and v of {x.type}")
    starts = (0, sizes[0], sizes[0] + sizes[1])
    return [node.b.cut(x, x.rank - 1, at, size) for at, size in zip(starts, sizes, strict=True)]


def _stacked(node: Node, k: Tensor, v: Tensor) -> Tensor:
    return node.b.concat([node.b.reshape(t, (1, *t.shape)) for t in (k, v)], 0)


def attended(node: Node, heads: Heads, mask: Tensor | None) -> Tensor:
    """softmax(scale * q k^T + mask) v as [batch, length, heads * width]."""
    masks = [] if mask is None else [mask]
    return merge_heads(
        node, node.b.op(nn.attention, heads.q, heads.k, heads.v, *masks, scale=scale_of(node, heads))
    )


def scale_of(node: Node, heads: Heads) -> float:
    """The attribute `scale`, or 1 / sqrt(head size) where it is absent or 0."""
    width = heads.q.shape[3]
    if not isinstance(width, int) or width < 1:
        raise node.error(Code.DATA_DEPENDENT_SHAPE, f"{node.operator}: the head size {width} is not fixed")
    return node.number("scale", 0.0) or 1 / math.sqrt(width)


# --- masks ---


def total_mask(
    node: Node, given: Tensor | None, bias: Tensor | None, size: Extent, dtype: DType | None = None
) -> Tensor | None:
    """What is added to the scores: [batch or 1, heads or 1, queries or 1, keys]."""
    dtype = dtype or node[0].dtype
    low = node.number("mask_filter_value", -10000.0)
    total: Tensor | None = None
    if given is not None:
        keep = _kept(node, given, size)
        total = node.b.op(pointwise.where, keep, node.like(0, dtype), node.like(low, dtype))
    if node.integer("unidirectional", 0):
        hidden = node.like(LOWEST, dtype)
        before = node.like(0, dtype) if total is None else total
        total = node.b.op(pointwise.where, looks_back(node, size), before, hidden)
    if bias is None:
        return total
    return bias if total is None else node.b.op(pointwise.add, total, bias)


def looks_back(node: Node, size: Extent) -> Tensor:
    """Whether a key is not after the query; bool [1, 1, queries, keys]."""
    key, query = node.b.iota((1, 1, 1, size.keys), 3), node.b.iota((1, 1, size.queries, 1), 2)
    return node.b.op(pointwise.less_equal, key, node.b.op(pointwise.add, query, node.b.dim(size.past)))


def _kept(node: Node, given: Tensor, size: Extent) -> Tensor:
    """Any form of mask as bool [batch, 1, queries or 1, keys]."""
    if given.rank == 1:
        return _by_lengths(node, given, size)
    keep = node.b.op(pointwise.greater, given, node.like(0, given))
    if given.rank == 2:
        return node.b.reshape(keep, (given.shape[0], 1, 1, given.shape[1]))
    if given.rank == 3:
        return node.b.reshape(keep, (given.shape[0], 1, *given.shape[1:]))
    if given.rank == 4:
        rows = node.b.cut(keep, 2, size.past, size.queries)
        return node.b.cut(rows, 3, 0, size.keys)
    raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: a mask of {given.type}")


def _by_lengths(node: Node, given: Tensor, size: Extent) -> Tensor:
    """From the number of keys; or their ends, then their starts; or lengths with running totals behind."""
    length = given.shape[0]
    place = node.b.iota((1, 1, 1, size.keys), 3, given.dtype)

    def part(index: int) -> Tensor:
        values = node.b.cut(given, 0, index * size.batch, size.batch)
        return node.b.reshape(values, (size.batch, 1, 1, 1))

    keep = node.b.op(pointwise.less, place, part(0))
    resolve = node.b.facts.resolve
    if resolve(length - size.batch) == 0 or resolve(length - 3 * size.batch - 2) == 0:
        return keep
    node.b.must_equal(length, 2 * size.batch, f"{node.operator}: a mask of {given.type}")
    return node.b.op(pointwise.logical_and, keep, node.b.op(pointwise.greater_equal, place, part(1)))


# --- attention over what is projected already ---


def multi_head_attention(node: Node) -> list[Tensor | None]:
    q, k, v, count = node[0], node.get(1), node.get(2), node.integer("num_heads", 0)
    for index, what in ((8, "past_sequence_length"), (9, "cache_indirection")):
        if node.get(index) is not None:
            raise node.unsupported(f"the input {what}")
    heads = _with_past(node, *_projected_heads(node, q, k, v, node.get(3), count), node.get(6), node.get(7))
    mask = total_mask(node, node.get(4), node.get(5), extent(heads))
    if not node.uses(3):
        return [attended(node, heads, mask), heads.k, heads.v]
    # The scores as they go into the softmax, mask included.
    result, scores = spelled_out(node, heads, mask, scale_of(node, heads), 0.0, 2)
    return [merge_heads(node, result), heads.k, heads.v, scores]


def _with_past(
    node: Node, q: Tensor, k: Tensor, v: Tensor, past_k: Tensor | None, past_v: Tensor | None
) -> Heads:
    if past_k is None or past_v is None:
        return Heads(q, k, v, 0)
    return Heads(q, node.b.concat([past_k, k], 2), node.b.concat([past_v, v], 2), past_k.shape[2])


def _projected_heads(
    node: Node, q: Tensor, k: Tensor | None, v: Tensor | None, bias: Tensor | None, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v as [batch, heads, length, width], from any of the forms in which they may come."""
    if q.rank == 5:
        # [batch, length, heads, 3, width]
        q, k, v = (_flat(node, q, i) for i in range(3))
    elif k is None:
        q, k, v = in_three(node, q, widths_of(node, q))
    elif k.rank == 5:
        # [batch, length, heads, 2, width]
        k, v = (_flat(node, k, i) for i in range(2))
    if k is None or v is None:
        raise node.error(Code.INVALID_GRAPH, f"{node.operator} needs a key and a value")
    if bias is not None:
        widths = (q.shape[-1], *((t.shape[-1] if t.rank == 3 else 0) for t in (k, v)))
        if k.rank == 4:
            bias = node.b.cut(bias, 0, 0, widths[0])
        terms = in_three(node, bias, widths)
        q = node.b.op(pointwise.add, q, terms[0])
        if k.rank == 3:
            k, v = node.b.op(pointwise.add, k, terms[1]), node.b.op(pointwise.add, v, terms[2])
    return (
        split_heads(node, q, count),
        split_heads(node, k, count) if k.rank == 3 else k,
        split_heads(node, v, count) if v.rank == 3 else v,
    )


def _flat(node: Node, packed: Tensor, index: int) -> Tensor:
    """One of [batch, length, heads, n, width] as [batch, length, heads * width]."""
    batch, length, heads, _, width = packed.shape
    return node.b.reshape(node.b.cut(packed, 3, index, 1), (batch, length, heads * width))


def decoder_masked_attention(node: Node) -> list[Tensor | None]:
    """One token of a decoder: attention to itself and its past, or across to keys that are there already."""
    if node.get(9) is not None:
        raise node.unsupported("the input cache_indirection", "export the model without beam search")
    node.ignore("output_qk", "past_present_share_buffer")
    count = node.integer("num_heads", 0)
    q, k, v = _projected_heads(node, node[0], node.get(1), node.get(2), node.get(10), count)
    mask, filled = node.get(3), node.get(7)
    if filled is None:
        heads = _with_past(node, q, k, v, node.get(5), node.get(6))
        return [attended(node, heads, total_mask(node, mask, node.get(4), extent(heads))), heads.k, heads.v]
    if mask is not None or node.get(4) is not None:
        raise node.unsupported("a mask together with past_sequence_length")
    # The past is a buffer of which `filled` rows are used; the new row comes behind them.
    k, v = (_put(node, old, new, filled) for old, new in ((node[5], k), (node[6], v)))
    place = node.b.iota((1, 1, 1, k.shape[2]), 3, filled.dtype)
    keep = node.b.op(pointwise.less_equal, place, node.b.reshape(filled, ()))
    hidden = node.b.op(pointwise.where, keep, node.like(0, q), node.like(-math.inf, q))
    return [attended(node, Heads(q, k, v, 0), hidden), k, v]


def _put(node: Node, buffer: Tensor, row: Tensor, at: Tensor) -> Tensor:
    """`buffer` with one row of its third axis replaced."""
    place = node.b.iota((1, 1, buffer.shape[2], 1), 2, at.dtype)
    here = node.b.op(pointwise.equal, place, node.b.reshape(at, ()))
    return node.b.op(pointwise.where, here, row, buffer)


OPERATORS: Mapping[str, Importer] = {
    "com.microsoft::Attention": attention,
    "com.microsoft::DecoderMaskedMultiHeadAttention": decoder_masked_attention,
    "com.microsoft::MultiHeadAttention": multi_head_attention,
}
