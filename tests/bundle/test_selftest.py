"""The self-test in a bundle: the same bytes each time, and a comparison that can fail."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isthmus.bundle import selftest
from isthmus.bundle.manifest import Manifest
from isthmus.bundle.reader import open_bundle
from isthmus.bundle.selftest import Case, Tolerance
from isthmus.errors import BundleError, Code

Write = Callable[..., Manifest]
CODE = {"lib/libmodel.so": b"x", "weights.bin": b""}


def test_round_trip(bundle: Path, case: Case) -> None:
    [loaded] = selftest.load(open_bundle(bundle))
    assert (loaded.entry, loaded.tolerance) == (case.entry, case.tolerance)
    for stored, given in ((loaded.inputs, case.inputs), (loaded.outputs, case.outputs)):
        assert list(stored) == list(given)
        for name in given:
            np.testing.assert_array_equal(stored[name], given[name], strict=True)


def test_no_clock_and_no_order_in_the_bytes(case: Case) -> None:
    arrays = {"b": np.zeros(3), "a": np.ones((2, 2), order="F")}
    turned = {"a": np.ones((2, 2)), "b": np.zeros(3)}
    assert selftest.pack(arrays) == selftest.pack(turned)
    with zipfile.ZipFile(io.BytesIO(selftest.pack(arrays))) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert selftest.dump([case]) == selftest.dump([case])


def test_a_bundle_without_one(tmp_path: Path, write_bundle: Write) -> None:
    write_bundle(tmp_path / "model@big", CODE)
    assert selftest.load(open_bundle(tmp_path / "model@big")) == ()


def test_pickles_are_never_executed(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
            return pytest.fail, ("executed",)

    path = tmp_path / "bomb.npz"
    np.savez(path, x=np.array([Bomb()], dtype=object))
    bare = tmp_path / "bare.npz"
    bare.write_bytes(pickle.dumps(Bomb()))
    for hostile in (path, bare, tmp_path / "none.npz"):
        with pytest.raises(BundleError, match="cannot read the arrays") as error:
            selftest.unpack(hostile)
        assert error.value.problems[0].code is Code.NOT_A_BUNDLE


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (b"no json", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b'{"cases": 3}', "cases: expected a list"),
        (
            b'{"cases": [{"entry": "main", "inputs": "/etc/passwd", "outputs": "weights.bin"}]}',
            "is not one of",
        ),
        (
            b'{"cases": [{"entry": "a", "inputs": "weights.bin", "outputs": "weights.bin", "absolute": -1}]}',
            "expected a number that is not negative",
        ),
    ],
)
def test_an_index_that_makes_no_sense(tmp_path: Path, write_bundle: Write, index: bytes, said: str) -> None:
    write_bundle(tmp_path / "model@big", {**CODE, selftest.INDEX: index})
    with pytest.raises(BundleError, match=said):
        selftest.load(open_bundle(tmp_path / "model@big"))


def test_differences(case: Case) -> None:
    good = case.outputs["out"]
    bad = good.copy()
    bad[1, 2] += 0.5
    assert selftest.differences(case, case.outputs) == []
    assert selftest.differences(case, {"out": good + np.float32(5e-5)}) == []
    [line] = selftest.differences(case, {"out": bad})
    assert "1 of 12 elements are too far off; worst at [1, 2]: 0.590909" in line
    assert selftest.differences(case, {}) == ["output 'out' is missing"]
    assert "expected float32[3, 4]" in selftest.differences(case, {"out": good.T})[0]
    assert "is float64[3, 4]" in selftest.differences(case, {"out": good.astype(np.float64)})[0]


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_must_match_exactly(case: Case, special: float) -> None:
    expected = case.outputs["out"].copy()
    expected[0, 0] = special
    strange = replace(case, outputs={"out": expected}, tolerance=Tolerance(1e9, 1.0))
    assert selftest.differences(strange, {"out": expected}) == []
    for other in (0.0, np.nan, np.inf, -np.inf):
        if str(other) == str(special):
            continue
        got = expected.copy()
        got[0, 0] = other
        assert selftest.differences(strange, {"out": got}), (special, other)


def test_integers_have_no_tolerance(case: Case) -> None:
    exact = replace(case, outputs={"out": np.array([1, 2, 3])}, tolerance=Tolerance(10))
    assert selftest.differences(exact, {"out": np.array([1, 2, 4])}) == [
        "output 'out': 1 of 3 elements differ"
    ]


def test_many_small_differences_are_one_large_one(case: Case) -> None:
    """As a wrong kernel behind a quantization makes them: no element far off, and none right."""
    rng = np.random.default_rng(0)
    expected = rng.standard_normal(1000).astype(np.float32)
    noisy = (expected + 0.1 * rng.standard_normal(1000)).astype(np.float32)
    stepped = expected.copy()
    stepped[7] += 0.5
    loose = replace(case, outputs={"out": expected}, tolerance=Tolerance(0.6))
    sharp = replace(loose, tolerance=Tolerance(0.6, norm=0.05))
    assert selftest.differences(loose, {"out": noisy}) == []
    [line] = selftest.differences(sharp, {"out": noisy})
    assert re.fullmatch(r"output 'out': off by 0\.1\d* of its length, allowed 0\.05", line)
    assert selftest.differences(sharp, {"out": stepped}) == []
    assert selftest.differences(sharp, {"out": np.zeros(1000, np.float32)})


def test_nothing_is_no_distance_from_nothing(case: Case) -> None:
    silent = replace(case, outputs={"out": np.zeros(3)}, tolerance=Tolerance(0.6, norm=0.05))
    assert selftest.differences(silent, {"out": np.zeros(3)}) == []
    assert selftest.differences(silent, {"out": np.full(3, 0.1)})


def test_the_norm_is_stored(tmp_path: Path, write_bundle: Write, case: Case) -> None:
    for tolerance in (Tolerance(1e-4, 1e-3), Tolerance(0.25, 0.25, 0.05)):
        folder = tmp_path / f"{tolerance.norm}@big"
        write_bundle(folder, {**CODE, **selftest.dump([replace(case, tolerance=tolerance)])})
        assert selftest.load(open_bundle(folder))[0].tolerance == tolerance
