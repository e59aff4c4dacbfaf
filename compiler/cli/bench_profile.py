"""The profile of `isthmus bench --profile`, as tables and as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import click

from isthmus.cli.output import Json, console, table
from isthmus.tools.contest import sizes_text
from isthmus.tools.profile import Profile, Row

# Calls shown one by one; a deep model has hundreds that take nothing.
MOST_ROWS = 30


def show_profile(threads: int, sizes: Mapping[str, int], found: Profile) -> None:
    """Kernels, then kernel calls, slowest first; and what no kernel accounts for."""
    roof = found.roof
    where = f"{sizes_text(sizes)}, {threads} thread{'s' if threads > 1 else ''}"
    click.echo(
        f"{where}: {found.run_seconds * 1e3:.3f} ms; "
        f"limits {roof.operations / 1e9:.0f} GFLOP/s, {roof.traffic / 1e9:.1f} GB/s from memory"
    )
    by_kernel: dict[str, list[Row]] = defaultdict(list)
    for row in found.rows:
        by_kernel[row.kernel].append(row)
    sums = [_sum(rows) for rows in by_kernel.values()]
    _table("kernel", [(f"{row.kernel}", len(by_kernel[row.kernel]), row) for row in sums], found)
    _table("node", [(f"{row.kernel}  {row.node}", 1, row) for row in found.rows], found)
    rest = found.rest_seconds
    click.echo(
        "of the limit: the time that arithmetic or memory allows, over the time taken; more is from cache"
    )
    click.echo(f"outside kernels (waiting, calling, the clock): {rest * 1e3:.3f} ms, {_share(rest, found)}")


def _sum(rows: list[Row]) -> Row:
    first = rows[0]
    return Row(
        first.op,
        first.kernel,
        "",
        sum(row.seconds for row in rows),
        sum(row.uses for row in rows),
        sum(row.operations for row in rows),
        sum(row.traffic for row in rows),
    )


def _table(what: str, rows: list[tuple[str, int, Row]], found: Profile) -> None:
    numbers = ("calls", "ms", "of the run", "GFLOP/s", "GB/s", "of the limit")
    grid = table(what, *numbers, right=numbers)
    ordered = sorted(rows, key=lambda item: -item[2].seconds)
    for name, count, row in ordered[:MOST_ROWS]:
        grid.add_row(
            name, str(count), f"{row.seconds * 1e3:.3f}", _share(row.seconds, found), *_speeds(row, found)
        )
    hidden = ordered[MOST_ROWS:]
    if hidden:
        rest = sum(row.seconds for _, _, row in hidden)
        grid.add_row(f"{len(hidden)} more", "", f"{rest * 1e3:.3f}", _share(rest, found), "", "", "")
    console().print(grid)


def _share(seconds: float, found: Profile) -> str:
    return f"{seconds / found.run_seconds:.1%}"


def _speeds(row: Row, found: Profile) -> tuple[str, str, str]:
    if row.seconds <= 0:
        return "", "", ""
    arithmetic = f"{row.operations / row.seconds / 1e9:.1f}" if row.operations else ""
    return arithmetic, f"{row.traffic / row.seconds / 1e9:.1f}", f"{found.roof.share(row):.0%}"


def profile_json(threads: int, sizes: Mapping[str, int], found: Profile) -> dict[str, Json]:
    """Every kernel call in the order of the plan."""
    return {
        "threads": threads,
        "sizes": dict(sizes),
        "run_ms": found.run_seconds * 1e3,
        "outside_kernels_ms": found.rest_seconds * 1e3,
        "limit": {"gflops": found.roof.operations / 1e9, "gbytes": found.roof.traffic / 1e9},
        "calls": [
            {
                "op": row.op,
                "kernel": row.kernel,
                "node": row.node,
                "ms": row.seconds * 1e3,
                "uses": row.uses,
                "gflop": row.operations / 1e9,
                "gbyte": row.traffic / 1e9,
                "of_limit": found.roof.share(row),
            }
            for row in found.rows
        ],
    }
