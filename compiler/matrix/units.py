"""Amounts as people write them in a configuration: "20 ms", "80 MB", "1 %"."""

from __future__ import annotations

import re
from collections.abc import Mapping

SECONDS: Mapping[str, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
BYTES: Mapping[str, float] = {
    "B": 1, "kB": 1e3, "KB": 1e3, "K": 1e3, "MB": 1e6, "M": 1e6, "GB": 1e9, "G": 1e9,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
}  # fmt: skip
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+|%)\s*", re.ASCII)


def amount(text: str, units: Mapping[str, float]) -> float | None:
    """The number in units of 1; None if `text` is no number with one of `units`."""
    found = _AMOUNT.fullmatch(text)
    if found is None or found[2] not in units:
        return None
    return float(found[1]) * units[found[2]]


def pattern(units: Mapping[str, float]) -> str:
    """The regular expression of such texts, for editors."""
    return rf"^\s*\d+(\.\d+)?\s*({'|'.join(units)})\s*$"
