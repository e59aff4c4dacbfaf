"""The crate builds without a network and runs the model."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from isthmus.packages.rust import crate_name
from isthmus.runtime import load


@pytest.mark.slow
def test_the_example(bundle: Path, tmp_path: Path, answer_to_zeros: np.ndarray) -> None:
    if shutil.which("cargo") is None:
        pytest.skip("not run: cargo is not installed")
    environment = {**os.environ, "CARGO_TARGET_DIR": str(tmp_path), "RUSTFLAGS": "-D warnings"}
    done = subprocess.run(
        ["cargo", "run", "--quiet", "--offline", "--example", "example"],
        cwd=bundle / "rust",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "without inputs: 0 inputs, expected 1" in done.stdout
    number = done.stdout.rpartition("Some(")[2].split(")")[0]
    assert float(number) == pytest.approx(float(answer_to_zeros.flat[0]), rel=1e-4)
    with load(bundle):
        pass  # nothing was left in the bundle


@pytest.mark.parametrize(
    ("name", "crate"), [("a layer", "a_layer"), ("7b", "model_7b"), ("core", "model_core")]
)
def test_names_of_crates(name: str, crate: str) -> None:
    assert crate_name(name) == crate
