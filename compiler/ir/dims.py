"""Dimensions: integers, or expressions over named dimensions in one normal form.

An expression is a sum of monomials with integer coefficients, so two expressions are equal as objects
exactly when they are equal as polynomials over their atoms. Atoms are names, and the operations that
polynomials cannot express: floor division, remainder, minimum, maximum.

    grammar:  dim  := sum of products, e.g.  2*batch*seq+1   (seq+1)//2   min(seq,512)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias, Union

from isthmus.errors import Code, ModelError, Problem

Dim: TypeAlias = Union[int, "Expr"]
Shape: TypeAlias = tuple[Dim, ...]
Interval: TypeAlias = tuple[int, int | None]  # low, high; None: no upper bound
Bounds: TypeAlias = Mapping[str, Interval]


# Far above any shape; they bound what text from elsewhere can make us compute.
MAX_TERMS = 1024
MAX_DEGREE = 64


class DimTooLarge(ModelError, ValueError):
    """An expression over named dimensions grew beyond what any shape needs: `too-large`, whoever meets it."""

    def __init__(self, text: str) -> None:
        super().__init__(Problem(Code.TOO_LARGE, text))

    def __str__(self) -> str:
        return self.problems[0].message


@dataclass(frozen=True, slots=True, order=True)
class Symbol:
    """A named dimension."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Call:
    """An operation that is not polynomial, on two dims."""

    kind: Literal["//", "%", "min", "max"]
    left: Dim
    right: Dim

    def __str__(self) -> str:
        if self.kind in ("min", "max"):
            return f"{self.kind}({self.left},{self.right})"
        return f"{_operand_text(self.left)}{self.kind}{_operand_text(self.right)}"


def _operand_text(dim: Dim) -> str:
    """As an operand of // or %: in parentheses unless it is one word, or one call of min or max."""
    match dim:
        case int():
            simple = dim >= 0
        case Expr(terms=(((Symbol() | Call(kind="min" | "max"),), 1),)):
            simple = True
        case _:
            simple = False
    return str(dim) if simple else f"({dim})"


Atom: TypeAlias = Symbol | Call
Monomial: TypeAlias = tuple[Atom, ...]  # sorted by text; a power repeats its atom


@dataclass(frozen=True, slots=True)
class Expr:
    """A dim that is not a plain integer: a sum of (monomial, coefficient), sorted, without zeros."""

    terms: tuple[tuple[Monomial, int], ...]

    @property
    def name(self) -> str | None:
        """The name, if this is a named dimension and nothing else."""
        match self.terms:
            case (((Symbol(name),), 1),):
                return name
        return None

    def __add__(self, other: Dim) -> Dim:
        total = Counter(dict(self.terms))
        for monomial, coefficient in _terms(other):
            total[monomial] += coefficient
        return _from_terms(total)

    def __mul__(self, other: Dim) -> Dim:
        if other == 1:
            return self
        total: Counter[Monomial] = Counter()
        if len(self.terms) * len(_terms(other)) > MAX_TERMS:
            raise DimTooLarge(f"a product of dimensions has more than {MAX_TERMS} terms")
        for left, a in self.terms:
            for right, b in _terms(other):
                total[_sorted(left + right) if left and right else left or right] += a * b
        return _from_terms(total)

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + other * -1

    def __rsub__(self, other: Dim) -> Dim:
        return -self + other

    __radd__ = __add__
    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __str__(self) -> str:
        first, *rest = (_term_text(m, c) for m, c in self.terms)
        return first + "".join(t if t.startswith("-") else f"+{t}" for t in rest)

    __repr__ = __str__


def _term_text(monomial: Monomial, coefficient: int) -> str:
    if not monomial:
        return str(coefficient)
    if coefficient == 1 and len(monomial) == 1:
        return str(monomial[0])
    # A quotient is in parentheses when anything multiplies it: 2*(seq//2).
    product = "*".join(_operand_text(_from_terms({(atom,): 1})) for atom in monomial)
    if coefficient == 1:
        return product
    return f"-{product}" if coefficient == -1 else f"{coefficient}*{product}"


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(dim, Expr):
        return dim.terms
    return (((), dim),) if dim else ()


def _from_terms(total: Mapping[Monomial, int]) -> Dim:
    kept = [(m, c) for m, c in total.items() if c]
    if not kept:
        return 0
    if len(kept) > MAX_TERMS or any(len(m) > MAX_DEGREE or abs(c) >= 1 << 63 for m, c in kept):
        raise DimTooLarge("a dimension has too many terms, factors or digits")
    if len(kept) == 1 and kept[0][0] == ():
        return kept[0][1]
    if len(kept) == 1:
        return Expr((kept[0],))
    # Longer products first, the constant last: 2*batch*seq+seq+1.
    return Expr(tuple(sorted(kept, key=lambda t: (-len(t[0]), tuple(map(_text, t[0]))))))


# Sorting asks for the same few texts again and again.
_text = lru_cache(maxsize=1 << 14)(str)


def _sorted(atoms: Monomial) -> Monomial:
    return tuple(sorted(atoms, key=_text))


def sum_of(dims: Iterable[Dim]) -> Dim:
    """The sum of `dims`, in one go: adding them one by one would sort all terms each time."""
    found: Counter[Monomial] = Counter()
    for dim in dims:
        for monomial, coefficient in _terms(dim):
            found[monomial] += coefficient
    return _from_terms(found)


def symbol(name: str) -> Expr:
    """The dim called `name`."""
    return Expr((((Symbol(name),), 1),))


def _call(kind: Literal["//", "%", "min", "max"], left: Dim, right: Dim) -> Dim:
    return Expr((((Call(kind, left, right),), 1),))


def floordiv(left: Dim, right: Dim) -> Dim:
    """left // right, as a polynomial where that is exact."""
    if right == 0:
        raise ZeroDivisionError(f"{left} // 0")
    if isinstance(left, int) and isinstance(right, int):
        return left // right
    exact = divide_exactly(left, right)
    if exact is not None:
        return exact
    if isinstance(left, Expr) and isinstance(right, int) and right > 0:
        return _floor_of(left, right)
    return _call("//", left, right)


def _floor_of(left: Expr, right: int) -> Dim:
    """left // right in one form: whole multiples of `right` outside, the rest positive and over one divisor.

    (a+9)//4 is (a+1)//4+2; (8-a)//4 is 2-(a+3)//4; (a//5)//2 is a//10.
    """
    whole, rest = Counter[Monomial](), Counter[Monomial]()
    for monomial, coefficient in left.terms:
        if monomial == () or coefficient % right == 0:
            whole[monomial], rest[monomial] = divmod(coefficient, right)
        else:
            rest[monomial] = coefficient
    outside, inside = _from_terms(whole), _from_terms(rest)
    if isinstance(inside, int):
        return outside + inside // right
    if inside.terms[0][1] < 0:
        # floor(-x / r) is -floor((x + r - 1) / r).
        return outside - _nested(right - 1 - inside, right)
    return outside + _nested(inside, right)


def _nested(inside: Dim, right: int) -> Dim:
    """inside // right, with a quotient in a quotient as one: (a//5+1)//2 is (a+5)//10."""
    if isinstance(inside, Expr) and inside.terms[0][1] == 1 and len(inside.terms) <= 2:
        monomial, offset = inside.terms[0][0], inside - Expr((inside.terms[0],))
        match monomial:
            case (Call("//", left, int(divisor)),) if divisor > 0 and isinstance(offset, int):
                return floordiv(left + offset * divisor, divisor * right)
    return _call("//", inside, right)


def divide_exactly(left: Dim, right: Dim) -> Dim | None:
    """left / right as polynomials, or None when a remainder is left (or `right` is 0)."""
    if left == right:
        return 1
    divisor = _terms(right)
    if not divisor:
        return None
    # Terms are ordered by degree, then by name: an order that products keep, so leading terms divide.
    monomial, coefficient = divisor[0]
    quotient: Dim = 0
    for _ in range(MAX_QUOTIENT_TERMS):
        terms = _terms(left)
        if not terms:
            return quotient
        m, c = terms[0]
        rest = Counter(m)
        rest.subtract(monomial)
        if c % coefficient or any(n < 0 for n in rest.values()):
            return None
        term = _from_terms({tuple(sorted(rest.elements(), key=str)): c // coefficient})
        quotient = quotient + term
        left = left - term * right
    return None


MAX_QUOTIENT_TERMS = 64


def mod(left: Dim, right: Dim) -> Dim:
    """left % right, with the sign of the divisor as in Python."""
    if right == 0:
        raise ZeroDivisionError(f"{left} % 0")
    if isinstance(left, int) and isinstance(right, int):
        return left % right
    return 0 if divide_exactly(left, right) is not None else _call("%", left, right)


def minimum(left: Dim, right: Dim) -> Dim:
    if isinstance(left, int) and isinstance(right, int):
        return min(left, right)
    if left == right:
        return left
    first, second = sorted((left, right), key=str)
    return _call("min", first, second)


def maximum(left: Dim, right: Dim) -> Dim:
    if isinstance(left, int) and isinstance(right, int):
        return max(left, right)
    if left == right:
        return left
    first, second = sorted((left, right), key=str)
    return _call("max", first, second)


def product(dims: Shape) -> Dim:
    """The number of elements of a shape."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total


_APPLY: Mapping[str, Callable[[Dim, Dim], Dim]] = {"//": floordiv, "%": mod, "min": minimum, "max": maximum}


def substitute(dim: Dim, known: Mapping[str, Dim]) -> Dim:
    """`dim` with names replaced; an int when every name is."""
    return _rebuilt(dim, lambda atom: _substitute_atom(atom, known))


def _rebuilt(dim: Dim, change: Callable[[Atom], Dim]) -> Dim:
    """`dim` with every atom replaced by what `change` makes of it."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        term: Dim = coefficient
        for atom in monomial:
            term = term * change(atom)
        total = total + term
    return total


def _substitute_atom(atom: Atom, known: Mapping[str, Dim]) -> Dim:
    if isinstance(atom, Symbol):
        return known.get(atom.name, symbol(atom.name))
    return _APPLY[atom.kind](substitute(atom.left, known), substitute(atom.right, known))


def evaluate_dim(dim: Dim, known: Mapping[str, int]) -> int:
    """The integer `dim` equals. Raises KeyError naming the first unknown dimension."""
    value = substitute(dim, known)
    if not isinstance(value, int):
        raise KeyError(sorted(names(value))[0])
    return value


def as_multiple(dim: Dim) -> tuple[str, int] | None:
    """The name and the factor of a dim such as `seq` or `4*seq`: a size gives the name its value."""
    match dim:
        case Expr(terms=(((Symbol(name),), int(factor)),)) if factor > 0:
            return name, factor
    return None


def names(dim: Dim) -> frozenset[str]:
    """The named dimensions `dim` depends on."""
    if isinstance(dim, int):
        return frozenset()
    found: set[str] = set()
    for monomial, _ in dim.terms:
        for atom in monomial:
            found |= {atom.name} if isinstance(atom, Symbol) else names(atom.left) | names(atom.right)
    return frozenset(found)


# --- intervals -----------------------------------------------------------------------------------


def interval(dim: Dim, bounds: Bounds) -> tuple[int | None, int | None]:
    """Bounds that `dim` certainly keeps; None is unbounded. A name without bounds is at least 0."""
    if isinstance(dim, int):
        return dim, dim
    low: int | None = 0
    high: int | None = 0
    for monomial, coefficient in dim.terms:
        a, b = _monomial_interval(monomial, bounds)
        if coefficient < 0:
            a, b = b, a
        low = None if low is None or a is None else low + coefficient * a
        high = None if high is None or b is None else high + coefficient * b
    return low, high


def _monomial_interval(monomial: Monomial, bounds: Bounds) -> tuple[int | None, int | None]:
    low: int | None = 1
    high: int | None = 1
    for atom in monomial:
        a, b = _atom_interval(atom, bounds)
        if a is None or a < 0:
            return None, None  # a factor that may be negative: say nothing
        low = None if low is None else low * a
        high = None if high is None or b is None else high * b
    return low, high


def _atom_interval(atom: Atom, bounds: Bounds) -> tuple[int | None, int | None]:
    if isinstance(atom, Symbol):
        return bounds.get(atom.name, (0, None))
    (a, b), (c, d) = interval(atom.left, bounds), interval(atom.right, bounds)
    if atom.kind == "min":
        return (None if a is None or c is None else min(a, c)), _smallest(b, d)
    if atom.kind == "max":
        return _largest(a, c), (None if b is None or d is None else max(b, d))
    if c is None or c <= 0:
        return None, None
    if atom.kind == "%":
        return 0, None if d is None else d - 1
    low = None if a is None else (a // c if a < 0 else (0 if d is None else a // d))
    return low, None if b is None else (b // c if b >= 0 else (-1 if d is None else b // d))


def _smallest(*values: int | None) -> int | None:
    known = [v for v in values if v is not None]
    return min(known) if known else None


def _largest(*values: int | None) -> int | None:
    known = [v for v in values if v is not None]
    return max(known) if known else None


def compare(left: Dim, right: Dim, bounds: Bounds) -> Literal["<", "=", ">"] | None:
    """How `left` compares with `right` for every size within `bounds`, or None when it depends."""
    low, high = interval(left - right, bounds)
    if low == high == 0:
        return "="
    if low is not None and low > 0:
        return ">"
    return "<" if high is not None and high < 0 else None


def simplify(dim: Dim, bounds: Bounds) -> Dim:
    """`dim` with minima, maxima and remainders decided wherever `bounds` decide them."""
    return _rebuilt(dim, lambda atom: _simplify_atom(atom, bounds))


def _simplify_atom(atom: Atom, bounds: Bounds) -> Dim:
    if isinstance(atom, Symbol):
        return symbol(atom.name)
    left, right = simplify(atom.left, bounds), simplify(atom.right, bounds)
    low, high = interval(left - right, bounds)
    if atom.kind in ("min", "max"):
        smaller, larger = (left, right) if atom.kind == "min" else (right, left)
        if high is not None and high <= 0:
            return smaller
        if low is not None and low >= 0:
            return larger
    if atom.kind in ("//", "%") and high is not None and high < 0:
        floor = interval(left, bounds)[0]
        if floor is not None and floor >= 0:
            return 0 if atom.kind == "//" else left
    if atom.kind == "//" and isinstance(right, int) and right > 0:
        first, last = interval(left, bounds)
        if first is not None and last is not None and first // right == last // right:
            return first // right
    return _APPLY[atom.kind](left, right)
