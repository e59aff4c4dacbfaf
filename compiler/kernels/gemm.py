"""Matrix product with prepacked weights, and what follows it: bias, residual, activation.

One register tile of `rows` x `vectors` accumulators takes a chunk of K without touching memory. The order is
panel -> row tile -> k: a panel of weights (K x width) stays in the second-level cache while every row tile
uses it, and meanwhile the next panel is prefetched, its lines spread evenly over this panel's row tiles. With
few tiles, where memory is the limit, fetching goes on in every step. A K whose panels would fill that cache
is cut into chunks, outside all of this: sums go on where the chunk before left them, in y, and come out the
same to the bit.
Rows are cut into tiles whose heights differ by at most one, so that no row count has a slow remainder;
every height is compiled in, and chosen at run time. Bias and residual are what accumulators start with.
What a step of k is, `arithmetic` says: one f32, or a word of several narrower elements. Depths are in steps.
Weights that are stored narrower than they are multiplied, are widened by the first tile of a panel, a block
of steps before it multiplies them, into a copy of the panel for the others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import TypeAlias

import numpy as np

from isthmus.errors import CompilerBug
from isthmus.ir.encodings import Panels
from isthmus.kernels.arithmetic import F32, Arithmetic
from isthmus.kernels.builder import Expr, Memory, Register
from isthmus.kernels.byte_steps import Steps
from isthmus.kernels.gemm_ends import Ends, Tile
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.math_short import activation_of
from isthmus.kernels.tir import tirx
from isthmus.target import Target, gemm_tile
from isthmus.target import panel_width as target_panel_width

# The vectors of weights of a step of K.
WeightsOf: TypeAlias = Callable[[Expr], list[Expr]]

# k steps of straight-line code, and between prefetches.
STEP = 4
BLOCK = 16
# So many tiles, or fewer, fetch what comes next in every step.
FEW_TILES = 5
# Blocks before the end of a tile at which its result is fetched, and what the next one starts with.
ENDING = 4


def tile_of(target: Target, arithmetic: type[Arithmetic] = F32) -> Tile:
    """The tile that fills the register file and needs the fewest loads per multiplication.

    Where several rows are multiplied at once, all operands of a step have to fit beside the accumulators:
    LLVM loads them early, and a taller tile (8 x 3 of 32 registers) lay on the stack half of the time.
    """
    rows, vectors = gemm_tile(target.vector)
    lanes, at_once = target.vector.lanes(32), arithmetic.together
    if at_once > 1:
        rows = (target.vector.registers - at_once * vectors) * at_once // (at_once * vectors + 1)
        rows = min(rows, gemm_tile(target.vector)[0]) // at_once * at_once
    group = target.vector.group if arithmetic.grouped else 1
    return Tile(rows - arithmetic.fewer, vectors // group, lanes * group)


def panel_width(target: Target) -> int:
    """Columns of a panel of packed weights."""
    return target_panel_width(target.vector)


def most_depth(target: Target, word_bytes: int = 4) -> int:
    """The longest chunk of K, in steps that read words of so many bytes: two panels of it, this and the next,
    take half of the second-level cache."""
    return max(target.caches.l2_bytes // (4 * word_bytes * panel_width(target)) // BLOCK, 1) * BLOCK


def copy_words(target: Target, depth: int, arithmetic: type[Arithmetic], narrow: bool = False) -> int:
    """Words of 32 bits of scratch of one call, where weights are stored narrower than multiplied: a chunk of
    a panel. `narrow`: y is not in f32, and K is not cut."""
    steps = -(-depth // (arithmetic.group * BLOCK)) * BLOCK
    if not narrow:
        steps = min(steps, most_depth(target, arithmetic.word_bytes) + BLOCK)
    return steps * panel_width(target) * arithmetic.word_bytes // 4


def pack(weight: np.ndarray, width: int) -> np.ndarray:
    """weight[K, N] as panels[ceil(N / width), K, width], zero where a panel goes beyond N."""
    if weight.ndim != 2:
        raise CompilerBug(f"pack takes a matrix, not shape {weight.shape}")
    return Panels(width).encode(weight)


def kernel(
    target: Target,
    activation: str | None = None,
    residual: bool = False,
    arithmetic: type[Arithmetic] = F32,
    rounded: bool = False,
    short: bool = False,
    steps: Steps | None = None,
    halved: int = 0,
) -> Kernel:
    """y[i, j] = act(bias[j] + residual[i, j] + sum_k x[i, k] w[k, j]) for a range of rows and of panels.

    `void gemm_<arithmetic>[_res][_<activation>[_short]][_rounded|_<steps>](x, w, bias, [residual,] y, k, n,
    ldx, [ldr,] ldy, row_begin, row_end, panel_begin, panel_end)`. x[rows, k], residual[rows, n] and
    y[rows, n] have rows `ld*` apart; w is what `pack` or `pack_panels_f32` makes, or `Interleaved`; bias is
    padded to whole panels. Pointers address row 0 and panel 0. residual may be y itself, with the same pitch,
    unless it comes late. What `arithmetic` needs besides, follows w. `rounded`: y is bf16. Of both and of
    `short` the activation depends: `activation_of`. `halved`: w is `GroupPanels`, of groups of so many. Where
    weights lie narrower than they are multiplied, as these do, `copy` follows y, scratch of `copy_words`.
    `steps`, where ends come late: y are bytes, and what those need comes before k.
    """
    if steps is not None and (rounded or not arithmetic.late):
        raise CompilerBug(f"gemm_{arithmetic.name} makes no bytes")
    name = f"{arithmetic.name}_{halved // 2}of{halved}" if halved else arithmetic.name
    symbol = symbol_of(name, activation, residual, rounded, short, steps)
    function, shape = activation_of(activation, rounded, short), tile_of(target, arithmetic)
    return Kernel.deferred(
        target.symbol(symbol),
        lambda: _Gemm(symbol, target, shape, function, residual, arithmetic, rounded, steps, halved).kernel(),
    )


def symbol_of(
    arithmetic: str,
    activation: str | None,
    residual: bool,
    rounded: bool = False,
    short: bool = False,
    steps: Steps | None = None,
) -> str:
    """The name of a product's kernel."""
    function = [] if activation is None else [activation, *["short"] * short]
    ends = [*["res"] * residual, *function, *["rounded"] * rounded]
    return "_".join([f"gemm_{arithmetic}", *ends]) + ("" if steps is None else steps.suffix)


class _Gemm(Ends):
    """The tiles of one GEMM kernel while it is written."""

    def kernel(self) -> Kernel:
        return self.k.later(self.body)

    def body(self) -> None:
        k, shape, group = self.k, self.shape, self.arithmetic.group
        line_bytes = k.target.caches.line_bytes
        self.line = self.arithmetic.line(line_bytes) if self.parts is None else self.parts.line(line_bytes)
        # Steps of K, those of whole words and all, and with how many panels are laid out.
        self.steps = self.depth if group == 1 else k.let("whole_steps", k.divide(self.depth, group))
        self.all_steps = self.depth if group == 1 else k.let("all_steps", k.divide_up(self.depth, group))
        self.pitch = self.all_steps
        if self.parts is not None:
            each = self.parts.steps
            self.pitch = k.let("pitch", k.divide_up(self.all_steps, each) * each)
        self.stage = k.stack("stage", shape.rows * self.width)
        rows = k.let("rows", self.row_end - self.row_begin)
        with k.when(rows > 0):
            if self.bytes is not None:
                self.bytes.prepare()
            tiles = k.let("tiles", k.divide_up(rows, shape.rows))
            height = k.let("height", k.divide(rows, tiles))
            taller = k.let("taller", k.remainder(rows, tiles))
            self._plan_prefetches(tiles)
            self.only = k.equal(tiles, 1)
            most = most_depth(self.k.target, self.arithmetic.word_bytes)
            deep = k.larger(k.divide_up(self.steps, most), 1)
            chunks = 1 if self.narrow else k.let("chunks", deep)
            with k.loop("chunk", 0, chunks) as chunk:
                self._chunk(chunk, chunks)
                with k.loop("panel", self.panel_begin, self.panel_end) as panel, k.loop("t", 0, tiles) as t:
                    self.first = k.let("first", self.row_begin + t * height + k.smaller(t, taller))
                    self.column = k.let("column", panel * self.width)
                    self.panel = self.w.at(self._place(panel, self.chunk_begin), "panel_start")
                    # This tile fetches its share of the next panel, a part in each k step.
                    share = k.divide(self.chunk_depth, BLOCK) * self.fetches
                    self.ahead = self.w.at(self._next(panel) + self._lines_on(t * share), "ahead")
                    self.leads = k.equal(t, 0)
                    self._any_height(height + k.cast(t < taller, "int64"))

    def _plan_prefetches(self, tiles: Expr) -> None:
        """How a tile fetches its part of the next panel: `each` lines in STEP steps, or `burst` in BLOCK.

        Few tiles have much to fetch: a burst fills the queue of a core, and the products wait for it. Many
        tiles have little to fetch, and bursts that are far apart cost them least.
        """
        k = self.k
        few = k.let("few", tiles <= FEW_TILES)
        self.each = k.let("each", k.select(few, k.divide_up(self._lines(STEP), tiles), 0))
        self.burst = k.let("burst", k.divide_up(self._lines(BLOCK), tiles))
        self.fetches = k.let("fetches", k.select(few, self.each * (BLOCK // STEP), self.burst))

    def _lines(self, steps: int) -> int:
        """Cache lines of a panel in so many steps; a line holds `line` words."""
        return -(-steps * self.width // self.line)

    def _chunk(self, chunk: Expr, chunks: Expr) -> None:
        """The chunk of K that is next: chunks of nearly one size, all but the last of whole blocks."""
        k = self.k
        blocks = k.let("all_blocks", k.divide(self.steps, BLOCK))
        begin = k.let("chunk_begin", k.divide(blocks * chunk, chunks) * BLOCK)
        end = k.let("whole_end", k.divide(blocks * (chunk + 1), chunks) * BLOCK)
        self.starts = k.let("starts", k.equal(chunk, 0))
        self.ends = k.let("ends", k.equal(chunk + 1, chunks))
        self.chunk_begin = begin
        self.chunk_end = k.let("chunk_end", k.select(self.ends, self.steps, end))
        self.chunk_depth = k.let("chunk_depth", self.chunk_end - begin)

    def _elements(self, words: Expr) -> Expr:
        return words if self.arithmetic.group == 1 else words * self.arithmetic.group

    def _place(self, panel: Expr, kk: Expr) -> Expr:
        """Where step kk of a panel lies in w."""
        if self.parts is not None:
            return self.parts.place(panel * self.pitch + kk)
        return self.arithmetic.stored((panel * self.pitch + kk) * self.width)

    def _next(self, panel: Expr) -> Expr:
        """Where in w begins what is read after this panel: the next one's, of this chunk or the next.
        After the last of all come, most often, those of the next product."""
        k = self.k
        follows = panel + 1 < self.panel_end
        then = k.select(self.ends, self._place(panel + 1, 0), self._place(self.panel_begin, self.chunk_end))
        return k.let("next", k.select(follows, self._place(panel + 1, self.chunk_begin), then))

    def _any_height(self, height: Expr) -> None:
        """The tile at `first` of this panel, `height` rows high; partial panels go through `stage`."""
        k = self.k
        height = k.let("tile_height", height)
        left = k.let("left", self.columns - self.column)
        self.whole = k.let("whole", left >= self.width)
        with k.when(left < self.width):
            self._fill_stage(height, left)
        top = self.shape.rows
        if self.copy is None:
            self._tiles(height, range(1, top + 1), self._weights)
        elif self.parts is not None:
            self._tiles(height, range(1, top + 1), self._kept, widens=True)
        else:
            # Several tiles have at least half of the rows of the highest.
            low, high = range(1, top // 2 + 1), range(top // 2, top + 1)
            few = tirx.And(self.only, height <= top // 2)
            in_registers = partial(self._tiles, height, low, self._weights)
            k.choose([(few, in_registers)], lambda: self._tiles(height, high, self._kept, widens=True))
        if self.arithmetic.late:
            self._conclude(height, left)
            return
        if self.activation is not None:
            with k.when(self.ends):
                self._activate(height, self.activation)
        with k.when(left < self.width):
            self._copy(self.y, self.ldy, height, left, to_stage=False)

    def _tiles(self, height: Expr, heights: range, weights_of: WeightsOf, widens: bool = False) -> None:
        """A tile of each height there may be."""
        cases = [
            (self.k.equal(height, h), partial(self._tile, h, weights_of, widens))
            for h in reversed(heights[1:])
        ]
        self.k.choose(cases, partial(self._tile, heights[0], weights_of, widens))

    def _tile(self, rows: int, weights_of: WeightsOf, widens: bool) -> None:
        k = self.k
        spare = -rows % self.arithmetic.together
        accumulators = k.tile("acc", rows + spare, self.shape.vectors, self.lanes, self.arithmetic.sums)
        begin = self._elements(self.chunk_begin)
        x_rows = [self.x.at((self.first + i) * self.ldx + begin, f"x{i}") for i in range(rows)]
        y_rows = [self.y.at((self.first + i) * self.ldy + self.column, f"y{i}") for i in range(rows)]
        self._start(accumulators[:rows])
        if self.arithmetic.together > 1:
            for register in chain(*accumulators[rows:]):
                register.set(0)
            self.arithmetic.turn(accumulators)
        self._all_steps(accumulators, x_rows, y_rows, weights_of, widens)
        if self.arithmetic.together > 1:
            self.arithmetic.turn(accumulators)
        self._finish(accumulators[:rows], y_rows)

    def _all_steps(
        self,
        accumulators: list[list[Register]],
        x_rows: list[Memory],
        y_rows: list[Memory],
        weights_of: WeightsOf,
        widens: bool,
    ) -> None:
        """The products of a tile, over its chunk of K."""
        k = self.k
        multiply = partial(self._multiply, accumulators, x_rows, weights_of)
        blocks = k.let("blocks", k.divide(self.chunk_depth, BLOCK))
        emit = partial(self._blocks, multiply, y_rows, blocks, widens)
        counts = {-(-self._lines(STEP) // tiles): None for tiles in self._possible(len(x_rows))}
        k.choose([(k.equal(self.each, n), partial(emit, n)) for n in counts], lambda: emit(0))
        if widens:
            self._widen(blocks * BLOCK, k.select(self.ends, self.pitch, self.chunk_end) - self.chunk_begin)
        with k.loop("kk", blocks * BLOCK, self.chunk_depth) as kk:
            multiply(kk)
        if self.arithmetic.group > 1:
            with k.when(tirx.And(self.ends, self.all_steps > self.steps)):
                self._multiply_rest(accumulators, x_rows, weights_of)

    def _possible(self, height: int) -> list[int]:
        """Of a few tiles, how many there may be when one of them has this height."""
        return [n for n in range(1, FEW_TILES + 1) if height >= (self.shape.rows * (n - 1) + 1) // n]

    def _blocks(
        self, multiply: Callable[[Expr], None], y_rows: list[Memory], blocks: Expr, widens: bool, each: int
    ) -> None:
        """The whole blocks of K, and meanwhile what comes next: `each` lines in STEP steps, or a burst."""
        k = self.k
        with k.loop("block", 0, blocks) as block:
            if not each:
                with k.loop("p", 0, self.burst) as p:
                    self._fetch(block * self.burst + p)
            # Not earlier: the panel would drive it out of the nearest cache before it is needed.
            with k.when(k.equal(block + ENDING, blocks)):
                for row in y_rows:
                    for j in range(self.shape.vectors):
                        row.prefetch(j * self.lanes, write=True)
                self._prefetch_residual(len(y_rows))
            if widens:
                self._widen(block * BLOCK, (block + 1) * BLOCK)
            with k.loop("step", block * (BLOCK // STEP), (block + 1) * (BLOCK // STEP)) as step:
                for offset in range(STEP):
                    for line in range(each * offset // STEP, each * (offset + 1) // STEP):
                        self._fetch(step * each + line)
                    multiply(step * STEP + offset)

    def _fetch(self, line: Expr) -> None:
        """A line of the tile's part of what is read next, into the second-level cache."""
        self.ahead.prefetch(self._lines_on(line), level=2)

    def _prefetch_residual(self, rows: int) -> None:
        """What the next tile starts with."""
        if self.residual is None:
            return
        for i in range(rows, 2 * rows):
            line = self.residual.at((self.first + i) * self.ldr + self.column, "next_residual")
            for j in range(self.shape.vectors):
                line.prefetch(j * self.lanes)

    def _multiply(
        self, accumulators: list[list[Register]], x_rows: list[Memory], weights_of: WeightsOf, kk: Expr
    ) -> None:
        """One step of k: the outer product of a column of x and a row of the panel."""
        kk = self.k.let("kk", kk)
        factors = (self._factor(row, kk) for row in x_rows)
        self.arithmetic.accumulate(accumulators, factors, weights_of(kk))

    def _factor(self, row: Memory, kk: Expr) -> Expr:
        return self.arithmetic.factor(row, self._elements(kk), self.lanes)

    def _multiply_rest(
        self, accumulators: list[list[Register]], x_rows: list[Memory], weights_of: WeightsOf
    ) -> None:
        """The last step, of which x has only a part."""
        k, group = self.k, self.arithmetic.group
        place, count = self.chunk_depth * group, k.let("rest", self.depth - self.steps * group)
        weights = weights_of(self.chunk_depth)
        factors = (self.arithmetic.rest(row, place, count, self.lanes) for row in x_rows)
        self.arithmetic.accumulate(accumulators, factors, weights)

    def _weights(self, kk: Expr) -> list[Expr]:
        places = [self._stored(kk, self.width, j * self.lanes) for j in range(self.shape.vectors)]
        return [self.arithmetic.weights(self.panel, place, self.lanes) for place in places]

    def _lines_on(self, lines: Expr) -> Expr:
        """Elements of w in so many lines."""
        if self.parts is not None:
            return lines * self.parts.line_elements(self.k.target.caches.line_bytes)
        return self._stored(lines, self.line, 0)

    def _stored(self, times: Expr, words: int, more: int) -> Expr:
        """Elements of a panel that times * words + more words take: without a division in loops."""
        if self.copy is None:
            return self._elements(times * words + more)
        return times * self.arithmetic.stored(words) + self.arithmetic.stored(more)

    def _widen(self, begin: Expr, end: Expr) -> None:
        """The first tile of a panel puts steps of it into the copy, as products take them."""
        assert self.copy is not None
        k = self.k
        if self.parts is not None:
            each = self.parts.steps
            with k.when(self.leads), k.loop("part", k.divide(begin, each), k.divide(end, each)) as part:
                self.parts.widen(self.panel, self.copy, part)
            return
        with k.when(self.leads), k.loop("widened", begin, end) as kk:
            for vector, weights in enumerate(self._weights(kk)):
                self.copy.store(self._elements(kk * self.width + vector * self.lanes), weights)

    def _kept(self, kk: Expr) -> list[Expr]:
        assert self.copy is not None
        places = [self._elements(kk * self.width + j * self.lanes) for j in range(self.shape.vectors)]
        return [self.arithmetic.kept(self.copy, place, self.lanes) for place in places]
