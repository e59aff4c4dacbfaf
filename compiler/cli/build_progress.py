"""What a build is doing: bars on a terminal, a line for each step elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType

import click
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from isthmus.cli.output import console, seconds_text
from isthmus.matrix.build import Event

_WORDS = {"done": "done", "failed": "FAILED", "cached": "from the cache"}


class Progress:
    """Listens to the events of a build."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            self._bars = Bars(*columns, console=console(sys.stderr), transient=True)
            self._bar = self._bars.add_task("building", total=None)
        self._running: list[str] = []

    def __enter__(self) -> Progress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def tell(self, event: Event) -> None:
        """Show one event."""
        if event.kind == "begin":
            self._running.append(event.what)
        elif event.what in self._running:
            self._running.remove(event.what)
        if self._bars is None:
            self._line(event)
            return
        doing = ", ".join(self._running) or "building"
        self._bars.update(self._bar, total=event.total, completed=event.number, description=doing)
        if event.kind == "failed":
            self._bars.console.print(f"{event.what}: FAILED")

    def _line(self, event: Event) -> None:
        if event.kind == "begin":
            return
        width = len(str(event.total))
        counter = f"[{event.number:>{width}}/{event.total}] " if event.kind != "cached" else ""
        took = f" in {seconds_text(event.seconds)}" if event.kind == "done" else ""
        click.echo(f"{counter}{event.what}: {_WORDS[event.kind]}{took}", err=True)
        for problem in event.problems:
            click.echo(f"    {problem.code.number} {problem.message}", err=True)
