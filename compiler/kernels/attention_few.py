"""Attention of a few queries over many keys, as for a decoder's next token: K and V are read as they lie.

What it costs is the memory read, so nothing is rearranged: scores are sums across lanes, taken for as many
keys at once as a vector has lanes. Rows that are no whole vectors are read in narrower ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

from isthmus.kernels.attention_shape import Shape
from isthmus.kernels.builder import Builder, Expr, Memory
from isthmus.kernels.math import exp_negative
from isthmus.kernels.tir import tirx

# The first of some keys, and how many, to the products of a query with each.
Dots: TypeAlias = Callable[[Expr, int], Sequence[Expr]]
# Vectors of V that are summed at once, and rows of V side by side: enough chains to hide the latency.
VALUE_VECTORS, VALUE_ROWS = 4, 2


def few_query(
    k: Builder,
    shape: Shape,
    q: Memory,
    keys: tuple[Memory, Expr],
    values: tuple[Memory, Expr],
    mask: Memory | None,
    scores: Memory,
    out: Memory,
    seen: Expr,
    safe: bool,
) -> None:
    """out = softmax(q k^T + mask) v over the first `seen` keys. q is scaled; keys and values come with the
    distance between their rows; `scores` has room for `seen` and a vector more."""
    _scores(k, shape, q, *keys, mask, scores, seen)
    inverse = softmax(k, scores, seen, safe)
    _values(k, shape, *values, scores, out, seen, inverse)


def sums_of(k: Builder, vectors: Sequence[Expr]) -> Expr:
    """The sums across the lanes of as many vectors as each has lanes: neighbours are added, over and over."""
    lanes = len(vectors)
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [
            k.let("pairs", k.shuffle(pair, range(0, 2 * lanes, 2)) + k.shuffle(pair, range(1, 2 * lanes, 2)))
            for pair in pairs
        ]
    return vectors[0]


def _scores(
    k: Builder,
    shape: Shape,
    q: Memory,
    source: Memory,
    pitch: Expr,
    mask: Memory | None,
    out: Memory,
    seen: Expr,
) -> None:
    lanes = shape.few_lanes

    def dots(first: Expr, count: int) -> list[Expr]:
        rows = [source.at((first + j) * pitch, "k_row") for j in range(count)]
        sums = [k.register(f"dot{j}", lanes, 0.0) for j in range(count)]

        def step(d: Expr) -> None:
            factors = k.let("factors", q.load(d, lanes))
            for row, register in zip(rows, sums, strict=True):
                register.add(row.load(d, lanes) * factors)

        with k.loop("d", 0, shape.width // lanes) as d:
            step(k.let("at", d * lanes))
        return [k.let("dot", register.value) for register in sums]

    write_scores(k, dots, lanes, mask, out, seen)


def write_scores(
    k: Builder,
    dots: Dots,
    lanes: int,
    mask: Memory | None,
    out: Memory,
    seen: Expr,
    scale: Expr | None = None,
) -> None:
    """out[j] = q k[j] * scale + mask[j] for the first `seen` keys. `dots` makes the products with so many
    keys from one on, each a vector of `lanes` whose sum it is."""

    def store(first: Expr, scores: Expr, width: int) -> None:
        if scale is not None:
            scores = scores * k.spread(scale, width)
        out.store(first, scores + mask.load(first, width) if mask is not None else scores)

    whole = k.let("whole_keys", k.divide(seen, lanes))
    with k.loop("kb", 0, whole) as kb:
        first = k.let("first_key", kb * lanes)
        store(first, sums_of(k, dots(first, lanes)), lanes)
    with k.loop("j", whole * lanes, seen) as j:
        store(j, k.reduce_sum(dots(j, 1)[0]), 1)


def softmax(k: Builder, scores: Memory, seen: Expr, safe: bool) -> Expr:
    """scores = e^(scores - highest); one over their sum, or 0 where that is 0 and `safe`."""
    highest, last = k.register("highest", k.lanes, -math.inf), k.register("last", 1, -math.inf)

    def higher(j: Expr, lanes: int) -> None:
        register = highest if lanes == k.lanes else last
        register.set(tirx.max(scores.load(j, lanes), register.value))

    k.vectorized("j", seen, higher)
    top = k.let("top", tirx.max(k.reduce(highest.value, tirx.max), last.value))
    level = k.let("level", k.select(k.equal(top, -math.inf), 0.0, top))
    sums, rest = k.register("sums", k.lanes, 0.0), k.register("rest", 1, 0.0)

    def power(j: Expr, lanes: int) -> None:
        value = exp_negative(k, scores.load(j, lanes) - k.spread(level, lanes))
        scores.store(j, value)
        (sums if lanes == k.lanes else rest).add(value)

    k.vectorized("j", seen, power)
    total = k.let("total", k.reduce_sum(sums.value) + rest.value)
    inverse = 1.0 / total
    return k.let("inverse", k.select(k.equal(total, 0.0), 0.0, inverse) if safe else inverse)


def _values(
    k: Builder,
    shape: Shape,
    source: Memory,
    pitch: Expr,
    scores: Memory,
    out: Memory,
    seen: Expr,
    inverse: Expr,
) -> None:
    lanes = shape.few_value_lanes
    vectors = shape.value_width // lanes

    def columns(first: Expr, count: int) -> None:
        sums = [[k.register(f"sum{r}_{v}", lanes, 0.0) for v in range(count)] for r in range(VALUE_ROWS)]

        def add(j: Expr, r: int) -> None:
            row = source.at(j * pitch + first, "v_row")
            weight = k.let("weight", k.spread(scores.load(j), lanes))
            for v, register in enumerate(sums[r]):
                register.add(row.load(v * lanes, lanes) * weight)

        whole = k.let("whole_rows", k.divide(seen, VALUE_ROWS))
        with k.loop("jb", 0, whole) as jb:
            for r in range(VALUE_ROWS):
                add(k.let("j", jb * VALUE_ROWS + r), r)
        with k.loop("j", whole * VALUE_ROWS, seen) as j:
            add(j, 0)
        for v in range(count):
            total = sums[0][v].value
            for row in sums[1:]:
                total = total + row[v].value
            out.store(first + v * lanes, total * k.spread(inverse, lanes))

    with k.loop("pass", 0, vectors // VALUE_VECTORS) as turn:
        columns(k.let("first_column", turn * (VALUE_VECTORS * lanes)), VALUE_VECTORS)
    if rest := vectors % VALUE_VECTORS:
        columns(k.let("first_column", (vectors - rest) * lanes), rest)
