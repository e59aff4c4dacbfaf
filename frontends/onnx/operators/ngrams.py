"""Counting n-grams of integers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.ir.types import Array, DType
from isthmus.ops import movement, pointwise, reduce


def tf_idf(node: Node) -> Tensor:
    """How often each n-gram of a pool stands in x, [length] or [batch, length]; gaps between are allowed."""
    b, x = node.b, node[0]
    mode = node.text("mode", "TF")
    least, most, gaps = (
        node.integer(n, d) for n, d in (("min_gram_length", 1), ("max_gram_length", 1), ("max_skip_count", 0))
    )
    pool, starts, places = (node.integers(n) for n in ("pool_int64s", "ngram_counts", "ngram_indexes"))
    if pool is None or starts is None or places is None:
        raise node.unsupported("a pool of texts")
    length = x.shape[-1] if x.rank in (1, 2) else None
    if not isinstance(length, int) or mode not in ("TF", "IDF", "TFIDF"):
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator} of {x.type} in mode {mode!r}")
    line = b.reshape(x, (1, length)) if x.rank == 1 else x
    zeros = b.full((line.shape[0], 1), 0, DType.F32)
    counts = [zeros]
    where = np.zeros(max(places) + 1, np.int64)  # which column of `counts`; the first is 0
    seen, columns = 0, 1
    for n, (start, end) in enumerate(zip(starts, (*starts[1:], len(pool)), strict=True), 1):
        grams = np.array(pool[start:end]).reshape(-1, n)
        own = list(places[seen : seen + len(grams)])
        seen += len(grams)
        if least <= n <= most and own:
            where[own] = columns + np.arange(len(own))
            columns += len(own)
            counts.append(_counted(node, line, grams.astype(x.dtype.numpy), gaps if n > 1 else 0))
    total = b.op(movement.gather, b.concat(counts, 1), b.array(where), axis=1)
    total = _weighed(node, total, mode, places)
    return b.reshape(total, (len(where),)) if x.rank == 1 else total


def _counted(node: Node, x: Tensor, grams: Array, gaps: int) -> Tensor:
    """[batch, length] and grams [count, n] to f32 [batch, count]."""
    b, (count, n) = node.b, grams.shape
    total = b.full((x.shape[0], count), 0, DType.F32)
    for gap in range(gaps + 1):
        length = x.shape[1]
        if isinstance(length, int) and (n - 1) * (gap + 1) + 1 > length:
            break
        cut = b.op(movement.windows, x, axes=(1,), sizes=(n,), strides=(1,), dilations=(gap + 1,))
        cut = b.reshape(cut, (*cut.shape[:2], 1, n))
        same = b.cast(b.op(pointwise.equal, cut, b.array(grams)), DType.F32)
        every = b.op(reduce.reduce_min, same, axes=(3,))
        found = b.reshape(b.op(reduce.reduce_sum, every, axes=(1,)), (x.shape[0], count))
        total = b.op(pointwise.add, total, found)
    return total


def _weighed(node: Node, total: Tensor, mode: str, places: tuple[int, ...]) -> Tensor:
    """TF: the counts; IDF: the weight where there are any; TFIDF: their product."""
    given = node.numbers("weights")
    if mode == "TF":
        return total
    weights = np.ones(max(places) + 1, np.float32)
    if given is not None:
        weights[list(places)] = given
    if mode == "IDF":
        total = node.b.op(pointwise.minimum, total, node.like(1, total))
    return node.b.op(pointwise.mul, total, node.b.array(weights))


OPERATORS: Mapping[str, Importer] = {"TfIdfVectorizer": tf_idf}
