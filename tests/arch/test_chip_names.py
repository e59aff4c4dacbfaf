"""Shared code asks a chip for what it has; it never names one."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

import isthmus.targets
from isthmus.chips import discover

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ("compiler", "frontends")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".c", ".h")
)

# Names of targets, and the instruction sets they are spelt with.
# One of a single letter is a language as well.
CHIPS = [re.escape(name) for name in discover(isthmus.targets) if len(name) > 1]
WORDS = re.compile("|".join([*CHIPS, r"\b(?:sse\d|avx|neon|sve\d?|rvv|vnni|amx)\w*"]), re.IGNORECASE)


def code_of(path: Path, text: str) -> str:
    """The text without Python comments and docstrings, where naming an example is no dependency."""
    if path.suffix != ".py":
        return "\n".join(line for line in text.splitlines() if re.search("|".join(CHIPS), line))
    kept: list[str] = []
    starts_line = True
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        docstring = token.type == tokenize.STRING and starts_line
        if token.type != tokenize.COMMENT and not docstring:
            kept.append(token.string)
        starts_line = token.type in (tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT)
    return " ".join(kept)


def test_the_rule_can_fail() -> None:
    path = Path("a.py")
    assert WORDS.search(code_of(path, f'if target.name == "{CHIPS[0]}": pass\n'))
    assert WORDS.search(code_of(path, "avx512 = 1\n"))
    assert not WORDS.search(code_of(path, '"""Not on avx512."""\nlanes = 4  # avx512 has 16\n'))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_chip_is_named(path: Path) -> None:
    found = WORDS.search(code_of(path, path.read_text("utf-8")))
    assert found is None, f"{path.relative_to(ROOT)} names {found[0]!r}; ask the target for a capability"
