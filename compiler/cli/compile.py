"""`isthmus compile`: ONNX in, bundle out."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType

import click
from rich.status import Status

from isthmus.cli.arguments import PATH
from isthmus.cli.output import (
    Json,
    bytes_text,
    console,
    json_option,
    seconds_text,
    show_json,
    show_problems,
)
from isthmus.codegen.cache import cache_dir
from isthmus.driver import Bundle, Options, compile_model
from isthmus.errors import Problem
from isthmus.frontends.onnx.signature import parse_dims


@click.command("compile")
@click.argument("model", type=PATH, metavar="MODEL.onnx")
@click.option("--target", default="host", show_default=True, help="The chip; `isthmus targets` lists them.")
@click.option(
    "-o", "--output", type=PATH, default=Path("dist"), show_default=True, help="The folder bundles go into."
)
@click.option("--name", help="The bundle's name; by default that of the file.")
@click.option(
    "--dim",
    "dims",
    multiple=True,
    metavar="NAME=SIZE",
    help="Fix a dim (seq=128) or bound it (seq=1..512). Others stay free. Repeatable.",
)
@click.option("--verify/--no-verify", default=True, help="Run the self-test when this machine can.")
@json_option
def command(
    model: Path,
    target: str,
    output: Path,
    name: str | None,
    dims: tuple[str, ...],
    verify: bool,
    as_json: bool,
) -> None:
    """Compile MODEL.onnx for a chip and print the path of the bundle.

    \b
    Examples:
      isthmus compile model.onnx
      isthmus compile model.onnx --target host --dim batch=1 --dim seq=1..512 -o dist
      bundle=$(isthmus compile model.onnx) && isthmus verify $bundle
    """
    started = time.perf_counter()
    warnings: list[Problem] = []
    with Steps() as steps:
        options = Options(
            name=name,
            dims=parse_dims(dims),
            verify=verify,
            cache=cache_dir(os.environ),
            progress=steps.begin,
            warn=warnings.append,
        )
        bundle = compile_model(model, target, output, options)
    show_problems(warnings)
    _show(bundle, time.perf_counter() - started, warnings, as_json)


class Steps:
    """Tells a terminal what is going on: the step under way, and how long each finished one took."""

    def __init__(self) -> None:
        self._console = console(sys.stderr)
        self._status: Status | None = self._console.status("starting") if sys.stderr.isatty() else None
        self._current = ""
        self._since = 0.0

    def __enter__(self) -> Steps:
        if self._status is not None:
            self._status.start()
        return self

    def begin(self, step: str) -> None:
        """The next step begins; the one before is done."""
        self._finish()
        self._current, self._since = step, time.perf_counter()
        if self._status is not None:
            self._status.update(f"{step} ...")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._finish()
        if self._status is not None:
            self._status.stop()

    def _finish(self) -> None:
        if self._current and self._status is not None:
            seconds = seconds_text(time.perf_counter() - self._since)
            self._console.print(f"  {self._current:<16} {seconds:>8}")
        self._current = ""


def _show(bundle: Bundle, seconds: float, warnings: list[Problem], as_json: bool) -> None:
    manifest = bundle.manifest
    code = manifest.files[manifest.library].bytes
    weights = manifest.files[manifest.weights].bytes if manifest.weights else 0
    if as_json:
        result: dict[str, Json] = {
            "bundle": str(bundle.path),
            "target": manifest.chip.name,
            "code_bytes": code,
            "weight_bytes": weights,
            "seconds": round(seconds, 3),
            "warnings": [str(warning) for warning in warnings],
        }
        show_json(result)
        return
    if sys.stderr.isatty():
        sizes = f"{bytes_text(code)} of code, {bytes_text(weights)} of weights"
        click.echo(f"compiled for {manifest.chip.name} in {seconds_text(seconds)}: {sizes}", err=True)
    click.echo(str(bundle.path))
