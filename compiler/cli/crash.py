"""What the user sees, and can send, when the fault is ours."""

from __future__ import annotations

import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import click

from isthmus.errors import CompilerBug

_TOOLS = ("isthmus", "apache-tvm", "numpy", "onnx", "onnxruntime", "ziglang")


def report_crash(error: Exception, arguments: Sequence[str], debug: bool) -> int:
    """Say what happened and where the details are: on the terminal with `debug`, else in a file."""
    details = crash_text(error, arguments)
    click.echo(f"internal error: {type(error).__name__}: {error}", err=True)
    if debug:
        click.echo(details, err=True)
        click.echo("This is a bug in Isthmus. Please report it with the text above.", err=True)
        return CompilerBug.exit_code
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="isthmus-crash-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(details)
    except OSError:
        click.echo(details, err=True)
        return CompilerBug.exit_code
    click.echo(f"    This is a bug in Isthmus. Please report it with this file: {file.name}", err=True)
    click.echo("    hint: the model, or a smaller one that fails alike, helps most", err=True)
    return CompilerBug.exit_code


def crash_text(error: Exception, arguments: Sequence[str]) -> str:
    """The traceback and what is needed to read it: command, versions, machine."""
    versions = "\n".join(f"{name} {_version(name)}" for name in _TOOLS)
    trace = "".join(traceback.format_exception(error))
    command = shlex.join(["isthmus", *arguments])
    return f"{command}\n\n{trace}\npython {sys.version.split()[0]}\n{versions}\n{platform.platform()}\n"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
