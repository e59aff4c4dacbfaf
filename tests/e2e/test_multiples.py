"""Sizes that have to be multiples: bound and checked by the library and by the evaluator alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_program, find_target
from isthmus.errors import InputError
from isthmus.ir.evaluate import evaluate
from isthmus.ops.text import parse
from isthmus.runtime import load

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = Options(verify=False, cache=cache_dir({"ISTHMUS_CACHE": str(ROOT / "build/cache")}))
BLOCKS = """program blocks {
  dim n = 1..3
  dim m = 1..
  graph main(%x: f32[m,4*n], %y: f32[2*m]) {
    %0 = reshape(%x) shape=[m,n,4] : f32[m,n,4]
    %1 = reduce_sum(%0) axes=[2] : f32[m,n,1]
    %2 = neg(%y) : f32[2*m]
    return sums=%1, y=%2
  }
}
"""


def test_multiples(tmp_path: Path) -> None:
    program = parse(BLOCKS)
    bundle = compile_program(program, find_target("host"), tmp_path, OPTIONS)
    good = {"x": np.arange(16, dtype=np.float32).reshape(2, 8), "y": np.ones(4, np.float32)}
    bad = [
        ({**good, "x": np.zeros((2, 6), np.float32)}, "dim 1 (4*n) is 6, expected a multiple of 4"),
        ({**good, "y": np.zeros(6, np.float32)}, "dim 0 (2*m) is 6, expected 4"),
    ]
    too_many = {**good, "x": np.zeros((2, 16), np.float32)}
    with load(bundle.path) as session:
        got = session.run(good)
        for name, wanted in evaluate(program.main, good).items():
            np.testing.assert_array_equal(got[name], wanted)
        assert got["sums"].shape == (2, 2, 1)
        for inputs, text in bad:
            with pytest.raises(InputError) as by_library:
                session.run(inputs)
            with pytest.raises(InputError) as by_evaluator:
                evaluate(program.main, inputs)
            assert text in str(by_library.value)
            assert text in str(by_evaluator.value)
        with pytest.raises(InputError) as caught:
            session.run(too_many)
        assert "dim 1 (4*n) is 16, expected 4 to 12" in str(caught.value)
