"""docs/adding-a-chip.md, followed to the letter: every file written as shown, every command run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from programs import REQUIRED

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/adding-a-chip.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", PAGE, re.M | re.S)


def environment(folder: Path) -> dict[str, str]:
    """Our commands first; what pip installs goes into a folder of its own, from where Python takes it."""
    site = folder / "site"
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PIP_TARGET": str(site),
        "PIP_NO_DEPS": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as: no isolation
        "PIP_NO_INDEX": "1",
        "PYTHONPATH": str(site),
        "ISTHMUS_CACHE": str(ROOT / "build/cache"),
        "ISTHMUS_CHECKOUT": str(ROOT),
    }


def script(folder: Path) -> str:
    """The page as one shell script."""
    lines = ["set -e"]
    for number, (language, path, text) in enumerate(BLOCKS):
        if language == "console":
            lines += [line.removeprefix("$ ") for line in text.splitlines()]
        elif path:
            (folder / f"block{number}").write_text(text, "utf-8")
            lines.append(f'cp "{folder}/block{number}" "{path}"')
    return "\n".join(lines) + "\n"


def test_it_takes_less_than_sixty_lines() -> None:
    written = [text for _, path, text in BLOCKS if path]
    assert written
    assert sum(len(text.splitlines()) for text in written) < 60


@pytest.mark.slow
def test_the_page_works(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        ["bash", "-c", script(tmp_path)],
        cwd=work,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    if "E2005 no-runner" in said and not REQUIRED:
        pytest.skip(f"not run: {said}")
    assert done.returncode == 0, said
    scores = re.findall(r"^(\d+) of (\d+) passed on (\S+)", done.stdout, re.M)
    assert [name for _, _, name in scores] == ["mips64el", "imaginary-npu"]
    assert all(passed == total != "0" for passed, total, _ in scores)
    assert not (ROOT / "targets/mips64el.py").exists()
