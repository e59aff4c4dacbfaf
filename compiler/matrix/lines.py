"""Where each key of a TOML text stands. The standard library reads TOML and forgets the lines."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping

Path = tuple[str | int, ...]


def key_lines(text: str) -> dict[Path, int]:
    """The line, counted from 1, on which each table, key and element of `text` begins, by its path.

    `text` must be valid. A statement is the fewest lines that are valid TOML on their own; what an inline
    table or an array holds has the line on which that begins.
    """
    found: dict[Path, int] = {(): 1}
    lengths: dict[Path, int] = {}
    table: Path = ()
    for line, statement in _statements(text):
        parsed = tomllib.loads(statement)
        if not statement.lstrip().startswith("["):
            _note(found, table, parsed, line)
        elif parsed:
            table = _table(lengths, parsed)
            for end in range(1, len(table) + 1):
                found.setdefault(table[:end], line)
            found[table] = line
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Header or assignment, one at a time, with the line it begins on."""
    begin, waiting = 1, ""
    # Not splitlines, which ends lines in places where TOML does not.
    for number, line in enumerate(text.split("\n"), 1):
        if not waiting:
            begin = number
        waiting += line + "\n"
        try:
            tomllib.loads(waiting)
        except tomllib.TOMLDecodeError:
            continue
        yield begin, waiting
        waiting = ""


def _table(lengths: dict[Path, int], parsed: Mapping[str, object]) -> Path:
    """The path of the table that a header names; each `[[name]]` is one more element of its list.

    `[name.inner]` after `[[name]]` belongs to the last element.
    """
    path: Path = ()
    here: object = parsed
    while isinstance(here, Mapping) and here:
        ((key, here),) = here.items()
        path = (*path, key)
        if isinstance(here, list):
            lengths[path] = lengths.get(path, 0) + 1
            return (*path, lengths[path] - 1)
        if path in lengths:
            path = (*path, lengths[path] - 1)
    return path


def _note(found: dict[Path, int], path: Path, value: object, line: int) -> None:
    found.setdefault(path, line)
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _note(found, (*path, key), inner, line)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _note(found, (*path, number), inner, line)
