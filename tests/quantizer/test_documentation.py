"""What docs/quantization.md shows works as shown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.passes.quantize.options import SCHEMES

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "quantization.md").read_text("utf-8")


@pytest.mark.slow
def test_code(minilm: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").symlink_to(minilm)
    for code in re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.M | re.S):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_every_name_is_in_the_table() -> None:
    table = "\n".join(line for line in DOCUMENT.splitlines() if line.startswith("| `"))
    for name in SCHEMES:
        assert f"`{name}`" in table or f"`-{name.split('-')[1]}`" in table, name


def test_what_is_said_to_be_tested_is() -> None:
    table = DOCUMENT.split("## Where it is shown")[1]
    root = Path(__file__).resolve().parents[2]
    named = 0
    for part in re.split(r"(?=`tests/)", table)[1:]:
        file = re.findall(r"`(tests/[\w/]+\.py)`", part)[0]
        text = (root / file).read_text("utf-8")
        names = re.findall(r"`(test_\w+)`", part)
        assert not [name for name in names if f"def {name}(" not in text], file
        named += len(names)
    assert named >= 40
