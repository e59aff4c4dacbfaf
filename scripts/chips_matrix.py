"""Every model on every chip: compiled, run by the chip's runner, compared; the table is docs/chips.md.

    python scripts/chips_matrix.py                    # writes docs/chips.md
    python scripts/chips_matrix.py --json             # the same as JSON, and writes nothing
    python scripts/chips_matrix.py --json --in-turn 2 # two of the models for each chip, in turn
    python scripts/chips_matrix.py --build-only --model MiniLM-L3 --chip armv8-neon

Needs ISTHMUS_ZOO for the tiny models; MiniLM-L3 is fetched. Two chips at a time, or as many as there are
processors.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import isthmus.targets
from isthmus.bundle import selftest
from isthmus.bundle.reader import open_bundle
from isthmus.chips import discover
from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_program, read_model
from isthmus.errors import CompilerBug, IsthmusError
from isthmus.ir.graph import Program
from isthmus.machine import Machine, processors
from isthmus.target import Target
from isthmus.tools.emulator import answering, fits
from isthmus.tools.verify import replay

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "chips.md"
sys.path.insert(0, str(ROOT / "examples"))

from fetch_data import fetch  # noqa: E402 - it lies beside the demo

MINILM = "MiniLM-L3"
ZOO = {
    "BERT": "bert-legacy-op17",
    "ViT": "vit-legacy-op17",
    "GPT-2": "gpt2-dynamo-op18",
    "T5 encoder": "t5-encoder-legacy-op17",
}
MODELS = (*ZOO, MINILM)
PASS, BUILT = "pass", "built, not run"
# Where there is no system: the largest a free dim gets.
MOST = 4
# What ran it, and how each model fared.
Row = tuple[str, dict[str, str]]

_PAGE = """\
# Models on chips

Every chip that `isthmus targets` lists, and what became of five models on it: four members of the collection
of tiny exported models, with random weights, and MiniLM-L3 with its real ones. Each is compiled for the chip,
run by the chip's runner on its stored requests, and compared with what the NumPy evaluator says. Written by
`scripts/chips_matrix.py`; CI runs two of the models on each chip again, and compares.

*built, not run*: the bundle is made; nothing here executes the chip's code, or its weights are too large for
the emulated board. Chips without a system get dims of at most 4.

| chip | system | runner | {models} |
|---|---|---|{lines}
{rows}
{count} chips, {run} of them executed.
"""


def main() -> int:
    """Print how long it took to stderr; the exit status is 1 when something failed."""
    known = discover(isthmus.targets)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--chip", action="append", choices=list(known), help="only this chip; repeatable")
    parser.add_argument("--model", action="append", choices=MODELS, help="only this model; repeatable")
    parser.add_argument(
        "--in-turn", type=int, metavar="N", help="so many of the models for each chip, in turn"
    )
    parser.add_argument("--build-only", action="store_true", help="compile, do not run")
    parser.add_argument("--json", action="store_true", help="print JSON, write nothing")
    given = parser.parse_args()
    began = time.perf_counter()
    models = [name for name in MODELS if not given.model or name in given.model]
    each = min(given.in_turn or len(models), len(models))
    found = matrix(given.chip or list(known), models, each, given.build_only)
    print(f"{len(found)} chips x {each} models: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    if given.json:
        print(
            json.dumps(
                {chip: {"runner": runner, **cells} for chip, (runner, cells) in found.items()}, indent=2
            )
        )
    elif given.chip or given.model or given.in_turn or given.build_only:
        print(table(found, known))
    else:
        PAGE.write_text(page(found, known), encoding="utf-8")
    return int(any(cell not in (PASS, BUILT) for _, cells in found.values() for cell in cells.values()))


def matrix(chips: Sequence[str], models: Sequence[str], each: int, build_only: bool) -> dict[str, Row]:
    """What became of `each` of the models on each chip: of all, or of others for the next chip."""
    paths = {name: str(_path(name)) for name in models}
    turns = [{(chip + i) % len(models) for i in range(each)} for chip in range(len(chips))]
    asked = [{name: paths[name] for i, name in enumerate(models) if i in turn} for turn in turns]
    # TVM does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processors(), mp_context=context) as pool:
        rows = pool.map(_row, chips, asked, [build_only] * len(chips))
        return dict(zip(chips, rows, strict=True))


def _path(name: str) -> Path:
    if name == MINILM:
        return fetch("paraphrase-MiniLM-L3-v2.onnx")
    zoo = os.environ.get("ISTHMUS_ZOO")
    if not zoo:
        raise SystemExit("ISTHMUS_ZOO is not set: the folder of tiny exported models")
    return Path(zoo) / ZOO[name] / "model.onnx"


def _row(chip: str, paths: Mapping[str, str], build_only: bool) -> Row:
    target = discover(isthmus.targets)[chip]
    runner = None if build_only else target.executor(Machine.here())
    cells = {name: _cell(target, path, runner) for name, path in paths.items()}
    print(f"{chip}: {', '.join(dict.fromkeys(cells.values()))}", file=sys.stderr, flush=True)
    return runner or "-", cells


@cache
def _program(path: str, bounded: bool) -> Program:
    """The model; where memory is set aside in advance, with an upper bound for every dim."""
    free = read_model(Path(path), Options())
    if not bounded:
        return free
    dims = {d.name: (d.low, max(d.low, MOST)) for d in free.dims if d.high is None}
    return read_model(Path(path), Options(dims=dims))


def _cell(target: Target, path: str, runner: str | None) -> str:
    kept = cache_dir(os.environ)
    board = target.toolchain.system.freestanding
    try:
        with tempfile.TemporaryDirectory(prefix="isthmus-matrix-") as folder:
            options = Options(verify=False, cache=kept)
            made = compile_program(_program(path, board), target, Path(folder), options).path
            bundle = open_bundle(made, verify=False)
            if runner is None or not fits(bundle, target):
                return BUILT
            with answering(bundle, target, kept) as run:
                checks = list(replay(selftest.load(bundle), run))
    except (IsthmusError, CompilerBug) as error:
        return "fail: " + str(error).splitlines()[0]
    wrong = [one.reason for check in checks for one in check.differences if one.reason]
    return PASS if checks and not wrong else "fail: " + "; ".join(wrong or ["no stored request"])


def table(found: Mapping[str, Row], known: Mapping[str, Target]) -> str:
    """The rows of the table."""
    lines: Iterable[str] = (
        f"| `{chip}` | {known[chip].os} | {runner} | {' | '.join(cells.values())} |"
        for chip, (runner, cells) in found.items()
    )
    return "\n".join(lines) + "\n"


def page(found: Mapping[str, Row], known: Mapping[str, Target]) -> str:
    """The text of docs/chips.md."""
    return _PAGE.format(
        models=" | ".join(MODELS),
        lines="---|" * len(MODELS),
        rows=table(found, known),
        count=len(found),
        run=sum(any(cell == PASS for cell in cells.values()) for _, cells in found.values()),
    )


if __name__ == "__main__":
    sys.exit(main())
