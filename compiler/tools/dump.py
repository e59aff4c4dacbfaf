"""What the phases did, as text: the program as imported, then after each phase."""

from __future__ import annotations

from pathlib import Path

from isthmus.ir.graph import Program
from isthmus.ir.store import dump
from isthmus.passes.pipeline import Step


class Dumper:
    """Collects programs by phase; `write` puts them into `folder` as `0.import.txt`, `1.clean.txt`, ...

    Without a folder it does nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._programs: dict[str, Program] = {}

    def begin(self, phase: str, program: Program) -> None:
        """The program as it came in, which `phase` left."""
        self._programs[phase] = program

    def watch(self, step: Step) -> None:
        """Remember what a pass left; the last one of a phase stays."""
        self._programs[step.phase] = step.after

    def write(self, phases: tuple[str, ...]) -> None:
        """Write the files, numbered by the place of their phase in `phases`. Raises `ModelError`."""
        if self._folder is None:
            return
        for phase, program in self._programs.items():
            dump(program, self._folder, f"{phases.index(phase)}.{phase}")
