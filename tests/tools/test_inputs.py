"""Random inputs have the asked sizes and stay within what the examples show."""

from __future__ import annotations

import numpy as np

from isthmus.bundle.manifest import Port
from isthmus.tools.inputs import dim_names, random_inputs, sizes_of

PORTS = (
    Port("ids", "i64", ("batch", "seq")),
    Port("mask", "i64", ("batch", "seq")),
    Port("past", "f32", ("batch", "2*seq", 4)),
)
EXAMPLES = {
    "ids": np.array([[5, 17, 99]]),
    "mask": np.array([[1, 1, 0]]),
    "past": np.linspace(-1, 2, 24, dtype=np.float32).reshape(1, 6, 4),
}


def test_dims_are_found() -> None:
    assert dim_names(PORTS) == ("batch", "seq")
    assert sizes_of(PORTS, EXAMPLES) == {"batch": 1, "seq": 3}


def test_random_inputs_are_valid() -> None:
    found = random_inputs(PORTS, {"batch": 50, "seq": 7}, EXAMPLES, np.random.default_rng(0))
    assert {name: array.shape for name, array in found.items()} == {
        "ids": (50, 7),
        "mask": (50, 7),
        "past": (50, 14, 4),
    }
    assert {name: array.dtype for name, array in found.items()} == {
        name: array.dtype for name, array in EXAMPLES.items()
    }
    assert (found["ids"].min(), found["ids"].max()) == (5, 99)
    assert -1 <= found["past"].min() < found["past"].max() <= 2


def test_masks_are_padding() -> None:
    mask = random_inputs(PORTS, {"batch": 50, "seq": 7}, EXAMPLES, np.random.default_rng(0))["mask"]
    assert (np.diff(mask, axis=1) <= 0).all(), "a one after a zero"
    assert (mask[:, 0] == 1).all()
    assert len(set(mask.sum(axis=1))) > 3


def test_seeds_fix_the_inputs() -> None:
    first, second = (
        random_inputs(PORTS, {"batch": 2, "seq": 7}, EXAMPLES, np.random.default_rng(3)) for _ in range(2)
    )
    assert all(np.array_equal(first[name], second[name]) for name in first)
