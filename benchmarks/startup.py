"""From nothing to the first answer: a bundle against an onnxruntime session, in turns, in fresh processes.

    python benchmarks/startup.py BUNDLE MODEL [--turns 10]

Timed inside the process, after NumPy and the library are imported: `isthmus.load` (which checks every byte
of the bundle) and one run, against `InferenceSession` and one run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

from rich.console import Console

OURS = """
import sys, time
import numpy as np
import isthmus.runtime
inputs = {"input_ids": np.full((1, 16), 101), "attention_mask": np.ones((1, 16), np.int64)}
begin = time.perf_counter()
isthmus.runtime.load(sys.argv[1]).run(inputs)
print(time.perf_counter() - begin)
"""
THEIRS = """
import sys, time
import numpy as np
import onnxruntime
inputs = {"input_ids": np.full((1, 16), 101), "attention_mask": np.ones((1, 16), np.int64)}
begin = time.perf_counter()
onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"]).run(None, inputs)
print(time.perf_counter() - begin)
"""


def seconds(program: str, argument: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", program, argument], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def main() -> None:
    """Print the median of both and of their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle")
    parser.add_argument("model")
    parser.add_argument("--turns", type=int, default=10)
    given = parser.parse_args()
    pairs = [(seconds(OURS, given.bundle), seconds(THEIRS, given.model)) for _ in range(given.turns)]
    ours, theirs = (statistics.median(times) * 1e3 for times in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    text = f"isthmus {ours:.1f} ms, onnxruntime {theirs:.1f} ms, ratio {ratio:.3f} (medians of {given.turns})"
    Console().print(text)


if __name__ == "__main__":
    main()
