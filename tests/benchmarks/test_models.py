"""The models benchmarks run: valid, always the same, and understood as what they are."""

from __future__ import annotations

import hashlib
from pathlib import Path

import models
import numpy as np
import onnx
import pytest

from isthmus.driver import Options, find_target, prepare, read_model
from isthmus.tools.reference import Reference

SIZES = {"layers": 2, "hidden": 64, "heads": 4, "inner": 96}
SMALL = {
    "bert": lambda: models.bert(**SIZES, vocabulary=50, positions=32),
    "vit": lambda: models.vit(**SIZES, image=32, classes=10),
    "gpt2": lambda: models.gpt2(**SIZES, vocabulary=50, positions=32),
}


@pytest.fixture(params=sorted(SMALL))
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A small model of each kind."""
    file = tmp_path / f"{request.param}.onnx"
    onnx.save(SMALL[request.param](), file)
    return file


def test_they_are_valid_and_answer(path: Path) -> None:
    onnx.checker.check_model(str(path), full_check=True)
    ids = np.arange(14).reshape(2, 7)
    inputs = {
        "bert": {"input_ids": ids, "attention_mask": np.ones_like(ids)},
        "vit": {"pixel_values": np.ones((2, 3, 32, 32), np.float32)},
        "gpt2": {"input_ids": ids},
    }
    (answer,) = Reference(path, 1)(inputs[path.stem]).values()
    assert answer.shape == {"bert": (2, 7, 64), "vit": (2, 10), "gpt2": (2, 7, 50)}[path.stem]
    assert np.isfinite(answer).all()
    assert answer.std() > 0


def test_attention_is_seen(path: Path) -> None:
    program = read_model(path, Options())
    prepared = prepare(program, find_target("host"), Options())
    ops = [value.op.name for value in prepared.program.main.nodes()]
    assert ops.count("attention") == SIZES["layers"]
    assert "softmax" not in ops


def test_same_bytes_every_time() -> None:
    digests = {
        name: hashlib.sha256(make().SerializeToString(deterministic=True)) for name, make in SMALL.items()
    }
    again = SMALL["bert"]().SerializeToString(deterministic=True)
    assert hashlib.sha256(again).digest() == digests["bert"].digest()
    assert len({digest.digest() for digest in digests.values()}) == len(SMALL)


def test_write_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MODELS", {"bert": SMALL["bert"]})
    path = models.write("bert", tmp_path / "new")
    written = path.stat().st_mtime_ns
    assert models.write("bert", tmp_path / "new").stat().st_mtime_ns == written
    assert [file.name for file in path.parent.iterdir()] == ["bert.onnx"]
