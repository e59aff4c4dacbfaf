"""Random programs, compiled and run: what the library computes is what the evaluator says.

The arena is poisoned with NaN before each run, so that reading what no call has written, or what another
buffer has overwritten, shows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from random_graphs import FINITE, random_arrays, random_program

from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_program, find_target
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program
from isthmus.runtime import load

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = Options(
    verify=False, cache=cache_dir({"ISTHMUS_CACHE": str(ROOT / "build/cache")}), c_flags=("-DISTHMUS_POISON",)
)


def check(program: Program, folder: Path, target: str = "host") -> None:
    bundle = compile_program(program, find_target(target), folder, OPTIONS)
    for threads in (1, 3):
        with load(bundle.path, threads=threads) as session:
            for seed in range(3):
                inputs = random_arrays(program, seed)
                compare(evaluate(program.main, inputs), session.run(inputs))


def compare(wanted: dict[str, np.ndarray], got: dict[str, np.ndarray]) -> None:
    assert list(got) == list(wanted)
    for name, reference in wanted.items():
        assert got[name].dtype == reference.dtype and got[name].shape == reference.shape
        if reference.dtype.kind != "f":
            np.testing.assert_array_equal(got[name], reference, err_msg=name)
            continue
        finite = np.abs(reference[np.isfinite(reference)])
        scale = max(1.0, float(finite.max(initial=0.0)))
        np.testing.assert_allclose(got[name], reference, rtol=1e-4, atol=1e-4 * scale, err_msg=name)


@pytest.mark.parametrize("seed", range(6))
def test_a_few(seed: int, tmp_path: Path) -> None:
    check(random_program(seed, 16, FINITE), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 140))
def test_many(seed: int, tmp_path: Path) -> None:
    check(random_program(seed, 10 + seed % 30, FINITE), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3"])
@pytest.mark.parametrize("seed", range(200, 204))
def test_other_levels(seed: int, target: str, tmp_path: Path) -> None:
    check(random_program(seed, 20, FINITE), tmp_path, target)
