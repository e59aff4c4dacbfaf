"""How close each kernel comes to what the core can do: percent of its measured multiply-add peak, by shape.

    python benchmarks/kernels.py [--target x86-64-v3] [--rows 16 128]

The peak is that of a loop of independent multiply-adds in the target's own registers, measured in turns with
every kernel, since clocks drift. Times are those of calls on one thread, less the cost of the Python call,
which is measured on an empty range. Operands are as the compiled model has them: packed weights, and
rows that are further apart than they are long.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import isthmus.targets
from isthmus.chips import discover, pick
from isthmus.codegen.native import Call, load
from isthmus.codegen.objects import compile_kernels
from isthmus.kernels import attention, gemm, layer_norm, pack, peak, softmax
from isthmus.kernels.attention_shape import Mask
from isthmus.kernels.kernel import Kernel
from isthmus.machine import Machine
from isthmus.target import Target

# MiniLM and BERT-base: projection, and the two products of the feed-forward part.
SHAPES = ((384, 384), (384, 1536), (1536, 384), (768, 768), (768, 3072), (3072, 768))
ROWS = (1, 9, 16, 17, 50, 128, 512, 1024)
GEMMS: tuple[tuple[str | None, bool], ...] = ((None, False), (None, True), ("gelu", False))
HEADS: tuple[tuple[int, int, Mask, bool], ...] = (
    (12, 32, "row", False),
    (12, 64, "row", False),
    (8, 128, "full", False),
    (12, 64, "none", True),
)
SEQUENCES = ((1, 16), (1, 50), (1, 128), (1, 512), (1, 2048), (8, 128))
# Keys that one query, a decoder's next token, looks at.
PASTS = (128, 1024, 8192)
WIDTH = 384
EXTRA = 16
PEAK_TURNS = 20_000
# Seconds of one turn, and of all turns of one number.
MEASURE = 5e-4
SECONDS = 0.25
FEWEST_TURNS = 6


def _aligned(count: int) -> np.ndarray:
    """Floats that begin a cache line, as in an arena: split lines cost a tenth of the time."""
    room = np.zeros(count + 16, np.float32)
    start = (-room.ctypes.data // 4) % 16
    return room[start : start + count]


class Bench:
    """The kernels of one target, loaded, and the clock."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self.random = np.random.default_rng(0)
        gemms = [gemm.kernel(target, activation, residual) for activation, residual in GEMMS]
        heads = [attention.kernel(target, dim, dim, mask, False, causal) for _, dim, mask, causal in HEADS]
        rows = [layer_norm.kernel(target, False), layer_norm.kernel(target, True), softmax.kernel(target)]
        self.kernels = [*gemms, *heads, *rows, pack.kernel(target)]
        self.peaks: list[float] = []
        self.calls = load([*self.kernels, peak.multiply_adds(target)], target, folder)

    def matrix(self, rows: int, columns: int) -> np.ndarray:
        """Random float32, written (untouched memory is one page of zeros), rows EXTRA elements apart."""
        room = _aligned(rows * (columns + EXTRA)).reshape(rows, columns + EXTRA)
        room[...] = self.random.standard_normal(room.shape)
        return room[:, :columns]

    def turns(self, works: Sequence[Callable[[], object]]) -> list[float]:
        """Seconds of processor time of one call of each, taken in turns: the first decile of many.

        Each call is timed after some of its own, not counted: caches are still those of the work before, and
        a processor takes a while to get from light to heavy work.
        """
        often = [1 for _ in works]
        times: list[list[float]] = [[] for _ in works]
        until = time.perf_counter() + SECONDS
        while len(times[0]) < FEWEST_TURNS or time.perf_counter() < until:
            for i, work in enumerate(works):
                for _ in range(often[i]):
                    work()
                start = time.thread_time()
                for _ in range(often[i]):
                    work()
                times[i].append((time.thread_time() - start) / often[i])
                often[i] = max(1, int(MEASURE / max(times[i][-1], 1e-9)))
        # The first turn finds out how often to call.
        return [float(np.quantile(found[1:], 0.1)) for found in times]

    def time(
        self, call: Call, arguments: Sequence[np.ndarray | int | float], empty: Sequence[int]
    ) -> tuple[float, float]:
        """Seconds of one call, less what a call costs whose range, the last arguments, is `empty`; and the
        floating-point operations a second that the core could have done."""
        nothing = [*arguments[: -len(empty)], *empty]
        chains = peak.chains(self.target) * self.target.vector.lanes(32)
        memory = np.full(chains, 0.5, np.float32)
        full, none, roof = self.turns(
            (
                lambda: call(*arguments),
                lambda: call(*nothing),
                lambda: self.calls["peak"](memory, PEAK_TURNS),
            )
        )
        self.peaks.append(2 * chains * PEAK_TURNS / roof)
        return full - none, self.peaks[-1]

    def seen_peak(self) -> str:
        """The middle of the peaks measured since the last time, in GFLOP/s."""
        middle = float(np.median(self.peaks))
        self.peaks = []
        return f"{middle / 1e9:.0f}"

    def gemm(self, symbol: str, rows: int, depth: int, columns: int, residual: bool) -> float:
        """The share of the peak, in percent."""
        width = gemm.panel_width(self.target)
        packed = gemm.pack(self.matrix(depth, columns), width)
        panels: np.ndarray = _aligned(packed.size).reshape(packed.shape)
        panels[...] = packed
        bias = np.zeros(panels.shape[0] * width, np.float32)
        x, y, extra = self.matrix(rows, depth), self.matrix(rows, columns), self.matrix(rows, columns)
        operands = (x, panels, bias, *([extra] if residual else []), y)
        pitches = (depth + EXTRA, *([columns + EXTRA] if residual else []), columns + EXTRA)
        arguments = (*operands, depth, columns, *pitches, 0, rows, 0, panels.shape[0])
        seconds, peak = self.time(self.calls[symbol], arguments, (0, 0, 0, 0))
        return 100 * 2 * rows * depth * columns / seconds / peak

    def attention(self, heads: int, dim: int, mask: Mask, causal: bool, batch: int, length: int) -> float:
        """The share of the peak, in percent, of the two products; of causal ones what they need counts."""
        seconds, peak = self.attention_time(heads, dim, mask, causal, batch, length, length)
        pairs = length * (length + 1) / 2 if causal else length * length
        return 100 * 4 * batch * heads * pairs * dim / seconds / peak

    def attention_time(
        self, heads: int, dim: int, mask: Mask, causal: bool, batch: int, queries: int, keys: int
    ) -> tuple[float, float]:
        """Seconds of one call, and the peak."""
        width = heads * dim
        q, kv = self.matrix(batch * queries, width), self.matrix(batch * keys, 2 * width)
        out = self.matrix(batch * queries, width)
        size = attention.scratch(self.target, dim, dim, mask)
        scratch = _aligned(size.per_key * (-(-keys // size.block) * size.block) + size.constant)
        pitch, kv_pitch = width + EXTRA, 2 * width + EXTRA
        masks = () if mask == "none" else (np.zeros((queries, keys), np.float32),)
        mask_strides = {"none": (), "row": (0, 0), "full": (0, 0, keys)}[mask]
        kv_strides = (keys * kv_pitch, dim, kv_pitch)
        q_strides = (queries * pitch, dim, pitch)
        strides = (*q_strides, *kv_strides, *kv_strides, *mask_strides, *q_strides)
        sizes = (dim**-0.5, heads, 1, queries, keys)
        arguments = (q, kv, kv[:, width:], *masks, out, scratch, *sizes, *strides, 0, batch * heads)
        symbol = attention.kernel(self.target, dim, dim, mask, False, causal).symbol
        return self.time(self.calls[symbol], arguments, (0, 0))

    def read(self, size: int) -> float:
        """Bytes a second of reading `size` bytes again and again, in a sum."""
        memory = _aligned(size // 4)
        (seconds,) = self.turns((memory.sum,))
        return size / seconds

    def rows(self, symbol: str, rows: int) -> float:
        """Nanoseconds an element of a kernel over rows."""
        x, y, extra = (self.matrix(rows, WIDTH) for _ in range(3))
        scale, bias = self.matrix(1, WIDTH), self.matrix(1, WIDTH)
        pitch = WIDTH + EXTRA
        arguments: dict[str, tuple[np.ndarray | int | float, ...]] = {
            "layer_norm_f32": (x, scale, bias, y, 1e-5, WIDTH, pitch, pitch, 0, rows),
            "layer_norm_f32_res": (x, extra, scale, bias, y, 1e-5, WIDTH, pitch, pitch, pitch, 0, rows),
            "softmax_f32": (x, y, WIDTH, pitch, pitch, 0, rows),
        }
        return self.time(self.calls[symbol], arguments[symbol], (0, 0))[0] / (rows * WIDTH) * 1e9


def gemm_table(bench: Bench, rows: Sequence[int]) -> Table:
    """Percent of peak, by kernel, shape and number of rows."""
    table = Table("kernel", "K x N", *map(str, rows), "peak GFLOP/s", title="GEMM, % of peak by rows")
    for activation, residual in GEMMS:
        symbol = gemm.kernel(bench.target, activation, residual).symbol
        for depth, columns in SHAPES:
            cells = [f"{bench.gemm(symbol, m, depth, columns, residual):.0f}" for m in rows]
            table.add_row(symbol, f"{depth} x {columns}", *cells, bench.seen_peak())
    return table


def attention_table(bench: Bench) -> Table:
    """Percent of peak, by heads and batch x length."""
    names = [f"{batch} x {length}" for batch, length in SEQUENCES]
    table = Table(
        "heads x width", "mask", *names, "peak GFLOP/s", title="Attention, % of peak by batch x length"
    )
    for heads, dim, mask, causal in HEADS:
        cells = [f"{bench.attention(heads, dim, mask, causal, b, s):.0f}" for b, s in SEQUENCES]
        table.add_row(f"{heads} x {dim}", "causal" if causal else mask, *cells, bench.seen_peak())
    return table


def token_table(bench: Bench) -> Table:
    """GB/s at which one query reads K and V, by heads and number of keys, and a sum of as many bytes."""
    table = Table("heads x width", *map(str, PASTS), title="One query, GB/s by keys (a sum: GB/s)")
    for heads, dim, mask, causal in HEADS:
        cells = []
        for keys in PASTS:
            size = 8 * heads * dim * keys
            speed = size / bench.attention_time(heads, dim, mask, causal, 1, 1, keys)[0]
            cells.append(f"{speed / 1e9:.0f} ({bench.read(size) / 1e9:.0f})")
        table.add_row(f"{heads} x {dim}", *cells)
    return table


def rows_table(bench: Bench, rows: Sequence[int]) -> Table:
    """Nanoseconds an element, by number of rows."""
    table = Table("kernel", *map(str, rows), title=f"Rows of {WIDTH}, ns an element by rows")
    for symbol in ("layer_norm_f32", "layer_norm_f32_res", "softmax_f32"):
        table.add_row(symbol, *(f"{bench.rows(symbol, m):.3f}" for m in rows))
    return table


def compile_table(bench: Bench) -> Table:
    """Seconds from Python to object, and its size."""
    table = Table("kernel", "seconds", "object bytes", title="Compilation")
    for made in bench.kernels:
        fresh = Kernel(made.symbol, made.declare)
        start = time.thread_time()
        objects = compile_kernels([fresh], bench.target, None)
        table.add_row(made.symbol, f"{time.thread_time() - start:.2f}", str(len(objects[made.symbol])))
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="host")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    options = parser.parse_args()
    target = pick(options.target, discover(isthmus.targets), Machine.here())
    console = Console()
    with tempfile.TemporaryDirectory(prefix="isthmus-") as folder:
        bench = Bench(target, Path(folder))
        console.print(f"{target.name}: {target.description}; one thread")
        console.print(gemm_table(bench, options.rows))
        console.print(attention_table(bench))
        console.print(token_table(bench))
        console.print(rows_table(bench, options.rows))
        console.print(compile_table(bench))


if __name__ == "__main__":
    main()
