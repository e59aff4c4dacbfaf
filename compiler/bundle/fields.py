"""Reading JSON that may come from anywhere: typed fields, and a list of everything that is wrong."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from isthmus.errors import BundleError, Code, Problem

_DIGEST = re.compile(r"[0-9a-f]{64}")
_TEXT_LIMIT = 1 << 20
# The same names on every system, and none that a shell or a browser takes for something else.
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@=,~-]*")
_PATH_LIMIT = 240


class Reader:
    """One JSON object. A field that is missing or wrong is noted, and read as an empty value of its type.

    `finish` raises what was noted, in one `BundleError`.
    """

    def __init__(self, raw: object, where: str, path: str = "", noted: list[Problem] | None = None) -> None:
        self._noted: list[Problem] = [] if noted is None else noted
        self._where = where
        self._path = path
        self._raw: dict[str, object] = raw if isinstance(raw, dict) else {}
        if not isinstance(raw, dict):
            self._note(path or "manifest", f"expected an object, got {_kind(raw)}")

    def wrong(self, field: str, message: str) -> None:
        self._note(self._name(field), message)

    def finish(self) -> None:
        if self._noted:
            raise BundleError(self._noted)

    def text(self, field: str, least: int = 1) -> str:
        value = self._raw.get(field)
        if isinstance(value, str) and least <= len(value) <= _TEXT_LIMIT and _clean(value):
            return value
        self.wrong(field, f"expected a text, got {_kind(value)}")
        return ""

    def optional_text(self, field: str) -> str | None:
        return None if self._raw.get(field) is None else self.text(field)

    def integer(self, field: str, low: int, high: int | None = None) -> int:
        value = self._raw.get(field)
        if isinstance(value, int) and not isinstance(value, bool):
            if low <= value and (high is None or value <= high):
                return value
            self.wrong(field, f"{value} is out of range")
            return low
        self.wrong(field, f"expected an integer, got {_kind(value)}")
        return low

    def optional_integer(self, field: str, low: int, high: int) -> int | None:
        return None if self._raw.get(field) is None else self.integer(field, low, high)

    def number(self, field: str) -> float:
        """A finite number that is not negative."""
        value = self._raw.get(field)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e300:
            return float(value)
        self.wrong(field, f"expected a number that is not negative, got {_kind(value)}")
        return 0.0

    def optional_number(self, field: str) -> float | None:
        return None if self._raw.get(field) is None else self.number(field)

    def choice(self, field: str, known: Sequence[str]) -> str:
        value = self.text(field)
        if value and value not in known:
            self.wrong(field, f"{value!r} is not one of {', '.join(known)}")
        return value

    def digest(self, field: str) -> str:
        value = self.text(field)
        if value and not _DIGEST.fullmatch(value):
            self.wrong(field, "expected 64 hexadecimal digits in lower case")
        return value

    def optional_digest(self, field: str) -> str | None:
        return None if self._raw.get(field) is None else self.digest(field)

    def texts(self, field: str) -> tuple[str, ...]:
        value = self._raw.get(field)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        self.wrong(field, f"expected a list of texts, got {_kind(value)}")
        return ()

    def sizes(self, field: str, most: int) -> tuple[int | str, ...]:
        """A list of at most `most` dims: sizes that are not negative, or texts."""
        value = self._raw.get(field)
        if not isinstance(value, list) or len(value) > most:
            self.wrong(field, f"expected a list of at most {most} dims, got {_kind(value)}")
            return ()
        for item in value:
            size = isinstance(item, int) and not isinstance(item, bool) and 0 <= item < 1 << 63
            if not size and not (isinstance(item, str) and item):
                self.wrong(field, f"{item!r} is not a dim")
        return tuple(item if isinstance(item, int) else str(item) for item in value)

    def all_texts(self) -> dict[str, str]:
        """The whole object, when all its values are texts."""
        return {field: self.text(field) for field in self._raw}

    def child(self, field: str) -> Reader:
        return Reader(self._raw.get(field), self._where, self._name(field), self._noted)

    def children(self, field: str) -> list[Reader]:
        value = self._raw.get(field)
        if not isinstance(value, list):
            self.wrong(field, f"expected a list, got {_kind(value)}")
            return []
        name = self._name(field)
        return [Reader(item, self._where, f"{name}[{i}]", self._noted) for i, item in enumerate(value)]

    def table(self, field: str) -> Iterator[tuple[str, Reader]]:
        inner = self.child(field)
        for key in inner._raw:
            yield key, inner.child(key)

    def distinct(self, field: str, names: Sequence[str]) -> None:
        for name, count in Counter(names).items():
            if count > 1:
                self.wrong(field, f"{name!r} is there {count} times")

    def path(self, path: str, field: str) -> None:
        """A POSIX path that stays inside its folder, on every system."""
        if not safe_path(path):
            self.wrong(field, f"{path!r} is not a plain relative path")

    def _name(self, field: str) -> str:
        return f"{self._path}.{field}" if self._path else field

    def _note(self, name: str, message: str) -> None:
        self._noted.append(Problem(Code.NOT_A_BUNDLE, f"manifest: {name}: {message}", self._where))


def safe_path(path: str) -> bool:
    """Is it a relative path in its simplest form, with names that every system allows?"""
    return len(path) <= _PATH_LIMIT and all(safe_name(part) for part in path.split("/"))


def safe_name(name: str) -> bool:
    """May it name a file or folder? A leading dot would hide it, a trailing one is lost on Windows."""
    return len(name) <= _PATH_LIMIT and _PART.fullmatch(name) is not None and not name.endswith(".")


def _clean(text: str) -> bool:
    """Neither a zero nor a lone surrogate, which no file name or terminal takes."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _kind(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case str() if len(value) > 40:
            return "a text of unsuitable length"
        case dict():
            return "an object"
        case list():
            return f"a list of {len(value)}"
        case _:
            return repr(value)
