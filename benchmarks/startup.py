"""From nothing to the first answer: a bundle against other engines, in turns, in fresh processes; and what a
second process that runs the same bundle adds to memory.

    python benchmarks/startup.py BUNDLE MODEL [--turns 10] [--against onnxruntime]

Timed inside the process on one thread, after NumPy and the library are imported: `isthmus.load` (which checks
every byte of the bundle) and one run, against making a session or compiling (without a cache) and one run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from isthmus.bundle import selftest
from isthmus.bundle.reader import open_bundle

OURS = """
import sys, time
import numpy as np
import isthmus.runtime
inputs = dict(np.load(sys.argv[2]))
begin = time.perf_counter()
isthmus.runtime.load(sys.argv[1], 1).run(inputs)
print(time.perf_counter() - begin)
"""
THEIRS = """
import pathlib, sys, time
import numpy as np
from isthmus.tools.peers import import_engine, open_engine
model, name = pathlib.Path(sys.argv[1]), sys.argv[3]
import_engine(name)
inputs = dict(np.load(sys.argv[2]))
begin = time.perf_counter()
open_engine(name, model, 1).request(inputs).run()
print(time.perf_counter() - begin)
"""
# Pages that belong to this process alone, before the bundle is opened and while it is open.
MEMORY = """
import re, sys
import numpy as np
import isthmus.runtime
inputs = dict(np.load(sys.argv[2]))
def private():
    text = open("/proc/self/smaps_rollup").read()
    return 1024 * sum(int(n) for n in re.findall(r"^Private_\\w+: +(\\d+) kB", text, re.M))
before = private()
session = isthmus.runtime.load(sys.argv[1], 1)
session.run(inputs)
print(private() - before, flush=True)
sys.stdin.read()
"""


def first_request(bundle: Path, folder: Path) -> Path:
    """The first request stored in the bundle, as a file that fresh processes read."""
    path = folder / "inputs.npz"
    inputs = selftest.load(open_bundle(bundle))[0].inputs
    np.savez(path, allow_pickle=False, **inputs)
    return path


def seconds(program: str, *arguments: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def start(bundle: Path, model: Path, peers: Sequence[str], turns: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each engine, and ours over theirs: the median over the turns."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = str(first_request(bundle, Path(folder)))
        found: dict[str, list[float]] = {"isthmus": [], **{name: [] for name in peers}}
        for _ in range(turns):
            found["isthmus"].append(seconds(OURS, str(bundle), inputs))
            for name in peers:
                found[name].append(seconds(THEIRS, str(model), inputs, name))
    return {
        name: {
            "median_ms": statistics.median(times) * 1e3,
            "ratio": statistics.median(a / b for a, b in zip(found["isthmus"], times, strict=True)),
        }
        for name, times in found.items()
    }


def second_process(bundle: Path) -> Mapping[str, int]:
    """Bytes of the weights, and private bytes that the second of two processes on the bundle adds."""
    manifest = open_bundle(bundle).manifest
    weights = manifest.files[manifest.weights].bytes if manifest.weights else 0
    with tempfile.TemporaryDirectory() as folder:
        inputs = str(first_request(bundle, Path(folder)))
        processes = []
        for _ in range(2):
            command = [sys.executable, "-c", MEMORY, str(bundle), inputs]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert process.stdout is not None
            processes.append((process, process.stdout.readline()))
        for process, _ in processes:
            process.communicate()
    return {"weights": weights, "second_process": int(processes[1][1])}


def main() -> None:
    """Print the medians, their ratios, and the memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--against", nargs="+", default=["onnxruntime"])
    given = parser.parse_args()
    console = Console()
    for name, found in start(given.bundle, given.model, given.against, given.turns).items():
        console.print(f"{name}: {found['median_ms']:.1f} ms; ours over it {found['ratio']:.3f}")
    memory = second_process(given.bundle)
    share = memory["second_process"] / max(memory["weights"], 1)
    console.print(
        f"a second process adds {memory['second_process'] / 1e6:.2f} MB, {share:.1%} of the weights"
    )


if __name__ == "__main__":
    main()
