"""The three steps of attention for a tile of queries and a chunk of keys: scores, softmax, values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from isthmus.kernels.attention_shape import BLOCK_VECTORS, CHUNK, Mask, Parts, Shape
from isthmus.kernels.builder import Builder, Expr, Memory, Register, Value
from isthmus.kernels.math import exp_negative
from isthmus.kernels.panels import transpose_panel
from isthmus.kernels.tir import tirx

# Steps of a reduction laid out in straight-line code.
STEP = 4
# Rows of V between the one that is copied and the one that is fetched.
AHEAD = 16


@dataclass(frozen=True, slots=True)
class Chunk:
    """Keys [start, start + CHUNK): which of them they are, and whether they are the first and the last."""

    start: Expr
    first: Expr
    last: Expr


@dataclass(frozen=True, slots=True)
class Rows:
    """The queries of a tile: `number` within its group, `first` within the head, `count`, and how many keys
    the first and the last of them see."""

    number: Expr
    first: Expr
    count: Expr
    fewest: Expr
    most: Expr


def scale_query(k: Builder, width: int, row: Memory, scaled: Memory, scale: Expr) -> None:
    """A row of q times the scale."""

    def element(d: Expr, lanes: int) -> None:
        scaled.store(d, row.load(d, lanes) * scale)

    k.vectorized("d", width, element)


class Steps:
    """Writes the steps. Over chunks, results and sums are kept relative to the highest score so far."""

    def __init__(self, k: Builder, shape: Shape, mask: Mask, causal: bool, safe: bool, parts: Parts) -> None:
        self.k, self.shape, self.parts = k, shape, parts
        self.mask_kind, self.causal, self.safe = mask, causal, safe
        self.lanewise = k.stack("lanewise", shape.rows * shape.lanes)
        self.highest = k.stack("highest", shape.group)
        padded = -(-shape.rows // shape.lanes) * shape.lanes
        self.shifts = k.stack("shifts", padded)
        self.factors = k.stack("factors", shape.group + padded)
        self.inverses = k.stack("inverses", shape.group)

    def scale_by(self, scale: Expr) -> None:
        """Say what the products of q and k are multiplied by."""
        self.scale = scale

    # Packing

    def copy_query(self, row: Memory, copy: Memory, number: Expr) -> None:
        """A row of q, `number` of its group, as it is multiplied: times the scale."""
        scale_query(self.k, self.shape.width, row, copy, self.scale)

    def pack_keys(self, source: Memory, pitch: Expr, first: Expr, keys: Expr, block: Memory) -> None:
        """The keys from `first` on, transposed, [words][block]; zeros for those that are not there."""
        k, shape = self.k, self.shape
        rows = source.at(first * pitch, "k_rows")
        left = k.let("left", keys - first)
        transpose_panel(k, rows, block, shape.width, left, pitch, shape.block)

    def pack_values(self, source: Memory, pitch: Expr, keys: Expr) -> None:
        """V one row after the other, with zeros up to whole vectors."""
        k, shape = self.k, self.shape
        line = k.target.caches.line_bytes // 4
        with k.loop("j", 0, keys) as j:
            row = source.at(j * pitch, "v_row")
            for column in range(0, shape.value_width, line):
                source.prefetch((j + AHEAD) * pitch + column)
            self._copy_padded(row, self.parts.packed_v.at(j * shape.value_pitch, "v_packed"))

    def _copy_padded(self, row: Memory, packed: Memory) -> None:
        shape = self.shape
        whole = shape.value_width // shape.lanes * shape.lanes
        for start in range(0, whole, shape.lanes):
            packed.store(start, row.load(start, shape.lanes))
        if whole < shape.value_width:
            packed.store(whole, 0.0, shape.lanes)
            for i in range(whole, shape.value_width):
                packed.store(i, row.load(i))

    def for_height(self, count: Expr, emit: Callable[[int], None]) -> None:
        """`emit` for the height at hand: one copy of the code for each."""
        k = self.k
        cases = [(k.equal(count, h), partial(emit, h)) for h in range(self.shape.rows, 1, -1)]
        k.choose(cases, lambda: emit(1))

    def _blocks(self, rows: Rows, chunk: Chunk) -> Expr:
        """How many blocks of the chunk the tile looks at."""
        k = self.k
        seen = k.let("seen", k.smaller(k.larger(rows.most - chunk.start, 0), CHUNK))
        return k.let("blocks", k.divide_up(seen, self.shape.block))

    # Scores

    def scores(self, height: int, rows: Rows, chunk: Chunk, mask: Memory | None) -> None:
        """scores = q k^T + mask for the chunk, -inf where there is no key to see; the highest of each row."""
        k, shape = self.k, self.shape
        highest = [k.register(f"max{i}", shape.lanes, -math.inf) for i in range(height)]
        queries = self.parts.queries.at(rows.number * (shape.rows * shape.words), "tile_q")
        with k.loop("kb", 0, self._blocks(rows, chunk)) as kb:
            key = k.let("key", chunk.start + kb * shape.block)
            tile = self._products(height, queries, key, rows.number * shape.rows)
            self._add_mask(tile, rows, key, mask)
            for i, row in enumerate(tile):
                for v, register in enumerate(row):
                    self.parts.scores.store(self._place(kb, i, v), register.value)
                    highest[i].set(tirx.max(register.value, highest[i].value))
        for i, register in enumerate(highest):
            self.lanewise.store(i * shape.lanes, register.value)

    def _products(self, height: int, queries: Memory, key: Expr, row: Expr) -> Sequence[Sequence[Register]]:
        """Scores of a block of keys, from `key` on, without the mask; the tile begins at `row` of a group."""
        k, shape = self.k, self.shape
        tile = k.tile("acc", height, BLOCK_VECTORS, shape.lanes)
        for register in (register for registers in tile for register in registers):
            register.set(0.0)
        block = self.parts.packed_k.at(key * shape.words, "k_block")

        def multiply(d: Expr) -> None:
            self._multiply(tile, queries, shape.words, d, block.at(d * shape.block, "k_row"))

        self._steps(shape.words, multiply)
        self._scaled(tile)
        return tile

    def _scaled(self, tile: Sequence[Sequence[Register]]) -> None:
        """Whatever makes scores of the products: nothing, where q was scaled before."""

    def _steps(self, count: int, emit: Callable[[Expr], None]) -> None:
        """emit(0) ... emit(count - 1), some at a time."""
        k = self.k
        with k.loop("step", 0, count // STEP) as step:
            for offset in range(STEP):
                emit(k.let("d", step * STEP + offset))
        for d in range(count - count % STEP, count):
            emit(d)

    def _multiply(
        self, tile: Sequence[Sequence[Register]], factors: Memory, pitch: int, step: Expr, line: Memory
    ) -> None:
        """tile[i][v] += factors[i * pitch + step] * line[v], the vectors of the line."""
        k, lanes = self.k, self.shape.lanes
        loaded = [k.let("line", self._line(line.load(v * lanes, lanes))) for v in range(len(tile[0]))]
        for i, row in enumerate(tile):
            factor = k.let("factor", self._factor(factors.load(i * pitch + step)))
            for register, vector in zip(row, loaded, strict=True):
                self._add(register, factor, vector)

    def _line(self, words: Expr) -> Expr:
        """A vector of words of k or v as it is multiplied."""
        return words

    def _factor(self, word: Expr) -> Expr:
        """A word of q, or of powers, as it is multiplied by a line."""
        return self.k.spread(word, self.shape.lanes)

    def _add(self, register: Register, factor: Expr, line: Expr) -> None:
        register.add(factor * line)

    def _add_mask(
        self, tile: Sequence[Sequence[Register]], rows: Rows, key: Expr, mask: Memory | None
    ) -> None:
        k, shape = self.k, self.shape
        end = k.let("block_end", key + shape.block)
        if self.mask_kind == "row":
            for v in range(BLOCK_VECTORS):
                added = k.let("mask", self.parts.mask.load(key + v * shape.lanes, shape.lanes))
                for row in tile:
                    row[v].add(added)
        elif mask is not None:
            self._add_full_mask(tile, rows, key, mask)
        elif not self.causal:
            with k.when(end > rows.most):
                for row in tile:
                    self._hide(row, rows.most - key)
        if self.causal:
            with k.when(end > rows.fewest):
                for i, row in enumerate(tile):
                    self._hide(row, k.smaller(rows.fewest + i, rows.most) - key)

    def _add_full_mask(self, tile: Sequence[Sequence[Register]], rows: Rows, key: Expr, mask: Memory) -> None:
        """From where it lies, or, for a partial last block, from the copy that is padded."""
        k, shape = self.k, self.shape
        staged = self.parts.mask.at(rows.number * (shape.rows * shape.block), "tile_stage")
        with k.when(key + shape.block <= self.keys):
            for i, row in enumerate(tile):
                line = mask.at((rows.first + i) * self.mask_pitch + key, "mask_row")
                for v, register in enumerate(row):
                    register.add(line.load(v * shape.lanes, shape.lanes))
        with k.otherwise():
            for i, row in enumerate(tile):
                for v, register in enumerate(row):
                    register.add(staged.load(i * shape.block + v * shape.lanes, shape.lanes))

    def full_mask(self, keys: Expr, pitch: Expr) -> None:
        """Say how many keys there are, and how far apart the rows of a full mask lie."""
        self.keys, self.mask_pitch = keys, pitch

    def _hide(self, row: Sequence[Register], seen: Expr) -> None:
        """-inf for all but the first `seen` keys of the block."""
        k, lanes = self.k, self.shape.lanes
        left = k.let("left", k.cast(seen, "int32"))
        for v, register in enumerate(row):
            present = k.lane_numbers(lanes) < left - v * lanes
            register.add(k.select(present, 0.0, -math.inf))

    # Softmax

    def softmax(self, rows: Rows, chunk: Chunk) -> None:
        """scores = e^(scores - highest so far); what that makes of the sums and results before it.

        Reductions across lanes are long chains: those of all rows, present or not, go side by side.
        """
        k, shape = self.k, self.shape
        blocks = self._blocks(rows, chunk)
        start = k.let("row_start", rows.number * shape.rows)
        self._raise(start, chunk)
        with k.loop("i", 0, rows.count) as i:
            self._powers(start + i, i, blocks, chunk)
        with k.when(chunk.last):
            for i in range(shape.rows):
                total = k.reduce_sum(self.parts.sums.load((start + i) * shape.lanes, shape.lanes))
                inverse = self._numerator() / total
                if self.safe:
                    inverse = k.select(k.equal(total, 0.0), 0.0, inverse)
                self.inverses.store(start + i, inverse)

    def _numerator(self) -> Value:
        """What a product of powers and values of 1 stands for."""
        return 1.0

    def _place(self, kb: Expr, i: int | Expr, vector: int) -> Expr:
        shape = self.shape
        return (kb * shape.rows + i) * shape.block + vector * shape.lanes

    def _raise(self, start: Expr, chunk: Chunk) -> None:
        """The highest scores so far, and the factors for what is relative to those before.

        Where all was -inf so far, 0 stands in: powers are 0 then, and so are sums, whose inverse gives NaN.
        """
        k, shape = self.k, self.shape
        before = [k.register(f"before{i}", 1, -math.inf) for i in range(shape.rows)]
        with k.when(tirx.Not(chunk.first)):
            for i, register in enumerate(before):
                register.set(self.highest.load(start + i))
        for i, register in enumerate(before):
            highest = k.reduce(self.lanewise.load(i * shape.lanes, shape.lanes), tirx.max)
            highest = k.let("highest", tirx.max(highest, register.value))
            self.highest.store(start + i, highest)
            level = k.let("level", k.select(k.equal(highest, -math.inf), 0.0, highest))
            self.lanewise.store(i * shape.lanes, level)
            self.shifts.store(i, register.value - level)
        with k.when(tirx.Not(chunk.first)):
            for i in range(0, shape.rows, shape.lanes):
                self.factors.store(start + i, exp_negative(k, self.shifts.load(i, shape.lanes)))

    def _powers(self, row: Expr, i: Expr, blocks: Expr, chunk: Chunk) -> None:
        k, shape, scores = self.k, self.shape, self.parts.scores
        level = k.let("level", k.spread(self.lanewise.load(i * shape.lanes), shape.lanes))
        sums = [k.register(f"sum{v}", shape.lanes, 0.0) for v in range(BLOCK_VECTORS)]
        with k.loop("kb", 0, blocks) as kb:
            for v, total in enumerate(sums):
                place = k.let("place", self._place(kb, i, v))
                power = exp_negative(k, scores.load(place, shape.lanes) - level)
                scores.store(place, power)
                total.add(power)
        self._keep_sums(row, sums, chunk)

    def _keep_sums(self, row: Expr, sums: Sequence[Register], chunk: Chunk) -> None:
        """The sums of a row's powers so far, with those of the chunks before."""
        k, shape = self.k, self.shape
        kept = self.parts.sums.at(row * shape.lanes, "kept")
        with k.when(tirx.Not(chunk.first)):
            factor = k.let("factor", k.spread(self.factors.load(row), shape.lanes))
            sums[0].add(kept.load(0, shape.lanes) * factor)
        kept.store(0, sums[0].value + sums[1].value)

    # Values

    def values(self, height: int, rows: Rows, chunk: Chunk, out: Memory, pitch: Expr) -> None:
        """results = results * factor + scores v; in the last chunk out = results / sum."""
        k, shape = self.k, self.shape
        passes, each, rest = shape.passes()
        keys = k.let("seen", k.smaller(k.larger(rows.most - chunk.start, 0), CHUNK))
        lines = [out.at((rows.first + i) * pitch, f"out{i}") for i in range(height)]
        with k.loop("pass", 0, passes) as turn:
            self._columns(rows, chunk, keys, lines, turn * (each * shape.lanes), each)
        if rest:
            self._columns(rows, chunk, keys, lines, passes * each * shape.lanes, rest)

    def _columns(
        self, rows: Rows, chunk: Chunk, keys: Expr, lines: list[Memory], first: Value, vectors: int
    ) -> None:
        """`vectors` vectors of the result from column `first` on."""
        tile = self.k.tile("acc", len(lines), vectors, self.shape.lanes)
        self._start(tile, rows, chunk, first)
        self._add_values(tile, chunk, keys, first)
        self._leave(tile, rows, chunk, lines, first)

    def _kept(self, row: int, rows: Rows, first: Value) -> Memory:
        """Sums over the chunks before, of a row of the tile."""
        shape = self.shape
        place = (rows.number * shape.rows + row) * shape.value_pitch + first
        return self.parts.results.at(place, "kept")

    def _start(self, tile: Sequence[Sequence[Register]], rows: Rows, chunk: Chunk, first: Value) -> None:
        k, shape = self.k, self.shape
        with k.when(chunk.first):
            for register in (register for row in tile for register in row):
                register.set(0.0)
        with k.otherwise():
            for i, row in enumerate(tile):
                factor = k.let(
                    "factor", k.spread(self.factors.load(rows.number * shape.rows + i), shape.lanes)
                )
                kept = self._kept(i, rows, first)
                for v, register in enumerate(row):
                    register.set(kept.load(v * shape.lanes, shape.lanes) * factor)

    def _leave(
        self,
        tile: Sequence[Sequence[Register]],
        rows: Rows,
        chunk: Chunk,
        lines: Sequence[Memory],
        first: Value,
    ) -> None:
        k, shape = self.k, self.shape
        with k.when(chunk.last):
            for i, row in enumerate(tile):
                place = rows.number * shape.rows + i
                inverse = k.let("inverse", k.spread(self.inverses.load(place), shape.lanes))
                for v, register in enumerate(row):
                    value = k.let("value", register.value * inverse)
                    # Only a pass whose first column is known here can end within a vector.
                    width = shape.value_width - first if isinstance(first, int) else len(row) * shape.lanes
                    self._store_values(lines[i], first, v * shape.lanes, value, width)
        with k.otherwise():
            for i, row in enumerate(tile):
                kept = self._kept(i, rows, first)
                for v, register in enumerate(row):
                    kept.store(v * shape.lanes, register.value)

    def _add_values(self, tile: Sequence[Sequence[Register]], chunk: Chunk, keys: Expr, first: Value) -> None:
        k, shape = self.k, self.shape
        whole, each = k.let("whole", k.divide(keys, shape.block)), shape.elements
        words = shape.block // each

        def multiply(kb: Expr, j: Expr) -> None:
            place = k.divide(chunk.start, each) + kb * words + j
            line = self.parts.packed_v.at(place * shape.value_pitch + first)
            powers = self.parts.scores.at(kb * (shape.rows * shape.block), "block_powers")
            self._multiply(tile, powers, shape.block, j, line)

        with k.loop("kb", 0, whole) as kb:
            self._steps(words, partial(multiply, kb))
        with k.loop("j", 0, k.divide_up(keys - whole * shape.block, each)) as j:
            multiply(whole, j)

    def _store_values(self, line: Memory, first: Value, start: int, value: Expr, width: int) -> None:
        """A vector of the result, or what of it lies within the width."""
        if start + self.shape.lanes <= width:
            line.store(first + start, value)
            return
        for lane in range(width - start):
            line.store(first + start + lane, self.k.shuffle([value], [lane]))
