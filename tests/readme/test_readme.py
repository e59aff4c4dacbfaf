"""What the README shows works as shown."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def commands() -> list[str]:
    """The lines after a prompt."""
    return [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture
def desk(tmp_path: Path, minilm: Path) -> Path:
    """A folder that looks like the checkout, and takes what the commands write."""
    for name in ("examples", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "model.onnx").symlink_to(minilm)
    return tmp_path


def environment(data: Path) -> dict[str, str]:
    """This interpreter's commands first, and data that is already there."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "ISTHMUS_DATA": str(data)}


def test_it_opens_with_make_demo_and_make_test() -> None:
    assert [shlex.split(line, comments=True) for line in commands()[:2]] == [
        ["make", "demo"],
        ["make", "test"],
    ]


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("make ")])
def test_make_knows(line: str) -> None:
    arguments = shlex.split(line, comments=True)
    result = subprocess.run([*arguments, "--dry-run"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_commands(desk: Path, minilm: Path) -> None:
    lines = [line for line in commands() if not line.startswith(("make ", ". .venv/"))]
    assert len(lines) >= 8
    script = "\n".join(["set -euo pipefail", *lines])
    result = subprocess.run(
        ["bash", "-c", script],
        cwd=desk,
        env=environment(minilm.parents[1]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert (desk / "out.npz").is_file()


@pytest.mark.slow
def test_python(desk: Path, minilm: Path, data: Callable[[str], Path]) -> None:
    (block,) = blocks("python")
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=desk,
        env=environment(minilm.parents[1]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "'461': (1, 384)" in result.stdout
