"""What the phases did, as text files: the program as imported, then after each phase."""

from __future__ import annotations

from pathlib import Path

from isthmus.errors import Code, ModelError, Problem
from isthmus.ir.graph import Program
from isthmus.ir.printer import show
from isthmus.passes.pipeline import Step


class Dumper:
    """Collects programs by phase; `write` puts them into `folder` as `0.import.txt`, `1.clean.txt`, ...

    Without a folder it does nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._programs: dict[str, Program] = {}

    def imported(self, program: Program) -> None:
        """The program before any pass."""
        self._programs["import"] = program

    def watch(self, step: Step) -> None:
        """Remember what a pass left; the last one of a phase stays."""
        self._programs[step.phase] = step.after

    def write(self) -> None:
        """Write the files, making the folder. Raises ModelError (cannot-write)."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            for number, (phase, program) in enumerate(self._programs.items()):
                (self._folder / f"{number}.{phase}.txt").write_text(show(program), "utf-8")
        except OSError as error:
            where = str(error.filename or self._folder)
            raise ModelError(
                Problem(Code.CANNOT_WRITE, f"cannot write the dump: {error.strerror}", where)
            ) from error
