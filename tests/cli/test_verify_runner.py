"""`isthmus verify --runner`: bundles of other machines, and of chips that nobody here knows."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from runners import KNOWN, MACHINE, need_runner

from isthmus.bundle.manifest import parse
from isthmus.cli import app

Capture = pytest.CaptureFixture[str]


def told(capsys: Capture, *arguments: object, code: int) -> str:
    capsys.readouterr()
    assert app.run(["verify", *map(str, arguments)]) == code
    return capsys.readouterr().err


@pytest.fixture
def altered(bundle: Path, tmp_path: Path) -> Path:
    """A copy whose manifest may be changed."""
    return Path(shutil.copytree(bundle, tmp_path / bundle.name))


def alter(folder: Path, **chip: str) -> None:
    path = folder / "manifest.json"
    found = parse(path.read_text("utf-8"))
    path.write_text(replace(found, chip=replace(found.chip, **chip)).dumps(), "utf-8")


def test_this_machine_runs_its_own(bundle: Path, capsys: Capture) -> None:
    for runner in ("auto", "native"):
        assert "requests answered within tolerance" in told(capsys, bundle, "--runner", runner, code=0)


@pytest.mark.parametrize("option", [("--model", "model.onnx"), ("--dim", "seq=1..8")])
def test_options_of_another_comparison(bundle: Path, option: tuple[str, str], capsys: Capture) -> None:
    assert f"{option[0]} is for --against onnxruntime" in told(capsys, bundle, *option, code=2)


def test_a_chip_nobody_knows(altered: Path, capsys: Capture) -> None:
    alter(altered, name="no-such-chip", arch="foreign")
    assert "E2004 wrong-machine" in told(capsys, altered, "--runner", "native", code=2)
    for runner in ("auto", "emulator"):
        assert "E1004 unknown-target: no target called 'no-such-chip'" in told(
            capsys, altered, "--runner", runner, code=2
        )


def test_the_wrong_byte_order(altered: Path, capsys: Capture) -> None:
    alter(altered, byte_order="big" if MACHINE.byte_order == "little" else "little")
    err = told(capsys, altered, "--runner", "native", code=2)
    assert "E2004 wrong-machine" in err and "-endian" in err


def test_a_missing_emulator(altered: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    target = next(t for t in KNOWN.values() if t.arch != MACHINE.arch and t.runners)
    alter(altered, name=target.name, arch=target.arch)
    monkeypatch.setenv("PATH", "")
    err = told(capsys, altered, code=2)
    assert "E2005 no-runner" in err and target.runners[0].package in err


def test_a_runner_nobody_knows(bundle: Path, capsys: Capture) -> None:
    err = told(capsys, bundle, "--runner", "nonsense", code=2)
    assert "E2005 no-runner" in err and "is called 'nonsense'" in err and "native" in err


@pytest.mark.slow
def test_another_machine_under_its_emulator(model: Path, tmp_path: Path, capsys: Capture) -> None:
    target = next(t for t in KNOWN.values() if t.arch != MACHINE.arch and t.runners)
    need_runner(target)
    assert app.run(["compile", str(model), "--target", target.name, "-o", str(tmp_path)]) == 0
    (made,) = tmp_path.iterdir()
    assert "E2004 wrong-machine" in told(capsys, made, "--runner", "native", code=2)
    err = told(capsys, made, code=0)
    assert "running under" in err and "requests answered within tolerance" in err
