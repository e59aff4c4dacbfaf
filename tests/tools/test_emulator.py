"""Bundles under emulators: their answers, and what is said when something is missing or goes wrong."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from runners import KNOWN, MACHINE, need_runner

from isthmus.bundle.reader import Bundle, open_bundle
from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_program
from isthmus.errors import IsthmusError
from isthmus.ir.graph import Graph, NamedDim, Program, constant, graph_input
from isthmus.ir.read import parse_type
from isthmus.ops.movement import gather
from isthmus.ops.pointwise import mul
from isthmus.target import Runner, Target
from isthmus.tools import emulator
from isthmus.tools.emulator import emulated, require

CACHE = cache_dir(os.environ)
# One chip of each byte order that this machine is not.
ORDERS = {
    order: next(t for t in KNOWN.values() if t.byte_order == order and t.arch != MACHINE.arch and t.runners)
    for order in ("little", "big")
}


def program() -> Program:
    """Rows of a table, doubled: it has weights, picks, and refuses an index that is too large."""
    ids = graph_input("ids", parse_type("i64[n]"))
    table = constant("table", np.arange(12, dtype=np.float32).reshape(4, 3))
    picked = gather(table, ids, axis=0, loc="/pick")
    return Program("p", (Graph("main", (ids,), (("y", mul(picked, picked)),)),), (NamedDim("n", 1, 8),))


def bundle(target: Target, folder: Path) -> Bundle:
    return open_bundle(compile_program(program(), target, folder, Options(cache=CACHE)).path)


def ask(found: Bundle, target: Target, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    with emulated(found, target, CACHE, 2) as running:
        return running.run(inputs)


@pytest.fixture(scope="module", params=ORDERS, ids=lambda order: f"{order}-endian")
def foreign(request: pytest.FixtureRequest) -> Target:
    target = ORDERS[request.param]
    need_runner(target)
    return target


@pytest.mark.slow
def test_answers_and_refusals(foreign: Target, tmp_path: Path) -> None:
    found = bundle(foreign, tmp_path)
    table = np.arange(12, dtype=np.float32).reshape(4, 3) ** 2
    for ids in ([2], [3, 0, 1]):
        np.testing.assert_array_equal(ask(found, foreign, {"ids": np.array(ids)})["y"], table[ids])
    for inputs, text in (
        ({"ids": np.array([0, 4])}, "/pick"),  # the program's own words
        ({"ids": np.zeros(9, np.int64)}, "the run failed|shapes"),
        ({}, "input 'ids' is missing"),
    ):
        with pytest.raises(IsthmusError, match=text):
            ask(found, foreign, inputs)


def pretend(*command: str) -> Target:
    """This machine's simplest chip, run by `command`."""
    fitting = next(t for t in KNOWN.values() if not t.missing_on(MACHINE))
    return dataclasses.replace(fitting, runners=(Runner("pretended", command, "pretended-package"),))


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle(pretend("env"), tmp_path_factory.mktemp("native"))


def test_a_missing_emulator_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for target in ORDERS.values():
        with pytest.raises(IsthmusError, match=r"E2005 no-runner: .* not found") as caught:
            require(target)
        assert caught.value.exit_code == 2
        assert f"install {target.runners[0].package}" in str(caught.value)


def test_a_chip_without_a_runner_is_built_not_run() -> None:
    with pytest.raises(IsthmusError, match="built, not run"):
        require(dataclasses.replace(pretend("x"), runners=()))


def test_a_runner_that_hangs_or_dies(native: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "TIMEOUT_S", 0.2)
    found, inputs = native, {"ids": np.array([1])}
    with pytest.raises(IsthmusError, match="E2102 run-failed: no answer within"):
        ask(found, pretend("sh", "-c", "exec sleep 60"), inputs)
    monkeypatch.setattr(emulator, "TIMEOUT_S", 60.0)
    with pytest.raises(IsthmusError, match="run-failed: status 3"):
        ask(found, pretend("sh", "-c", "exit 3"), inputs)
    with pytest.raises(IsthmusError, match="run-failed: illegal instruction"):
        ask(found, pretend("sh", "-c", "echo illegal instruction >&2; exit 1"), inputs)
    for what in ("printf 12345678 > answer.bin", "printf 1 > answer.bin", "true"):
        with pytest.raises(IsthmusError, match="run-failed: there is no whole answer"):
            ask(found, pretend("sh", "-c", what), inputs)


def test_the_runner_runs_it(native: Bundle) -> None:
    np.testing.assert_array_equal(ask(native, pretend("env"), {"ids": np.array([1])})["y"], [[9, 16, 25]])
