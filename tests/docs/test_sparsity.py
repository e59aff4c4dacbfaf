"""What the page about sparsity shows works as shown."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sparsity.md").read_text("utf-8")


def test_the_examples_run() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, "docs/sparsity.md", "exec"), {})
