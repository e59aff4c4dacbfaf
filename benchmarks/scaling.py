"""How smooth time is over sizes: every length from 1 to 512, every batch from 1 to 32, and the worst step.

    python benchmarks/scaling.py [BUNDLE] [--lengths 512] [--batches 32] [--again] [-o FOLDER]

Several passes over all sizes, so that a busy moment of the machine hits a size once; the least time of each
counts, with `--again` also over the run before, so that passes may be apart. The smooth curve is a parabola
around each size, least squares of the relative error. Without a bundle it is the MiniLM-L3 that `encoders.py`
compiles; without a folder, that of this machine's processor.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from encoders import SUBJECTS, compile_in_process, target_of
from places import WORK, results_folder
from rich.console import Console

from isthmus.cli.verify import stored_cases
from isthmus.runtime import Session, load
from isthmus.tools.bench import pinned
from isthmus.tools.inputs import dim_names, random_inputs
from isthmus.tools.plot import Line, Panel, write_svg
from isthmus.tools.verify import merge_examples

LENGTH = 64  # while the batch grows
WINDOW = 32


def least_times(runs: Sequence[Callable[[], object]], passes: int, least: float) -> list[float]:
    """Seconds of each run: the least over `passes`, each of them `least` seconds or three runs."""
    best = [float("inf")] * len(runs)
    for _ in range(passes):
        for number, run in enumerate(runs):
            run()
            begun, count = time.perf_counter(), 0
            while count < 3 or time.perf_counter() - begun < least:
                started = time.perf_counter()
                run()
                best[number] = min(best[number], time.perf_counter() - started)
                count += 1
    return best


def smooth(sizes: Sequence[int], times: Sequence[float]) -> np.ndarray:
    """A curve along `times`: at each size a + b*n + c*n^2, fitted relatively to the WINDOW sizes around it.

    One parabola for all would count as a step where reading the weights stops being the limit.
    """
    n, t = np.array(sizes, float), np.array(times)
    curve = np.empty_like(t)
    for i in range(len(n)):
        first = max(0, min(i - WINDOW // 2, len(n) - WINDOW))
        near = slice(first, first + WINDOW)
        terms = np.stack([np.ones_like(n[near]), n[near] - n[i], (n[near] - n[i]) ** 2], axis=1)
        curve[i] = np.linalg.lstsq(terms / t[near, None], np.ones_like(t[near]), rcond=None)[0][0]
    least: np.ndarray = np.maximum(curve, 1e-9)
    return least


def worst(sizes: Sequence[int], times: Sequence[float]) -> tuple[int, float]:
    """The size that lies furthest above the smooth curve, and its time over the curve's."""
    over = np.array(times) / smooth(sizes, times)
    return sizes[int(over.argmax())], float(over.max())


def panel(title: str, sizes: Sequence[int], times: Sequence[float]) -> Panel:
    curve = smooth(sizes, times)

    def line(name: str, values: Sequence[float]) -> Line:
        return Line(name, tuple(sizes), tuple((1e3 * v, 1e3 * v, 1e3 * v) for v in values))

    return Panel(title, (line("measured", times), line("smooth curve", list(curve))))


def requests(session: Session, bundle: Path, grid: Sequence[tuple[int, int]]) -> list[Callable[[], object]]:
    """A run for each (batch, length) of a bundle whose first two dims these are."""
    examples, names = merge_examples(stored_cases(bundle)), dim_names(session.inputs)
    made: list[Callable[[], object]] = []
    for sizes in grid:
        known = dict(zip(names, sizes, strict=True))
        inputs = random_inputs(session.inputs, known, examples, np.random.default_rng(0))
        made.append(partial(session.run, inputs))
    return made


def least_of(times: Sequence[float], before: Mapping[str, Any], sizes: Sequence[int]) -> list[float]:
    """`times`, or those of a result `before` where they are less."""
    known = dict(zip(before["sizes"], before["ms"], strict=True))
    return [min(t, known.get(n, float("inf")) / 1e3) for n, t in zip(sizes, times, strict=True)]


def minilm() -> Path:
    """The bundle of MiniLM-L3, compiled unless it is there."""
    name, subject = "minilm-l3", SUBJECTS["minilm-l3"]
    target, bundles = target_of(subject), WORK / "bundles"
    bundle = bundles / f"{name}@{target}"
    if not bundle.is_dir():
        compile_in_process(subject.file(name, WORK / "models"), name, target, bundles, subject.precision)
    return bundle


def main() -> None:
    """Measure, name the worst steps, write the figures and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--lengths", type=int, default=512)
    parser.add_argument("--batches", type=int, default=32)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--least", type=float, default=5e-3, help="seconds of a pass over one size")
    parser.add_argument("--again", action="store_true", help="keep what was less in the run before")
    parser.add_argument("-o", "--output", type=Path, help="by default the folder of this processor")
    given = parser.parse_args()
    output = given.output or results_folder()
    output.mkdir(parents=True, exist_ok=True)
    lengths, batches = list(range(1, given.lengths + 1)), list(range(1, given.batches + 1))
    grids = {
        "length at batch 1": (lengths, [(1, n) for n in lengths]),
        f"batch at length {LENGTH}": (batches, [(n, LENGTH) for n in batches]),
    }
    bundle = given.bundle or minilm()
    before = json.loads((output / "scaling.json").read_text("utf-8")) if given.again else {}
    found: dict[str, dict[str, object]] = {}
    panels = []
    with pinned(1), load(bundle, 1) as session:
        for what, (sizes, grid) in grids.items():
            times = least_times(requests(session, bundle, grid), given.passes, given.least)
            if what in before:
                times = least_of(times, before[what], sizes)
            where, over = worst(sizes, times)
            Console().print(f"{what}: worst step {over:.2f} times the smooth curve, at {where}")
            milliseconds = [round(1e3 * t, 4) for t in times]
            found[what] = {"worst_at": where, "worst": over, "sizes": sizes, "ms": milliseconds}
            panels.append(panel(what, sizes, times))
    (output / "scaling.json").write_text(f"{json.dumps(found)}\n", "utf-8")
    write_svg(output / "scaling.svg", "Time over size, one thread", "size", panels, "milliseconds, least")


if __name__ == "__main__":
    main()
