"""The build as JUnit XML, which every CI shows: a suite for each model, a test for each chip."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree as Xml

from isthmus.matrix import words

# What XML 1.0 has no way to say.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: Mapping[str, Any]) -> str:
    """An error is a pair without a bundle; a failure one that answers wrongly or is over a budget."""
    root = Xml.Element("testsuites", name="isthmus build", time=str(report["seconds"]))
    for model in report["models"]:
        cells = [cell for cell in report["pairs"] if cell["model"] == model]
        found = [cell["status"] for cell in cells]
        suite = Xml.SubElement(
            root,
            "testsuite",
            name=model,
            tests=str(len(cells)),
            errors=str(found.count("failed")),
            failures=str(found.count("wrong") + found.count("over")),
        )
        for cell in cells:
            _case(suite, cell)
    Xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, encoding="unicode") + "\n"


def _case(suite: Xml.Element, cell: Mapping[str, Any]) -> None:
    case = Xml.SubElement(
        suite, "testcase", classname=cell["model"], name=cell["chip"], time=str(cell["seconds"])
    )
    problems = [f"{p['code']} {p['slug']}: {p['message']}" for p in cell["problems"]]
    if problems:
        _told(case, "error", problems)
    elif cell["status"] != "pass":
        _told(case, "failure", [*cell["wrong"], *words.over(cell)])
    facts = (
        f"accuracy {words.accuracy(cell['accuracy'])}, latency {words.latency(cell)}, "
        f"size {words.size(cell['size'])}, start {words.duration(cell['start'])}"
    )
    Xml.SubElement(case, "system-out").text = facts


def _told(case: Xml.Element, kind: str, texts: list[str]) -> None:
    clean = [_FORBIDDEN.sub("?", text) for text in texts]
    Xml.SubElement(case, kind, message=clean[0]).text = "\n".join(clean)
