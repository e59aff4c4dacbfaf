"""A batch that is computed in parts gives what its items give one by one, on any number of threads."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import models
import numpy as np
import onnx
import pytest

from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_model
from isthmus.runtime import load

# Unwritten memory is NaN, and all threads work whatever there is to do.
OPTIONS = Options(verify=False, cache=cache_dir(os.environ), c_flags=("-DISTHMUS_POISON",))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    onnx.save(models.bert(layers=2, hidden=32, heads=2, inner=64, vocabulary=20), folder / "m.onnx")
    return compile_model(folder / "m.onnx", "host", folder, OPTIONS).path


# Batch and length: one part, parts that differ by one, one item each, single positions.
@pytest.mark.parametrize(("batch", "length"), [(1, 9), (15, 20), (16, 20), (37, 20), (5, 170), (700, 1)])
def test_items_one_by_one(bundle: Path, batch: int, length: int) -> None:
    rng = np.random.default_rng(batch)
    valid = rng.integers(1, length + 1, (batch, 1))
    given = {
        "input_ids": rng.integers(0, 20, (batch, length)),
        "attention_mask": (np.arange(length) < valid).astype(np.int64),
    }
    with ExitStack() as stack:
        sessions = [stack.enter_context(load(bundle, threads=n)) for n in (1, 2, 3)]
        single = [sessions[0].run({name: a[i : i + 1] for name, a in given.items()}) for i in range(batch)]
        for session in sessions:
            for name, found in session.run(given).items():
                wanted = np.concatenate([item[name] for item in single])
                np.testing.assert_array_equal(found, wanted, err_msg=f"{name}, {session.threads} threads")


def test_parts_are_what_a_batch_is_computed_in(bundle: Path) -> None:
    source = (bundle / "src" / "model.c").read_text("utf-8")
    assert "run_part(&part, thread);" in source
