"""com.microsoft: positions by rotation, and by what is added to scores."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.attention import merge_heads, rotated, split_heads
from isthmus.ir.types import Array, DType
from isthmus.ops import movement, nn, pointwise, reduce


def rotary_embedding(node: Node) -> Tensor:
    x, positions, cos, sin = (node[i] for i in range(4))
    if node.integer("is_packed_batching", 0):
        raise node.unsupported("is_packed_batching=1")
    node.ignore("scale")  # onnxruntime reads it and does not use it
    apart, width = x, node.integer("rotary_embedding_dim", 0)
    heads = node.integer("num_heads", 0)
    if x.rank == 3:
        # Without a number of heads, whole heads are turned.
        size = (2 * cos.shape[1],) if not heads else ()
        apart = split_heads(node, x, heads or node.b.quotient((x.shape[2],), size))
    if positions.rank == 1:
        # One offset for all.
        steps = node.b.iota((1, apart.shape[2]), 1, positions.dtype)
        positions = node.b.op(pointwise.add, steps, node.b.reshape(positions, (1, 1)))
    turned = turn(node, apart, cos, sin, positions, bool(node.integer("interleaved", 0)), width)
    return merge_heads(node, turned) if x.rank == 3 else turned


def turn(
    node: Node, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, interleaved: bool, width: int = 0
) -> Tensor:
    """[batch, heads, length, size] turned by the rows of cos and sin [longest, width / 2] at `positions`."""
    rows = [node.b.op(movement.gather, table, positions, axis=0) for table in (cos, sin)]
    each, other = (node.b.reshape(t, (t.shape[0], 1, *t.shape[1:])) for t in rows)
    return rotated(node, x, each, other, width or 2 * cos.shape[1], interleaved)


def relative_position_bias(node: Node) -> Tensor:
    """T5's bias: a row of a table for each distance; [1, heads, queries, keys].

    Buckets are single distances at first and grow with the logarithm of the distance (Raffel et al. 2020).
    The table says [buckets, heads], but its elements lie head by head.
    """
    table, farthest = node[0], node.integer("max_distance", 0)
    count = table.shape[0]
    if not isinstance(count, int) or count < 4 or farthest < count:
        raise node.error(
            Code.INVALID_GRAPH, f"{node.operator}: max_distance={farthest}, a table {table.type}"
        )
    (queries,), (keys,) = node.dims(1, "the number of queries"), node.dims(2, "the number of keys")
    buckets = _buckets(count, farthest, bool(node.integer("is_bidirectional", 0)))
    # One column for each distance; those beyond the farthest are all alike.
    columns = node.b.reshape(table, (table.shape[1], count))
    rows = node.b.op(movement.gather, columns, node.b.array(buckets), axis=1)
    query, key = node.b.iota((queries, 1), 0), node.b.iota((1, keys), 1)
    distance = node.b.op(pointwise.sub, key, query)
    edges = node.like(-farthest, DType.I64), node.like(farthest, DType.I64)
    distance = node.b.op(pointwise.minimum, node.b.op(pointwise.maximum, distance, edges[0]), edges[1])
    index = node.b.op(pointwise.add, distance, edges[1])
    bias = node.b.op(movement.gather, rows, index, axis=1)
    return node.b.reshape(bias, (1, *bias.shape))


def _buckets(count: int, farthest: int, both_ways: bool) -> Array:
    """The bucket of every distance key - query from -farthest to farthest."""
    distance = np.arange(-farthest, farthest + 1)
    first = np.zeros_like(distance)
    if both_ways:
        count //= 2
        first = np.where(distance > 0, count, 0)
        distance = np.abs(distance)
    else:
        distance = np.maximum(-distance, 0)
    exact = count // 2
    ratio = np.maximum(distance, 1).astype(np.float32) / exact
    # In f32, as models are trained: powers fall on the same side of an edge.
    grown = np.log(ratio) / np.float32(math.log(farthest / exact)) * np.float32(count - exact)
    large = np.minimum(exact + grown.astype(np.int64), count - 1)
    return np.asarray(first + np.where(distance < exact, distance, large), np.int64)


def gated_relative_position_bias(node: Node) -> Tensor:
    """WavLM's bias: rel_pos times a gate made from each query.

    [u, r] = sigmoid of two sums over halves of (query + query_bias) @ weight + bias, gate = u (r a - 1) + 2.
    """
    if node.get(6) is not None:
        raise node.unsupported("the input token_offset", "export the model without packing")
    query = node.b.op(pointwise.add, node[0], node[1])
    query = split_heads(node, query, node.integer("num_heads", 0))
    gates = node.b.op(pointwise.add, node.b.op(nn.matmul, query, node[3]), node[4])
    half = node.b.quotient((gates.shape[3],), (2,))
    parts = []
    for index in (0, 1):
        part = node.b.op(reduce.reduce_sum, node.b.cut(gates, 3, index * half, half), axes=(3,))
        parts.append(node.b.op(pointwise.sigmoid, part))
    update, reset = parts
    inner = node.b.op(pointwise.mul, reset, node[5])
    inner = node.b.op(pointwise.sub, inner, node.like(1, inner))
    gate = node.b.op(pointwise.add, node.b.op(pointwise.mul, update, inner), node.like(2, inner))
    return node.b.op(pointwise.mul, gate, node[2])


OPERATORS: Mapping[str, Importer] = {
    "com.microsoft::GatedRelativePositionBias": gated_relative_position_bias,
    "com.microsoft::RelativePositionBias": relative_position_bias,
    "com.microsoft::RotaryEmbedding": rotary_embedding,
}
