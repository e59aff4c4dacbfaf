"""Error codes: one meaning each, all in use, all explained in docs/errors.md."""

from __future__ import annotations

import re
from pathlib import Path

from isthmus.errors import Code

ROOT = Path(__file__).resolve().parents[2]


def test_codes_are_unique() -> None:
    assert len(Code.__members__) == len(list(Code)), "two names share one value"
    assert len({code.number for code in Code}) == len(list(Code)), "two codes share a number"
    assert len({code.slug for code in Code}) == len(list(Code)), "two codes share a slug"
    for code in Code:
        assert re.fullmatch(r"[EW]\d{4} [a-z]+(-[a-z]+)*", code.value), code
        assert code.name == code.slug.replace("-", "_").upper(), f"{code.name} is called {code.slug}"


def test_codes_are_documented() -> None:
    headings = re.findall(
        r"^### `([EW]\d{4} [a-z-]+)`$", (ROOT / "docs" / "errors.md").read_text("utf-8"), re.M
    )
    assert headings == sorted(code.value for code in Code)


def test_codes_are_used() -> None:
    sources = "\n".join(
        path.read_text("utf-8")
        for folder in ("compiler", "frontends", "targets")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "errors.py"
    )
    assert not [code.name for code in Code if f"Code.{code.name}" not in sources]
