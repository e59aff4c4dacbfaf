"""The matrix of benchmarks/matrix.toml in one go: from cold, warm, with a model touched, with a chip more.

    ISTHMUS_ZOO=... python benchmarks/matrix.py [--jobs 2] [--keep FOLDER]
    ISTHMUS_ZOO=... python benchmarks/matrix.py --models vit,gpt2 --chips c,x86-64-v3   # some of it
    ISTHMUS_ZOO=... python benchmarks/matrix.py --keep FOLDER --only '*@c'    # one column, once

Six models on eight chips: MiniLM-L3 in fp32, in int8 (dynamic quantization by onnxruntime), pruned
to half of its weights, and three tiny ones of other families. Each step is a command in a process of its
own; what it says is passed on, and then seconds, processor time (which tells more where others are at work)
and what was done. The exit status is 1 where a step did more or less than it should have.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))

from fetch_data import fetch  # noqa: E402 - it lies beside the demo

CONSOLE = Console(highlight=False, markup=False, soft_wrap=True)
ZOO = {"vit": "vit-legacy-op17", "gpt2": "gpt2-dynamo-op18", "t5-encoder": "t5-encoder-legacy-op17"}
ONE_MORE = "x86-64-v2"  # the chip that is added
# What a matrix of this size should take: seconds from cold on two processors, and the share of that warm.
COLD_S, WARM = 600.0, 0.05
_TABLE = re.compile(r"\[(models|chips)\.([^]]+)\]")


@dataclass(frozen=True, slots=True)
class Step:
    """A build: how long it took, its exit status, and what it did (`work` of report.json)."""

    seconds: float
    status: int
    work: dict[str, int]


def main() -> int:
    """0 where every step did what it should, and no more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2, help="workers")
    parser.add_argument("--keep", type=Path, help="a folder to work in, which stays")
    parser.add_argument("--only", metavar="MODEL@CHIP", help="build these pairs, once, with what was kept")
    parser.add_argument("--models", metavar="NAMES", help="of these models only, with commas between")
    parser.add_argument("--chips", metavar="NAMES", help="on these chips only")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="isthmus-matrix-") as name:
        folder = given.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        if given.only is None or not (folder / "isthmus.toml").exists():
            prepare(folder, given.models, given.chips)
        if given.only is not None:
            return build(folder, given.only, given.jobs, given.only).status
        return all_steps(folder, given.jobs)


def all_steps(folder: Path, jobs: int) -> int:
    """Build from cold, warm, with one model touched, with one chip more; whether each did what it should."""
    file = folder / "isthmus.toml"
    names = _TABLE.findall(file.read_text("utf-8"))
    rows, columns = ([name for kind, name in names if kind == which] for which in ("models", "chips"))
    cold = build(folder, "cold", jobs)
    warm = build(folder, "warm", jobs)
    touched = "minilm-pruned" if "minilm-pruned" in rows else rows[0]
    touch(folder / f"{touched}.onnx")
    row = build(folder, f"{touched} touched", jobs)
    file.write_text(f"{file.read_text('utf-8')}\n[chips.{ONE_MORE}]\n")
    column = build(folder, f"{ONE_MORE} added", jobs)
    wanted = {
        "cold": (cold, len(rows), len(rows) * len(columns)),
        "warm": (warm, 0, 0),
        "one model touched": (row, 1, len(columns)),
        "one chip added": (column, 0, len(rows)),
    }
    wrong = 0
    for what, (step, imported, made) in wanted.items():
        good = step.status == 0 and (step.work.get("models"), step.work.get("pairs")) == (imported, made)
        wrong += not good
        CONSOLE.print(
            f"{'as it should be' if good else 'WRONG':<15} {what}: {step.seconds:.1f} s, {step.work}, "
            f"wanted {imported} imported and {made} made"
        )
    CONSOLE.print(
        f"cold in {cold.seconds:.0f} s of {COLD_S:.0f} s; warm is {warm.seconds / cold.seconds:.1%} of cold, "
        f"at most {WARM:.0%}"
    )
    return int(wrong > 0)


def prepare(folder: Path, chosen_models: str | None, chosen_chips: str | None) -> None:
    """A folder with the models and the configuration, and nothing that was built."""
    for name in ("cache", "dist"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "isthmus.lock").unlink(missing_ok=True)
    models(folder)
    text = (ROOT / "benchmarks" / "matrix.toml").read_text("utf-8")
    known = {
        which: [name for kind, name in _TABLE.findall(text) if kind == which] for which in ("models", "chips")
    }
    kept = {
        "models": chosen("--models", chosen_models, known["models"]),
        "chips": chosen("--chips", chosen_chips, known["chips"]),
    }
    (folder / "isthmus.toml").write_text(some(text, kept, known["chips"]))


def chosen(option: str, given: str | None, known: list[str]) -> list[str]:
    names = known if given is None else given.split(",")
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"{option}: no {', '.join(unknown)} in matrix.toml; there are {', '.join(known)}")
    return names


def some(text: str, kept: dict[str, list[str]], chips: Iterable[str]) -> str:
    """The configuration with these models and chips only, and their prices."""
    parts = []
    for part in re.split(r"^(?=\[)", text, flags=re.M):
        table = _TABLE.match(part)
        if table is not None and table[2] not in kept[table[1]]:
            continue
        priced = part.startswith("[prices]")
        gone = {f"{chip} =" for chip in chips if chip not in kept["chips"]} if priced else set()
        parts += [line for line in part.splitlines() if not any(line.startswith(start) for start in gone)]
    return "\n".join(parts) + "\n"


def models(folder: Path) -> None:
    """Put the six models into `folder`."""
    zoo = os.environ.get("ISTHMUS_ZOO")
    if not zoo:
        raise SystemExit("ISTHMUS_ZOO is not set: the folder of tiny exported models")
    minilm = folder / "minilm.onnx"
    minilm.write_bytes(fetch("paraphrase-MiniLM-L3-v2.onnx").read_bytes())
    quantize_dynamic(minilm, folder / "minilm-int8.onnx", weight_type=QuantType.QInt8)
    prune(minilm, folder / "minilm-pruned.onnx", 0.5)
    for name, source in ZOO.items():
        (folder / f"{name}.onnx").write_bytes((Path(zoo) / source / "model.onnx").read_bytes())


def prune(source: Path, destination: Path, share: float) -> None:
    """Zeros in the place of the smallest weights of every matrix but the embeddings."""
    model = onnx.load(source)
    read = {name for node in model.graph.node if node.op_type == "MatMul" for name in node.input}
    for tensor in model.graph.initializer:
        if tensor.name in read and len(tensor.dims) == 2:
            array = numpy_helper.to_array(tensor).copy()
            array[np.abs(array) < np.quantile(np.abs(array), share)] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, destination)


def touch(path: Path) -> None:
    """Change some weights of a model."""
    model = onnx.load(path)
    tensors = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and t.dims]
    tensor = max(tensors, key=lambda one: int(np.prod(one.dims)))
    changed = numpy_helper.to_array(tensor) * np.float32(0.75)
    tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    onnx.save(model, path)


def build(folder: Path, what: str, jobs: int, only: str = "*") -> Step:
    """The whole command in a fresh process, without any cache but the folder's."""
    CONSOLE.print(f"== {what}")
    report = folder / "dist" / "report.json"
    report.unlink(missing_ok=True)
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", "from isthmus.cli import main; main()", "build"]
    command += ["--jobs", str(jobs), "--only", only]
    environment = {**os.environ, "ISTHMUS_CACHE": str(folder / "cache")}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            CONSOLE.print(f"{time.perf_counter() - began:6.1f} s  {line.rstrip()}")
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    CONSOLE.print(f"{what}: {seconds:.1f} s, {processor:.1f} s of processors, status {process.returncode}")
    work = json.loads(report.read_text("utf-8"))["work"] if report.is_file() else {}
    return Step(seconds, process.returncode, work)


if __name__ == "__main__":
    sys.exit(main())
