"""From the configuration to pairs: overrides, budgets, what the compiler does not have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import isthmus.targets
from isthmus.chips import discover
from isthmus.errors import Code, ModelError, Problem
from isthmus.machine import Machine
from isthmus.matrix.config import load_config
from isthmus.matrix.pairs import Pair, resolve, select

KNOWN = discover(isthmus.targets)
TOML = """\
[models.a]
path = "a.onnx"
dims = { seq = 8 }
budgets = { size = "1 MB", start = "1 s" }
[models.b]
path = "b.onnx"
[chips.host]
[chips.c]
[chips.arm]
target = "armv8-neon"
[budgets]
size = "2 MB"
[prices]
arm = 0.5
"""


def pairs(folder: Path, more: str = "") -> dict[str, Pair]:
    for name in ("a.onnx", "b.onnx"):
        (folder / name).touch()
    (folder / "isthmus.toml").write_text(TOML + more)
    config = load_config(folder / "isthmus.toml")
    return {pair.name: pair for pair in resolve(config, KNOWN, Machine.here())}


def problems(folder: Path, more: str) -> tuple[Problem, ...]:
    with pytest.raises(ModelError) as caught:
        pairs(folder, more)
    return caught.value.problems


def test_every_model_on_every_chip(tmp_path: Path) -> None:
    found = pairs(tmp_path)
    assert list(found) == ["a@host", "a@c", "a@arm", "b@host", "b@c", "b@arm"]
    assert found["a@arm"].target is KNOWN["armv8-neon"] and found["a@arm"].price == 0.5
    assert found["a@c"].dims == {"seq": 8} and found["b@c"].dims == {}
    # The model's budget comes before that of all; what it does not say stays.
    budgets = [found[name].settings.budgets for name in ("a@c", "b@c")]
    assert [(b.size, b.start) for b in budgets] == [(1e6, 1.0), (2e6, None)]


def test_overrides_are_for_some_pairs_and_the_last_wins(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(3))
    found = pairs(
        tmp_path,
        """
        [[overrides]]
        chip = "*"
        threads = 2
        [[overrides]]
        model = "a"
        chip = "?"
        dims = { seq = "1..4" }
        fix = { x = "@x.npy", y = false }
        threads = 3
        [overrides.budgets]
        start = "2 s"
        [[overrides]]
        model = "b"
        chip = "arm"
        skip = true
        """,
    )
    assert "b@arm" not in found
    one = found["a@c"]
    assert (one.threads, one.dims) == (3, {"seq": (1, 4)})
    assert (one.settings.budgets.size, one.settings.budgets.start) == (1e6, 2.0)
    assert one.fix["x"].tolist() == [0, 1, 2] and one.fix["y"].tolist() is False
    assert (found["a@host"].threads, found["a@host"].dims) == (2, {"seq": 8})


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """\
nobody = 1
[models.c]
path = "c.onnx"
precision = "int3"
sparsity = "most"
calibration = "samples.npz"
metric = "cosin"
fix = { x = "@nothing.npy" }
[chips.armv8-neo]
[[overrides]]
chip = "hots"
""",
    )
    told = {problem.message.split(":")[0]: problem for problem in found}
    first = TOML.count("\n") + 1
    assert {name: int(problem.where.rpartition(":")[2]) - first for name, problem in told.items()} == {
        "prices.nobody": 0,
        "models.c.path": 2,
        "models.c.precision": 3,
        "models.c.sparsity": 4,
        "models.c.calibration": 5,
        "models.c.metric": 6,
        "models.c.fix.x": 7,
        "chips.armv8-neo": 8,
        "overrides[0].chip": 10,
    }
    assert told["chips.armv8-neo"].code is Code.UNKNOWN_TARGET
    assert "armv8-neon" in told["chips.armv8-neo"].hint
    assert told["models.c.path"].code is Code.NO_SUCH_FILE
    assert told["models.c.precision"].code is Code.BAD_OPTION
    assert told["models.c.fix.x"].code is Code.BAD_FIX
    assert "'host'" in told["overrides[0].chip"].hint


def test_only(tmp_path: Path) -> None:
    found = tuple(pairs(tmp_path).values())
    assert select(found, ()) == found
    assert [p.name for p in select(found, ["a@c", "*@arm"])] == ["a@c", "a@arm", "b@arm"]
    with pytest.raises(ModelError, match=r"no pair is called 'a@x'(.|\n)*did you mean"):
        select(found, ["a@x"])
