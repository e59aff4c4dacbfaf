"""Problems as SARIF 2.1.0, which code hosts and editors show where they belong.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import quote

from isthmus.errors import Code, Problem

Json: TypeAlias = "str | int | Sequence[Json] | Mapping[str, Json]"
SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def sarif(
    model: Path, version: str, errors: Iterable[tuple[Problem, Sequence[str]]], warnings: Iterable[Problem]
) -> Mapping[str, Json]:
    """A log with one result for each problem; an error comes with the targets that have it."""
    found = [Finding(model, p, "error", {"targets": list(targets)}) for p, targets in errors]
    found += [Finding(model, p, "warning", {}) for p in warnings]
    return findings_log(version, found)


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem with a file; `line` where it is a text."""

    file: Path
    problem: Problem
    level: Literal["error", "warning"]
    properties: Mapping[str, Json]
    line: int | None = None


def findings_log(version: str, found: Sequence[Finding]) -> Mapping[str, Json]:
    """A log with one result for each finding."""
    codes = sorted({one.problem.code for one in found}, key=lambda code: code.number)
    results = [{**_result(one, codes), "level": one.level, "properties": one.properties} for one in found]
    rules = [{"id": code.number, "name": code.slug} for code in codes]
    driver: Mapping[str, Json] = {"name": "isthmus", "version": version, "rules": rules}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def _result(one: Finding, codes: Sequence[Code]) -> Mapping[str, Json]:
    file, problem = one.file, one.problem
    hint = f" ({problem.hint})" if problem.hint else ""
    uri = file.as_uri() if file.is_absolute() else quote(file.as_posix())
    region: dict[str, Json] = {} if one.line is None else {"region": {"startLine": one.line}}
    place: dict[str, Json] = {
        "physicalLocation": {"artifactLocation": {"uri": uri}, **region},
    }
    if problem.where:
        place["logicalLocations"] = [{"name": problem.where, "fullyQualifiedName": problem.where}]
    return {
        "ruleId": problem.code.number,
        "ruleIndex": codes.index(problem.code),
        "message": {"text": f"{problem.message}{hint}"},
        "locations": [place],
    }
