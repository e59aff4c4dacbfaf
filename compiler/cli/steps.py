"""Progress on a terminal, step by step."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.status import Status

from isthmus.cli.output import console, seconds_text


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
