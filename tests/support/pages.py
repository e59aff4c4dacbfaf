"""What pages say is tested."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def named_tests(page: str) -> tuple[set[str], set[str]]:
    """Files and functions of tests that `page` names, after it was seen that all of them are there."""
    tests = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    files = set(re.findall(r"`(tests/[\w/]+\.py)`", page))
    names = set(re.findall(r"`(test_\w+)`", page))
    assert all((ROOT / file).is_file() for file in files)
    assert not [name for name in names if f"def {name}(" not in tests]
    return files, names
