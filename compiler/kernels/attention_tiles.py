"""Attention in tile registers: bf16 queries, keys, values and result; scores, softmax and sums in f32.

Per head, K becomes words of two neighbours, 16 keys beside each other, and V words of two neighbouring
keys: the right sides of tile products. Queries are taken 16 at a time, in tiles of one height as in
`gemm_tiles`, and keys in chunks whose scores stay in the nearest cache. For each chunk: scores to a stage;
scale, mask, the highest of each row; powers, their sums, and the powers rounded; these times V. What came
from the chunks before is scaled down when a higher score comes. A head whose width is no whole number of
lines is copied, with zeros behind it.

The highest score is subtracted before anything is rounded, as in `attention`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from isthmus.errors import CompilerBug
from isthmus.kernels.arithmetic import round_bf16, rounded_pair
from isthmus.kernels.attention_operands import GROUP, Shape, copy_queries, pack_keys, pack_values
from isthmus.kernels.attention_shape import Mask, Scratch
from isthmus.kernels.builder import Builder, Expr, Memory, Value
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.math_short import exp_negative
from isthmus.kernels.tiles import LINE, ROWS, WORDS, TileUnit
from isthmus.kernels.tir import tirx
from isthmus.target import Target

# Keys whose scores are kept at a time: with the powers, two thirds of a nearest cache of 48 KiB.
CHUNK = 512
# Keys of a step: two tiles of scores, one of powers.
BLOCK = 32
# Rows whose scores are looked through side by side.
ABREAST = 4
# Rows of memory lie apart by these many elements more, so that they fall into different sets.
GAP = 16
SUMS, A, B = (0, 1, 2, 3), (4, 5), (6, 7)

SCORE_PITCH = CHUNK + GAP
POWER_PITCH = CHUNK + 2 * GAP


def scratch(head_dim: int, value_dim: int, mask: Mask) -> Scratch:
    """What `kernel` of the same parameters needs."""
    shape = Shape(head_dim, value_dim)
    halves = shape.padded + shape.value_padded
    constant = ROWS * (SCORE_PITCH + POWER_PITCH // 2 + 2 * shape.value_padded)
    constant += ROWS * shape.padded // 2 + (ROWS * CHUNK if mask == "full" else 0)
    return Scratch(halves // 2 + 1, constant, BLOCK)


def kernel(
    target: Target, head_dim: int, value_dim: int, mask: Mask, safe: bool, causal: bool = False
) -> Kernel:
    """`attention.kernel` for q, k, v and out of bf16, with the same parameters."""
    if target.vector.lanes(32) != WORDS:
        raise CompilerBug(f"{target.name}: attention in tiles takes vectors of {WORDS} floats")
    values = f"v{value_dim}" if value_dim != head_dim else ""
    symbol = (
        f"attention_bf16_d{head_dim}{values}_{mask}{'_causal' if causal else ''}{'_safe' if safe else ''}"
    )
    shape = Shape(head_dim, value_dim)
    return Kernel.deferred(
        target.symbol(symbol),
        lambda: _TileAttention(symbol, target, shape, mask, safe, causal).kernel(),
        tiles=True,
    )


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Keys [start, start + count): count is of whole blocks."""

    start: Expr
    count: Expr
    first: Expr
    last: Expr


class _TileAttention:
    def __init__(
        self, symbol: str, target: Target, shape: Shape, mask: Mask, safe: bool, causal: bool
    ) -> None:
        k = self.k = Builder(symbol, target)
        self.shape, self.mask_kind, self.safe, self.causal = shape, mask, safe, causal
        self.lanes = k.lanes
        self.q_input, self.k_input, self.v_input = (k.input(name, "uint16") for name in "qkv")
        self.mask = k.input("mask") if mask != "none" else None
        self.out, self.scratch = k.output("out", "uint16"), k.output("scratch")
        self.scale = k.scalar("scale")
        self.heads, self.group = k.size("heads"), k.size("group")
        self.queries, self.keys = k.size("queries"), k.size("keys")
        self.q_strides, self.k_strides, self.v_strides = (self._strides(name, "bhs") for name in "qkv")
        self.m_strides = self._strides("m", {"none": "", "row": "bh", "full": "bhs"}[mask])
        self.o_strides = self._strides("o", "bhs")
        self.begin, self.end = k.size("begin"), k.size("end")

    def _strides(self, name: str, axes: str) -> list[Expr]:
        return [self.k.size(f"{name}_{axis}") for axis in axes]

    def kernel(self) -> Kernel:
        return self.k.later(self.body)

    def body(self) -> None:
        k = self.k
        self.tile = TileUnit(k, "bf16")
        self.padded_keys = k.let("padded_keys", k.divide_up(self.keys, BLOCK) * BLOCK)
        self._carve()
        self.highest = k.stack("highest", ROWS)
        self.levels = k.stack("levels", ROWS)
        self.factors = k.stack("factors", ROWS)
        self.inverses = k.stack("inverses", ROWS)
        self.lanewise = k.stack("lanewise", ROWS * self.lanes)
        self.sums = k.stack("sums", ROWS * self.lanes)
        with k.when(tirx.And(self.queries > 0, self.end > self.begin)):
            tiles = k.let("tiles", k.divide_up(self.queries, ROWS))
            self.height = k.let("height", k.divide_up(self.queries, tiles))
            self.tile.configure(dict.fromkeys((*SUMS, *A), self.height))
            if self.mask_kind == "none":
                self._row_mask(None)
            with k.loop("unit", self.begin, self.end) as unit:
                self._unit(unit, tiles)
            self.tile.release()

    def _carve(self) -> None:
        """Parts of the scratch memory; `scratch` counts them in floats, halves here in elements."""
        k, shape = self.k, self.shape
        padded = self.padded_keys
        halves = self.scratch.reread("uint16")
        self.packed_k = halves
        self.packed_v = halves.at(padded * shape.padded, "v_start")
        row_mask = padded * ((shape.padded + shape.value_padded) // 2)
        self.row_mask = self.scratch.at(row_mask, "mask_start")
        self.scores = self.row_mask.at(padded, "scores_start")
        powers = k.let("powers_start", row_mask + padded + ROWS * SCORE_PITCH)
        self.powers = halves.at(powers * 2)
        self.products = self.scratch.at(powers + ROWS * POWER_PITCH // 2, "products_start")
        self.results = self.products.at(ROWS * shape.value_padded, "results_start")
        rest = k.let("rest_start", powers + ROWS * (POWER_PITCH // 2 + 2 * shape.value_padded))
        self.q_copy = halves.at(rest * 2)
        self.full_mask = self.scratch.at(rest + ROWS * shape.padded // 2, "full_mask_start")

    def _unit(self, unit: Expr, tiles: Expr) -> None:
        k = self.k
        batch = k.let("batch", k.divide(unit, self.heads))
        head = k.let("head", k.remainder(unit, self.heads))
        q = self.q_input.at(batch * self.q_strides[0] + head * self.q_strides[1], "q_head")
        out = self.out.at(batch * self.o_strides[0] + head * self.o_strides[1], "out_head")
        mask = None
        if self.mask is not None:
            mask = self.mask.at(batch * self.m_strides[0] + head * self.m_strides[1], "mask_head")
        self._pack(unit, batch, head)
        if self.mask_kind == "row":
            self._row_mask(mask)
        with k.loop("t", 0, tiles) as t:
            first = k.let("first", k.smaller(t * self.height, self.queries - self.height))
            self._tile(first, q, mask, out)

    # Packing

    def _pack(self, unit: Expr, batch: Expr, head: Expr) -> None:
        """K and V into scratch, where they differ from those of the unit before."""
        k = self.k
        shared = k.let("shared", k.divide(head, self.group))
        new = k.let("new", tirx.Or(k.equal(unit, self.begin), k.equal(shared * self.group, head)))
        with k.when(new):
            keys = self.k_input.at(batch * self.k_strides[0] + shared * self.k_strides[1], "k_head")
            values = self.v_input.at(batch * self.v_strides[0] + shared * self.v_strides[1], "v_head")
            with k.loop("kb", 0, k.divide(self.padded_keys, WORDS)) as kb:
                first = k.let("first_key", kb * WORDS)
                pack_keys(k, self.shape, keys, self.k_strides[2], first, self.keys, self.packed_k)
            with k.loop("pair", 0, k.divide(self.padded_keys, GROUP)) as pair:
                pack_values(k, self.shape, values, self.v_strides[2], pair, self.keys, self.packed_v)

    def _row_mask(self, mask: Memory | None) -> None:
        """What is added to the scores of all queries: -inf beyond the last key."""
        k = self.k
        with k.loop("j", 0, self.keys) as j:
            self.row_mask.store(j, 0.0 if mask is None else mask.load(j))
        with k.loop("j", self.keys, self.padded_keys) as j:
            self.row_mask.store(j, -math.inf)

    # A tile of queries

    def _tile(self, first: Expr, q: Memory, mask: Memory | None, out: Memory) -> None:
        k, shape = self.k, self.shape
        source = q.at(first * self.q_strides[2], "q_rows")
        pitch = k.let("q_bytes", self.q_strides[2] * 2)
        if not shape.aligned:
            copy_queries(k, shape, source, self.q_strides[2], self.height, self.q_copy)
            source, pitch = self.q_copy, shape.padded * 2
        seen = self.keys
        if self.causal:
            seen = k.let("seen", k.larger(k.smaller(first + self.height + self.keys - self.queries, seen), 0))
        blocks = k.let("blocks", k.larger(k.divide_up(seen, BLOCK), 1))
        chunks = k.let("chunks", k.divide_up(blocks, CHUNK // BLOCK))
        with k.loop("chunk", 0, chunks) as c:
            start = k.let("chunk_start", c * CHUNK)
            count = k.let("count", k.smaller(blocks * BLOCK - start, CHUNK))
            chunk = _Chunk(
                start, count, k.let("is_first", k.equal(c, 0)), k.let("is_last", k.equal(c + 1, chunks))
            )
            self._scores(source, pitch, chunk)
            if mask is not None and self.mask_kind == "full":
                self._stage_mask(mask, first, chunk)
            self._highest(first, chunk)
            self._powers(chunk)
            self._values(first, chunk, out)

    def _scores(self, q: Memory, pitch: Value, chunk: _Chunk) -> None:
        """q k^T of the chunk, to the stage."""
        k, tile, shape = self.k, self.tile, self.shape
        kept = shape.lines <= len(A)
        if kept:
            for i in range(shape.lines):
                tile.load(A[i], q, i * WORDS * GROUP, pitch)
        with k.loop("kb", 0, k.divide(chunk.count, BLOCK)) as kb:
            key = k.let("key", chunk.start + kb * BLOCK)
            for half in range(BLOCK // WORDS):
                block = self.packed_k.at((key + half * WORDS) * shape.padded, "k_block")
                tile.zero(SUMS[half])
                for i in range(shape.lines):
                    if not kept:
                        tile.load(A[0], q, i * WORDS * GROUP, pitch)
                    tile.load(B[half], block, i * WORDS * WORDS * GROUP, LINE)
                    tile.multiply(SUMS[half], A[i] if kept else A[0], B[half])
                tile.store(SUMS[half], self.scores, kb * BLOCK + half * WORDS, SCORE_PITCH * 4)

    def _stage_mask(self, mask: Memory, first: Expr, chunk: _Chunk) -> None:
        """The chunk's part of a mask of its own for each query."""
        k = self.k
        there = k.let("there", k.smaller(chunk.count, self.keys - chunk.start))
        with k.loop("i", 0, self.height) as i:
            row = mask.at((first + i) * self.m_strides[2] + chunk.start, "mask_row")
            copy = self.full_mask.at(i * CHUNK, "mask_copy")

            def element(j: Expr, lanes: int, row: Memory = row, copy: Memory = copy) -> None:
                copy.store(j, row.load(j, lanes))

            k.vectorized("j", there, element)
            with k.loop("j", there, chunk.count) as j:
                copy.store(j, -math.inf)

    def _groups(self, emit: Callable[[Expr], None]) -> None:
        """emit(first) for the rows, some abreast; those beyond the height compute with what is there."""
        k = self.k
        with k.loop("rows", 0, k.divide_up(self.height, ABREAST)) as rows:
            emit(k.let("first_row", rows * ABREAST))

    def _highest(self, first: Expr, chunk: _Chunk) -> None:
        """scores = scores * scale + mask; the highest of each row so far, and the factors for what is
        relative
        to those before. Where all was -inf so far, 0 stands in."""
        k, lanes = self.k, self.lanes
        vectors = k.let("vectors", k.divide(chunk.count, lanes))
        scale = k.let("scale", k.spread(self.scale, lanes))

        def group(row: Expr) -> None:
            lines = [self.scores.at((row + i) * SCORE_PITCH, f"line{i}") for i in range(ABREAST)]
            tops = [k.register(f"top{i}", lanes, -math.inf) for i in range(ABREAST)]
            with k.loop("v", 0, vectors) as v:
                j = k.let("j", v * lanes)
                shared = None
                if self.mask_kind != "full":
                    shared = k.let("mask", self.row_mask.load(chunk.start + j, lanes))
                for i, (line, top) in enumerate(zip(lines, tops, strict=True)):
                    added = (
                        shared if shared is not None else self.full_mask.load((row + i) * CHUNK + j, lanes)
                    )
                    score = k.let("score", line.load(j, lanes) * scale + added)
                    if self.causal:
                        score = k.let("score", self._hidden(score, first + row + i, chunk.start + j))
                    line.store(j, score)
                    top.set(tirx.max(score, top.value))
            for i, top in enumerate(tops):
                self.lanewise.store((row + i) * lanes, top.value)

        self._groups(group)
        tops = [k.let("top", self.lanewise.load(i * lanes, lanes)) for i in range(ROWS)]
        highest = k.let("highest", _across(k, tops, tirx.max))
        before = k.register("before", lanes, -math.inf)
        with k.when(tirx.Not(chunk.first)):
            before.set(self.highest.load(0, lanes))
        highest = k.let("highest", tirx.max(highest, before.value))
        self.highest.store(0, highest)
        level = k.let("level", k.select(k.equal(highest, -math.inf), 0.0, highest))
        self.levels.store(0, level)
        with k.when(tirx.Not(chunk.first)):
            self.factors.store(0, exp_negative(k, before.value - level))

    def _hidden(self, score: Expr, query: Expr, key: Expr) -> Expr:
        """-inf for the keys that a causal query does not see."""
        k = self.k
        seen = k.cast(query + (self.keys - self.queries + 1) - key, "int32")
        return k.select(k.lane_numbers(self.lanes) < seen, score, -math.inf)

    def _powers(self, chunk: _Chunk) -> None:
        """powers = e^(scores - highest), rounded; their sums, of the powers as they were."""
        k, lanes = self.k, self.lanes
        with k.loop("i", 0, self.height) as i:
            level = k.let("level", k.spread(self.levels.load(i), lanes))
            scores = self.scores.at(i * SCORE_PITCH, "score_line")
            powers = self.powers.at(i * POWER_PITCH, "power_line")
            sums = [k.register(f"sum{half}", lanes, 0.0) for half in range(2)]
            with k.loop("v", 0, k.divide(chunk.count, BLOCK)) as v:
                j = k.let("j", v * BLOCK)
                found = [exp_negative(k, scores.load(j + half * lanes, lanes) - level) for half in range(2)]
                for register, power in zip(sums, found, strict=True):
                    register.add(power)
                powers.store(j, rounded_pair(k, *found))
            kept = self.sums.at(i * lanes, "kept")
            with k.when(tirx.Not(chunk.first)):
                factor = k.let("factor", k.spread(self.factors.load(i), lanes))
                sums[0].add(kept.load(0, lanes) * factor)
            kept.store(0, sums[0].value + sums[1].value)
        with k.when(chunk.last):
            rows = [k.let("row", self.sums.load(i * lanes, lanes)) for i in range(ROWS)]
            total = k.let("total", _across(k, rows, lambda a, b: a + b))
            inverse = 1.0 / total
            if self.safe:
                inverse = k.select(k.equal(total, 0.0), 0.0, inverse)
            self.inverses.store(0, inverse)

    def _values(self, first: Expr, chunk: _Chunk, out: Memory) -> None:
        """results = results * factor + powers v; in the last chunk out = results / sum."""
        k, tile, shape, lanes = self.k, self.tile, self.shape, self.lanes
        block = k.let("first_block", k.divide(chunk.start, BLOCK))
        for start in range(0, shape.columns, len(SUMS)):
            columns = range(start, min(start + len(SUMS), shape.columns))
            for sums in SUMS[: len(columns)]:
                tile.zero(sums)
            with k.loop("kb", 0, k.divide(chunk.count, BLOCK)) as kb:
                tile.load(A[0], self.powers, kb * BLOCK, POWER_PITCH * 2)
                for sums, column in zip(SUMS, columns, strict=False):
                    place = ((block + kb) * shape.columns + column) * (WORDS * WORDS * GROUP)
                    b = B[sums % len(B)]
                    tile.load(b, self.packed_v, place, LINE)
                    tile.multiply(sums, A[0], b)
            for sums, column in zip(SUMS, columns, strict=False):
                tile.store(sums, self.products, column * WORDS, shape.value_padded * 4)
        with k.loop("i", 0, self.height) as i:
            made = self.products.at(i * shape.value_padded, "made")
            kept = self.results.at(i * shape.value_padded, "kept")
            values = [k.register(f"value{c}", lanes) for c in range(shape.columns)]
            for c, register in enumerate(values):
                register.set(made.load(c * lanes, lanes))
            with k.when(tirx.Not(chunk.first)):
                factor = k.let("factor", k.spread(self.factors.load(i), lanes))
                for c, register in enumerate(values):
                    register.add(kept.load(c * lanes, lanes) * factor)
            with k.when(chunk.last):
                inverse = k.let("inverse", k.spread(self.inverses.load(i), lanes))
                self._store(
                    out.at((first + i) * self.o_strides[2], "out_row"),
                    [k.let("value", register.value * inverse) for register in values],
                )
            with k.otherwise():
                for c, register in enumerate(values):
                    kept.store(c * lanes, register.value)

    def _store(self, row: Memory, values: Sequence[Expr]) -> None:
        """A row of the result, rounded."""
        k, lanes, width = self.k, self.lanes, self.shape.value_width
        for c, value in enumerate(values):
            start = c * lanes
            rounded = k.let("rounded", round_bf16(k, value))
            if start + lanes <= width:
                row.store(start, rounded)
            else:
                for lane in range(width - start):
                    row.store(start + lane, k.shuffle([rounded], [lane]))


def _across(k: Builder, vectors: Sequence[Expr], combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """What the lanes of each of as many vectors as there are lanes come to, as one vector."""
    lanes = len(vectors)
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [
            k.let(
                "pairs",
                combine(k.shuffle(pair, range(0, 2 * lanes, 2)), k.shuffle(pair, range(1, 2 * lanes, 2))),
            )
            for pair in pairs
        ]
    return vectors[0]
