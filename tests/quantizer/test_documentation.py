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
