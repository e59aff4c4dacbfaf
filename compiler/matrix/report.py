"""The reports of a build: report.json, which holds everything, and what is made of it for others to read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from isthmus.errors import BundleError, Code, Problem
from isthmus.matrix.cache import FolderStore
from isthmus.matrix.diff import Change, diff_pairs
from isthmus.matrix.html import html
from isthmus.matrix.junit import junit
from isthmus.matrix.markdown import markdown
from isthmus.matrix.results import BuildResult, PairResult
from isthmus.tools.sarif import Finding, findings_log

FORMAT = 2
JSON, HTML, MARKDOWN, JUNIT, SARIF = "report.json", "report.html", "report.md", "junit.xml", "report.sarif"

Report = Mapping[str, Any]


def write_reports(result: BuildResult) -> tuple[Change, ...] | None:
    """All reports of a build, beside its bundles. What differs from the report that was there is in them, and
    returned; None if there was none. Raises `BundleError` when they cannot be written."""
    before = last_report(result.output)
    report = _with_others(report_json(result), before, result)
    changes = None if before is None else diff_pairs(before["pairs"], report["pairs"])
    texts = {
        JSON: json.dumps(report, indent=2) + "\n",
        MARKDOWN: markdown(report, changes),
        JUNIT: junit(report),
        SARIF: json.dumps(sarif_of(result), indent=2) + "\n",
        HTML: html(report, changes),
    }
    place = FolderStore(result.output)
    try:
        for name, text in texts.items():
            place.write(name, text.encode("utf-8", "replace"))
    except OSError as error:
        text = f"cannot write the reports: {error.strerror}"
        raise BundleError(Problem(Code.CANNOT_WRITE, text, place.where)) from error
    return changes


def _with_others(report: dict[str, Any], before: Report | None, result: BuildResult) -> dict[str, Any]:
    """`report` with the cells, as they were, of the declared pairs that were not asked for this time."""
    made = {cell["name"]: cell for cell in report["pairs"]}
    kept = {cell["name"]: cell for cell in (before or {"pairs": []})["pairs"]}
    pairs = [made.get(name) or kept[name] for name in result.names if name in made or name in kept]
    names = {kind: list(dict.fromkeys(cell[kind] for cell in pairs)) for kind in ("model", "chip")}
    chips = sorted(names["chip"], key=_order(result.names, "chip").index)
    found = {"cheapest": _cheapest(pairs), "models": names["model"], "chips": chips}
    return {**report, **found, "pairs": pairs}


def _order(names: Sequence[str], kind: str) -> list[str]:
    """Models or chips in the order in which they are declared."""
    return list(dict.fromkeys(name.split("@")[kind == "chip"] for name in names))


def _cheapest(cells: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """For each model the chip on which a million requests cost least, of those that pass."""
    known = [cell for cell in cells if cell["cost"] is not None and cell["status"] == "pass"]
    best: dict[str, str] = {}
    for cell in sorted(known, key=lambda cell: float(cell["cost"])):
        best.setdefault(cell["model"], cell["chip"])
    return best


def last_report(folder: Path) -> Report | None:
    """The report.json in `folder`; None if there is none, or not one of ours."""
    try:
        found = json.loads((folder / JSON).read_bytes())
    except (OSError, ValueError):
        return None
    mine = isinstance(found, dict) and found.get("format") == FORMAT and isinstance(found.get("pairs"), list)
    return found if mine else None


def report_json(result: BuildResult) -> dict[str, Any]:
    """Everything that is known of a build."""
    pairs = [_pair(pair, result.output) for pair in result.pairs]
    return {
        "format": FORMAT,
        "isthmus": version("isthmus"),
        "exit_code": result.exit_code,
        "seconds": round(result.seconds, 3),
        "work": asdict(result.work),
        "models": list(result.models),
        "chips": list(result.chips),
        "currency": result.currency,
        "cheapest": _cheapest(pairs),
        "machine": dict(result.machine),
        "tools": dict(result.tools),
        "pairs": pairs,
        "warnings": [_problem(problem) for problem in result.warnings],
    }


def _pair(pair: PairResult, output: Path) -> dict[str, Any]:
    latency = pair.latency
    return {
        "name": pair.name,
        "model": pair.model,
        "chip": pair.chip,
        "target": pair.target,
        "status": pair.status,
        "state": pair.state,
        "bundle": None if pair.bundle is None else pair.bundle.relative_to(output).as_posix(),
        "digest": pair.digest,
        "precision": pair.precision,
        "runner": pair.runner,
        "metric": pair.metric,
        "accuracy": pair.accuracy,
        "exact": pair.exact,
        "accuracy_drop": pair.accuracy_drop,
        "max_abs": pair.max_abs,
        "wrong": list(pair.wrong),
        "sizes": dict(pair.sizes),
        "threads": pair.threads,
        "latency": None if latency is None else asdict(latency),
        "start": pair.start,
        "size": pair.size,
        "code_bytes": pair.code_bytes,
        "weights_bytes": pair.weights_bytes,
        "peak_memory": pair.peak_memory,
        "cost": pair.cost,
        "budgets": [{**asdict(v), "over": v.over, "fails": v.fails} for v in pair.verdicts],
        "problems": [_problem(problem) for problem in pair.problems],
        "warnings": [_problem(problem) for problem in pair.warnings],
        "seconds": round(pair.seconds, 3),
        "details": dict(pair.details),
    }


def _problem(problem: Problem) -> dict[str, str]:
    return {
        "code": problem.code.number,
        "slug": problem.code.slug,
        "message": problem.message,
        "where": problem.where,
        "hint": problem.hint,
    }


def sarif_of(result: BuildResult) -> Mapping[str, Any]:
    """What is wrong, at the model it is wrong with, or at the configuration that asks too much."""
    return findings_log(version("isthmus"), list(_findings(result)))


def _findings(result: BuildResult) -> Iterator[Finding]:
    for pair in result.pairs:
        chip = {"targets": [pair.target], "pair": pair.name}
        for problem in pair.problems:
            yield Finding(pair.path, problem, "error", chip)
        for problem in pair.faults:
            yield Finding(result.file, problem, "error", chip, pair.line)
        for problem in pair.warnings:
            yield Finding(pair.path, problem, "warning", chip)
    for problem in result.warnings:
        yield Finding(result.file, problem, "warning", {})
