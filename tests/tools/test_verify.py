"""Requests for verification: of the right sizes, and compared with the right answers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from isthmus.bundle.manifest import DimBounds, Port
from isthmus.bundle.selftest import Case, Tolerance
from isthmus.tools.verify import Sampling, against, replay, sampling

PORTS = (Port("x", "f32", ("batch", "seq")),)
Arrays = Mapping[str, np.ndarray]


def double(inputs: Arrays) -> dict[str, np.ndarray]:
    return {"y": 2 * inputs["x"]}


def case(batch: int, seq: int) -> Case:
    x = np.linspace(-1, 3, batch * seq, dtype=np.float32).reshape(batch, seq)
    return Case("main", {"x": x}, double({"x": x}), Tolerance(1e-6))


def choice(**asked: tuple[int, int]) -> Sampling:
    bounds = (DimBounds("batch"), DimBounds("seq", 4, 100_000))
    return sampling(PORTS, bounds, (case(2, 19), case(3, 5)), asked)


def test_sizes_come_from_bounds_or_from_what_was_seen() -> None:
    assert choice().ranges == {"batch": (1, 3), "seq": (4, 512)}
    assert choice(seq=(6, 6), batch=(1, 8)).ranges == {"batch": (1, 8), "seq": (6, 6)}


def test_requests_stay_within_their_ranges() -> None:
    drawn = choice(seq=(4, 64))
    rng = np.random.default_rng(0)
    requests = [drawn.draw(rng) for _ in range(200)]
    seqs = {sizes["seq"] for sizes, _ in requests}
    assert min(seqs) == 4
    assert max(seqs) == 64
    assert np.median([sizes["seq"] for sizes, _ in requests]) < 24, "small sizes are rare"
    for sizes, inputs in requests:
        assert inputs["x"].shape == (sizes["batch"], sizes["seq"])
        assert -1 <= inputs["x"].min() <= inputs["x"].max() <= 3


def test_a_stored_answer_is_replayed() -> None:
    (good,) = replay([case(2, 3)], double)
    assert (good.what, good.passed) == ("stored 0", True)
    (bad,) = replay([case(2, 3)], lambda inputs: {"y": 2.001 * inputs["x"]})
    assert not bad.passed


@pytest.mark.parametrize(("factor", "passed"), [(2.0, True), (2.01, False)])
def test_random_answers_are_compared(factor: float, passed: bool) -> None:
    def other(inputs: Arrays) -> dict[str, np.ndarray]:
        return {"y": (factor * inputs["x"]).astype(np.float32)}

    checks = list(against(other, double, choice(), 5, Tolerance(1e-4), 0.99999, seed=1))
    assert len(checks) == 5
    assert [check.passed for check in checks] == [passed] * 5
    assert len({check.what for check in checks}) > 1
