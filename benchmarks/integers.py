"""How close products of bytes, or of weights of few bits, come to what the core can do.

    python benchmarks/integers.py [--target x86-64-v4-vnni] [--rows 16 128]

Bytes are held against four times the measured f32 peak, which an instruction for four neighbours makes of the
same multipliers; one row by 4096 x 4096 against the speed at which memory is read, with weights that no cache
holds. Limits are timed in turns with the kernels, on one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Protocol

import numpy as np
from rich.console import Console
from rich.table import Table

import isthmus.targets
from isthmus.chips import discover, pick
from isthmus.codegen.native import Call, load
from isthmus.ir.types import DType
from isthmus.kernels import block_bytes, block_gemm, block_row, gemm
from isthmus.kernels.block_weights import KINDS
from isthmus.kernels.byte_products import arithmetic_of
from isthmus.machine import Machine
from isthmus.target import Target
from isthmus.tools.roofline import Limit, roofline

SHAPES = (
    (384, 1152, None, False),
    (384, 384, None, True),
    (384, 1536, "gelu", False),
    (1536, 384, None, True),
)
ROWS = (1, 16, 128)
SQUARE = 4096
# Weights in blocks, by their name in the table: the kind of kernel, how scales are stored, rows of a block.
BLOCKS = {
    "int4, blocks of 32": ("q4", DType.F16, 32),
    "int8, blocks of 32": ("q8", DType.F16, 32),
    "fp8-e4m3, blocks of 128": ("e4m3", DType.F16, 128),
    "fp8-e5m2, blocks of 128": ("e5m2", DType.F16, 128),
    "mxfp8": ("e4m3", DType.F8E8M0, 32),
    "mxfp4": ("e2m1", DType.F8E8M0, 32),
    "nvfp4": ("e2m1", DType.F16, 16),
}
# Kinds of 8 bits that are no integers: how they are stored, and their greatest number.
FLOATS = {"e4m3": (DType.F8E4M3, 448), "e5m2": (DType.F8E5M2, 57344)}
# Copies of the weights that are read in turn: no cache holds them all.
COPIES = 8
SECONDS = 0.5
Work = Callable[[], object]


class Product(Protocol):
    """A product for its first panels, or all."""

    def __call__(self, count: int = ..., /) -> object: ...


def nothing() -> None:
    """What there is to do before a call that needs nothing."""


def best(works: Sequence[Work], before: Sequence[Work] = ()) -> list[float]:
    """Seconds of the fastest call of each, taken in turns; `before` each what is not timed is done."""
    firsts = [*before, *[nothing] * (len(works) - len(before))]
    found = [np.inf] * len(works)
    until = time.perf_counter() + SECONDS * len(works)
    while time.perf_counter() < until:
        for i, (first, work) in enumerate(zip(firsts, works, strict=True)):
            first()
            start = time.perf_counter()
            work()
            found[i] = min(found[i], time.perf_counter() - start)
    return found


def codes(kind: str, count: int) -> np.ndarray:
    """Weights as real ones lie in bytes: normally distributed, the greatest code 5 deviations away."""
    normal = np.random.default_rng(0).standard_normal(count)
    stored, greatest = FLOATS.get(kind, (DType.I8, 127))
    return np.clip(normal * (greatest / 5), -greatest, greatest).astype(stored.numpy).view(np.int8)


def aligned(count: int, dtype: type[np.generic]) -> np.ndarray:
    """Elements that begin a cache line, written once: memory that was not is one page of zeros."""
    size = count * np.dtype(dtype).itemsize
    room = np.full(size + 64, 1, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size].view(dtype)


class Bench:
    """The kernels of one target, loaded."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.target, self.width = target, gemm.panel_width(target)
        kinds = dict.fromkeys((activation, residual) for _, _, activation, residual in SHAPES)
        self.bytes = {kind: gemm.kernel(target, *kind, arithmetic_of(target)).symbol for kind in kinds}
        self.blocks = {
            name: block_gemm.kernel(target, kind, scales) for name, (kind, scales, _) in BLOCKS.items()
        }
        self.narrow = block_bytes.kernel(target, "q4", DType.F16)
        kernels = [gemm.kernel(target, *kind, arithmetic_of(target)) for kind in kinds]
        self.calls: dict[str, Call] = load([*kernels, *self.blocks.values(), self.narrow], target, folder)

    def product(self, rows: int, k: int, n: int, activation: str | None, residual: bool) -> Product:
        """Rows of bytes by a matrix of bytes."""
        panels = -(-n // self.width)
        columns = panels * self.width
        word = self.target.byte_word
        x, w = aligned(rows * (k + 64), np.uint8), aligned(columns * -(-k // word) * word, np.int8)
        offset, scales = aligned(columns, np.int32), np.full(columns, 1e-3, np.float32)
        y, extra = (np.zeros(rows * (n + 16), np.float32) for _ in range(2))
        operands = (x, w, offset, scales, 0, scales, scales, *((extra,) if residual else ()), y)
        sizes = (k, n, k + 64, *((n + 16,) if residual else ()), n + 16)
        call = self.calls[self.bytes[activation, residual]]
        return lambda count=panels: call(*operands, *sizes, 0, rows, 0, count)

    def in_blocks(self, rows: int, k: int, n: int) -> tuple[Product, int]:
        """Rows of bytes by a matrix of 4 bits in blocks of 32, and the bytes of this."""
        panels = -(-n // self.width)
        columns = panels * self.width
        x, w = aligned(rows * k, np.int8), aligned(columns * k // 2, np.int8)
        scale, bias = np.full(columns * k // 32, 2.0**-10, np.float16), np.zeros(columns, np.float32)
        x_scale, y = np.full(1, 1e-3, np.float32), np.zeros(rows * n, np.float32)
        starts = np.zeros(block_bytes.scratch_words(k, 32), np.int32)
        call = self.calls[self.narrow.symbol]

        def work(count: int = panels) -> None:
            call(x, w, scale, 5, x_scale, 0, starts, bias, y, k, n, k, n, 0, rows, 0, count)

        return work, w.nbytes + scale.nbytes

    def row(self, name: str) -> tuple[Product, int]:
        """One row of floats by a square matrix in the blocks called `name`, and the bytes that are read."""
        kind, stored, block = BLOCKS[name]
        panels = -(-SQUARE // self.width)
        columns = panels * self.width
        w = aligned(columns * SQUARE * KINDS[kind].bits // 8, np.int8)
        w[:] = np.resize(codes(kind, 1 << 20), w.size)
        scale = np.full(columns * SQUARE // block, 2.0**-10, stored.numpy)
        x, y, bias = np.ones(SQUARE, np.float32), np.zeros(SQUARE, np.float32), np.zeros(columns, np.float32)
        sizes = (SQUARE, SQUARE, block.bit_length() - 1, SQUARE, SQUARE)
        room = block_row.scratch_floats(self.target, SQUARE)
        outputs = (y, np.zeros(room, np.float32)) if room else (y,)
        call = self.calls[self.blocks[name].symbol]

        def work(count: int = panels) -> None:
            call(x, w, scale, bias, *outputs, *sizes, 0, 1, 0, count)

        return work, w.nbytes + scale.nbytes


class Turning:
    """Another of `works` with each call."""

    def __init__(self, works: Sequence[Product]) -> None:
        self.following, self.work = cycle(works), works[0]

    def warm(self) -> None:
        """The next one, for no columns: in a model its row was just written, and no Python has to be read
        from memory first, of which reading the limit's bytes left nothing in caches."""
        self.work = next(self.following)
        self.work(0)

    def __call__(self) -> None:
        self.work()


def products_table(bench: Bench, rows: Sequence[int], limit: Limit) -> Table:
    """Percent of four times the f32 peak, by shape and rows."""
    table = Table("K x N", "then", *map(str, rows), title="int8 x int8, % of 4 x f32 peak by rows")
    for k, n, activation, residual in SHAPES:
        cells = []
        for count in rows:
            taken, peak = best((bench.product(count, k, n, activation, residual), limit.run))
            cells.append(f"{100 * 2 * count * k * n / taken / (4 * limit.amount / peak):.0f}")
        table.add_row(f"{k} x {n}", "residual" if residual else activation or "", *cells)
    return table


def blocks_table(bench: Bench, rows: Sequence[int], limit: Limit) -> Table:
    """The same of rows of bytes by 4 bits in blocks of 32, by shape and rows."""
    table = Table("K x N", *map(str, rows), title="int8 x int4 in blocks, % of 4 x f32 peak by rows")
    for k, n, *_ in SHAPES:
        cells = []
        for count in rows:
            taken, peak = best((bench.in_blocks(count, k, n)[0], limit.run))
            cells.append(f"{100 * 2 * count * k * n / taken / (4 * limit.amount / peak):.0f}")
        table.add_row(f"{k} x {n}", *cells)
    return table


def row_table(bench: Bench, limit: Limit) -> Table:
    """GB/s of one row by a square matrix, and percent of what reading reaches."""
    table = Table("weights", "ms", "GB/s", "% of reading", title=f"One row by {SQUARE} x {SQUARE}")
    cases = {name: [bench.row(name) for _ in range(COPIES)] for name in BLOCKS}
    works = {name: [work for work, _ in copies] for name, copies in cases.items()}
    sizes = {name: copies[0][1] for name, copies in cases.items()}
    works["int8 x int8"] = [bench.product(1, SQUARE, SQUARE, None, False) for _ in range(COPIES)]
    sizes["int8 x int8"] = SQUARE * SQUARE
    narrow = [bench.in_blocks(1, SQUARE, SQUARE) for _ in range(COPIES)]
    works["int8 x int4, blocks of 32"] = [work for work, _ in narrow]
    sizes["int8 x int4, blocks of 32"] = narrow[0][1]
    turning = [Turning(copies) for copies in works.values()]
    *taken, reading = best([*turning, limit.run], [each.warm for each in turning])
    for name, seconds in zip(works, taken, strict=True):
        speed = sizes[name] / seconds
        share = 100 * speed / (limit.amount / reading)
        table.add_row(name, f"{seconds * 1e3:.2f}", f"{speed / 1e9:.1f}", f"{share:.0f}")
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
    with tempfile.TemporaryDirectory(prefix="isthmus-") as folder, roofline(target, 1) as limits:
        bench = Bench(target, Path(folder))
        console.print(f"{target.name}: {target.description}; one thread")
        console.print(products_table(bench, options.rows, limits.arithmetic()))
        console.print(blocks_table(bench, options.rows, limits.arithmetic()))
        console.print(row_table(bench, limits.memory()))


if __name__ == "__main__":
    main()
