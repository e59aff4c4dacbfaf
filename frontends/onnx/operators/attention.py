"""Attention and rotary embedding of the standard domain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.ir.dims import Dim
from isthmus.ir.types import DType
from isthmus.ops import movement, nn, pointwise


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """Arguments of attention, all [batch, heads, length, width]."""

    q: Tensor
    k: Tensor
    v: Tensor
    past: Dim  # how many of the keys were there before


def split_heads(node: Node, x: Tensor, heads: Dim) -> Tensor:
    """[batch, length, heads * width] as [batch, heads, length, width]."""
    batch, length, hidden = x.shape
    width = node.b.quotient((hidden,), (heads,))
    return node.b.transpose(node.b.reshape(x, (batch, length, heads, width)), (0, 2, 1, 3))


def merge_heads(node: Node, x: Tensor) -> Tensor:
    """[batch, heads, length, width] as [batch, length, heads * width]."""
    batch, heads, length, width = x.shape
    return node.b.reshape(node.b.transpose(x, (0, 2, 1, 3)), (batch, length, heads * width))


def attention(node: Node) -> list[Tensor | None]:
    node.ignore("softmax_precision")  # ours is at least f32
    mode = node.integer("qk_matmul_output_mode", 0)
    heads, is_flat = _arguments(node)
    width = heads.q.shape[3]
    if not isinstance(width, int):
        raise node.error(Code.DATA_DEPENDENT_SHAPE, f"{node.operator}: the head size {width} is not fixed")
    scale = node.number("scale", 1 / math.sqrt(width) if width else 1.0)
    mask = _mask(node, heads)
    softcap = node.number("softcap", 0.0)
    if softcap or node.uses(3):
        y, shown = spelled_out(node, heads, mask, scale, softcap, mode)
    else:
        args = (heads.q, heads.k, heads.v) if mask is None else (heads.q, heads.k, heads.v, mask)
        y, shown = node.b.op(nn.attention, *args, scale=scale, safe=mask is not None), None
    return [merge_heads(node, y) if is_flat else y, heads.k, heads.v, shown]


def _arguments(node: Node) -> tuple[Heads, bool]:
    """Query, key and value with heads apart and the past in front; whether they came without heads."""
    q, k, v = node[0], node[1], node[2]
    q_heads, kv_heads = node.integer("q_num_heads", 0), node.integer("kv_num_heads", 0)
    is_flat = q.rank == 3
    if {q.rank, k.rank, v.rank} not in ({3}, {4}):
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator} of {q.type}, {k.type}, {v.type}")
    if is_flat:
        if q_heads < 1 or kv_heads < 1:
            raise node.error(
                Code.INVALID_GRAPH, f"{node.operator}: 3-D inputs need q_num_heads and kv_num_heads"
            )
        q, k, v = (
            split_heads(node, q, q_heads),
            split_heads(node, k, kv_heads),
            split_heads(node, v, kv_heads),
        )
    past_k, past_v = node.get(4), node.get(5)
    past: Dim = 0
    if past_k is not None and past_v is not None:
        past = past_k.shape[2]
        k, v = node.b.concat([past_k, k], 2), node.b.concat([past_v, v], 2)
    return Heads(q, k, v, past), is_flat


def _mask(node: Node, heads: Heads) -> Tensor | None:
    """Everything that keeps a query from a key, as one tensor to add to the scores."""
    dtype = heads.q.dtype
    keys, queries = heads.k.shape[2], heads.q.shape[2]
    masks = []
    if (given := node.get(3)) is not None:
        masks.append(additive(node, _widened(node, given, keys), dtype))
    filled = node.get(6)
    if filled is not None:
        position = node.b.iota((1, 1, 1, keys), 3)
        lengths = node.b.reshape(node.b.cast(filled, DType.I64), (filled.shape[0], 1, 1, 1))
        masks.append(additive(node, node.b.op(pointwise.less, position, lengths), dtype))
    offset = node.b.dim(heads.past)
    if filled is not None and node.get(4) is None:
        offset = node.b.op(pointwise.sub, lengths, node.b.dim(queries))
    left, right = node.integer("left_window_size", -1), node.integer("right_window_size", -1)
    if node.integer("is_causal", 0):
        masks.append(causal(node, queries, keys, offset, dtype))
    if left >= 0 or right >= 0:
        masks.append(_window(node, queries, keys, offset, left, right, dtype))
    total: Tensor | None = None
    for mask in masks:
        total = mask if total is None else node.b.op(pointwise.add, total, mask)
    return total


def causal(node: Node, queries: Dim, keys: Dim, offset: Tensor, dtype: DType) -> Tensor:
    """0 where key <= query + offset, else -inf; [1 or batch, 1, queries, keys]."""
    key, query = node.b.iota((1, 1, 1, keys), 3), node.b.iota((1, 1, queries, 1), 2)
    allowed = node.b.op(pointwise.less_equal, key, node.b.op(pointwise.add, query, offset))
    return additive(node, allowed, dtype)


def _window(
    node: Node, queries: Dim, keys: Dim, offset: Tensor, left: int, right: int, dtype: DType
) -> Tensor:
    """0 where query + offset - left <= key <= query + offset + right, else -inf; a side of -1 is open."""
    key, query = node.b.iota((1, 1, 1, keys), 3), node.b.iota((1, 1, queries, 1), 2)
    distance = node.b.op(pointwise.sub, node.b.op(pointwise.add, query, offset), key)
    sides = []
    if left >= 0:
        sides.append(node.b.op(pointwise.less_equal, distance, node.like(left, distance)))
    if right >= 0:
        sides.append(node.b.op(pointwise.greater_equal, distance, node.like(-right, distance)))
    allowed = sides[0] if len(sides) == 1 else node.b.op(pointwise.logical_and, *sides)
    return additive(node, allowed, dtype)


def additive(node: Node, mask: Tensor, dtype: DType) -> Tensor:
    """A mask as numbers to add: 0 where a boolean one holds, else -inf."""
    if mask.dtype is not DType.BOOL:
        return node.b.cast(mask, dtype)
    return node.b.op(pointwise.where, mask, node.like(0, dtype), node.like(-math.inf, dtype))


def _widened(node: Node, mask: Tensor, keys: Dim) -> Tensor:
    """A mask that ends early hides the keys after it."""
    last = mask.shape[-1] if mask.rank else 1
    if last in (1, keys) or not isinstance(last, int) or not isinstance(keys, int) or last > keys:
        return mask
    hidden = 0.0 if mask.dtype is DType.BOOL else -math.inf
    after = (*(0,) * (mask.rank - 1), keys - last)
    return node.b.op(movement.pad, mask, before=(0,) * mask.rank, after=after, value=hidden)


def spelled_out(
    node: Node, heads: Heads, mask: Tensor | None, scale: float, softcap: float, mode: int
) -> tuple[Tensor, Tensor]:
    """Attention by single ops, with the scores at the stage that `mode` asks for."""
    k, v = (repeated(node, t, heads.q.shape[1]) for t in (heads.k, heads.v))
    scores = node.b.op(pointwise.mul, heads.q, node.like(scale, heads.q))
    scores = node.b.op(nn.matmul, scores, node.b.swap(k, -1, -2))
    stages = [scores]
    if softcap:
        bent = node.b.op(pointwise.tanh, node.b.op(pointwise.div, scores, node.like(softcap, scores)))
        scores = node.b.op(pointwise.mul, bent, node.like(softcap, scores))
    stages.append(scores)
    if mask is not None:
        scores = node.b.op(pointwise.add, scores, mask)
    # The operator numbers the stages in another order than they come in.
    stages.append(scores)
    weights = node.b.op(nn.softmax, scores)
    if mask is not None:
        hidden = node.b.op(pointwise.is_nan, weights)
        weights = node.b.op(pointwise.where, hidden, node.like(0, weights), weights)
    stages.append(weights)
    if not 0 <= mode < len(stages):
        raise node.unsupported(f"qk_matmul_output_mode={mode}")
    return node.b.op(nn.matmul, weights, v), stages[mode]


def repeated(node: Node, x: Tensor, heads: Dim) -> Tensor:
    """Every head of [batch, heads, length, width] for a whole group of query heads."""
    batch, own, length, width = x.shape
    group = node.b.quotient((heads,), (own,))
    if group == 1:
        return x
    apart = node.b.reshape(x, (batch, own, 1, length, width))
    wide = node.b.broadcast(apart, (batch, own, group, length, width))
    return node.b.reshape(wide, (batch, heads, length, width))


def rotary_embedding(node: Node) -> Tensor:
    x, cos, sin, positions = node[0], node[1], node[2], node.get(3)
    heads = node.integer("num_heads", 0)
    if x.rank == 3 and heads < 1:
        raise node.error(Code.INVALID_GRAPH, f"{node.operator}: a 3-D input needs num_heads")
    apart = split_heads(node, x, heads) if x.rank == 3 else x
    if positions is not None:
        cos, sin = (node.b.op(movement.gather, table, positions, axis=0) for table in (cos, sin))
    cos, sin = (node.b.reshape(t, (t.shape[0], 1, *t.shape[1:])) for t in (cos, sin))
    interleaved = bool(node.integer("interleaved", 0))
    turned = rotated(node, apart, cos, sin, node.integer("rotary_embedding_dim", 0), interleaved)
    return merge_heads(node, turned) if x.rank == 3 else turned


def rotated(node: Node, x: Tensor, cos: Tensor, sin: Tensor, width: Dim, interleaved: bool) -> Tensor:
    """The first `width` (0: all) elements of each row turned in pairs by angles given as cos and sin.

    x [batch, heads, length, size], cos and sin broadcast to [batch, heads, length, width / 2]
    (Su et al. 2021). Pairs are neighbours if `interleaved`, else the two halves.
    """
    size = x.shape[3]
    width = width or size
    half = node.b.quotient((width,), (2,))
    plain = node.b.cut(x, 3, 0, width)
    if interleaved:
        pairs = node.b.reshape(plain, (*x.shape[:3], half, 2))
        a, b = (node.b.reshape(node.b.cut(pairs, 4, i, 1), (*x.shape[:3], half)) for i in (0, 1))
    else:
        a, b = node.b.cut(plain, 3, 0, half), node.b.cut(plain, 3, half, half)
    mul, add, sub = pointwise.mul, pointwise.add, pointwise.sub
    real = node.b.op(sub, node.b.op(mul, cos, a), node.b.op(mul, sin, b))
    imaginary = node.b.op(add, node.b.op(mul, sin, a), node.b.op(mul, cos, b))
    if interleaved:
        columns = [node.b.reshape(t, (*t.shape, 1)) for t in (real, imaginary)]
        turned = node.b.reshape(node.b.concat(columns, 4), plain.shape)
    else:
        turned = node.b.concat([real, imaginary], 3)
    if width == size:
        return turned
    return node.b.concat([turned, node.b.cut(x, 3, width, size - width)], 3)


OPERATORS: Mapping[str, Importer] = {
    "Attention": attention,
    "RotaryEmbedding": rotary_embedding,
}
