"""One bundle with code for several levels of a family: each answers, and the best is chosen."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from layer_models import layer_model
from runners import need_runner

import isthmus
import isthmus.targets
from isthmus.bundle import selftest
from isthmus.bundle.reader import open_bundle
from isthmus.chips import discover
from isthmus.cli import app
from isthmus.codegen.cache import cache_dir
from isthmus.errors import IsthmusError
from isthmus.machine import Machine
from isthmus.target import Target
from isthmus.tools.emulator import emulated

CACHE = cache_dir(os.environ)

FAMILIES = [target for target in discover(isthmus.targets).values() if target.levels]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda target: target.name)
def family(request: pytest.FixtureRequest) -> Target:
    target: Target = request.param
    if target.missing_on(Machine.here()):
        pytest.skip(f"this machine cannot run {target.name}")
    return target


@pytest.fixture(scope="module")
def bundle(family: Target, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("levels")
    onnx.save(layer_model(), folder / "layer.onnx")
    return isthmus.compile(folder / "layer.onnx", target=family.name, out=folder).path


def test_every_level_answers_and_the_best_is_chosen(family: Target, bundle: Path) -> None:
    machine = Machine.here()
    runnable = [level.name for level in family.levels if not level.missing_on(machine)]
    x = np.random.default_rng(0).standard_normal((2, 7, 16)).astype(np.float32)
    with isthmus.load(bundle) as session:
        assert session.target == runnable[0]
        best = session(x=x)["y"]
    for level in runnable:
        with isthmus.load(bundle, level=level) as session:
            assert session.target == level
            np.testing.assert_allclose(session(x=x)["y"], best, rtol=1e-5, atol=1e-5)


def test_levels_share_what_they_read_alike(family: Target, bundle: Path) -> None:
    alone = []
    for level in family.levels:
        path = isthmus.compile(
            bundle.parent / "layer.onnx", target=level.name, out=bundle.parent, verify=False
        ).path
        alone.append((path / "weights.bin").stat().st_size)
    together = (bundle / "weights.bin").stat().st_size
    assert max(alone) <= together < sum(alone)


def test_an_unknown_level_is_refused_with_those_there_are(family: Target, bundle: Path) -> None:
    with pytest.raises(IsthmusError) as refused:
        isthmus.load(bundle, level="nonesuch")
    said = str(refused.value)
    assert "nonesuch" in said and all(level.name in said for level in family.levels)


def test_a_share_of_the_limit_is_of_one_level(
    family: Target, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in (["--limit"], ["--profile", "--model", str(bundle.parent / "layer.onnx")]):
        assert app.run(["bench", str(bundle), "--seconds", "0.01", *option]) == 2
        err = capsys.readouterr().err
        assert "E1003 bad-option" in err and option[0] in err and family.levels[0].name in err


def test_what_became_of_the_model_is_shown_for_each_level(
    family: Target, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["inspect", str(bundle)]) == 0
    out = capsys.readouterr().out
    for level in family.levels:
        assert f"level {level.name}\n" in out and level.suffix in out


# Processors that an emulator plays, and the level each has: before SSE4.2, with it, with AVX2.
@pytest.mark.slow
@pytest.mark.parametrize("processor", ["core2duo", "Nehalem", "Haswell", "max"])
def test_no_processor_meets_what_it_lacks(family: Target, bundle: Path, processor: str) -> None:
    (runner,) = family.runners
    need_runner(replace(family, arch="another"))  # the emulator, whatever this machine is
    words = [processor if word == "max" else word for word in runner.command]
    assert processor in words
    older = replace(family, runners=(replace(runner, command=tuple(words)),))
    opened = open_bundle(bundle, verify=False)
    with emulated(opened, older, CACHE, 1) as emulator:
        for case in selftest.load(opened):
            assert not selftest.differences(case, emulator.run(case.inputs))
