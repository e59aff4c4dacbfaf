"""A real model that came with its matrices as int8: the same answers as onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import isthmus

pytestmark = pytest.mark.slow

# Nothing is quantized as it runs, so this is the bound of a model in f32; elements are up to 6.
MAX_ABS = 2e-4
SIZES = ((1, 1), (2, 7), (3, 33), (4, 64), (1, 128), (2, 300))


@pytest.fixture(scope="module")
def model(data: Callable[[str], Path]) -> Path:
    return data("minilm-l6-int8.onnx")


def inputs(batch: int, length: int) -> dict[str, np.ndarray]:
    """Words, each row padded at its own length."""
    rng = np.random.default_rng(batch * length)
    valid = rng.integers(1, length + 1, (batch, 1))
    return {
        "input_ids": rng.integers(0, 30522, (batch, length)),
        "attention_mask": (np.arange(length) < valid).astype(np.int64),
        "token_type_ids": np.zeros((batch, length), np.int64),
    }


def test_onnxruntime_agrees(model: Path, tmp_path: Path) -> None:
    peer = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    bundle = isthmus.compile(model, target="host", out=tmp_path, verify=False)
    with isthmus.load(bundle.path) as session:
        for batch, length in SIZES:
            given = inputs(batch, length)
            (wanted,) = peer.run(None, given)
            got = session.run(given)["last_hidden_state"]
            assert got.dtype == wanted.dtype and got.shape == wanted.shape
            np.testing.assert_allclose(got, wanted, rtol=0, atol=MAX_ABS)
