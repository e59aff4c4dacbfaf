"""The same architecture from different exporters: how much faster or slower one file is than its siblings.

    python benchmarks/exporters.py ZOO [--group bert] [--seconds 20] [--json FILE]

ZOO is the folder of tiny exported models that the tests use. The models of a group hold the same layers and
compute the same outputs; each is compiled, and all of a group run in turns in one process, on one thread, at
sizes where arithmetic matters. The ratio is the median over turns of a model's time over the median of its
siblings' in the same turn. A model whose note says what it computes besides is shown and not judged; the
exit code is 1 if another is more than 10 % off.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_program, find_target, read_model
from isthmus.ir.graph import Program
from isthmus.runtime import load
from isthmus.runtime.loader import Session
from isthmus.tools.bench import Timing, alternate
from isthmus.tools.samples import sample_inputs

CLOSE = 0.10
# What a named dim stands for, by a part of its name; the first that fits. Position tables have 64 rows.
SIZES = (("batch", 16), ("past", 32), ("total", 96), ("", 64))
CACHED_SIZES = (("batch", 16), ("past", 32), ("total", 64), ("", 32))  # the tables hold past and new
F16 = "halves: a cast around every op that keeps its rounding"
TABLE = "its optimizer made a table of the buckets of positions, which the others compute"
LARGER = "another model: hidden 64, heads of 16; the cache is ordered by lengths"
GROUPS: Mapping[str, Mapping[str, str]] = {
    "bert": {
        "bert-dynamo-op18": "",
        "bert-dynamo-op18-extdata": "",
        "bert-dynamo-op20": "",
        "bert-dynamo-op23": "",
        "bert-legacy-op17": "",
        "bert-legacy-tf436-op11": "",
        "bert-optimum-fe": "",
        "bert-ortopt-op17": "",
        "bert-ortopt-mha-op14e": "",
        "bert-ortsaved-dynamo-op18": "",
        "bert-ortnbits-int4-qdq-op17": "",
        "bert-ortnbits-int4-gather-dynamo-op18": "",
        "bert-fp16-ort-op17": F16,
        "bert-dynamo-op18-bf16": F16,
    },
    "bert-cls": {
        "bert-cls-dynamo-op23": "",
        "bert-cls-legacy-op17": "",
        "bert-cls-optimum-cls": "",
        "bert-cls-ortopt-opt-cls": "",
    },
    "bert-mlm": {
        "bert-mlm-dynamo-op23": "",
        "bert-mlm-optimum-mlm": "",
        "bert-mlm-ortopt-tf436-op14": "",
    },
    "vit": {
        "vit-dynamo-op18": "",
        "vit-legacy-op17": "",
        "vit-legacy-tf436-op9": "",
        "vit-ortopt-tf436-op14": "",
        "vit-ortsaved-op17": "",
        "vit-ortnbits-int4-b16-op17": "",
        "vit-fp16-occ-op17": F16,
    },
    "gpt2": {
        "gpt2-dynamo-op18": "",
        "gpt2-dynamo-op23": "",
        "gpt2-legacy-op17-extdata": "",
        "gpt2-legacy-tf436-op12": "",
        "gpt2-ortsaved-dynamo-op18": "",
        "gpt2-fp16-ort-fused-op17": F16,
    },
    "gpt2-cache": {
        "gpt2-optimum-tgpast": "",
        "gpt2-ortnbits-int8-b32-opt-tgpast": "",
    },
    "llama": {
        "llama-dynamo-op18": "",
        "llama-dynamo-op18-noopt": "",
        "llama-dynamo-op21": "",
        "llama-dynamo-op23": "",
        "llama-dynamo-op24": "",
        "llama-ortsaved-op17": "",
        "llama-fp16-ort-keepio-dynamo-op18": F16,
        "llama-dynamo-op18-bf16": F16,
    },
    "llama-handwritten": {
        "llama-handwritten-dynamo-op23": "",
        "llama-handwritten-legacy-op14-eager": "",
        "llama-handwritten-ortopt-mha-op14e": "",
    },
    "llama-cache": {
        "llama-optimum-tgpast": "",
        "llama-cache-dynamo-op18": "",
        "llama-ortnbits-int4-b16-opt-tgpast": "",
        "llama-genai-fp32": LARGER,
    },
    "t5-encoder": {
        "t5-encoder-dynamo-op23": "",
        "t5-encoder-legacy-op17": "",
        "t5-encoder-legacy-tf436-op11": "",
        "t5-encoder-legacy-tf436-op12": "",
        "t5-optimum-s2spast-encoder": "",
        "t5-encoder-ortopt-op14e": TABLE,
        "t5-ortopt-opt-s2spast-encoder": TABLE,
        "t5-fp16-ort-opt-s2spast-encoder": F16,
    },
    "t5": {
        "t5-dynamo-op18": "",
        "t5-dynamo-op23": "",
        "t5-ortsaved-op17": "",
        "t5-dynamo-op18-fp16": F16,
    },
}


def sizes_of(program: Program) -> dict[str, int]:
    """A size for each named dim of `program`."""
    cached = any("past" in dim.name for dim in program.dims)
    known = CACHED_SIZES if cached else SIZES
    return {d.name: next(size for part, size in known if part in d.name) for d in program.dims}


def session_of(model: Path, folder: Path) -> tuple[Session, dict[str, np.ndarray]]:
    """`model` compiled into `folder` and loaded, with inputs for it; siblings get the same."""
    options = Options(name=model.parent.name, verify=False, cache=cache_dir({}))
    program = read_model(model, options)
    bundle = compile_program(program, find_target("host"), folder, options)
    inputs = sample_inputs(program.main, sizes_of(program), np.random.default_rng(0))
    return load(bundle.path, threads=1), inputs


def ratios(timings: tuple[Timing, ...], judged: list[int]) -> list[float]:
    """Each model's time over the median of those `judged`, turn by turn; the median over turns."""
    turns = list(zip(*(timing.turns for timing in timings), strict=True))
    middle = [statistics.median(turn[i] for i in judged) for turn in turns]
    return [statistics.median(t / m for t, m in zip(timing.turns, middle, strict=True)) for timing in timings]


def measure(zoo: Path, group: Mapping[str, str], seconds: float) -> list[dict[str, object]]:
    """A row per model of `group`."""
    with tempfile.TemporaryDirectory() as folder:
        sessions = [session_of(zoo / name / "model.onnx", Path(folder)) for name in group]
        runs = [lambda s=session, i=inputs: s.run(i) for session, inputs in sessions]
        timings = alternate(runs, seconds, min_turns=7)
        for session, _ in sessions:
            session.close()
    found = ratios(timings, [i for i, note in enumerate(group.values()) if not note])
    return [
        {"model": name, "ms": timing.median * 1e3, "ratio": ratio, "note": note}
        for (name, note), timing, ratio in zip(group.items(), timings, found, strict=True)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("zoo", type=Path)
    parser.add_argument("--group", action="append", choices=list(GROUPS))
    parser.add_argument("--seconds", type=float, default=20.0, help="of each group, at least")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    given = parser.parse_args()
    table = Table("group", "model", "ms", "ratio", "note")
    rows: list[dict[str, object]] = []
    for group in given.group or GROUPS:
        for row in measure(given.zoo, GROUPS[group], given.seconds):
            rows.append({"group": group, **row})
            table.add_row(
                group, str(row["model"]), f"{row['ms']:.3f}", f"{row['ratio']:.2f}", str(row["note"])
            )
    Console(width=140).print(table)
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    far = [row for row in rows if not row["note"] and abs(float(str(row["ratio"])) - 1) > CLOSE]
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
