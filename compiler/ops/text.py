"""Programs from text: the parser, with all our ops."""

from __future__ import annotations

from pathlib import Path

from isthmus.ir.graph import Program
from isthmus.ir.parser import NO_WEIGHTS, WeightStore, parse_program
from isthmus.ir.store import WEIGHTS, FolderStore, read_text
from isthmus.ops import OPS


def parse(text: str, weights: WeightStore = NO_WEIGHTS, where: str = "text") -> Program:
    """The program that `text` describes; `show` prints it. Raises `ModelError` with `where:line:column`."""
    return parse_program(text, OPS, weights, where)


def load(path: Path) -> Program:
    """The program of a dump; weights stay on disk until someone reads them. Raises `ModelError`."""
    return parse(read_text(path), FolderStore(path.parent / WEIGHTS), str(path))
