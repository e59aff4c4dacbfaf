"""CONTRIBUTING.md describes the tree that is there, and links in the documents lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

# Parts that need no row of their own.
UNLISTED = {"compiler/__init__.py", "compiler/py.typed", "frontends/__init__.py"}


def listed() -> set[str]:
    """The paths of the layout table."""
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.M)
    return {row.rstrip("/") for row in rows}


def present() -> set[str]:
    """What the table has to cover: the top-level folders, and the parts of the package."""
    parts = {
        path.relative_to(ROOT).as_posix()
        for folder in ("compiler", "frontends")
        for path in (ROOT / folder).iterdir()
        if path.name != "__pycache__" and (path.is_file() or any(path.rglob("*.py")))
    }
    whole = {f"{name}" for name in ("targets", "benchmarks", "examples", "scripts", "tests", "docs")}
    return (parts | whole) - UNLISTED


def test_the_table_is_the_tree() -> None:
    assert listed() == present()


def links(text: str) -> list[str]:
    """Targets of relative Markdown links, and paths of ours in code quotes."""
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text)]
    quoted = re.findall(r"`((?:compiler|docs|examples|frontends|scripts|targets|tests)/[\w./-]+)`", text)
    return [target for target in [*targets, *quoted] if target and "://" not in target]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    broken = [
        target
        for target in links(document.read_text("utf-8"))
        if not (document.parent / target).exists() and not (ROOT / target).exists()
    ]
    assert not broken
