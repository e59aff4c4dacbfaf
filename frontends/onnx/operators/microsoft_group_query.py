"""com.microsoft: attention of a decoder with grouped heads, rotation and a cache of keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.attention import Heads, additive, merge_heads, spelled_out, split_heads
from isthmus.frontends.onnx.operators.microsoft_attention import scale_of
from isthmus.frontends.onnx.operators.microsoft_position import turn
from isthmus.ir.dims import Dim, maximum
from isthmus.ir.graph import Op
from isthmus.ir.types import DType
from isthmus.ops import movement, nn, pointwise


@dataclass(frozen=True, slots=True, eq=False)
class Cache:
    """Rows of keys and values with the position of each; those without a position below `known` are empty.

    `k`, `v` [batch, heads, rows, width], `positions` i64 [batch or 1, rows].
    """

    k: Tensor
    v: Tensor
    positions: Tensor
    present: tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Fresh:
    """What a step adds: keys and values [batch, heads, count, width] behind `past` others, i64 [batch, 1]."""

    k: Tensor
    v: Tensor
    past: Tensor

    @property
    def count(self) -> Dim:
        return self.k.shape[2]


def group_query_attention(node: Node) -> list[Tensor | None]:
    _refuse(node)
    q, k, v = _heads(node)
    batch, _, queries, _ = q.shape
    total = node.b.reshape(node.b.cast(node[5], DType.I64), (batch, 1))
    total = node.b.op(pointwise.add, total, node.like(1, total))
    # A prompt may be shorter than its row: then nothing was there before it.
    past = _calc(node, pointwise.maximum, _calc(node, pointwise.sub, total, queries), 0)
    steps = node.b.iota((1, queries), 1)
    places = node.b.op(pointwise.add, past, steps)
    if node.integer("do_rotary", 0):
        interleaved = bool(node.integer("rotary_interleaved", 0))
        at = _rotary_positions(node, places)
        q, k = (turn(node, t, node[7], node[8], at, interleaved) for t in (q, k))
    else:
        node.ignore("rotary_interleaved")
    window = node.integer("local_window_size", -1)
    fresh = Fresh(k, v, past)
    if node.integer("sliding_window_cache", 0):
        cache = _sliding(node, fresh, window)
    else:
        cache = _growing(node, fresh)
    allowed = _allowed(node, places, cache.positions, total, window)
    mask: Tensor = additive(node, allowed, q.dtype)
    if (bias := node.get(10)) is not None:
        mask = node.b.op(pointwise.add, mask, bias)
    return [_attended(node, Heads(q, cache.k, cache.v, 0), mask), *cache.present]


def _refuse(node: Node) -> None:
    for name in ("k_quant_type", "v_quant_type"):
        if node.text(name, "NONE") != "NONE":
            raise node.unsupported(f"{name}={node.text(name, '')!r}", "export the model with a float cache")
    node.ignore("kv_cache_bit_width", "qk_norm_epsilon")
    if node.integer("qk_output", 0):
        raise node.unsupported("qk_output=1")
    if not node.integer("causal", 1):
        raise node.unsupported("causal=0")
    for index, what in ((12, "k_scale"), (13, "v_scale"), (14, "q_norm_weight"), (15, "k_norm_weight")):
        if node.get(index) is not None:
            raise node.unsupported(f"the input {what}")


def _heads(node: Node) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, which may come as one, with heads apart."""
    x, k, v = node[0], node.get(1), node.get(2)
    many, few = node.integer("num_heads", 0), node.integer("kv_num_heads", 0)
    if k is None or v is None:
        width = node.b.quotient((x.shape[2],), (many + 2 * few,))
        sizes = (many * width, few * width, few * width)
        starts = (0, sizes[0], sizes[0] + sizes[1])
        x, k, v = (node.b.cut(x, 2, at, size) for at, size in zip(starts, sizes, strict=True))
    return split_heads(node, x, many), split_heads(node, k, few), split_heads(node, v, few)


def _rotary_positions(node: Node, places: Tensor) -> Tensor:
    """The position of each new token: counted, or given; of a whole prompt only the first is looked at."""
    given = node.get(9)
    if given is None:
        return places
    given = node.b.cast(given, DType.I64)
    queries = given.shape[1]
    first = node.b.slice(given, (0, 0), (1, 1))
    counted = node.b.op(pointwise.add, first, node.b.iota((1, queries), 1))
    total = node.b.dim(node.dims(6, "the total sequence length")[0])
    is_prompt = node.b.op(pointwise.equal, total, node.b.dim(queries))
    return node.b.op(pointwise.where, is_prompt, counted, given)


def _calc(node: Node, op: Op, a: Tensor, b: Dim) -> Tensor:
    return node.b.op(op, a, node.b.dim(b))


# --- the cache ---


def _growing(node: Node, fresh: Fresh) -> Cache:
    """A cache that holds everything: new rows lie behind the `past` ones of each batch entry."""
    (total,) = node.dims(6, "the total sequence length")
    old_k, old_v = node.get(3), node.get(4)
    if old_k is None or old_v is None:
        node.b.must_equal(total, fresh.count, f"{node.operator} without a cache: the total sequence length")
        return Cache(fresh.k, fresh.v, node.b.iota((1, fresh.count), 1), (fresh.k, fresh.v))
    old = old_k.shape[2]
    rows = node.b.facts.resolve(maximum(old, total))
    row = node.b.iota((1, rows), 1)
    # Row i of the result is row i of the cache, or row i - past of what is new, or empty.
    behind = _calc(node, pointwise.add, node.b.op(pointwise.sub, row, fresh.past), old)
    source = node.b.op(pointwise.where, node.b.op(pointwise.less, row, fresh.past), row, behind)
    filled = node.b.op(pointwise.less, row, _calc(node, pointwise.add, fresh.past, fresh.count))
    k, v = (_picked(node, (a, b), source, filled) for a, b in ((old_k, fresh.k), (old_v, fresh.v)))
    return Cache(node.b.cut(k, 2, 0, total), node.b.cut(v, 2, 0, total), node.b.iota((1, total), 1), (k, v))


def _picked(node: Node, parts: tuple[Tensor, Tensor], source: Tensor, filled: Tensor) -> Tensor:
    """Rows of the old and the new [batch, heads, rows, width], put together, by number; 0 where not filled.

    `source` and `filled` are [batch, rows of the result].
    """
    both = node.b.concat(parts, 2)
    batch, heads, length, width = both.shape
    last = node.b.dim(length - 1)
    safe = node.b.op(pointwise.minimum, node.b.op(pointwise.maximum, source, node.like(0, source)), last)
    rows = source.shape[1]
    index = node.b.broadcast(node.b.reshape(safe, (safe.shape[0], 1, rows, 1)), (batch, heads, rows, width))
    taken = node.b.op(movement.gather_elements, both, index, axis=2)
    keep = node.b.reshape(filled, (filled.shape[0], 1, rows, 1))
    return node.b.op(pointwise.where, keep, taken, node.like(0, taken))


def _sliding(node: Node, fresh: Fresh, window: int) -> Cache:
    """A cache of fixed capacity C: its first L rows hold the last L positions.

    L(T) = T up to C, then T - G ceil((T - C) / G) with G = C - window + 1: G rows go at once.
    """
    if window < 1:
        raise node.unsupported("sliding_window_cache=1 without local_window_size")
    old_k, old_v = node[3], node[4]
    capacity = old_k.shape[2]
    total = _calc(node, pointwise.add, fresh.past, fresh.count)
    held, kept = (_resident(node, t, capacity, window) for t in (fresh.past, total))
    # Attention sees the whole old cache and everything new.
    row = node.b.iota((1, capacity), 1)
    first = node.b.op(pointwise.sub, fresh.past, held)
    old = node.b.op(pointwise.add, row, first)
    empty = node.like(-1, DType.I64)
    old = node.b.op(pointwise.where, node.b.op(pointwise.less, row, held), old, empty)
    new = node.b.op(pointwise.add, fresh.past, node.b.iota((1, fresh.count), 1))
    positions = node.b.concat([old, new], 1)
    k, v = node.b.concat([old_k, fresh.k], 2), node.b.concat([old_v, fresh.v], 2)
    # Row i of the result has position total - kept + i.
    position = node.b.op(pointwise.add, row, node.b.op(pointwise.sub, total, kept))
    in_old = node.b.op(pointwise.sub, position, first)
    in_new = _calc(node, pointwise.add, node.b.op(pointwise.sub, position, fresh.past), capacity)
    source = node.b.op(pointwise.where, node.b.op(pointwise.less, position, fresh.past), in_old, in_new)
    filled = node.b.op(pointwise.less, row, kept)
    present = [_picked(node, (a, b), source, filled) for a, b in ((old_k, fresh.k), (old_v, fresh.v))]
    return Cache(k, v, positions, (present[0], present[1]))


def _resident(node: Node, total: Tensor, capacity: Dim, window: int) -> Tensor:
    """How many rows a sliding cache holds after `total` tokens."""
    at_once = capacity - window + 1
    over = _calc(node, pointwise.maximum, _calc(node, pointwise.sub, total, capacity), 0)
    times = _calc(node, pointwise.div, _calc(node, pointwise.add, over, at_once - 1), at_once)
    return node.b.op(pointwise.sub, total, _calc(node, pointwise.mul, times, at_once))


# --- attention over it ---


def _allowed(node: Node, queries: Tensor, keys: Tensor, total: Tensor, window: int) -> Tensor:
    """Whether a key is there, not after the query, and near enough; bool [batch, 1, queries, keys].

    Queries behind the end of a shorter prompt see that prompt alone.
    """
    query = node.b.reshape(queries, (queries.shape[0], 1, queries.shape[1], 1))
    key = node.b.reshape(keys, (keys.shape[0], 1, 1, keys.shape[1]))
    end = node.b.reshape(total, (total.shape[0], 1, 1, 1))
    allowed = node.b.op(
        pointwise.logical_and,
        node.b.op(pointwise.less_equal, key, query),
        node.b.op(pointwise.less, key, end),
    )
    if window > 0:
        near = node.b.op(pointwise.greater, key, _calc(node, pointwise.sub, query, window))
        allowed = node.b.op(pointwise.logical_and, allowed, near)
    if not node.integer("sliding_window_cache", 0):
        return allowed
    there = node.b.op(pointwise.greater_equal, key, node.like(0, key))
    return node.b.op(pointwise.logical_and, allowed, there)


def _attended(node: Node, heads: Heads, mask: Tensor) -> Tensor:
    """[batch, length, heads * width]; with a sink, as if one more key had that score and no value."""
    softcap, scale = node.number("softcap", 0.0), scale_of(node, heads)
    sink = node.get(11)
    if sink is None and node.integer("smooth_softmax", 0):
        sink = node.b.full((heads.q.shape[1],), 0.0, heads.q.dtype)
    node.ignore("smooth_softmax")
    if sink is not None:
        if softcap:
            raise node.unsupported("softcap together with a sink")
        heads, mask = _with_sink(node, heads, mask, sink)
    if softcap:
        return merge_heads(node, spelled_out(node, heads, mask, scale, softcap, 0)[0])
    # A window behind the end of a shorter prompt is empty.
    safe = sink is None and node.integer("local_window_size", -1) > 0
    return merge_heads(node, node.b.op(nn.attention, heads.q, heads.k, heads.v, mask, scale=scale, safe=safe))


def _with_sink(node: Node, heads: Heads, mask: Tensor, sink: Tensor) -> tuple[Heads, Tensor]:
    """A key of zeros whose mask is the sink, in front of the others, and a value of zeros."""
    batch, _, queries, _ = heads.q.shape
    zeros = [node.b.full((*t.shape[:2], 1, t.shape[3]), 0.0, t.dtype) for t in (heads.k, heads.v)]
    k, v = node.b.concat([zeros[0], heads.k], 2), node.b.concat([zeros[1], heads.v], 2)
    count = heads.q.shape[1]
    column = node.b.broadcast(node.b.reshape(sink, (1, count, 1, 1)), (batch, count, queries, 1))
    wide = node.b.broadcast(mask, (batch, count, queries, mask.shape[3]))
    return Heads(heads.q, k, v, 0), node.b.concat([column, wide], 3)


OPERATORS: Mapping[str, Importer] = {
    "com.microsoft::GroupQueryAttention": group_query_attention,
}
