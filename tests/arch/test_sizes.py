"""Small files: past 400 lines a warning, past 600 a failure."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("compiler", "examples", "frontends", "scripts", "targets", "tests")
ENDINGS = {".py", ".c", ".h"}


@pytest.mark.filterwarnings("default:.*lines; split")
def test_files_are_small() -> None:
    sizes = {
        path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines())
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in ENDINGS
    }
    assert sizes, "no sources found"
    for path, lines in sizes.items():
        if lines > 400:
            warnings.warn(f"{path} has {lines} lines; split it before it has 600", stacklevel=1)
    assert not {path: lines for path, lines in sizes.items() if lines > 600}


def test_a_chip_is_a_short_file() -> None:
    sizes = {path.name: len(path.read_text("utf-8").splitlines()) for path in (ROOT / "targets").glob("*.py")}
    assert len(sizes) > 5
    assert not {name: lines for name, lines in sizes.items() if lines > 120}
