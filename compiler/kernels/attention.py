"""Scaled dot-product attention in one kernel: softmax(q k^T * scale + mask) v, head by head.

Per head, K is packed transposed in blocks and V contiguously, into scratch memory of the caller. Then, for
each tile of a few queries: scores of all keys (a product with K, plus the mask), their softmax in place
(the maximum was taken on the way), and the product with V, divided by the sum at the end. So there is never
a queries x keys buffer, only the scores of one tile. Tile heights are balanced as in `gemm`.

The maximum is subtracted before anything is rounded, so a row that is -3.4e38 throughout is uniform, and a
row that is -inf throughout is NaN (or 0 where that is asked for), as in float32 softmax step by step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from tvm import tirx

from isthmus.errors import CompilerBug
from isthmus.kernels.attention_shape import BLOCK_VECTORS, Mask, Scratch, Shape, scratch, shape_of
from isthmus.kernels.builder import Builder, Expr, Memory, Register, Value
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.math import exp_negative
from isthmus.kernels.panels import transpose_panel
from isthmus.target import Target

__all__ = ["Mask", "Scratch", "kernel", "scratch"]

# Steps of the reduction laid out in straight-line code.
STEP = 2


def kernel(target: Target, head_dim: int, value_dim: int, mask: Mask, safe: bool) -> Kernel:
    """out = softmax(q k^T * scale + mask) v for the units [begin, end): head u % heads of batch u // heads.

    `void attention_f32_d<D>[v<DV>]_<mask>[_safe](q, k, v, [mask,] out, scratch, scale, heads, group, queries,
    keys, q_b, q_h, q_s, k_b, k_h, k_s, v_b, v_h, v_s, [m_b, m_h, [m_s,]] o_b, o_h, o_s, begin, end)`: strides
    of batch, head and position, in elements; the stride within a head, and of the mask's keys, is 1. `group`
    heads share one head of k and v. A `row` mask is the same for all queries. `safe`: a row whose scores are
    all -inf gives 0, not NaN.
    """
    if head_dim < 1 or value_dim < 1:
        raise CompilerBug(f"attention with head dimensions {head_dim} and {value_dim}")
    values = f"v{value_dim}" if value_dim != head_dim else ""
    symbol = f"attention_f32_d{head_dim}{values}_{mask}{'_safe' if safe else ''}"
    parts = _Attention(symbol, target, shape_of(target, head_dim, value_dim), mask, safe)
    return parts.k.later(parts.body)


class _Attention:
    """The parts of one attention kernel while it is written."""

    def __init__(self, symbol: str, target: Target, shape: Shape, mask: Mask, safe: bool) -> None:
        k = self.k = Builder(symbol, target)
        self.shape, self.mask_kind, self.safe = shape, mask, safe
        self.q_input, self.k_input, self.v_input = k.input("q"), k.input("k"), k.input("v")
        self.mask = k.input("mask") if mask != "none" else None
        self.out, self.scratch = k.output("out"), k.output("scratch")
        self.scale = k.scalar("scale")
        self.heads, self.group = k.size("heads"), k.size("group")
        self.queries, self.keys = k.size("queries"), k.size("keys")
        self.q_strides, self.k_strides, self.v_strides = (self._strides(name, "bhs") for name in "qkv")
        self.m_strides = self._strides("m", {"none": "", "row": "bh", "full": "bhs"}[mask])
        self.o_strides = self._strides("o", "bhs")
        self.begin, self.end = k.size("begin"), k.size("end")

    def _strides(self, name: str, axes: str) -> list[Expr]:
        return [self.k.size(f"{name}_{axis}") for axis in axes]

    def body(self) -> None:
        k, shape = self.k, self.shape
        self.blocks = k.let("blocks", k.divide_up(self.keys, shape.block))
        self.whole_blocks = k.let("whole_blocks", k.divide(self.keys, shape.block))
        self._carve()
        self.lanewise = k.stack("lanewise", shape.rows * shape.lanes)
        self.maxima = k.stack("maxima", shape.rows)
        self.inverses = k.stack("inverses", shape.rows)
        tiles = k.let("tiles", k.divide_up(self.queries, shape.rows))
        with k.when(self.queries > 0), k.loop("unit", self.begin, self.end) as unit:
            height = k.let("height", k.divide(self.queries, tiles))
            taller = k.let("taller", k.remainder(self.queries, tiles))
            batch = k.let("batch", k.divide(unit, self.heads))
            head = k.let("head", k.remainder(unit, self.heads))
            self._pack(unit, batch, head)
            q = self.q_input.at(batch * self.q_strides[0] + head * self.q_strides[1], "q_head")
            out = self.out.at(batch * self.o_strides[0] + head * self.o_strides[1], "out_head")
            with k.loop("t", 0, tiles) as t:
                first = k.let("first", t * height + k.smaller(t, taller))
                rows = k.let("rows", height + k.cast(t < taller, "int64"))
                self._prefetch_next(unit, t, tiles)
                self._scale_queries(q.at(first * self.q_strides[2], "q_rows"), rows)
                mask_rows = self._mask_rows(batch, head, first, rows)
                self._for_height(rows, partial(self._scores, mask=mask_rows))
                self._softmax(rows)
                out_rows = out.at(first * self.o_strides[2], "out_rows")
                self._for_height(rows, partial(self._values, out=out_rows))

    def _carve(self) -> None:
        """Parts of the scratch memory; `scratch` above counts them."""
        k, shape = self.k, self.shape
        padded = k.let("padded", self.blocks * shape.block)
        self.packed_k = self.scratch
        self.packed_v = self.packed_k.at(padded * shape.width, "v_start")
        self.scores = self.packed_v.at(padded * shape.value_pitch, "scores_start")
        self.q = self.scores.at(padded * shape.rows, "q_start")
        self.mask_stage = self.q.at(shape.rows * shape.width, "mask_start")

    def _for_height(self, rows: Expr, emit: Callable[[int], None]) -> None:
        k = self.k
        cases = [(k.equal(rows, h), partial(emit, h)) for h in range(self.shape.rows, 1, -1)]
        k.choose(cases, lambda: emit(1))

    # Packing

    def _pack(self, unit: Expr, batch: Expr, head: Expr) -> None:
        """K, V and a row mask into scratch; K and V only where they differ from those of the unit before."""
        k = self.k
        shared = k.let("shared", k.divide(head, self.group))
        new = k.let("new", tirx.Or(k.equal(unit, self.begin), k.equal(shared * self.group, head)))
        with k.when(new):
            source = self.k_input.at(batch * self.k_strides[0] + shared * self.k_strides[1], "k_head")
            self._pack_keys(source)
            values = self.v_input.at(batch * self.v_strides[0] + shared * self.v_strides[1], "v_head")
            with k.loop("j", 0, self.keys) as j:
                row = values.at(j * self.v_strides[2], "v_row")
                self._copy_padded(row, self.packed_v.at(j * self.shape.value_pitch, "v_packed"))
        if self.mask is not None and self.mask_kind == "row":
            mask = self.mask.at(batch * self.m_strides[0] + head * self.m_strides[1], "mask_head")
            with k.loop("j", 0, self.keys) as j:
                self.mask_stage.store(j, mask.load(j))
            with k.loop("j", self.keys, self.blocks * self.shape.block) as j:
                self.mask_stage.store(j, -math.inf)

    def _pack_keys(self, source: Memory) -> None:
        """K transposed, in blocks [width][block]; zeros stand for the keys that the last block lacks."""
        k, shape = self.k, self.shape
        with k.loop("kb", 0, self.blocks) as kb:
            first = k.let("first_key", kb * shape.block)
            block = self.packed_k.at(first * shape.width, "k_block")
            keys = source.at(first * self.k_strides[2], "k_rows")
            left = k.let("left", self.keys - first)
            transpose_panel(k, keys, block, shape.width, left, self.k_strides[2], shape.block)

    def _copy_padded(self, row: Memory, packed: Memory) -> None:
        """One row of V, with zeros up to whole vectors."""
        shape = self.shape
        whole = shape.value_width // shape.lanes * shape.lanes
        for start in range(0, whole, shape.lanes):
            packed.store(start, row.load(start, shape.lanes))
        if whole < shape.value_width:
            packed.store(whole, 0.0, shape.lanes)
            for i in range(whole, shape.value_width):
                packed.store(i, row.load(i))

    def _scale_queries(self, q: Memory, rows: Expr) -> None:
        """The tile of q times the scale, contiguous."""
        k, shape = self.k, self.shape
        with k.loop("i", 0, rows) as i:
            row = q.at(i * self.q_strides[2], "q_row")
            scaled = self.q.at(i * shape.width, "q_scaled")

            def element(d: Expr, lanes: int, row: Memory = row, scaled: Memory = scaled) -> None:
                scaled.store(d, row.load(d, lanes) * self.scale)

            k.vectorized("d", shape.width, element)

    def _mask_rows(self, batch: Expr, head: Expr, first: Expr, rows: Expr) -> Memory | None:
        """The mask of this tile's first query. What a partial last block has of it is copied, and padded."""
        if self.mask is None or self.mask_kind != "full":
            return None
        k, shape = self.k, self.shape
        m_b, m_h, m_s = self.m_strides
        mask = self.mask.at(batch * m_b + head * m_h + first * m_s, "mask_tile")
        start = k.let("tail_start", self.whole_blocks * shape.block)
        left = k.let("tail", self.keys - start)
        with k.when(left > 0), k.loop("i", 0, rows) as i:
            row = mask.at(i * m_s + start, "mask_row")
            stage = self.mask_stage.at(i * shape.block, "stage_row")
            with k.loop("j", 0, left) as j:
                stage.store(j, row.load(j))
            with k.loop("j", left, shape.block) as j:
                stage.store(j, -math.inf)
        return mask

    def _prefetch_next(self, unit: Expr, t: Expr, tiles: Expr) -> None:
        """This tile's share of the rows that the next unit will read; they lie too far apart for hardware."""
        k, shape = self.k, self.shape
        line = self.k.target.caches.line_bytes // 4
        batch = k.let("next_batch", k.divide(unit + 1, self.heads))
        head = k.let("next_head", k.remainder(unit + 1, self.heads))
        for memory, strides, head_of, count, width in (
            (self.q_input, self.q_strides, head, self.queries, shape.width),
            (self.k_input, self.k_strides, k.divide(head, self.group), self.keys, shape.width),
            (self.v_input, self.v_strides, k.divide(head, self.group), self.keys, shape.value_width),
        ):
            start = memory.at(batch * strides[0] + head_of * strides[1], "next")
            with k.loop("j", k.divide(count * t, tiles), k.divide(count * (t + 1), tiles)) as j:
                for column in range(0, width, line):
                    start.prefetch(j * strides[2] + column, level=2)

    # The three steps of a tile

    def _score_place(self, kb: Expr, i: int | Expr, vector: int) -> Expr:
        """Scores lie as [block][row][key], so that all rows are constant distances apart."""
        shape = self.shape
        return (kb * shape.rows + i) * shape.block + vector * shape.lanes

    def _scores(self, rows: int, mask: Memory | None) -> None:
        """scores = q k^T + mask, and the maximum of each row, lane by lane."""
        k, shape = self.k, self.shape
        maxima = [k.register(f"max{i}", shape.lanes, -math.inf) for i in range(rows)]
        with k.loop("kb", 0, self.blocks) as kb:
            accumulators = k.tile("acc", rows, BLOCK_VECTORS, shape.lanes)
            for register in (register for row in accumulators for register in row):
                register.set(0.0)
            block = self.packed_k.at(kb * (shape.width * shape.block), "k_block")

            def multiply(d: Expr, block: Memory = block, tile: list[list[Register]] = accumulators) -> None:
                self._multiply(tile, self.q, shape.width, d, block.at(d * shape.block, "k_row"))

            self._steps(shape.width, multiply)
            self._add_mask(accumulators, kb, mask)
            for i, row in enumerate(accumulators):
                for v, register in enumerate(row):
                    self.scores.store(self._score_place(kb, i, v), register.value)
                    maxima[i].set(tirx.max(register.value, maxima[i].value))
        for i, maximum in enumerate(maxima):
            self.lanewise.store(i * shape.lanes, maximum.value)

    def _steps(self, count: int, emit: Callable[[Expr], None]) -> None:
        """emit(0) ... emit(count - 1), some at a time."""
        k = self.k
        with k.loop("step", 0, count // STEP) as step:
            for offset in range(STEP):
                emit(k.let("d", step * STEP + offset))
        for d in range(count - count % STEP, count):
            emit(d)

    def _multiply(
        self,
        tile: Sequence[Sequence[Register]],
        factors: Memory,
        pitch: int,
        step: Expr,
        line: Memory,
    ) -> None:
        """tile[i][v] += factors[i * pitch + step] * line[v], the vectors of the line."""
        k, lanes = self.k, self.shape.lanes
        loaded = [k.let("line", line.load(v * lanes, lanes)) for v in range(len(tile[0]))]
        for i, row in enumerate(tile):
            factor = k.let("factor", k.spread(factors.load(i * pitch + step), lanes))
            for register, vector in zip(row, loaded, strict=True):
                register.add(factor * vector)

    def _add_mask(self, tile: Sequence[Sequence[Register]], kb: Expr, mask: Memory | None) -> None:
        """The mask, and -inf where the last block has no keys."""
        k, shape = self.k, self.shape
        if self.mask_kind == "row":
            for v in range(BLOCK_VECTORS):
                added = k.let("mask", self.mask_stage.load(kb * shape.block + v * shape.lanes, shape.lanes))
                for row in tile:
                    row[v].add(added)
            return
        with k.when(kb < self.whole_blocks):
            for i, row in enumerate(tile if mask is not None else ()):
                line = mask.at(i * self.m_strides[2] + kb * shape.block, "mask_row") if mask else None
                for v, register in enumerate(row):
                    register.add(line.load(v * shape.lanes, shape.lanes) if line else 0.0)
        with k.otherwise():
            if mask is not None:
                for i, row in enumerate(tile):
                    for v, register in enumerate(row):
                        place = i * shape.block + v * shape.lanes
                        register.add(self.mask_stage.load(place, shape.lanes))
                return
            left = k.let("left", k.cast(self.keys - kb * shape.block, "int32"))
            for v in range(BLOCK_VECTORS):
                present = k.lane_numbers(shape.lanes) < left - v * shape.lanes
                added = k.let("absent", k.select(present, 0.0, -math.inf))
                for row in tile:
                    row[v].add(added)

    def _softmax(self, rows: Expr) -> None:
        """scores = e^(scores - maximum), and one over the sum of each row.

        Reductions across lanes are long chains: those of all rows, present or not, go side by side.
        """
        k, shape = self.k, self.shape
        for i in range(shape.rows):
            maximum = k.reduce(self.lanewise.load(i * shape.lanes, shape.lanes), tirx.max)
            if self.safe:
                maximum = k.select(k.equal(maximum, -math.inf), 0.0, maximum)
            self.maxima.store(i, maximum)
        with k.loop("i", 0, rows) as i:
            maximum = k.let("maximum", k.spread(self.maxima.load(i), shape.lanes))
            sums = [k.register(f"sum{v}", shape.lanes, 0.0) for v in range(BLOCK_VECTORS)]
            with k.loop("kb", 0, self.blocks) as kb:
                for v, total in enumerate(sums):
                    place = k.let("place", self._score_place(kb, i, v))
                    power = exp_negative(k, self.scores.load(place, shape.lanes) - maximum)
                    self.scores.store(place, power)
                    total.add(power)
            self.lanewise.store(i * shape.lanes, sums[0].value + sums[1].value)
        for i in range(shape.rows):
            total = k.reduce_sum(self.lanewise.load(i * shape.lanes, shape.lanes))
            inverse = 1.0 / total
            if self.safe:
                inverse = k.select(k.equal(total, 0.0), 0.0, inverse)
            self.inverses.store(i, inverse)

    def _values(self, rows: int, out: Memory) -> None:
        """out = scores v / sum."""
        k, shape = self.k, self.shape
        passes, each, rest = shape.passes()
        with k.loop("pass", 0, passes) as turn:
            self._value_columns(rows, out, turn * (each * shape.lanes), each)
        if rest:
            self._value_columns(rows, out, passes * each * shape.lanes, rest)

    def _value_columns(self, rows: int, out: Memory, first: Value, vectors: int) -> None:
        """`vectors` vectors of the result from column `first` on."""
        k, shape = self.k, self.shape
        tile = k.tile("acc", rows, vectors, shape.lanes)
        for register in (register for row in tile for register in row):
            register.set(0.0)

        def multiply(kb: Expr, j: Expr) -> None:
            line = self.packed_v.at((kb * shape.block + j) * shape.value_pitch + first, "v_row")
            scores = self.scores.at(kb * (shape.rows * shape.block), "block_scores")
            self._multiply(tile, scores, shape.block, j, line)

        with k.loop("kb", 0, self.whole_blocks) as kb:
            self._steps(shape.block, partial(multiply, kb))
        with k.loop("j", 0, self.keys - self.whole_blocks * shape.block) as j:
            multiply(self.whole_blocks, j)
        for i, row in enumerate(tile):
            line = out.at(i * self.o_strides[2] + first, "out_row")
            inverse = k.let("inverse", k.spread(self.inverses.load(i), shape.lanes))
            for v, register in enumerate(row):
                value = k.let("value", register.value * inverse)
                # Only a pass whose first column is known here can end within a vector.
                width = shape.value_width - first if isinstance(first, int) else vectors * shape.lanes
                self._store_values(line, v * shape.lanes, value, width)

    def _store_values(self, line: Memory, start: int, value: Expr, width: int) -> None:
        """A vector of the result, or what of it lies within the width."""
        if start + self.shape.lanes <= width:
            line.store(start, value)
            return
        for lane in range(width - start):
            line.store(start + lane, self.k.shuffle([value], [lane]))
