"""What differs between two builds, or two bundles: accuracy, time, size, passes, kernels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from isthmus.bundle.manifest import NAME as MANIFEST
from isthmus.bundle.reader import open_bundle
from isthmus.errors import Code, ModelError, Problem
from isthmus.matrix.cache import file_digest

REPORT = "report.json"
# Of times that were measured: less than that is noise, not a difference.
NOISE = 0.1
# Of an accuracy: less than that is how numbers were rounded.
ROUNDINGS = 1e-6

Cell = Mapping[str, Any]
Value = str | int | float | None


@dataclass(frozen=True, slots=True)
class Field:
    """One thing that differs; amounts are in seconds and bytes. None: not known, or not there."""

    name: str
    before: Value
    after: Value


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a pair."""

    pair: str
    kind: Literal["new", "gone", "changed"]
    fields: tuple[Field, ...] = ()


def diff_pairs(before: Sequence[Cell], after: Sequence[Cell]) -> tuple[Change, ...]:
    """Pairs of two reports that are new, gone or different, in the order of the later one."""
    old, new = ({cell["name"]: cell for cell in cells} for cells in (before, after))
    changes = [
        Change(name, "changed", diff_cells(old[name], cell)) if name in old else Change(name, "new")
        for name, cell in new.items()
    ]
    gone = [Change(name, "gone") for name in old if name not in new]
    return (*(change for change in changes if change.kind != "changed" or change.fields), *gone)


def diff_cells(before: Cell, after: Cell) -> tuple[Field, ...]:
    """Everything that differs between two cells."""
    plain = (
        "status",
        "digest",
        "precision",
        "metric",
        "size",
        "code_bytes",
        "weights_bytes",
        "peak_memory",
    )
    found = [Field(name, before.get(name), after.get(name)) for name in plain]
    found += _accuracy(before.get("accuracy"), after.get("accuracy"))
    found += [*_times(before, after), *_details(before.get("details") or {}, after.get("details") or {})]
    return tuple(field for field in found if field.before != field.after)


def _accuracy(before: float | None, after: float | None) -> Iterable[Field]:
    """What is further apart than roundings are."""
    if before is None or after is None or abs(after - before) > ROUNDINGS * max(1.0, abs(before)):
        yield Field("accuracy", before, after)


def _times(before: Cell, after: Cell) -> Iterable[Field]:
    """Latency and start, where they differ by more than noise; an estimate only compares with another."""
    one, other = before.get("latency") or {}, after.get("latency") or {}
    kind = "latency_p50" if other.get("measured") else "latency_p50 (estimate)"
    if bool(one) and bool(other) and one["measured"] == other["measured"]:
        yield from _beyond_noise(kind, one["p50"], other["p50"])
    if before.get("start") is not None and after.get("start") is not None:
        yield from _beyond_noise("start", before["start"], after["start"])


def _beyond_noise(name: str, before: float, after: float) -> Iterable[Field]:
    if abs(after - before) > NOISE * before:
        yield Field(name, before, after)


def _details(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[Field]:
    if not before or not after:
        return
    yield Field("passes", before["passes"], after["passes"])
    yield Field("calls", before["calls"], after["calls"])
    yield from _tables("tool", before["tools"], after["tools"])
    yield from _tables("rewrite", before["rewrites"], after["rewrites"])
    uses = ({kernel["symbol"]: kernel["uses"] for kernel in cell["kernels"]} for cell in (before, after))
    yield from _tables("kernel", *uses)


def _tables(what: str, before: Mapping[str, Value], after: Mapping[str, Value]) -> Iterable[Field]:
    for name in sorted(before.keys() | after.keys()):
        yield Field(f"{what} {name}", before.get(name), after.get(name))


# What `isthmus diff` is given


def diff_paths(before: Path, after: Path) -> tuple[Change, ...]:
    """What differs between two reports, or two bundles. Raises `ModelError` and `BundleError`."""
    sides = [_read(path) for path in (before, after)]
    if all(isinstance(side, Mapping) for side in sides):
        one, other = sides
        assert isinstance(one, Mapping) and isinstance(other, Mapping)
        fields = diff_cells(one, other)
        names = dict.fromkeys((one["name"], other["name"]))
        return (Change(" -> ".join(names), "changed", fields),) if fields else ()
    if any(isinstance(side, Mapping) for side in sides):
        text = "a bundle and a report cannot be compared"
        hint = "give two bundles, or two folders or files with a report"
        raise ModelError(Problem(Code.BAD_OPTION, text, f"{before} {after}", hint))
    return diff_pairs(sides[0], sides[1])  # type: ignore[arg-type]


def _read(path: Path) -> Cell | Sequence[Cell]:
    """A bundle as a cell, a report as its cells."""
    if (path / MANIFEST).is_file():
        return _bundle(path)
    file = path / REPORT if path.is_dir() else path
    try:
        found = json.loads(file.read_bytes())
        cells = found["pairs"]
        assert all({"name", "status"} <= cell.keys() for cell in cells)
    except FileNotFoundError:
        text = "there is neither a bundle nor a report here"
        raise ModelError(Problem(Code.NO_REPORT, text, str(path))) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError):
        hint = f"give the {REPORT} that `isthmus build` wrote, or its folder"
        raise ModelError(Problem(Code.NO_REPORT, "this is no report of a build", str(file), hint)) from None
    return list(cells)


def _bundle(path: Path) -> Cell:
    """What a bundle says of itself; if it was built beside a report that knows it, also what that says."""
    made = open_bundle(path).manifest
    digest = file_digest(path / MANIFEST)
    for cell in _beside(path):
        if cell.get("digest") == digest and cell["details"]:
            return cell
    raw = json.loads((path / REPORT).read_bytes())
    level = next(iter(raw["levels"].values())) if "levels" in raw else raw
    weights = made.files[made.weights].bytes if made.weights is not None else 0
    code = made.files[made.library].bytes
    return {
        "name": made.folder,
        "digest": digest,
        "precision": made.precision,
        "size": code + weights,
        "code_bytes": code,
        "weights_bytes": weights,
        "details": {
            "passes": made.pipeline,
            "tools": dict(made.tools),
            "rewrites": level["rewrites"],
            "kernels": level["kernels"],
            "calls": len(level["calls"]),
        },
    }


def _beside(path: Path) -> Sequence[Cell]:
    try:
        found = _read(path.absolute().parent / REPORT)
    except ModelError:
        return ()
    return found if isinstance(found, Sequence) else ()
