"""The summary of a build as Markdown, for a pull request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from isthmus.matrix import words
from isthmus.matrix.diff import Change

MARKS = {"pass": "✅", "over": "⚠️ over budget", "wrong": "❌ wrong", "failed": "❌ failed"}
MOST_CHANGES = 40


def markdown(report: Mapping[str, Any], changes: Sequence[Change] | None) -> str:
    """A table of all pairs, what is wrong, and what changed since the last build."""
    cells = report["pairs"]
    good = sum(cell["status"] == "pass" for cell in cells)
    cost = f"{_plain(report['currency'])} / million"
    lines = [
        f"## Isthmus: {good} of {len(cells)} pairs pass",
        "",
        f"| model | chip | | accuracy | latency (median) | size | start | {cost} |",
        "|---|---|---|--:|--:|--:|--:|--:|",
        *(_row(cell, report["cheapest"].get(cell["model"]) == cell["chip"]) for cell in cells),
        "",
        "Bold: the cheapest chip for the model. An estimate is computed from a roofline, not measured.",
    ]
    lines += _section("What is wrong", [text for cell in cells for text in _wrong(cell)])
    if changes is not None:
        texts = [_change(change) for change in changes]
        more = [f"... and {len(texts) - MOST_CHANGES} more"] if len(texts) > MOST_CHANGES else []
        lines += _section("Since the last build", [*texts[:MOST_CHANGES], *more] or ["nothing changed"])
    return "\n".join(lines) + "\n"


def _row(cell: Mapping[str, Any], cheapest: bool) -> str:
    cost = words.cost(cell)
    parts = [
        _plain(cell["model"]),
        _plain(cell["chip"]),
        MARKS[cell["status"]],
        words.accuracy(cell["accuracy"]),
        words.latency(cell),
        words.size(cell["size"]),
        words.duration(cell["start"]),
        f"**{cost}**" if cheapest else cost,
    ]
    return f"| {' | '.join(parts)} |"


def _wrong(cell: Mapping[str, Any]) -> list[str]:
    problems = [f"{p['code']} {p['message']}" for p in cell["problems"]]
    return [f"`{cell['name']}`: {_plain(t)}" for t in (*problems, *cell["wrong"], *words.over(cell))]


def _change(change: Change) -> str:
    if change.kind != "changed":
        return f"`{change.pair}`: {change.kind}"
    return f"`{change.pair}`: {_plain('; '.join(words.change(field) for field in change.fields))}"


def _section(title: str, texts: Sequence[str]) -> list[str]:
    return ["", f"### {title}", "", *(f"- {text}" for text in texts)] if texts else []


def _plain(text: str) -> str:
    """`text` with what Markdown would take for something else."""
    flat = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_|[]" else letter for letter in escape(flat, quote=False))
