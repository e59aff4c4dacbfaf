"""How close generated loops come to the memory's speed: GB/s beside those of a plain copy.

    python benchmarks/loops.py [--target x86-64-v3]

Bytes count what is read and what is written, once each; times are the best of many calls on one thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import isthmus.targets
from isthmus.chips import discover, pick
from isthmus.codegen.native import load
from isthmus.ir.types import DType
from isthmus.kernels.loops import Apply, Gather, Load, Loop, Nest, Node, Operand, Parameter, Reduced, kernel
from isthmus.machine import Machine

F32 = DType.F32
MAP: tuple[Loop, ...] = ("kept", "kept")
UNIT, ZERO, ANY = Operand(F32, "unit"), Operand(F32, "zero"), Operand(F32, "any")
ROWS, COLUMNS = 4096, 4096
SECONDS = 0.5


def best(call: Callable[[], object]) -> float:
    """The least time of one call, in seconds."""
    least, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - start)
    return least


def add(a: Node, b: Node) -> Apply:
    return Apply("add", (a, b), F32)


def cases(
    rows: int, columns: int
) -> dict[str, tuple[Nest, list[np.ndarray], list[int], list[int], int, int]]:
    """Name: nest, arrays (the output last), extents, strides, units, bytes."""
    a, b, y = (np.ones((rows, columns), np.float32) for _ in range(3))
    row, line = np.ones(rows, np.float32), np.ones(columns, np.float32)
    ids = np.random.default_rng(1).integers(0, rows, rows)
    size, flat, nbytes = [rows, columns], [columns, 1], a.nbytes
    mean = Apply("div", (Reduced(), Parameter(0, F32)), F32)
    word = add(add(Gather(0, (Load(1),)), Load(2)), Load(3))
    operands = (UNIT, Operand(DType.I64, "zero"), UNIT, UNIT)
    nests = {
        "copy": Nest((UNIT,), UNIT, MAP, Load(0)),
        "add": Nest((UNIT, UNIT), UNIT, MAP, add(Load(0), Load(1))),
        "gelu": Nest((UNIT,), UNIT, MAP, Apply("gelu", (Load(0),), F32)),
        "embedding sum": Nest(operands, UNIT, MAP, word),
        "mean of rows": Nest((UNIT,), ZERO, ("kept", "reduced"), Load(0), "sum", mean),
        "sum of columns": Nest((UNIT,), UNIT, ("reduced", "kept"), Load(0), "sum"),
        "transpose": Nest((ANY,), UNIT, MAP, Load(0)),
    }
    gathered = [0, 1, rows, columns, 1, 0, *flat, 0, 1, *flat]
    return {
        "copy": (nests["copy"], [a, y], size, flat * 2, rows, 2 * nbytes),
        "add": (nests["add"], [a, b, y], size, flat * 3, rows, 3 * nbytes),
        "gelu": (nests["gelu"], [a, y], size, flat * 2, rows, 2 * nbytes),
        "embedding sum": (nests["embedding sum"], [a, ids, b, line, y], size, gathered, rows, 3 * nbytes),
        "mean of rows": (nests["mean of rows"], [a, row], [*size, columns], [*flat, 1, 0], rows, nbytes),
        "sum of columns": (nests["sum of columns"], [a, line], size, [*flat, 0, 1], 1, nbytes),
        "transpose": (nests["transpose"], [a, y], size, [1, columns, *flat], rows, 2 * nbytes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="host")
    target = pick(parser.parse_args().target, discover(isthmus.targets), Machine.here())
    table = Table("nest", "elements", "GB/s", "numpy copy GB/s", title=target.name)
    for rows, columns in ((ROWS, COLUMNS), (64, 384)):
        for name, (nest, arrays, extents, strides, units, nbytes) in cases(rows, columns).items():
            made = kernel(nest, target)
            with tempfile.TemporaryDirectory() as folder:
                call = load([made], target, Path(folder))[made.symbol]
            sizes, steps = np.array(extents, np.int64), np.array(strides, np.int64)
            fault = np.zeros(1, np.int32)
            taken = best(lambda c=call, a=(*arrays, sizes, steps, fault, 1, 0, units): c(*a))  # type: ignore[misc]
            source, sink = np.ones((rows, columns), np.float32), np.ones((rows, columns), np.float32)
            copied = 2 * source.nbytes / best(lambda s=source, d=sink: np.copyto(d, s)) / 1e9  # type: ignore[misc]
            table.add_row(name, f"{rows} x {columns}", f"{nbytes / taken / 1e9:.1f}", f"{copied:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
