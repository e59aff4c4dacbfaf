"""Damaged models: whatever is in the file, reading and planning it ends in a program or in coded problems,
within a gigabyte and 20 seconds.

They are read in child processes, so that neither a crash nor a model that asks for everything can hide.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from damage import MANY, MONSTERS
from layer_models import layer_model

WORKER = Path(__file__).parents[1] / "support" / "damage_worker.py"
MOST_MB = 1000
SECONDS = 20
SLOWNESS = 6  # how much slower than a core of its own a busy machine may be

# Of ten exporters: quantized and half models, loops, attention operators, windows, many nodes.
MODELS = (
    "bert-legacy-op17", "bert-ortquant-qdq-op17", "gptoss-genai-fp32", "t5-dynamo-op18-fp16",
    "swin-legacy-op17", "segformer-ortquant-qoperator-dynamo-op18", "longformer-legacy-op17",
    "wav2vec2-conformer-dynamo-op23", "clip-fp16-ort-opt-zeroshot",
    "whisper-ortquant-dynint8-opt-asrpast-encoder",
)  # fmt: skip


IMPORTED = ("10^6 unused constants", "as many nodes as are taken", "as many values as are taken")


def run(*arguments: object, cases: int = 1) -> dict[str, Any]:
    """What the worker says; the test fails when it crashes, takes too long, or found something wrong."""
    command = [sys.executable, str(WORKER), *map(str, arguments)]
    timeout = SECONDS * SLOWNESS + 2 * cases
    # One thread: those of BLAS would each reserve memory.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=environment,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30)),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert not found["failures"], "\n".join(found["failures"])
    assert found["peak_mb"] < MOST_MB, found
    assert found["slowest"][0] < SECONDS * SLOWNESS, found
    return found


def test_the_memory_of_whoever_starts_it_does_not_count() -> None:
    """As a test's process has a gigabyte in the end."""
    held = b"x" * (MOST_MB << 20)
    assert run("files")["peak_mb"] < len(held) >> 21


@pytest.mark.parametrize("seed", range(2))
def test_a_small_model_damaged(seed: int, tmp_path: Path) -> None:
    model = tmp_path / "layer" / "model.onnx"
    model.parent.mkdir()
    model.write_bytes(layer_model().SerializeToString())
    ends = run("damage", tmp_path, model, seed, 120, cases=120)["ends"]
    assert sum(ends.values()) == 120
    assert ends["program"] > 10, "damage that hurts nothing finds nothing, but some should get through"
    assert len(ends) > 5, "of many kinds"


def test_small_files_that_ask_for_everything(tmp_path: Path) -> None:
    for name, make in MONSTERS.items():
        (tmp_path / f"{name}.onnx").write_bytes(make())
    ends = run("files", *sorted(tmp_path.glob("*.onnx")), cases=len(MONSTERS))["ends"]
    assert ends["E1107"] >= 8


def test_a_million_nodes_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(MANY["10^6 nodes"]())
    assert run("files", path)["ends"] == {"E1107": 1}


@pytest.mark.slow
@pytest.mark.parametrize("name", MANY)
def test_many_of_something(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(MANY[name]())
    ends = run("files", path)["ends"]
    assert ends == ({"program": 1} if name in IMPORTED else {"E1107": 1})


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_real_models_damaged(name: str, zoo: Path, tmp_path: Path) -> None:
    ends = run("damage", tmp_path, zoo / name / "model.onnx", 1, 60, cases=60)["ends"]
    assert sum(ends.values()) == 60
