"""The formats that benchmarks/sparse.py times, and what becomes of its times: the plot and the tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Format:
    """Zeros taken as `prunes` says, with `{}` for their share, in products of this precision, and stored as
    `stored`, as a report says it. `shares`: the only ones there are."""

    name: str
    precision: str
    prunes: str
    stored: str
    shares: tuple[float, ...] = ()

    def sparsity(self, share: float) -> str:
        """What is asked of pruning."""
        return self.prunes.format(share)

    def holds(self, stored: str) -> bool:
        """Whether a matrix that is stored like this is in this format."""
        return stored.startswith(self.stored)


FORMATS: Mapping[str, Format] = {
    form.name: form
    for form in (
        Format("f32 csr", "f32", "unstructured@{}", "csr("),
        Format("f32 4x1", "f32", "block:4x1@{}", "block(4x1,"),
        Format("bf16 1x2", "bf16", "unstructured@{}", "block(1x2,"),
        Format("bf16 4x2", "bf16", "block:4x2@{}", "block(4x2,"),
        Format("int8 1x4", "int8", "block:1x4@{}", "block(1x4,"),
        Format("int8 4x4", "int8", "block:4x4@{}", "block(4x4,"),
        Format("int8 2:4", "int8", "2:4", "nm(2:4,", (0.5,)),
    )
}


def read(path: Path) -> Result:
    """What was measured before."""
    with suppress(FileNotFoundError):
        found: Result = json.loads(path.read_text("utf-8"))
        return found
    return {}


def merge(before: Result, now: Result) -> Result:
    """`now` over what was found `before`, key by key."""
    made = dict(before)
    for key, value in now.items():
        both = isinstance(value, dict) and isinstance(made.get(key), dict)
        made[key] = merge(made[key], value) if both else value
    return made


def tables(found: Result) -> str:
    """Markdown of everything in `found`: times dense by share and format, in parentheses where the decision
    keeps matrices dense; then what peers take."""
    points = {(name, share): point for name, point, share in _points(found)}
    names = [name for name in FORMATS if any(name == of for of, _ in points)]
    lines = [f"| zeros | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    dense = {name: point["dense_ms"] for (name, _), point in points.items()}
    lines.append(f"| dense, ms | {' | '.join(f'{dense[name]:.1f}' for name in names)} |")
    for share in sorted({share for _, share in points}):
        cells = [_times_dense(points.get((name, share))) for name in names]
        lines.append(f"| {100 * share:g} % | {' | '.join(cells)} |")
    lines += ["", "| zeros | engine | ms | ours is faster, times |", "|---" * 4 + "|"]
    for text, engines in sorted(found.get("peers", {}).items()):
        for engine, timed in engines.items():
            gain = f"{timed['gain'][1]:.2f}" if "gain" in timed else ""
            lines.append(f"| {100 * float(text):g} % | {engine} | {timed['ms']:.1f} | {gain} |")
    return "\n".join(lines) + "\n"


def _times_dense(point: Result | None) -> str:
    if point is None:
        return ""
    return f"{point['gain'][1]:.2f}" if point["decided"] else f"({point['gain'][1]:.2f})"


def _points(found: Result) -> list[tuple[str, Result, float]]:
    latency = found.get("latency", {})
    return [
        (name, point, share)
        for name in FORMATS
        for share, point in sorted((float(s), p) for s, p in latency.get(name, {}).items())
    ]


def draw(found: Result, path: Path) -> None:
    """Speed over dense by the share of zeros, a line for each format: a mark is full where the decision
    stores matrices without zeros (so, or in a form that is expected to be even better), half where it does so
    with some, and empty where it keeps them dense."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "isthmus"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 5))
    for name in FORMATS:
        points = [(share, point) for of, point, share in _points(found) if of == name]
        if not points:
            continue
        shares, gains = [share for share, _ in points], [point["gain"][1] for _, point in points]
        (line,) = axes.plot(shares, gains, linewidth=1.2, label=name)
        for share, point in points:
            taken = point["decided"] / point["matrices"]
            style = "full" if taken == 1 else "left" if taken else "none"
            color = line.get_color()
            axes.plot(share, point["gain"][1], marker="o", fillstyle=style, color=color, linestyle="none")
    axes.axhline(1, color="#333333", linewidth=0.8, label="dense")
    axes.set_yscale("log")
    ticks = (0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 7)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of zeros in the matrices; empty marks: the decision keeps them dense")
    axes.set_ylabel("MiniLM-L3 8 x 128, times dense in the same precision")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
