"""Reads and plans damaged models, and prints one line of JSON about how that went.

    damage_worker.py damage FOLDER MODEL SEED COUNT    COUNT damaged forms of MODEL, written to FOLDER in turn
    damage_worker.py files FILE...                     these files as they are

Everything has to end in a program or in coded problems: anything else is in `failures`.
Programs go on to their C text and the bodies of their kernels, where nothing may go wrong any more.
"""

from __future__ import annotations

import json
import random
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from damage import damaged, put_files

from isthmus import driver
from isthmus.driver import Options
from isthmus.errors import ModelError

MOST_BODIES = 300  # kernels; they take most of the time


def outcome(path: Path, *, bodies: bool) -> str:
    """The code of the first problem, or "program"."""
    target = driver.find_target("host")
    options = Options(warn=lambda problem: None)
    try:
        made = driver.prepare(driver.read_model(path, options), target, options)
    except ModelError as error:
        assert error.problems
        assert all(p.code.number.startswith("E1") and p.message for p in error.problems)
        return error.problems[0].code.number
    if bodies and len(kernels := made.plan.kernels()) < MOST_BODIES:
        assert driver.write_c(made.program.name, [made]).sources
        assert all(kernel.func is not None for kernel in kernels)
    return "program"


def damaged_forms(folder: Path, model: Path, seed: str, count: int) -> Iterator[tuple[str, Path]]:
    """Names and files."""
    put_files(folder)
    good = model.read_bytes()
    for number in range(count):
        # Each from a seed of its own, so that one of them can be made alone.
        path = folder / f"{number}.onnx"
        path.write_bytes(damaged(random.Random(f"{seed} {number}"), good))
        yield f"{model.parent.name} seed {seed} number {number}", path
        path.unlink()


def peak_mb() -> int:
    """The most memory this process had at a time, as Linux counts it.

    Not `ru_maxrss`: that of a process starts with its parent's, which ran a thousand tests before.
    """
    [kilobytes] = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kilobytes) // 1024


def main() -> None:
    mode, *arguments = sys.argv[1:]
    if mode == "damage":
        folder, model, seed, count = arguments
        cases = damaged_forms(Path(folder), Path(model), seed, int(count))
    else:
        cases = ((Path(name).stem, Path(name)) for name in arguments)
    ends: Counter[str] = Counter()
    slowest: tuple[float, str] = (0.0, "")
    failures: list[str] = []
    for name, path in cases:
        start = time.monotonic()
        try:
            ends[outcome(path, bodies=mode == "damage")] += 1
        except (Exception, RecursionError) as error:  # noqa: BLE001 - this is what we look for
            failures.append(f"{name}: {error!r}\n{traceback.format_exc()[-1500:]}")
        slowest = max(slowest, (time.monotonic() - start, name))
    found = {"ends": ends, "slowest": slowest, "peak_mb": peak_mb(), "failures": failures}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
