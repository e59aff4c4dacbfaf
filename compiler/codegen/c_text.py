"""Pieces of C: dims as expressions, names, strings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from isthmus.ir.dims import Call, Dim, Monomial

KEYWORDS = frozenset(
    re.findall(
        r"\w+",
        """
        auto break case char const continue default do double else enum extern float for goto if inline int
        long register restrict return short signed sizeof static struct switch typedef union unsigned void
        volatile while
        """,
    )
)
# Keywords and what the generated plan itself calls things.
_TAKEN = KEYWORDS | frozenset(
    re.findall(
        r"\w+",
        """
        f thread rows wide first last blocks capacity block b row count from to units begin end items item
        scratch dims shape offsets threads part inputs outputs
        """,
    )
)


class Names:
    """C identifiers, each given out once: the wanted name, or that with a number."""

    def __init__(self, taken: Iterable[str] = (), reserved: Iterable[str] = _TAKEN) -> None:
        self._taken = {*reserved, *taken}

    def take(self, wanted: str) -> str:
        base = re.sub(r"\W+", "_", wanted, flags=re.ASCII).strip("_") or "v"
        base = f"v{base}" if base[0].isdigit() else base
        name, number = base, 1
        while name in self._taken:
            number += 1
            name = f"{base}_{number}"
        self._taken.add(name)
        return name


def string(text: str) -> str:
    """A C string literal of any text, UTF-8, with everything unusual escaped."""
    escaped = "".join(
        chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}"
        for b in text.encode("utf-8", "replace")
    )
    return f'"{escaped}"'


def comment(text: str) -> str:
    """Text that cannot end the comment it stands in."""
    return re.sub(r"[^\x20-\x7e]", "?", text).replace("*/", "* /").replace("/*", "/ *").replace("\\", "/")


def dim(value: Dim, name_of: Callable[[str], str], saturating: bool = False) -> str:
    """A dim as a C expression of int64_t; `saturating` where absurd sizes must not wrap around."""
    if isinstance(value, int):
        return _integer(value)
    terms = [_term(monomial, factor, name_of, saturating) for monomial, factor in value.terms]
    if not saturating:
        return terms[0] if len(terms) == 1 else f"({' + '.join(terms)})"
    total = terms[0]
    for term in terms[1:]:
        total = f"isthmus_add({total}, {term})"
    return total


def _integer(value: int) -> str:
    return str(value) if abs(value) < 1 << 31 else f"INT64_C({value})"


def _term(monomial: Monomial, factor: int, name_of: Callable[[str], str], saturating: bool) -> str:
    parts = [] if factor == 1 and monomial else [_integer(factor)]
    parts += [_call(a, name_of, saturating) if isinstance(a, Call) else name_of(a.name) for a in monomial]
    if not saturating:
        return " * ".join(parts)
    total = parts[0]
    for part in parts[1:]:
        total = f"isthmus_mul({total}, {part})"
    return total


_FUNCTIONS = {"min": "isthmus_min", "max": "isthmus_max", "//": "floor_divide", "%": "floor_remainder"}


def _call(call: Call, name_of: Callable[[str], str], saturating: bool) -> str:
    left, right = dim(call.left, name_of, saturating), dim(call.right, name_of, saturating)
    return f"{_FUNCTIONS[call.kind]}({left}, {right})"


# For negative numbers C rounds towards zero, and dims round down.
_FLOOR_DIVIDE = """\
static inline int64_t floor_divide(int64_t a, int64_t b) {
  if (b == 0) return 0;
  const int64_t quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}
"""
_FLOOR_REMAINDER = """
static inline int64_t floor_remainder(int64_t a, int64_t b) {
  return b == 0 ? 0 : a - floor_divide(a, b) * b;
}
"""


def helpers(text: str) -> str:
    """The functions that `text` calls, and no other: compilers warn of what is not used."""
    if "floor_remainder(" in text:
        return _FLOOR_DIVIDE + _FLOOR_REMAINDER
    return _FLOOR_DIVIDE if "floor_divide(" in text else ""
