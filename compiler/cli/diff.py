"""`isthmus diff`: what differs between two builds, or two bundles."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from isthmus.cli.arguments import PATH
from isthmus.cli.output import json_option, show_json
from isthmus.matrix import words
from isthmus.matrix.diff import diff_paths


@click.command("diff")
@click.argument("before", type=PATH)
@click.argument("after", type=PATH)
@json_option
def command(before: Path, after: Path, as_json: bool) -> None:
    """Show what differs between two bundles, or two reports of `isthmus build`, from BEFORE to AFTER.

    Accuracy, time, size, memory, passes, kernels, tools. Times that were measured differ when they are more
    than a tenth apart. Of bundles, accuracy and time are known where the report of their build lies beside
    them.

    \b
    Examples:
      isthmus diff old/model@chip dist/model@chip
      isthmus diff main/report.json dist/report.json --json
      isthmus diff main dist
    """
    changes = diff_paths(before, after)
    if as_json:
        show_json([asdict(change) for change in changes])
        return
    for change in changes:
        click.echo(f"{change.pair}" if change.kind == "changed" else f"{change.pair}: {change.kind}")
        for field in change.fields:
            click.echo(f"  {words.change(field)}")
    if not changes:
        click.echo("no difference", err=True)
