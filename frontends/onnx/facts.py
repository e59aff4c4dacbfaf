"""What is known about named dims, and what more must be true for a model to make sense.

A node that adds `[batch, seq]` to `[1, min(seq,512)]` only works when seq <= 512. Such facts are found
while importing; the import then starts again with them, which takes milliseconds and keeps every shape
written in its simplest form.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from isthmus.ir.dims import Call, Dim, Expr, Interval, Symbol, interval, names, simplify, substitute, symbol

Bound: TypeAlias = tuple[str, int, int | None]  # a name, its least and its greatest size

MAX_TRIALS = 40
MAX_LOW = 1 << 16


@dataclass(frozen=True, slots=True)
class Facts:
    """Bounds of every named dim, in order of declaration, and dims that equal something else."""

    bounds: Mapping[str, Interval]
    equal: Mapping[str, Dim]

    def resolve(self, dim: Dim) -> Dim:
        """`dim` in its simplest form."""
        if isinstance(dim, int):
            return dim
        return simplify(substitute(dim, self.equal) if self.equal else dim, self.bounds)

    def with_bound(self, name: str, low: int, high: int | None) -> Facts | None:
        """`name` within [low, high] as well; None when that leaves nothing or says nothing new."""
        old_low, old_high = self.bounds[name]
        low = max(low, old_low)
        high = old_high if high is None else high if old_high is None else min(high, old_high)
        if (low, high) == (old_low, old_high) or (high is not None and high < low):
            return None
        return replace(self, bounds={**self.bounds, name: (low, high)})

    def with_equal(self, name: str, dim: Dim) -> Facts | None:
        """`name` replaced by `dim` everywhere; None when its bounds forbid that."""
        low, high = self.bounds[name]
        least, most = interval(dim, self.bounds)
        if (most is not None and most < low) or (high is not None and least is not None and least > high):
            return None
        equal = {n: substitute(d, {name: dim}) for n, d in self.equal.items()}
        bounds = {n: b for n, b in self.bounds.items() if n != name}
        facts = Facts(bounds, {**equal, name: dim})
        if isinstance(dim, Expr) and (other := _symbol_of(dim)):
            return facts.with_bound(other, low, high) or facts
        return facts

    def with_multiple(self, name: str, factor: int) -> Facts | None:
        """`name` as `factor` times a new name; None when its bounds hold no multiple."""
        low, high = self.bounds[name]
        least, most = -(-low // factor), None if high is None else high // factor
        part = f"{name}_div_{factor}"
        if (most is not None and most < least) or part in self.bounds or part in self.equal:
            return None
        known = {name: symbol(part) * factor}
        bounds = {part if n == name else n: (least, most) if n == name else b for n, b in self.bounds.items()}
        return Facts(bounds, {**{n: substitute(d, known) for n, d in self.equal.items()}, **known})


@dataclass(frozen=True, slots=True)
class Conclusion:
    """New facts. `text` says which dims were found equal; empty when only a bound was narrowed."""

    facts: Facts
    text: str = ""


def conclude(a: Dim, b: Dim, facts: Facts) -> Conclusion | None:
    """The facts under which `a` and `b` are the same size, or None when there is no simple one."""
    for one, other in ((a, b), (b, a)):
        for name, low, high in _implied_bounds(one, other):
            if (narrowed := facts.with_bound(name, low, high)) is not None:
                return Conclusion(narrowed)
    for name, dim in _solutions(a, b, facts):
        least = interval(dim, facts.bounds)[0]
        if least is None or least < 0:
            continue
        if (unified := facts.with_equal(name, dim)) is not None:
            return Conclusion(unified, f"dim {name!r} is taken to be {str(dim)!r}")
    return _by_trial(a, b, facts) or _by_quotients(a, b, facts) or _by_division(a, b, facts)


def _by_division(a: Dim, b: Dim, facts: Facts) -> Conclusion | None:
    """A name that must be a multiple of what it is divided by."""
    for name, factor in sorted(set(_divided(a)) | set(_divided(b))):
        narrowed = facts.with_multiple(name, factor) if name in facts.bounds else None
        if narrowed is not None and narrowed.resolve(a - b) == 0:
            return Conclusion(narrowed, f"dim {name!r} is taken to be {str(narrowed.equal[name])!r}")
    return None


def _divided(dim: Dim) -> Iterator[tuple[str, int]]:
    """Names and the numbers they are divided by."""
    for atom in {atom for monomial, _ in dim.terms for atom in monomial} if isinstance(dim, Expr) else ():
        if isinstance(atom, Call):
            if atom.kind == "//" and isinstance(atom.right, int) and (name := _symbol_of(atom.left)):
                yield name, atom.right
            yield from _divided(atom.left)
            yield from _divided(atom.right)


def _implied_bounds(one: Dim, other: Dim) -> Iterator[Bound]:
    """Bounds on a name under which a minimum or maximum `one` is simply `other`."""
    atom = _atom_of(one)
    if not isinstance(atom, Call) or atom.kind not in ("min", "max"):
        return
    for kept, dropped in ((atom.left, atom.right), (atom.right, atom.left)):
        if kept == other:
            # min(kept, dropped) == kept means kept <= dropped.
            yield from _at_most(kept - dropped if atom.kind == "min" else dropped - kept, 0)


def _at_most(dim: Dim, most: int) -> Iterator[Bound]:
    """Bounds on a name under which dim <= most, if `dim` is linear in one atom."""
    if isinstance(dim, int):
        return
    rest = sum(c for m, c in dim.terms if m == ())
    linear = [(m, c) for m, c in dim.terms if m != ()]
    if len(linear) != 1 or len(linear[0][0]) != 1:
        return
    (atom,), coefficient = linear[0]
    upward = coefficient > 0
    limit = (most - rest) // coefficient if upward else -((most - rest) // -coefficient)
    if isinstance(atom, Symbol):
        yield (atom.name, 0, limit) if upward else (atom.name, limit, None)
    elif atom.kind == "//" and isinstance(atom.right, int) and atom.right > 0:
        # left // k <= limit means left < (limit + 1) * k; left // k >= limit means left >= limit * k.
        divisor = atom.right
        if upward:
            yield from _at_most(atom.left, limit * divisor + divisor - 1)
        else:
            yield from _at_most(atom.left * -1, -limit * divisor)


def at_least(dim: Dim, least: int, facts: Facts) -> Conclusion | None:
    """The facts under which dim >= least, or None when they say so already or there is no simple one."""
    low = interval(dim, facts.bounds)[0]
    if low is not None and low >= least:
        return None
    for name, lowest, highest in _at_most(dim * -1, -least):
        if (narrowed := facts.with_bound(name, lowest, highest)) is not None:
            return Conclusion(narrowed)
    for name in sorted(names(dim)):
        if (narrowed := _raised(dim, least, name, facts)) is not None:
            return Conclusion(narrowed)
    return None


def _raised(dim: Dim, least: int, name: str, facts: Facts) -> Facts | None:
    """A lower bound of one name from which on dim >= least; the smallest, if `dim` grows with it."""

    def enough(low: int) -> Facts | None:
        narrowed = facts.with_bound(name, low, None)
        reached = None if narrowed is None else interval(narrowed.resolve(dim), narrowed.bounds)[0]
        return narrowed if reached is not None and reached >= least else None

    low = facts.bounds[name][0]
    high = max(1, 2 * low)
    while enough(high) is None:
        low, high = high, 2 * high
        if high > MAX_LOW:
            return None
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return enough(high)


def _by_trial(a: Dim, b: Dim, facts: Facts) -> Conclusion | None:
    """A bound at one of the numbers that `a` and `b` compare a name with, if that makes them equal."""
    marks = sorted({*_marks(a), *_marks(b)})
    tries: list[Bound] = [(name, 0, mark) for name, mark in reversed(marks)]
    tries += [(name, mark, None) for name, mark in marks]
    for name, low, high in tries[:MAX_TRIALS]:
        narrowed = facts.with_bound(name, low, high) if name in facts.bounds else None
        if narrowed is not None and narrowed.resolve(a - b) == 0:
            return Conclusion(narrowed)
    return None


def _by_quotients(a: Dim, b: Dim, facts: Facts) -> Conclusion | None:
    """Bounds under which a quotient, or a product of two, is the number it has to be.

    Of the many ways to cut an image into 16 patches a model means 4 by 4.
    """
    difference = a - b
    if isinstance(difference, int):
        return None
    number = -sum(c for m, c in difference.terms if m == ())
    products = [(m, c) for m, c in difference.terms if m != ()]
    if len(products) != 1 or number % products[0][1]:
        return None
    atoms, wanted = products[0][0], number // products[0][1]
    side = math.isqrt(max(wanted, 0)) if len(atoms) == 2 else wanted
    quotients = {x for x in atoms if isinstance(x, Call) and x.kind == "//"}
    if side < 1 or side ** len(atoms) != wanted or not 0 < len(quotients) == len(atoms) <= 2:
        return None
    taken = []
    for quotient in sorted(quotients, key=str):
        dim = Expr((((quotient,), 1),))
        for name, low, high in (*_at_most(dim, side), *_at_most(dim * -1, -side)):
            narrowed = facts.with_bound(name, low, high)
            if narrowed is None:
                continue
            facts = narrowed
            taken.append(name)
    if not taken or facts.resolve(difference) != 0:
        return None
    shown = (
        f"dim {n!r} is taken to be {facts.bounds[n][0]}..{facts.bounds[n][1]}" for n in dict.fromkeys(taken)
    )
    return Conclusion(facts, " and ".join(shown))


def _marks(dim: Dim) -> Iterator[tuple[str, int]]:
    """Names and the numbers they are compared with in minima and maxima."""
    if isinstance(dim, int):
        return
    for atom in {atom for monomial, _ in dim.terms for atom in monomial}:
        if isinstance(atom, Symbol):
            continue
        for side, other in ((atom.left, atom.right), (atom.right, atom.left)):
            if (name := _symbol_of(side)) and isinstance(other, int):
                yield name, other
            yield from _marks(side)


def _solutions(a: Dim, b: Dim, facts: Facts) -> Iterator[tuple[str, Dim]]:
    """Names that a == b determines, the one declared last first, each with what it must be."""
    difference = a - b
    if isinstance(difference, int):
        return
    order = list(facts.bounds)
    found = []
    for monomial, coefficient in difference.terms:
        if len(monomial) != 1 or not isinstance(monomial[0], Symbol) or abs(coefficient) != 1:
            continue
        name = monomial[0].name
        solved = symbol(name) - difference * coefficient
        if name in order and name not in names(solved):
            # A name that stands alone on its side is the one to replace.
            alone = _symbol_of(a) == name or _symbol_of(b) == name
            found.append((alone, order.index(name), name, solved))
    for _, _, name, solved in sorted(found, key=lambda f: f[:2], reverse=True):
        yield name, solved


def _atom_of(dim: Dim) -> Symbol | Call | None:
    """The atom that `dim` is, if it is just one."""
    if isinstance(dim, int) or len(dim.terms) != 1:
        return None
    monomial, coefficient = dim.terms[0]
    return monomial[0] if coefficient == 1 and len(monomial) == 1 else None


def _symbol_of(dim: Dim) -> str | None:
    atom = _atom_of(dim)
    return atom.name if isinstance(atom, Symbol) else None


class Restart(Exception):
    """Something new is known about dims."""

    def __init__(self, conclusion: Conclusion, where: str) -> None:
        self.conclusion = conclusion
        self.where = where
        super().__init__(conclusion.text)
