"""docs/build.md, followed to the letter, with the real model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import named_tests

from isthmus.matrix.config import Budgets, Chip, Config, Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "build.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", PAGE, re.M | re.S)


def test_every_key_is_described() -> None:
    told = set(re.findall(r"[`.\[]([a-z_0-9]+)[\]`.]", PAGE))
    for table in (Config, Settings, Budgets, Chip):
        keys = {name for name, f in table.__dataclass_fields__.items() if "kind" in f.metadata}
        assert keys <= told, f"{table.__name__}: {keys - told} is not in docs/build.md"


def test_what_is_said_to_be_tested_is() -> None:
    files, names = named_tests(PAGE)
    assert len(files) >= 6 and len(names) >= 7


@pytest.mark.slow
def test_the_page_works(tmp_path: Path, minilm: Path) -> None:
    (tmp_path / "minilm.onnx").symlink_to(minilm)
    lines = ["set -e"]
    for language, name, text in BLOCKS:
        if language == "toml":
            (tmp_path / name).write_text(text)
        elif language == "console" and not name:
            lines += [line.removeprefix("$ ") for line in text.splitlines()]
        elif language == "python":
            (tmp_path / "build.py").write_text(text)
            lines.append("python -W error build.py")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "minilm@server: the same bytes" in done.stdout
    assert "'minilm@server': ('pass'," in done.stdout and "0 {'minilm':" in done.stdout
    assert (tmp_path / "dist" / "report.html").is_file()


def test_a_model_and_a_chip_more_take_a_few_lines() -> None:
    """The matrix that is measured: a row and a column cost at most six lines each."""
    text = (ROOT / "benchmarks" / "matrix.toml").read_text("utf-8")
    parts = re.split(r"^(?=\[)", text, flags=re.M)
    for kind, count in (("models", 6), ("chips", 8)):
        lengths = [
            len([line for line in part.splitlines() if line.strip() and not line.startswith("#")])
            for part in parts
            if part.startswith(f"[{kind}.")
        ]
        assert len(lengths) == count
        # A chip has its line in the price sheet as well.
        assert max(lengths) + (kind == "chips") <= 6
