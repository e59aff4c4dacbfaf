"""Scaled dot-product attention in one kernel: softmax(q k^T * scale + mask) v, head by head.

Per head, K is packed transposed in blocks and V contiguously, into scratch memory of the caller. Queries are
taken in groups of a few tiles, and for each group keys in chunks. For a tile and a chunk: scores (a product
with K, plus the mask), their powers relative to the highest score so far, and the product with V, added to
what is there from the chunks before, which is scaled down when a higher score comes. So the scores of one
tile and chunk are all there is ever of queries x keys, a chunk of K and V is in the second-level cache while
the tiles of a group use it, and keys that no query of a tile sees are not looked at. Tile heights are
balanced as in `gemm`.

A few queries alone (a decoder's next token) take a way of their own: `attention_few`, and on bf16
`attention_few_pairs`.

The highest score is subtracted before anything is rounded, so a row that is -3.4e38 throughout is uniform,
and a row that is -inf throughout is NaN (or 0 where that is asked for), as in float32 softmax step by step.
"""

from __future__ import annotations

import math
from functools import partial

from isthmus.errors import CompilerBug
from isthmus.kernels.attention_bytes import ByteSteps
from isthmus.kernels.attention_few import few_query
from isthmus.kernels.attention_few_pairs import few_query_pairs
from isthmus.kernels.attention_pairs import PairSteps, copy_query
from isthmus.kernels.attention_shape import (
    CHUNK,
    FEW_QUERIES,
    FOUR,
    GROUP_TILES,
    PAIR,
    Extra,
    Mask,
    Parts,
    Rounds,
    Scratch,
    Shape,
    elements_of,
    scratch,
    shape_of,
)
from isthmus.kernels.attention_tile import Chunk, Rows, Steps, scale_query
from isthmus.kernels.builder import Builder, Expr, Memory, index
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.tir import tirx
from isthmus.target import Target

# By elements of a word: what writes the steps, and how powers are stored.
STEPS = {1: Steps, PAIR: PairSteps, FOUR: ByteSteps}
POWERS_OF = {PAIR: "uint16", FOUR: "int8"}

__all__ = ["Mask", "Rounds", "Scratch", "kernel", "scratch"]


def kernel(
    target: Target,
    head_dim: int,
    value_dim: int,
    mask: Mask,
    safe: bool,
    causal: bool = False,
    ragged: bool = False,
    mixed: bool = False,
    rounds: Rounds = "",
) -> Kernel:
    """out = softmax(q k^T * scale + mask) v for the units [begin, end): head u % heads of batch u // heads.

    `void attention_f32_d<D>[v<DV>]_<mask>[_causal][_safe](q, k, v, [mask,] out, scratch, scale, heads,
    group, queries, keys, q_b, q_h, q_s, k_b, k_h, k_s, v_b, v_h, v_s, [m_b, m_h, [m_s,]] o_b, o_h, o_s,
    begin, end)`: strides of batch, head and position, in elements; the stride within a head, and of the
    mask's keys, is 1. `group` heads share one head of k and v. A `row` mask is the same for all queries.
    `causal`: query i sees the keys j <= i + keys - queries, and no others are read for it. `safe`: a row
    whose scores are all -inf gives 0, not NaN.

    `ragged`: sequences of different lengths, one after the other. There are no strides of batches and no
    `queries`; `keys` is the length that scratch memory is for; `ends` (int64, `e_s` apart) comes before the
    mask, and batch b is the rows [ends[b - 1], ends[b]). A mask has one number for each row, and no strides.

    `mixed`: q, k, v and out are bf16 (`attention_bf16_..`), multiplied by the target's instruction for pairs
    of them, see `attention_pairs`. `rounds`: they are f32, and rounded to be
    multiplied: to bf16 (`attention_f32_bf16_..`), or to bytes (`attention_f32_i8_..`, `attention_bytes`).
    """
    if head_dim < 1 or value_dim < 1:
        raise CompilerBug(f"attention with head dimensions {head_dim} and {value_dim}")
    values = f"v{value_dim}" if value_dim != head_dim else ""
    if ragged and mask == "full":
        raise CompilerBug("ragged attention with a mask for each query")
    kind = f"{mask}{'_causal' * causal}{'_safe' * safe}{'_ragged' * ragged}"
    dtype = "bf16" if mixed else f"f32_{rounds}" if rounds else "f32"
    symbol = f"attention_{dtype}_d{head_dim}{values}_{kind}"
    shape = shape_of(target, head_dim, value_dim, elements_of(mixed, rounds))
    return Kernel.deferred(
        target.symbol(symbol),
        lambda: _Attention(symbol, target, shape, mask, safe, causal, ragged, mixed).kernel(),
    )


class _Attention:
    """The parts of one attention kernel while it is written."""

    def __init__(
        self,
        symbol: str,
        target: Target,
        shape: Shape,
        mask: Mask,
        safe: bool,
        causal: bool,
        ragged: bool,
        mixed: bool,
    ) -> None:
        k = self.k = Builder(symbol, target)
        self.shape, self.mask_kind, self.safe, self.causal = shape, mask, safe, causal
        self.mixed = mixed
        dtype, size = ("uint16", 2) if mixed else ("float32", 4)
        self.line = target.caches.line_bytes // size
        self.q_input, self.k_input, self.v_input = (k.input(name, dtype) for name in "qkv")
        self.ends = k.input("ends", "int64") if ragged else None
        self.mask = k.input("mask") if mask != "none" else None
        self.out, self.scratch = k.output("out", dtype), k.output("scratch")
        self.scale = k.scalar("scale")
        self.heads, self.group = k.size("heads"), k.size("group")
        self.queries = index(0) if ragged else k.size("queries")
        self.keys = self.longest = k.size("keys")
        self.end_stride = k.size("e_s") if ragged else index(0)
        self.q_strides, self.k_strides, self.v_strides = map(self._strides, "qkv")
        self.m_strides = [index(1), index(0)]
        if not ragged:
            axes = {"none": "", "row": "bh", "full": "bhs"}[mask]
            self.m_strides = [k.size(f"m_{axis}") for axis in axes]
        self.o_strides = self._strides("o")
        self.begin, self.end = k.size("begin"), k.size("end")

    def _strides(self, name: str) -> list[Expr]:
        """Strides of batch, head and position. Ragged batches begin at rows: their stride is that of rows."""
        if self.ends is None:
            return [self.k.size(f"{name}_{axis}") for axis in "bhs"]
        head, row = (self.k.size(f"{name}_{axis}") for axis in "hs")
        return [row, head, row]

    def kernel(self) -> Kernel:
        return self.k.later(self.body)

    def body(self) -> None:
        k = self.k
        self.parts = self._carve()
        make = STEPS[self.shape.elements]
        self.steps = make(k, self.shape, self.mask_kind, self.causal, self.safe, self.parts)
        self.steps.scale_by(self.scale)
        if self.mask_kind == "full":
            self.steps.full_mask(self.keys, self.m_strides[2])
        if self.ends is None:
            with k.when(self.queries > 0), k.loop("unit", self.begin, self.end) as unit:
                self._unit(unit, k.let("batch", k.divide(unit, self.heads)))
            return
        with k.loop("unit", self.begin, self.end) as unit:
            batch = k.let("batch", k.divide(unit, self.heads))
            start = k.register("start", 1, 0, "int64")
            start.set(index(0))
            with k.when(batch > 0):
                start.set(self.ends.load((batch - 1) * self.end_stride))
            rows = k.let("rows", self.ends.load(batch * self.end_stride) - start.value)
            self.queries = self.keys = k.let("length", k.smaller(rows, self.longest))
            with k.when(self.queries > 0):
                self._unit(unit, k.let("first_row", start.value))

    def _unit(self, unit: Expr, batch: Expr) -> None:
        """One head of one batch; of a ragged one `batch` is the first row."""
        k, shape = self.k, self.shape
        self.blocks = k.let("blocks", k.divide_up(self.keys, shape.block))
        tiles = k.let("tiles", k.divide_up(self.queries, shape.rows))
        self.height = k.let("height", k.divide(self.queries, tiles))
        self.taller = k.let("taller", k.remainder(self.queries, tiles))
        head = k.let("head", k.remainder(unit, self.heads))
        q = self.q_input.at(batch * self.q_strides[0] + head * self.q_strides[1], "q_head")
        out = self.out.at(batch * self.o_strides[0] + head * self.o_strides[1], "out_head")
        mask = None
        if self.mask is not None:
            mask = self.mask.at(batch * self.m_strides[0] + head * self.m_strides[1], "mask_head")
        with k.when(self.queries <= FEW_QUERIES):
            self._few(batch, head, q, mask, out)
        with k.otherwise():
            self._many(unit, batch, head, tiles, q, mask, out)

    def _many(
        self, unit: Expr, batch: Expr, head: Expr, tiles: Expr, q: Memory, mask: Memory | None, out: Memory
    ) -> None:
        k = self.k
        self._pack(unit, batch, head, mask)
        groups = k.let("groups", k.divide_up(tiles, GROUP_TILES))
        with k.loop("group", 0, groups) as group:
            self._prefetch_next(unit, batch, group, groups)
            self._group(k.let("first_tile", group * GROUP_TILES), tiles, q, mask, out)

    def _carve(self) -> Parts:
        """Parts of the scratch memory; `scratch` counts them."""
        k, shape = self.k, self.shape
        padded = k.let("padded", k.divide_up(self.longest, shape.block) * shape.block)
        packed_v = self.scratch.at(padded * shape.words, "v_start")
        value_rows = k.divide_up(padded, shape.elements)
        queries = packed_v.at(value_rows * shape.value_pitch, "q_start")
        scores = queries.at(shape.group * shape.words, "scores_start")
        results = scores.at(shape.rows * CHUNK, "results_start")
        sums = results.at(shape.group * shape.value_pitch, "sums_start")
        rest = sums.at(shape.group * shape.lanes, "rest_start")
        extra = None
        if shape.elements == FOUR:
            initial = self.scratch.reread("int32").at(rest.offset + padded, "initial_start")
            extra = Extra(rest, initial, rest.at(2 * padded, "stage_start"))
            rest = rest.at(2 * padded + shape.stage, "mask_start")
        if self.mixed:
            start = PAIR * (padded + PAIR * shape.lanes)
            self.few_powers = self.scratch.reread("uint16").at(start, "few_powers_start")
        powers = scores
        if shape.elements > 1:
            dtype = POWERS_OF[shape.elements]
            powers = self.scratch.reread(dtype).at(scores.offset * shape.elements, "powers_start")
        return Parts(self.scratch, packed_v, queries, scores, results, sums, rest, powers, extra)

    def _seen(self, query: Expr) -> Expr:
        """How many keys a query sees."""
        return query + (self.keys - self.queries + 1) if self.causal else self.keys

    # A group of tiles

    def _rows(self, tile: Expr, first_tile: Expr, tiles: Expr) -> Rows:
        k = self.k
        first = k.let("first", tile * self.height + k.smaller(tile, self.taller))
        count = k.let("rows", self.height + k.cast(tile < self.taller, "int64"))
        fewest = k.let("fewest", self._seen(first))
        return Rows(tile - first_tile, first, count, fewest, k.let("most", self._seen(first + count - 1)))

    def _group(self, first_tile: Expr, tiles: Expr, q: Memory, mask: Memory | None, out: Memory) -> None:
        k = self.k
        end = k.let("end_tile", k.smaller(first_tile + GROUP_TILES, tiles))
        with k.loop("tile", first_tile, end) as tile:
            rows = self._rows(tile, first_tile, tiles)
            self._scale_queries(q.at(rows.first * self.q_strides[2], "q_rows"), rows)
            if mask is not None and self.mask_kind == "full":
                self._stage_mask(mask, rows)
        seen = self._rows(end - 1, first_tile, tiles).most
        chunks = k.let("chunks", k.larger(k.divide_up(k.larger(seen, 0), CHUNK), 1))
        with k.loop("chunk", 0, chunks) as c:
            start = k.let("chunk_start", c * CHUNK)
            chunk = Chunk(start, k.let("is_first", k.equal(c, 0)), k.let("is_last", k.equal(c + 1, chunks)))
            with k.loop("tile", first_tile, end) as tile:
                rows = self._rows(tile, first_tile, tiles)
                self._prefetch_out(out, rows)
                scores = partial(self.steps.scores, rows=rows, chunk=chunk, mask=mask)
                self.steps.for_height(rows.count, scores)
                self.steps.softmax(rows, chunk)
                values = partial(self.steps.values, rows=rows, chunk=chunk, out=out, pitch=self.o_strides[2])
                self.steps.for_height(rows.count, values)

    def _prefetch_out(self, out: Memory, rows: Rows) -> None:
        """The rows of the result lie far apart, and not in a cache."""
        line = self.line
        with self.k.loop("i", 0, rows.count) as i:
            for column in range(0, self.shape.value_width, line):
                out.prefetch((rows.first + i) * self.o_strides[2] + column, write=True)

    def _scale_queries(self, q: Memory, rows: Rows) -> None:
        """The tile of q times the scale, contiguous; in pairs as it is."""
        k, shape = self.k, self.shape
        with k.loop("i", 0, rows.count) as i:
            place = (rows.number * shape.rows + i) * shape.words
            row, scaled = q.at(i * self.q_strides[2], "q_row"), self.parts.queries.at(place, "q_scaled")
            self.steps.copy_query(row, scaled, rows.number * shape.rows + i)

    def _stage_mask(self, mask: Memory, rows: Rows) -> None:
        """What a partial last block has of a full mask, padded."""
        k, shape = self.k, self.shape
        start = k.let("tail_start", k.divide(self.keys, shape.block) * shape.block)
        left = k.let("tail", self.keys - start)
        with k.when(left > 0), k.loop("i", 0, rows.count) as i:
            row = mask.at((rows.first + i) * self.m_strides[2] + start, "mask_row")
            stage = self.parts.mask.at((rows.number * shape.rows + i) * shape.block, "stage_row")
            with k.loop("j", 0, left) as j:
                stage.store(j, row.load(j))
            with k.loop("j", left, shape.block) as j:
                stage.store(j, -math.inf)

    # A few queries

    def _few(self, batch: Expr, head: Expr, q: Memory, mask: Memory | None, out: Memory) -> None:
        k = self.k
        shared = k.let("shared", k.divide(head, self.group))
        keys = self.k_input.at(batch * self.k_strides[0] + shared * self.k_strides[1], "k_head")
        values = self.v_input.at(batch * self.v_strides[0] + shared * self.v_strides[1], "v_head")
        with k.loop("i", 0, self.queries) as i:
            row = q.at(i * self.q_strides[2], "q_row")
            if self.mixed:
                copy_query(k, self.shape, row, self.parts.queries)
            else:
                scale_query(k, self.shape.width, row, self.parts.queries, self.scale)
            line = mask.at(i * self.m_strides[2], "mask_row") if mask and self.mask_kind == "full" else mask
            few = few_query
            if self.mixed:
                few = partial(few_query_pairs, scale=self.scale, powers=self.few_powers)
            few(
                k,
                self.shape,
                self.parts.queries,
                (keys, self.k_strides[2]),
                (values, self.v_strides[2]),
                line,
                self.scratch,
                out=out.at(i * self.o_strides[2], "out_row"),
                seen=k.let("seen", k.larger(self._seen(i), 0)),
                safe=self.safe,
            )

    # Packing

    def _pack(self, unit: Expr, batch: Expr, head: Expr, mask: Memory | None) -> None:
        """K, V and a row mask into scratch; K and V only where they differ from those of the unit before."""
        k = self.k
        shared = k.let("shared", k.divide(head, self.group))
        new = k.let("new", tirx.Or(k.equal(unit, self.begin), k.equal(shared * self.group, head)))
        with k.when(new):
            source = self.k_input.at(batch * self.k_strides[0] + shared * self.k_strides[1], "k_head")
            self._pack_keys(source)
            values = self.v_input.at(batch * self.v_strides[0] + shared * self.v_strides[1], "v_head")
            self.steps.pack_values(values, self.v_strides[2], self.keys)
        if mask is not None and self.mask_kind == "row":
            with k.loop("j", 0, self.keys) as j:
                self.parts.mask.store(j, mask.load(j))
            with k.loop("j", self.keys, self.blocks * self.shape.block) as j:
                self.parts.mask.store(j, -math.inf)

    def _pack_keys(self, source: Memory) -> None:
        """K transposed, in blocks [width][block]; zeros stand for the keys that the last block lacks."""
        k, shape = self.k, self.shape
        with k.loop("kb", 0, self.blocks) as kb:
            first = k.let("first_key", kb * shape.block)
            block = self.parts.packed_k.at(first * shape.words, "k_block")
            with k.loop("ahead", first + shape.block, first + 2 * shape.block) as j:
                self._prefetch_row(source, j * self.k_strides[2], shape.width)
            self.steps.pack_keys(source, self.k_strides[2], first, self.keys, block)

    def _prefetch_row(self, rows: Memory, place: Expr, width: int) -> None:
        """Into the nearest cache: hardware does not guess rows that lie far apart."""
        for column in range(0, width, self.line):
            rows.prefetch(place + column)

    def _prefetch_next(self, unit: Expr, this: Expr, t: Expr, tiles: Expr) -> None:
        """This tile's share of the rows that the next unit will read; they lie too far apart for hardware."""
        k, shape = self.k, self.shape
        line = self.line
        head = k.let("next_head", k.remainder(unit + 1, self.heads))
        batch = k.divide(unit + 1, self.heads)
        if self.ends is not None:
            batch = k.select(k.equal(head, 0), this + self.queries, this)
        batch = k.let("next_batch", batch)
        for memory, strides, head_of, count, width in (
            (self.q_input, self.q_strides, head, self.queries, shape.width),
            (self.k_input, self.k_strides, k.divide(head, self.group), self.keys, shape.width),
            (self.v_input, self.v_strides, k.divide(head, self.group), self.keys, shape.value_width),
        ):
            start = memory.at(batch * strides[0] + head_of * strides[1], "next")
            with k.loop("j", k.divide(count * t, tiles), k.divide(count * (t + 1), tiles)) as j:
                for column in range(0, width, line):
                    start.prefetch(j * strides[2] + column, level=2)
