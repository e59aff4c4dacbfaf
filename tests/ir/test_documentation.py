"""The examples in docs/ir-text.md are executed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from isthmus.errors import ModelError
from isthmus.ir.printer import show
from isthmus.ops.text import parse


@pytest.fixture(scope="module")
def blocks(root: Path) -> list[tuple[str, str]]:
    """(language, text) of each example."""
    text = (root / "docs" / "ir-text.md").read_text("utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)


def test_programs_print_as_they_are_written(blocks: list[tuple[str, str]]) -> None:
    programs = [text for language, text in blocks if language == "isthmus"]
    assert programs
    for text in programs:
        assert show(parse(text)) == text


def test_python_runs(blocks: list[tuple[str, str]]) -> None:
    scope: dict[str, object] = {}
    sources = [text for language, text in blocks if language == "python"]
    assert len(sources) >= 3
    for text in sources:
        exec(compile(text, "docs/ir-text.md", "exec"), scope)


def test_the_error_shown_is_the_error_told(blocks: list[tuple[str, str]]) -> None:
    (shown,) = [text for _, text in blocks if text.startswith("E1301")]
    text = "program m {\n  dim n = 1..\n  graph main(%x: f32[n]) {\n    %0 = rleu(%x) : f32[n]\n"
    with pytest.raises(ModelError) as caught:
        parse(text, where="1-clean.txt")
    assert f"{caught.value}\n" == shown
