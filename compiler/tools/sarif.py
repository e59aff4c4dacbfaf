"""Problems as SARIF 2.1.0, which code hosts and editors show where they belong.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

from isthmus.errors import Code, Problem

Json: TypeAlias = "str | int | Sequence[Json] | Mapping[str, Json]"
SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def sarif(
    model: Path, version: str, errors: Iterable[tuple[Problem, Sequence[str]]], warnings: Iterable[Problem]
) -> Mapping[str, Json]:
    """A log with one result for each problem; an error comes with the targets that have it."""
    found = [(p, "error", {"targets": list(targets)}) for p, targets in errors]
    found += [(p, "warning", {}) for p in warnings]
    codes = sorted({problem.code for problem, _, _ in found}, key=lambda code: code.number)
    results = [
        {**_result(model, problem, codes), "level": level, "properties": properties}
        for problem, level, properties in found
    ]
    rules = [{"id": code.number, "name": code.slug} for code in codes]
    driver: Mapping[str, Json] = {"name": "isthmus", "version": version, "rules": rules}
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def _result(model: Path, problem: Problem, codes: Sequence[Code]) -> Mapping[str, Json]:
    hint = f" ({problem.hint})" if problem.hint else ""
    uri = model.as_uri() if model.is_absolute() else quote(model.as_posix())
    place: dict[str, Json] = {
        "physicalLocation": {"artifactLocation": {"uri": uri}},
    }
    if problem.where:
        place["logicalLocations"] = [{"name": problem.where, "fullyQualifiedName": problem.where}]
    return {
        "ruleId": problem.code.number,
        "ruleIndex": codes.index(problem.code),
        "message": {"text": f"{problem.message}{hint}"},
        "locations": [place],
    }
