"""Amounts as reports show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isthmus.matrix.diff import Field

NONE = "–"
_SECONDS, _BYTES = ("latency_p50", "latency_p50 (estimate)", "start"), ("size", "peak_memory")
_DIGEST = 64
ROUNDINGS = 1e-6  # of a share


def duration(seconds: float | None) -> str:
    """12.3 µs, 4.56 ms, 7.89 s."""
    if seconds is None:
        return NONE
    for scale, unit in ((1e6, "µs"), (1e3, "ms")):
        if seconds * scale < 999.5:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"


def size(count: float | None) -> str:
    """512 B, 69.1 MB (powers of ten)."""
    if count is None:
        return NONE
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count:.0f} B"


def accuracy(value: float | None) -> str:
    """Six digits behind the point."""
    return NONE if value is None else f"{value:.6f}"


def latency(cell: Mapping[str, Any]) -> str:
    """The median; an estimate says so."""
    found = cell["latency"]
    if found is None:
        return NONE
    return duration(found["p50"]) + ("" if found["measured"] else " (estimate)")


def cost(cell: Mapping[str, Any]) -> str:
    """Of a million requests, three digits."""
    return NONE if cell["cost"] is None else f"{cell['cost']:.3g}"


def limit(budget: str, value: float | None) -> str:
    """A budget, or what was used of it, in its unit."""
    if value is None:
        return NONE
    if budget in _SECONDS:
        return duration(value)
    return size(value) if budget in _BYTES else share(value)


def share(value: float) -> str:
    """0.5 %, three digits; roundings are not told."""
    return f"{value * 100:.3g} %" if value == 0 or value >= ROUNDINGS else f"< {ROUNDINGS * 100:g} %"


def over(cell: Mapping[str, Any]) -> list[str]:
    """In words, the budgets that a cell exceeds."""
    return [
        f"{b['budget']} is {limit(b['budget'], b['value'])}, the budget is {limit(b['budget'], b['limit'])}"
        + (" (an estimate, which fails nothing)" if b["estimated"] else "")
        for b in cell["budgets"]
        if b["over"]
    ]


def change(field: Field) -> str:
    """One difference in words: `size: 2.1 MB → 1.9 MB (-9.5 %)`."""
    before, after = (value(field.name, side) for side in (field.before, field.after))
    text = f"{field.name}: {before} → {after}"
    numbers = [side for side in (field.before, field.after) if isinstance(side, int | float)]
    if len(numbers) == 2 and numbers[0] and field.name.split()[0] not in ("kernel", "rewrite", "calls"):
        text += f" ({(numbers[1] / numbers[0] - 1) * 100:+.1f} %)"
    return text


def value(name: str, side: object) -> str:
    """One side of a difference."""
    if isinstance(side, int | float):
        if name in _SECONDS:
            return duration(side)
        return size(side) if name in (*_BYTES, "code_bytes", "weights_bytes") else f"{side:.6g}"
    text = NONE if side is None else str(side)
    return text[:12] if len(text) == _DIGEST else text
