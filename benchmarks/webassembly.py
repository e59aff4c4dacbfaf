"""A bundle for WebAssembly in Node against native ones of the same model, one thread each, in turns.

    python benchmarks/webassembly.py MODEL@wasm32-simd128 MODEL@x86-64-v3 ... [--shape 1x128] [--turns 10]

Timed are whole runs as a user has them, without loading; in Node that includes copying inputs and outputs.
The ratio is Node's time by the native one, the median over turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
from rich.console import Console

import isthmus

RUNS = 5  # in a turn; the best one counts
NODE = """
import { createInterface } from "node:readline";
const [bundle, batch, length] = process.argv.slice(1);
const { load } = await import(`${bundle}/js/index.js`);
const model = await load();
const dims = [Number(batch), Number(length)], count = dims[0] * dims[1];
const inputs = { input_ids: { data: new BigInt64Array(count).fill(101n), dims },
                 attention_mask: { data: new BigInt64Array(count).fill(1n), dims } };
for await (const runs of createInterface({ input: process.stdin })) {
  let best = Infinity;
  for (let i = 0; i < Number(runs); i++) {
    const begin = performance.now();
    model.run(inputs);
    best = Math.min(best, performance.now() - begin);
  }
  console.log(best / 1000);
}
"""


def main() -> None:
    """Print a line for each native bundle."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", type=Path)
    parser.add_argument("native", type=Path, nargs="+")
    parser.add_argument("--shape", default="1x128")
    parser.add_argument("--turns", type=int, default=10)
    given = parser.parse_args()
    shape = tuple(int(size) for size in given.shape.split("x"))
    inputs = {"input_ids": np.full(shape, 101), "attention_mask": np.ones(shape, np.int64)}
    arguments = [str(given.module.resolve()), *map(str, shape)]
    command = ["node", "--input-type=module", "-e", NODE, *arguments]
    sessions = {path.name: isthmus.load(path, threads=1) for path in given.native}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    ours: list[float] = []
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as node:
        questions, answers = node.stdin, node.stdout
        assert questions is not None and answers is not None

        def in_node() -> float:
            print(RUNS, file=questions, flush=True)
            return float(json.loads(answers.readline()))

        in_node()  # until the engine has compiled for speed
        for _ in range(given.turns):
            ours.append(in_node())
            for name, session in sessions.items():
                times[name].append(min(seconds(session, inputs) for _ in range(RUNS)))
        questions.close()
    for name, theirs in times.items():
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        both = f"Node {min(ours) * 1e3:.2f} ms, {name} {min(theirs) * 1e3:.2f} ms"
        Console().print(f"{given.shape}: {both}, ratio {ratio:.2f}", highlight=False)


def seconds(session: isthmus.Session, inputs: dict[str, np.ndarray]) -> float:
    """How long one run takes."""
    begin = time.perf_counter()
    session.run(inputs)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
