"""A request with little to do is left to one thread; the answer is the same to the bit."""

from __future__ import annotations

import ctypes
from pathlib import Path

import models
import numpy as np
import onnx
import pytest

from isthmus.codegen import timing
from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_model
from isthmus.runtime import load
from isthmus.tools.contest import calls_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small BERT that counts kernel calls, by thread."""
    folder = tmp_path_factory.mktemp("few")
    onnx.save(models.bert(layers=1, hidden=32, heads=2, inner=64, vocabulary=20), folder / "m.onnx")
    options = Options(verify=False, cache=cache_dir({"ISTHMUS_CACHE": str(ROOT / "build/cache")}), timed=True)
    return compile_model(folder / "m.onnx", "host", folder, options).path


@pytest.mark.parametrize(("batch", "workers"), [(1, False), (64, True)])
def test_workers_are_woken_for_large_requests_only(counting: Path, batch: int, workers: bool) -> None:
    inputs = {
        "input_ids": np.arange(batch * 64).reshape(batch, 64) % 20,
        "attention_mask": np.ones((batch, 64), np.int64),
    }
    shape = (timing.THREADS, len(calls_of(counting)), 2)
    with load(counting, threads=3) as three, load(counting, threads=1) as one:
        expected = one.run(inputs)
        raw = three.exported(timing.SYMBOL, ctypes.c_uint64 * int(np.prod(shape)))
        counts = np.ctypeslib.as_array(raw).reshape(shape)[..., 1]
        counts[:] = 0
        found = three.run(inputs)
        assert three.threads == 3
        assert counts[0].any()
        assert counts[1:3].any() == workers
        assert not counts[3:].any()
    assert {name: a.tobytes() for name, a in found.items()} == {
        name: a.tobytes() for name, a in expected.items()
    }
