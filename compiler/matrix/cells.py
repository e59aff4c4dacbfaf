"""From what the cache says of a pair to its cell: amounts, estimates, cost, and budgets held against them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isthmus.bundle.manifest import Manifest
from isthmus.errors import Problem
from isthmus.matrix.cache import Entry
from isthmus.matrix.estimate import roof, seconds
from isthmus.matrix.pairs import Pair
from isthmus.matrix.results import Latency, PairResult, Verdict
from isthmus.matrix.stages import problems_of
from isthmus.quantizer.metric import drop_of

SECONDS_PER_HOUR = 3600
MOST_CALLS = 12  # of the slowest kernel calls, in a cell's details


def failed(pair: Pair, problems: tuple[Problem, ...], took: float) -> PairResult:
    """The cell of a pair that has no bundle."""
    return PairResult(
        pair.model, pair.chip, pair.target.name, "failed", pair.threads, problems=problems, seconds=took
    )


def cell(
    pair: Pair,
    entry: Entry,
    made: Manifest,
    report: bytes,
    *,
    runner: str | None,
    check: Entry | None,
    measured: Entry | None,
    built: bool,
    took: float,
    place: Path,
) -> PairResult:
    """The cell of a bundle: `entry` is the cache's, `check` how it answered, `measured` how fast it was."""
    facts = entry["facts"]
    ran = check is not None and bool(check["ran"])
    wrong = tuple(check["wrong"]) if check is not None and ran else ()
    latency = _latency(pair, facts, measured)
    weights = made.files[made.weights].bytes if made.weights is not None else 0
    code = made.files[made.library].bytes
    memory = weights + facts["arena_bytes"] + facts["ports_bytes"]
    accuracy = check["accuracy"] if check is not None and ran else None
    start = measured["start"] if measured is not None else None
    budgets = pair.settings.budgets
    drop = None if accuracy is None or check is None else drop_of(check["exact"], accuracy)
    verdicts = [
        Verdict("latency_p50", budgets.latency_p50, latency.p50, not latency.measured)
        if budgets.latency_p50 is not None
        else None,
        Verdict("size", budgets.size, code + weights) if budgets.size is not None else None,
        Verdict("accuracy_drop", budgets.accuracy_drop, drop) if budgets.accuracy_drop is not None else None,
        Verdict("peak_memory", budgets.peak_memory, memory) if budgets.peak_memory is not None else None,
        Verdict("start", budgets.start, start) if budgets.start is not None else None,
    ]
    return PairResult(
        model=pair.model,
        chip=pair.chip,
        target=pair.target.name,
        state="built" if built else "cached",
        threads=pair.threads,
        warnings=problems_of(entry["warnings"]),
        bundle=None if wrong else place,
        digest=entry["files"]["manifest.json"],
        precision=made.precision,
        runner=runner if ran else None,
        metric=pair.metric,
        accuracy=accuracy,
        exact=None if accuracy is None or check is None else check["exact"],
        accuracy_drop=drop,
        max_abs=check["max_abs"] if check is not None and ran else None,
        wrong=wrong,
        sizes=facts["sizes"],
        latency=latency,
        start=start,
        code_bytes=code,
        weights_bytes=weights,
        peak_memory=memory,
        cost=None if pair.price is None else pair.price * latency.p50 / SECONDS_PER_HOUR * 1e6,
        verdicts=tuple(verdict for verdict in verdicts if verdict is not None),
        seconds=took,
        details=_details(pair, made, report, facts["calls"]),
    )


def _latency(pair: Pair, facts: Mapping[str, Any], measured: Entry | None) -> Latency:
    if measured is not None:
        return Latency(measured["p50"], True, "measured here", measured["low"], measured["high"])
    at = roof(pair.target, pair.speed, pair.threads)
    return Latency(seconds(facts["calls"], at), False, at.basis)


def _details(pair: Pair, made: Manifest, report: bytes, costs: list[list[int]]) -> dict[str, object]:
    """What a click on the cell shows: passes, rewrites, kernels, the calls with most arithmetic."""
    raw = json.loads(report)
    # Of a family the best level, whose plan the costs are of.
    level = raw["levels"][pair.target.levels[0].name] if "levels" in raw else raw
    calls = [
        {"op": call["op"], "kernel": call["kernel"], "type": call["type"], "node": call["node"],
         "multiply_adds": adds, "bytes": count}
        for call, (adds, count) in zip(level["calls"], costs, strict=False)
    ]  # fmt: skip
    heavy = sorted(calls, key=lambda call: (-int(str(call["multiply_adds"])), -int(str(call["bytes"]))))
    return {
        "passes": made.pipeline,
        "tools": dict(made.tools),
        "rewrites": level["rewrites"],
        "kernels": level["kernels"],
        "calls": len(calls),
        "heaviest": heavy[:MOST_CALLS],
        "sparsity": level["sparsity"],
        "quantization": raw.get("quantization", {}),
    }
