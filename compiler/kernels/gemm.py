"""float32 matrix product with prepacked weights, and what follows it: bias, residual, activation.

One register tile of `rows` x `vectors` accumulators takes all of K without touching memory. The order is
panel -> row tile -> k: a panel of weights (K x width) stays in the second-level cache while every row tile
uses it, and meanwhile the next panel is prefetched, its lines spread evenly over this panel's row tiles.
Rows are cut into tiles whose heights differ by at most one, so that no row count has a slow remainder;
every height is compiled in, and chosen at run time. Bias and residual are what accumulators start with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isthmus.errors import CompilerBug
from isthmus.ir.types import Panels
from isthmus.kernels.builder import Builder, Expr, Memory, Register
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.math import ACTIVATIONS, Function
from isthmus.target import Target, gemm_tile
from isthmus.target import panel_width as target_panel_width

# k steps of straight-line code, and between prefetches.
STEP = 4
BLOCK = 16


@dataclass(frozen=True, slots=True)
class Tile:
    """A register tile: `rows` x `vectors` accumulators, beside one row of weights and one broadcast."""

    rows: int
    vectors: int


def tile_of(target: Target) -> Tile:
    """The tile that fills the register file and needs the fewest loads per multiplication."""
    return Tile(*gemm_tile(target.vector))


def panel_width(target: Target) -> int:
    """Columns of a panel of packed weights."""
    return target_panel_width(target.vector)


def pack(weight: np.ndarray, width: int) -> np.ndarray:
    """weight[K, N] as panels[ceil(N / width), K, width], zero where a panel goes beyond N."""
    if weight.ndim != 2:
        raise CompilerBug(f"pack takes a matrix, not shape {weight.shape}")
    return Panels(width).encode(weight)


def kernel(target: Target, activation: str | None = None, residual: bool = False) -> Kernel:
    """y[i, j] = act(bias[j] + residual[i, j] + sum_k x[i, k] w[k, j]) for a range of rows and of panels.

    `void gemm_f32[_res][_<activation>](x, w, bias, [residual,] y, k, n, ldx, [ldr,] ldy, row_begin, row_end,
    panel_begin, panel_end)`. x[rows, k], residual[rows, n] and y[rows, n] have rows `ld*` apart; w is what
    `pack` or `pack_panels_f32` makes; bias is padded to whole panels. Pointers address row 0 and panel 0.
    residual may be y itself, with the same pitch.
    """
    if activation is not None and activation not in ACTIVATIONS:
        raise CompilerBug(f"gemm has no activation {activation!r}; it has {', '.join(ACTIVATIONS)}")
    symbol = "_".join(["gemm_f32", *["res"] * residual, *([activation] if activation else [])])
    parts = _Gemm(symbol, target, ACTIVATIONS[activation] if activation else None, residual)
    return parts.k.later(parts.body)


class _Gemm:
    """The parts of one GEMM kernel while it is written."""

    def __init__(self, symbol: str, target: Target, activation: Function | None, residual: bool) -> None:
        k = self.k = Builder(symbol, target)
        self.shape = tile_of(target)
        self.lanes = k.lanes
        self.width = panel_width(target)
        self.line = target.caches.line_bytes // 4
        self.activation = activation
        self.x = k.input("x")
        self.w = k.input("w")
        self.bias = k.input("bias")
        self.residual = k.input("residual") if residual else None
        self.y = k.output("y")
        self.depth = k.size("k")
        self.columns = k.size("n")
        self.ldx = k.size("ldx")
        self.ldr = k.size("ldr") if residual else None
        self.ldy = k.size("ldy")
        self.row_begin, self.row_end = k.size("row_begin"), k.size("row_end")
        self.panel_begin, self.panel_end = k.size("panel_begin"), k.size("panel_end")

    def body(self) -> None:
        k, shape = self.k, self.shape
        self.stage = k.stack("stage", shape.rows * self.width)
        rows = k.let("rows", self.row_end - self.row_begin)
        with k.when(rows > 0):
            tiles = k.let("tiles", k.divide_up(rows, shape.rows))
            height = k.let("height", k.divide(rows, tiles))
            taller = k.let("taller", k.remainder(rows, tiles))
            step_lines = BLOCK * self.width // self.line
            self.prefetches = k.let("prefetches", k.divide_up(step_lines, tiles))
            with k.loop("panel", self.panel_begin, self.panel_end) as panel, k.loop("t", 0, tiles) as t:
                self.first = k.let("first", self.row_begin + t * height + k.smaller(t, taller))
                self.column = k.let("column", panel * self.width)
                self.panel = self.w.at(panel * self.width * self.depth, "panel_start")
                # The next panel follows this one; this tile fetches its share, a part in each k step.
                share = k.divide(self.depth, BLOCK) * self.prefetches * self.line
                self.ahead = self.panel.at(self.width * self.depth + t * share, "ahead")
                self._any_height(height + k.cast(t < taller, "int64"))

    def _any_height(self, height: Expr) -> None:
        """The tile at `first` of this panel, `height` rows high; partial panels go through `stage`."""
        k = self.k
        height = k.let("tile_height", height)
        left = k.let("left", self.columns - self.column)
        self.whole = k.let("whole", left >= self.width)
        if self.residual is not None:
            with k.when(left < self.width):
                self._copy(self.residual, self.ldr, height, left, to_stage=True)
        top = self.shape.rows
        cases = [(k.equal(height, h), lambda h=h: self._tile(h)) for h in range(top, 1, -1)]
        k.choose(cases, lambda: self._tile(1))
        if self.activation is not None:
            self._activate(height, self.activation)
        with k.when(left < self.width):
            self._copy(self.y, self.ldy, height, left, to_stage=False)

    def _copy(self, matrix: Memory, pitch: Expr, rows: Expr, columns: Expr, *, to_stage: bool) -> None:
        """The valid columns of a partial tile, between a matrix and the stage."""
        k = self.k
        with k.loop("i", 0, rows) as i:
            line = matrix.at((self.first + i) * pitch + self.column, "line")
            with k.loop("j", 0, columns) as j:
                if to_stage:
                    self.stage.store(i * self.width + j, line.load(j))
                else:
                    line.store(j, self.stage.load(i * self.width + j))

    def _tile(self, rows: int) -> None:
        k = self.k
        accumulators = k.tile("acc", rows, self.shape.vectors, self.lanes)
        x_rows = [self.x.at((self.first + i) * self.ldx, f"x{i}") for i in range(rows)]
        y_rows = [self.y.at((self.first + i) * self.ldy + self.column, f"y{i}") for i in range(rows)]
        self._start(accumulators)
        for row in y_rows:
            for j in range(self.shape.vectors):
                row.prefetch(j * self.lanes, write=True)
        self._prefetch_residual(rows)
        blocks = k.let("blocks", k.divide(self.depth, BLOCK))
        with k.loop("block", 0, blocks) as block:
            with k.loop("p", 0, self.prefetches) as p:
                self.ahead.prefetch((block * self.prefetches + p) * self.line, level=2)
            with k.loop("step", block * (BLOCK // STEP), (block + 1) * (BLOCK // STEP)) as step:
                for offset in range(STEP):
                    self._multiply(accumulators, x_rows, step * STEP + offset)
        with k.loop("kk", blocks * BLOCK, self.depth) as kk:
            self._multiply(accumulators, x_rows, kk)
        self._finish(accumulators, y_rows)

    def _prefetch_residual(self, rows: int) -> None:
        """What the next tile starts with."""
        if self.residual is None:
            return
        for i in range(rows, 2 * rows):
            line = self.residual.at((self.first + i) * self.ldr + self.column, "next_residual")
            for j in range(self.shape.vectors):
                line.prefetch(j * self.lanes)

    def _start(self, accumulators: list[list[Register]]) -> None:
        """Bias, and the residual if there is one."""
        k = self.k
        biases = [
            k.let(f"bias{j}", self.bias.load(self.column + j * self.lanes, self.lanes))
            for j in range(self.shape.vectors)
        ]
        for row in accumulators:
            for register, bias in zip(row, biases, strict=True):
                register.set(bias)
        if self.residual is None:
            return
        with k.when(self.whole):
            for i, row in enumerate(accumulators):
                line = self.residual.at((self.first + i) * self.ldr + self.column, f"r{i}")
                for j, register in enumerate(row):
                    register.add(line.load(j * self.lanes, self.lanes))
        with k.otherwise():
            for i, row in enumerate(accumulators):
                for j, register in enumerate(row):
                    register.add(self.stage.load(i * self.width + j * self.lanes, self.lanes))

    def _multiply(self, accumulators: list[list[Register]], x_rows: list[Memory], kk: Expr) -> None:
        """One step of k: the outer product of a column of x and a row of the panel."""
        k = self.k
        kk = k.let("kk", kk)
        weights = [
            k.let(f"w{j}", self.panel.load(kk * self.width + j * self.lanes, self.lanes))
            for j in range(self.shape.vectors)
        ]
        for row, x_row in zip(accumulators, x_rows, strict=True):
            factor = k.let("factor", k.spread(x_row.load(kk), self.lanes))
            for register, weight in zip(row, weights, strict=True):
                register.add(factor * weight)

    def _finish(self, accumulators: list[list[Register]], y_rows: list[Memory]) -> None:
        """Out: straight to y, or to the stage where there is more to do."""
        k = self.k
        if self.activation is None:
            with k.when(self.whole):
                for row, line in zip(accumulators, y_rows, strict=True):
                    for j, register in enumerate(row):
                        line.store(j * self.lanes, register.value)
            with k.otherwise():
                self._stage(accumulators)
        else:
            self._stage(accumulators)

    def _stage(self, accumulators: list[list[Register]]) -> None:
        for i, row in enumerate(accumulators):
            for j, register in enumerate(row):
                self.stage.store(i * self.width + j * self.lanes, register.value)

    def _activate(self, height: Expr, activation: Function) -> None:
        """The activation of a staged tile: one copy of its code for all heights, and little is lost by it."""
        k = self.k
        with k.loop("i", 0, height) as i:
            line = self.y.at((self.first + i) * self.ldy + self.column, "line")
            staged = self.stage.at(i * self.width, "staged")
            places = range(0, self.width, self.lanes)
            values = [activation(k, k.let("sum", staged.load(j, self.lanes))) for j in places]
            with k.when(self.whole):
                for j, value in enumerate(values):
                    line.store(j * self.lanes, value)
            with k.otherwise():
                for j, value in enumerate(values):
                    staged.store(j * self.lanes, value)
