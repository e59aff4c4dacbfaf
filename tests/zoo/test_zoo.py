"""Every model of the zoo: one bundle with free dims, both stored requests, the stored answers.

What cannot be compiled is listed in docs/coverage.md with the reason, and has to fail: a model that starts
to work must leave the list.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_model
from isthmus.errors import ModelError
from isthmus.runtime import load

pytestmark = pytest.mark.slow

ROWS = re.compile(r"^\| `([\w.-]+)` \| (.+?) \|$", re.M)
ROOT = Path(__file__).resolve().parents[2]
CACHE = cache_dir(os.environ)
MOST_REFUSED = 0.03


def models() -> list[str]:
    folder = os.environ.get("ISTHMUS_ZOO")
    return sorted(p.parent.name for p in Path(folder).glob("*/meta.json")) if folder else []


def listed() -> dict[str, str]:
    """Models that docs/coverage.md says are refused as they are, with the reason."""
    return dict(ROWS.findall(_tables()[0]))


def two_in_one() -> dict[str, str]:
    """Models that compile with an input fixed, and that input."""
    return {name: text.strip("`") for name, text in ROWS.findall(_tables()[1])}


def _tables() -> tuple[str, str]:
    text = (ROOT / "docs/coverage.md").read_text("utf-8")
    before, _, after = text.partition("Two models in one:")
    return before, after


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        return dict(stored)


def check(got: np.ndarray, wanted: np.ndarray, rtol: float, atol: float) -> None:
    assert got.shape == wanted.shape
    if wanted.dtype.kind in "iub":
        np.testing.assert_array_equal(got, wanted)
        return
    have, want = got.astype(np.float64), wanted.astype(np.float64)
    scale = max(1.0, float(np.abs(want[np.isfinite(want)]).max(initial=0.0)))
    np.testing.assert_allclose(have, want, rtol=rtol, atol=atol * scale)


@pytest.mark.skipif(not models(), reason="not run: no zoo (set ISTHMUS_ZOO to its folder)")
def test_at_most_three_in_a_hundred_are_refused() -> None:
    assert set(listed()) <= set(models())
    assert len(listed()) <= MOST_REFUSED * len(models())


@pytest.mark.parametrize("name", models())
def test_model(name: str, zoo: Path, tmp_path: Path) -> None:
    folder = zoo / name
    options = Options(name="m", verify=False, cache=CACHE)
    if name in listed() or name in two_in_one():
        with pytest.raises(ModelError) as caught:
            compile_model(folder / "model.onnx", "host", tmp_path, options)
        if name in listed():
            return
    if (fixed := two_in_one().get(name)) is None:
        compile_and_answer(folder, tmp_path, options, (0, 1))
        return
    assert any(f"--fix {fixed}=" in problem.hint for problem in caught.value.problems)
    for number in (0, 1):
        given = arrays(folder / f"inputs_{number}.npz")[fixed]
        compile_and_answer(folder, tmp_path, replace(options, fix={fixed: given}), (number,))


def compile_and_answer(folder: Path, out: Path, options: Options, requests: tuple[int, ...]) -> None:
    """One bundle, and the stored answers of some requests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bundle = compile_model(folder / "model.onnx", "host", out, options)
    assert [fixed.name for fixed in bundle.manifest.fixed] == sorted(options.fix)
    tolerance = json.loads((folder / "meta.json").read_text("utf-8"))["tolerance"]
    with load(bundle.path, verify=False) as session:
        for number in requests:
            given = arrays(folder / f"inputs_{number}.npz")
            got = session.run({n: a for n, a in given.items() if n not in options.fix})
            for output, reference in arrays(folder / f"outputs_{number}.npz").items():
                check(got[output], reference, tolerance["rtol"], tolerance["atol"])
