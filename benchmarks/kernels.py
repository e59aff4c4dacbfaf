"""How close each kernel comes to what the core can do: percent of its measured multiply-add peak, by shape.

    python benchmarks/kernels.py [--target x86-64-v3] [--rows 16 128]

The peak is that of a loop of independent multiply-adds in the target's own registers, measured again beside
every line, since clocks drift. Times are the best of many calls on one thread, less the cost of the Python
call, which is measured on an empty range. Operands are as the compiled model has them: packed weights, and
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
from isthmus.codegen.native import Call, load
from isthmus.codegen.objects import compile_kernels
from isthmus.kernels import attention, gemm, layer_norm, pack, softmax
from isthmus.kernels.builder import Builder
from isthmus.kernels.kernel import Kernel
from isthmus.machine import Machine
from isthmus.target import Target, discover, pick

# Outer products of MiniLM: queries-keys-values, projection, the two of the feed-forward part.
SHAPES = ((384, 1152), (384, 384), (384, 1536), (1536, 384))
ROWS = (1, 9, 16, 17, 50, 128, 512, 1024)
GEMMS: tuple[tuple[str | None, bool], ...] = ((None, False), (None, True), ("gelu", False))
HEADS: tuple[tuple[int, int, attention.Mask], ...] = ((12, 32, "row"), (12, 64, "row"), (8, 128, "full"))
SEQUENCES = ((1, 16), (1, 50), (1, 128), (1, 512), (8, 128))
WIDTH = 384
EXTRA = 16
PEAK_TURNS = 20_000
# Seconds of one measurement.
MEASURE = 1e-3


def peak_kernel(target: Target) -> Kernel:
    """`turns` multiply-adds on each of a number of registers that hides their latency."""
    k = Builder("peak", target)
    memory, turns = k.output("memory"), k.size("turns")
    # Different starting values, or the compiler would see that one chain will do.
    registers = [k.register(f"sum{i}", k.lanes, float(i)) for i in range(_chains(target))]
    factor = k.let("factor", k.spread(memory.load(0), k.lanes))
    with k.loop("i", 0, turns):
        for register in registers:
            register.set(register.value * factor + factor)
    for i, register in enumerate(registers):
        memory.store(i * k.lanes, register.value)
    return k.finish()


def _chains(target: Target) -> int:
    # Without FMA a product needs a register of its own.
    return target.vector.registers - (4 if target.vector.fma else 6)


class Bench:
    """The kernels of one target, loaded, and the clock."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target = target
        self.random = np.random.default_rng(0)
        gemms = [gemm.kernel(target, activation, residual) for activation, residual in GEMMS]
        heads = [attention.kernel(target, dim, dim, mask, False) for _, dim, mask in HEADS]
        rows = [layer_norm.kernel(target, False), layer_norm.kernel(target, True), softmax.kernel(target)]
        self.kernels = [*gemms, *heads, *rows, pack.kernel(target)]
        self.calls = load([*self.kernels, peak_kernel(target)], target, folder)

    def matrix(self, rows: int, columns: int) -> np.ndarray:
        """Random float32, written (untouched memory is one page of zeros), rows EXTRA elements apart."""
        return self.random.standard_normal((rows, columns + EXTRA)).astype(np.float32)[:, :columns]

    def best(self, work: Callable[[], None]) -> float:
        """Seconds of processor time, of the fastest of many calls."""
        times: list[float] = []
        turns = 1
        until = time.perf_counter() + 0.1
        while len(times) < 5 or time.perf_counter() < until:
            start = time.thread_time()
            for _ in range(turns):
                work()
            times.append((time.thread_time() - start) / turns)
            # The clock of a thread is coarse where the machine is virtual.
            turns = max(1, int(MEASURE / max(times[-1], 1e-9)))
        return min(times[1:])

    def seconds(
        self, call: Call, arguments: Sequence[np.ndarray | int | float], empty: Sequence[int]
    ) -> float:
        """Of one call, less what a call costs whose range, the last arguments, is `empty`."""
        nothing = [*arguments[: -len(empty)], *empty]
        call(*arguments)
        return self.best(lambda: call(*arguments)) - self.best(lambda: call(*nothing))

    def peak(self) -> float:
        """Floating-point operations a second of the core."""
        memory = np.full(_chains(self.target) * self.target.vector.lanes(32), 0.5, np.float32)
        operations = 2 * _chains(self.target) * self.target.vector.lanes(32) * PEAK_TURNS
        return operations / self.best(lambda: self.calls["peak"](memory, PEAK_TURNS))

    def gemm(self, symbol: str, rows: int, depth: int, columns: int, residual: bool) -> float:
        """Floating-point operations a second."""
        width = gemm.panel_width(self.target)
        panels = gemm.pack(self.matrix(depth, columns), width)
        bias = np.zeros(panels.shape[0] * width, np.float32)
        x, y, extra = self.matrix(rows, depth), self.matrix(rows, columns), self.matrix(rows, columns)
        operands = (x, panels, bias, *([extra] if residual else []), y)
        pitches = (depth + EXTRA, *([columns + EXTRA] if residual else []), columns + EXTRA)
        arguments = (*operands, depth, columns, *pitches, 0, rows, 0, panels.shape[0])
        seconds = self.seconds(self.calls[symbol], arguments, (0, 0, 0, 0))
        return 2 * rows * depth * columns / seconds

    def attention(self, heads: int, dim: int, mask: attention.Mask, batch: int, length: int) -> float:
        """Floating-point operations a second, of the two products."""
        width, rows = heads * dim, batch * length
        fused, out = self.matrix(rows, 3 * width), self.matrix(rows, width)
        size = attention.scratch(self.target, dim, dim, mask)
        scratch = np.zeros(size.per_key * (-(-length // size.block) * size.block) + size.constant, np.float32)
        pitch, out_pitch = 3 * width + EXTRA, width + EXTRA
        masks = () if mask == "none" else (np.zeros((length, length), np.float32),)
        mask_strides = {"none": (), "row": (0, 0), "full": (0, 0, length)}[mask]
        strides = (*(length * pitch, dim, pitch) * 3, *mask_strides, length * out_pitch, dim, out_pitch)
        parts = (fused, fused[:, width:], fused[:, 2 * width :])
        sizes = (dim**-0.5, heads, 1, length, length)
        arguments = (*parts, *masks, out, scratch, *sizes, *strides, 0, batch * heads)
        seconds = self.seconds(self.calls[f"attention_f32_d{dim}_{mask}"], arguments, (0, 0))
        return 4 * batch * heads * length * length * dim / seconds

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
        return self.seconds(self.calls[symbol], arguments[symbol], (0, 0)) / (rows * WIDTH) * 1e9


def _percent(value: float, peak: float) -> str:
    return f"{100 * value / peak:.0f}"


def gemm_table(bench: Bench, rows: Sequence[int]) -> Table:
    """Percent of peak, by kernel, shape and number of rows."""
    table = Table("kernel", "K x N", *map(str, rows), "peak GFLOP/s", title="GEMM, % of peak by rows")
    for activation, residual in GEMMS:
        symbol = gemm.kernel(bench.target, activation, residual).symbol
        for depth, columns in SHAPES:
            peak = bench.peak()
            speeds = [bench.gemm(symbol, m, depth, columns, residual) for m in rows]
            cells = [_percent(speed, peak) for speed in speeds]
            table.add_row(symbol, f"{depth} x {columns}", *cells, f"{peak / 1e9:.0f}")
    return table


def attention_table(bench: Bench) -> Table:
    """Percent of peak, by heads and batch x length."""
    names = [f"{batch} x {length}" for batch, length in SEQUENCES]
    table = Table(
        "heads x width", "mask", *names, "peak GFLOP/s", title="Attention, % of peak by batch x length"
    )
    for heads, dim, mask in HEADS:
        peak = bench.peak()
        cells = [_percent(bench.attention(heads, dim, mask, b, s), peak) for b, s in SEQUENCES]
        table.add_row(f"{heads} x {dim}", mask, *cells, f"{peak / 1e9:.0f}")
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
        fresh = Kernel(made.symbol, made.parameters, made.build)
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
        console.print(rows_table(bench, options.rows))
        console.print(compile_table(bench))


if __name__ == "__main__":
    main()
