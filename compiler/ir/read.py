"""Reading text: a scanner that knows where it is, the grammar of dimensions, and types.

    dim    := ["-"] term (("+" | "-") term)*
    term   := factor (("*" | "//" | "%") factor)*
    factor := integer | name | "-" factor | "(" dim ")" | ("min" | "max") "(" dim "," dim ")"

The text may come from anywhere, so nothing here evaluates it, and depth and size are bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from isthmus.ir.dims import Dim, DimTooLarge, floordiv, maximum, minimum, mod, symbol
from isthmus.ir.encodings import parse_encoding
from isthmus.ir.types import MAX_RANK, DType, TensorType

MAX_DEPTH = 64
MAX_INTEGER = (1 << 63) - 1

SPACE = re.compile(r"(?:\s|;[^\n]*)*")
INTEGER = re.compile(r"-?\d{1,19}(?![\w.])")
NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_ENCODING = re.compile(r"\w+(\([^()\s]{0,40}\))?", re.ASCII)
# A quoted text is a JSON string.
QUOTED = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')


class TextError(ValueError):
    """Text that is not what was expected; `position` counts characters from 0."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.message = message
        self.position = position


class Scanner:
    """A position in a text. White space and comments (`;` to the end of the line) mean nothing."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self._depth = 0
        self._skip()

    def _skip(self) -> None:
        found = SPACE.match(self.text, self.position)
        assert found is not None  # it matches the empty text
        self.position = found.end()

    @property
    def at_end(self) -> bool:
        return self.position == len(self.text)

    def take(self, pattern: re.Pattern[str]) -> str | None:
        """The text that `pattern` matches here, stepping over it, or None."""
        found = pattern.match(self.text, self.position)
        if found is None:
            return None
        self.position = found.end()
        self._skip()
        return found[0]

    def sees(self, literal: str) -> bool:
        return self.text.startswith(literal, self.position)

    def skip(self, literal: str) -> bool:
        """Step over `literal` if it is here."""
        if not self.sees(literal):
            return False
        self.position += len(literal)
        self._skip()
        return True

    def word(self, word: str) -> bool:
        """Step over `word` if it is here as a whole word."""
        start = self.position
        if self.take(NAME) == word:
            return True
        self.position = start
        return False

    def expect(self, literal: str, why: str = "") -> None:
        """Step over `literal`. Raises TextError."""
        if not self.skip(literal):
            raise self.error(f"'{literal}'{why}")

    def need(self, pattern: re.Pattern[str], what: str) -> str:
        """The text that `pattern` matches here. Raises TextError."""
        found = self.take(pattern)
        if found is None:
            raise self.error(what)
        return found

    def quoted(self) -> str | None:
        """The text that a quoted text here stands for, or None."""
        start = self.position
        found = self.take(QUOTED)
        if found is None:
            return None
        try:
            value = json.loads(found)
        except ValueError:
            raise TextError("a quoted text has an unknown escape", start) from None
        assert isinstance(value, str)
        return value

    def error(self, expected: str) -> TextError:
        """What to raise when something else than `expected` is here."""
        return TextError(f"expected {expected}, found {self._found()}", self.position)

    def _found(self) -> str:
        if self.at_end:
            return "the end of the text"
        line = self.text[self.position : self.position + 24].split("\n")[0]
        return ascii(line.split(" ")[0])

    def place(self, position: int) -> tuple[int, int]:
        """Line and column of `position`, both from 1."""
        line = self.text.count("\n", 0, position) + 1
        return line, position - self.text.rfind("\n", 0, position)

    @contextmanager
    def deeper(self) -> Iterator[None]:
        """One level of nesting. Raises TextError when there are too many."""
        if self._depth == MAX_DEPTH:
            raise TextError(f"nested more than {MAX_DEPTH} deep", self.position)
        self._depth += 1
        yield
        self._depth -= 1


def parse_dim(text: str) -> Dim:
    """Read a dim as printed. Raises ValueError saying what was not understood."""
    scanner = Scanner(text)
    dim = read_dim(scanner)
    if not scanner.at_end:
        raise scanner.error("the end of the dimension")
    return dim


def read_dim(scanner: Scanner) -> Dim:
    """A dim at the scanner's position. Raises TextError."""
    with scanner.deeper():
        total = _read_term(scanner)
        while True:
            if scanner.skip("+"):
                total = _combine(scanner, lambda a, b: a + b, total, _read_term(scanner))
            elif scanner.skip("-"):
                total = _combine(scanner, lambda a, b: a - b, total, _read_term(scanner))
            else:
                return total


_PRODUCTS: Mapping[str, Callable[[Dim, Dim], Dim]] = {"*": lambda a, b: a * b, "//": floordiv, "%": mod}
_EXTREMES: Mapping[str, Callable[[Dim, Dim], Dim]] = {"min": minimum, "max": maximum}


def _read_term(scanner: Scanner) -> Dim:
    total = _read_factor(scanner)
    while (sign := next((s for s in _PRODUCTS if scanner.skip(s)), None)) is not None:
        total = _combine(scanner, _PRODUCTS[sign], total, _read_factor(scanner))
    return total


def _read_factor(scanner: Scanner) -> Dim:
    if (digits := scanner.take(INTEGER)) is not None:
        return _combine(scanner, lambda a, _: a, int(digits), 0)
    if scanner.skip("-"):
        with scanner.deeper():
            return _combine(scanner, lambda a, b: a * b, _read_factor(scanner), -1)
    if scanner.skip("("):
        inner = read_dim(scanner)
        scanner.expect(")")
        return inner
    name = scanner.need(NAME, "a dimension")
    if name not in _EXTREMES:
        return symbol(name)
    scanner.expect("(", f" after {name}")
    left = read_dim(scanner)
    scanner.expect(",")
    right = read_dim(scanner)
    scanner.expect(")")
    return _combine(scanner, _EXTREMES[name], left, right)


def _combine(scanner: Scanner, operation: Callable[[Dim, Dim], Dim], left: Dim, right: Dim) -> Dim:
    try:
        result = operation(left, right)
    except ZeroDivisionError:
        raise TextError("a dimension is divided by zero", scanner.position) from None
    except DimTooLarge as error:
        raise TextError(str(error), scanner.position) from None
    if isinstance(result, int) and abs(result) > MAX_INTEGER:
        raise TextError("a dimension has more than 63 bits", scanner.position)
    return result


def parse_type(text: str) -> TensorType:
    """Read a type as printed, e.g. `f32[batch,seq,384]`. Raises ValueError."""
    scanner = Scanner(text)
    type_ = read_type(scanner)
    if not scanner.at_end:
        raise scanner.error("the end of the type")
    return type_


def read_type(scanner: Scanner) -> TensorType:
    """A type at the scanner's position. Raises TextError."""
    dtype = read_dtype(scanner)
    scanner.expect("[", ", a shape")
    shape: list[Dim] = []
    while not scanner.skip("]"):
        if shape:
            scanner.expect(",", " or ']'")
        shape.append(read_dim(scanner))
        if len(shape) > MAX_RANK:
            raise TextError(f"a shape has more than {MAX_RANK} dims", scanner.position)
    encoding = None
    if scanner.word("as"):
        start = scanner.position
        try:
            encoding = parse_encoding(scanner.need(_ENCODING, "an encoding"))
        except ValueError as error:
            raise TextError(str(error), start) from None
    return TensorType(dtype, tuple(shape), encoding)


def read_dtype(scanner: Scanner) -> DType:
    """An element type at the scanner's position. Raises TextError."""
    start = scanner.position
    try:
        return DType.parse(scanner.need(NAME, "an element type, such as f32"))
    except ValueError as error:
        raise TextError(str(error), start) from None
