"""`isthmus inspect`: what is in a bundle, and how it was made."""

from __future__ import annotations

import json
from pathlib import Path

import click

from isthmus.bundle.manifest import DimBounds, Manifest
from isthmus.bundle.reader import Bundle, missing, open_bundle
from isthmus.cli.arguments import PATH
from isthmus.cli.output import Json, bytes_text, console, facts, json_option, show_json, table
from isthmus.cli.sparsity import show_sparsity
from isthmus.machine import Machine

REPORT = "report.json"


@click.command("inspect")
@click.argument("bundle", type=PATH)
@json_option
def command(bundle: Path, as_json: bool) -> None:
    """Show what is in BUNDLE and how it was made; it need not be for this machine.

    Checks the digest of every file on the way.

    \b
    Examples:
      isthmus inspect dist/model@chip
      isthmus inspect dist/model@chip --json
    """
    opened = open_bundle(bundle)
    report = read_report(opened)
    if as_json:
        show_json(_as_json(opened, report))
        return
    _show_summary(opened)
    _show_ports(opened.manifest)
    _show_report(report)
    _show_files(opened.manifest)


def read_report(bundle: Bundle) -> dict[str, Json]:
    """report.json, which may be absent: empty then."""
    if REPORT not in bundle.manifest.files:
        return {}
    report = json.loads(bundle.file(REPORT).read_text("utf-8"))
    return report if isinstance(report, dict) else {}


def _show_summary(bundle: Bundle) -> None:
    manifest = bundle.manifest
    chip, files = manifest.chip, manifest.files
    lacking = missing(chip, Machine.here())
    weights = bytes_text(files[manifest.weights].bytes) if manifest.weights else "none"
    rows = [
        ("model", f"{manifest.name}  (sha256 {manifest.model_digest[:16]})"),
        ("target", f"{chip.name}  ({chip.arch}, {chip.os})"),
        ("runs here", f"no: this machine {'; '.join(lacking)}" if lacking else "yes"),
        ("precision", manifest.precision),
        ("dims", ", ".join(map(bounds_text, manifest.dims)) or "none: every size is fixed"),
        ("fixed inputs", ", ".join(f"{f.name} = {f.value[:40]}" for f in manifest.fixed)),
        ("padding", f"dropped where {manifest.padding} is 0" if manifest.padding else ""),
        ("code", bytes_text(files[manifest.library].bytes)),
        ("weights", weights),
        ("passes", manifest.pipeline),
        ("made with", ", ".join(f"{name} {version}" for name, version in manifest.tools)),
    ]
    console().print(facts((name, value) for name, value in rows if value))


def bounds_text(dim: DimBounds) -> str:
    """`seq 1..512`, `seq 128`, or `seq any` with its smallest size when that is not 1."""
    if dim.high is None:
        return f"{dim.name} any" if dim.low <= 1 else f"{dim.name} {dim.low}.."
    return f"{dim.name} {dim.low}" if dim.low == dim.high else f"{dim.name} {dim.low}..{dim.high}"


def _show_ports(manifest: Manifest) -> None:
    grid = table("entry", "", "name", "type")
    for entry in manifest.entries:
        rows = [("input", port) for port in entry.inputs] + [("output", port) for port in entry.outputs]
        for number, (role, port) in enumerate(rows):
            dims = ", ".join(map(str, port.dims))
            grid.add_row("" if number else entry.name, role, port.name, f"{port.dtype}[{dims}]")
    console().print(grid)


def _show_report(report: dict[str, Json]) -> None:
    """The report, or one for each level of a family."""
    levels = report.get("levels")
    for name, level in levels.items() if isinstance(levels, dict) else ():
        console().print(f"level {name}")
        if isinstance(level, dict):
            _show_report(level)
    kernels, rewrites = report.get("kernels"), report.get("rewrites")
    if isinstance(kernels, list):
        grid = table("kernel", "calls", "code", right=("calls", "code"))
        for kernel in kernels:
            if isinstance(kernel, dict):
                size = bytes_text(int(str(kernel.get("object_bytes", 0))))
                grid.add_row(str(kernel.get("symbol")), str(kernel.get("uses")), size)
        console().print(grid)
    sparsity = report.get("sparsity")
    if isinstance(sparsity, list):
        show_sparsity(layer for layer in sparsity if isinstance(layer, dict))
    if isinstance(rewrites, dict) and rewrites:
        grid = table("rewrite", "times", right=("times",))
        for rule, times in rewrites.items():
            grid.add_row(rule, str(times))
        console().print(grid)


def _show_files(manifest: Manifest) -> None:
    grid = table("file", "size", "sha256", right=("size",))
    for path, file in manifest.files.items():
        grid.add_row(path, bytes_text(file.bytes), file.sha256[:16])
    console().print(grid)


def _as_json(bundle: Bundle, report: dict[str, Json]) -> dict[str, Json]:
    manifest: dict[str, Json] = json.loads(bundle.manifest.dumps())
    lacking = missing(bundle.manifest.chip, Machine.here())
    return {"path": str(bundle.path), "missing_here": list(lacking), "manifest": manifest, "report": report}
