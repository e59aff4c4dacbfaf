"""Typed tables: a dataclass whose fields say what they hold is a reader, its errors and a JSON Schema.

    @dataclass(frozen=True, slots=True)
    class Chip:
        \"\"\"A column of the matrix.\"\"\"

        target: str | None = entry(Text(), "The target, where it is not the chip's own name.")

`read_table` makes one from parsed TOML and notes everything that is wrong, with its line.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from isthmus.errors import Code, Problem, nearest
from isthmus.matrix import units
from isthmus.matrix.lines import Path

Table = TypeVar("Table")
Json = dict[str, Any]


class Kind(Protocol):
    """What a value may be. `read` raises `Wrong`, or notes several problems at its place."""

    def read(self, value: object, at: Place) -> object: ...
    def schema(self, defs: Json) -> Json: ...


class Wrong(Exception):
    """The value cannot be that; the text says what was expected."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in which file a value stands, and where problems are collected."""

    file: str
    lines: Mapping[Path, int]
    problems: list[Problem]
    path: Path = ()

    def inner(self, key: str | int) -> Place:
        return dataclasses.replace(self, path=(*self.path, key))

    @property
    def name(self) -> str:
        """`models.minilm.dims`, `overrides[1].chip`."""
        text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in self.path)
        return text.removeprefix(".")

    @property
    def where(self) -> str:
        """`isthmus.toml:12`."""
        path = self.path
        while path not in self.lines:
            path = path[:-1]
        return f"{self.file}:{self.lines[path]}"

    def wrong(self, text: str, hint: str = "", code: Code = Code.BAD_CONFIG) -> None:
        """Note a problem here."""
        named = f"{self.name}: {text}" if self.path else text
        self.problems.append(Problem(code, named, self.where, hint))


def entry(kind: Kind, doc: str, default: object = None, *, required: bool = False) -> Any:
    """A field of a table: what it holds, what it means, and its value where the file says nothing."""
    metadata = {"kind": kind, "doc": doc, "required": required}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def read_table(table: type[Table], raw: object, at: Place) -> Table:
    """`raw` as a `table`; problems are noted at `at`, and what is wrong keeps its default."""
    if not isinstance(raw, Mapping):
        at.wrong(f"expected a table, got {kind_of(raw)}")
        raw = {}
    known = {f.name: f for f in dataclasses.fields(table) if "kind" in f.metadata}  # type: ignore[arg-type]
    for key in raw:
        if key not in known:
            at.inner(key).wrong("there is no such key", nearest(key, known))
    for name, one in known.items():
        if one.metadata["required"] and name not in raw:
            at.wrong(f"{name!r} is missing", one.metadata["doc"])
    given = {
        name: read_value(one.metadata["kind"], raw[name], at.inner(name), default_of(one))
        for name, one in known.items()
        if name in raw
    }
    return table(**given)


def default_of(one: dataclasses.Field[Any]) -> object:
    """The value of a field that is not given."""
    return {} if one.default is dataclasses.MISSING else one.default


def read_value(kind: Kind, value: object, at: Place, default: object = None) -> object:
    """`value` as `kind`, or `default` and a note."""
    try:
        return kind.read(value, at)
    except Wrong as error:
        at.wrong(str(error))
        return default


def table_schema(table: type, defs: Json) -> Json:
    """The JSON Schema of `table`, by reference into `defs`, where it is put."""
    name = table.__name__
    if name not in defs:
        defs[name] = {}  # tables may hold themselves
        known = [f for f in dataclasses.fields(table) if "kind" in f.metadata]
        defs[name] = {
            "type": "object",
            "description": " ".join((table.__doc__ or "").split()),
            "properties": {f.name: _described(f, defs) for f in known},
            "required": [f.name for f in known if f.metadata["required"]],
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{name}"}


def _described(one: dataclasses.Field[Any], defs: Json) -> Json:
    return {**one.metadata["kind"].schema(defs), "description": one.metadata["doc"]}


def kind_of(value: object) -> str:
    """What a value of TOML is, in words."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return repr(value[:60])
        case Mapping():
            return "a table"
        case list():
            return "a list"
        case _:
            return str(value)


# The kinds


@dataclass(frozen=True, slots=True)
class Text:
    """A text that is not empty; `pattern` is what it has to look like, `words` says that."""

    pattern: str = ".+"
    words: str = "a text"

    def read(self, value: object, at: Place) -> str:
        if not isinstance(value, str) or not re.fullmatch(self.pattern, value):
            raise Wrong(f"expected {self.words}, got {kind_of(value)}")
        return value

    def schema(self, defs: Json) -> Json:
        return {"type": "string", "pattern": f"^{self.pattern}$"}


@dataclass(frozen=True, slots=True)
class Word:
    """One of `words`."""

    words: tuple[str, ...]

    def read(self, value: object, at: Place) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise Wrong(f"expected {' or '.join(map(repr, self.words))}, got {kind_of(value)}")
        return value

    def schema(self, defs: Json) -> Json:
        return {"enum": list(self.words)}


@dataclass(frozen=True, slots=True)
class Number:
    """A number of at least `low`; `whole`: an integer."""

    low: float = 0.0
    whole: bool = False

    def read(self, value: object, at: Place) -> float:
        kinds = int if self.whole else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or not self.low <= value < math.inf:
            noun = "a whole number" if self.whole else "a number"
            raise Wrong(f"expected {noun} of at least {self.low:g}, got {kind_of(value)}")
        return value

    def schema(self, defs: Json) -> Json:
        return {"type": "integer" if self.whole else "number", "minimum": self.low}


@dataclass(frozen=True, slots=True)
class Flag:
    """true or false."""

    def read(self, value: object, at: Place) -> bool:
        if not isinstance(value, bool):
            raise Wrong(f"expected true or false, got {kind_of(value)}")
        return value

    def schema(self, defs: Json) -> Json:
        return {"type": "boolean"}


@dataclass(frozen=True, slots=True)
class Amount:
    """A number with one of `units`, as "20 ms"; `plain`: or a number that is at most `plain`."""

    units: Mapping[str, float]
    example: str
    plain: float | None = None

    def read(self, value: object, at: Place) -> float:
        found = units.amount(value, self.units) if isinstance(value, str) else None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if found is None and number and self.plain is not None and 0 <= value <= self.plain:  # type: ignore[operator]
            found = float(value)  # type: ignore[arg-type]
        if found is None:
            raise Wrong(f"expected an amount such as {self.example}, got {kind_of(value)}")
        return found

    def schema(self, defs: Json) -> Json:
        text: Json = {"type": "string", "pattern": units.pattern(self.units)}
        if self.plain is None:
            return text
        return {"anyOf": [text, {"type": "number", "minimum": 0, "maximum": self.plain}]}


DURATION = Amount(units.SECONDS, '"20 ms"')
SIZE = Amount(units.BYTES, '"80 MB"')
SHARE = Amount({"%": 0.01}, '"0.5 %" or 0.005', plain=1.0)


@dataclass(frozen=True, slots=True)
class Nested:
    """A table."""

    table: type

    def read(self, value: object, at: Place) -> object:
        return read_table(self.table, value, at)

    def schema(self, defs: Json) -> Json:
        return table_schema(self.table, defs)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of one kind."""

    kind: Kind

    def read(self, value: object, at: Place) -> tuple[object, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise Wrong(f"expected a list, got {kind_of(value)}")
        return tuple(read_value(self.kind, item, at.inner(number)) for number, item in enumerate(value))

    def schema(self, defs: Json) -> Json:
        return {"type": "array", "items": self.kind.schema(defs)}


@dataclass(frozen=True, slots=True)
class MapOf:
    """A table with keys of the user's choice; `keys` is what they have to look like, `least` how many."""

    kind: Kind
    keys: Text = field(default_factory=Text)
    least: int = 0

    def read(self, value: object, at: Place) -> dict[str, object]:
        if not isinstance(value, Mapping):
            raise Wrong(f"expected a table, got {kind_of(value)}")
        if len(value) < self.least:
            raise Wrong(f"expected at least {self.least}")
        read: dict[str, object] = {}
        for key, item in value.items():
            inner = at.inner(key)
            read_value(self.keys, key, inner)
            before = len(at.problems)
            found = read_value(self.kind, item, inner)
            if found is not None or len(at.problems) == before:
                read[key] = found
        return read

    def schema(self, defs: Json) -> Json:
        return {
            "type": "object",
            "propertyNames": {"pattern": f"^{self.keys.pattern}$"},
            "minProperties": self.least,
            "additionalProperties": self.kind.schema(defs),
        }


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a parser makes of a value; `parse` raises `Wrong`. `plain` is the JSON Schema."""

    parse: Callable[[object], object]
    plain: Mapping[str, Any]

    def read(self, value: object, at: Place) -> object:
        return self.parse(value)

    def schema(self, defs: Json) -> Json:
        return dict(self.plain)
