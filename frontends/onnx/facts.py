"""What is known about named dims, and what more must be true for a model to make sense.

A node that adds `[batch, seq]` to `[1, min(seq,512)]` only works when seq <= 512. Such facts are found
while importing; the import then starts again with them, which takes milliseconds and keeps every shape
written in its simplest form.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from isthmus.ir.dims import Call, Dim, Expr, Interval, Symbol, interval, names, simplify, substitute, symbol


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
    return None


def _implied_bounds(one: Dim, other: Dim) -> Iterator[tuple[str, int, int | None]]:
    """Bounds on a name under which a minimum or maximum `one` is simply `other`."""
    atom = _atom_of(one)
    if not isinstance(atom, Call) or atom.kind not in ("min", "max"):
        return
    for kept, dropped in ((atom.left, atom.right), (atom.right, atom.left)):
        if kept != other:
            continue
        # min(kept, dropped) == kept means kept <= dropped, that is kept - dropped <= 0.
        difference = kept - dropped if atom.kind == "min" else dropped - kept
        if isinstance(difference, int):
            continue
        rest = [c for m, c in difference.terms if m == ()]
        linear = [(m[0], c) for m, c in difference.terms if len(m) == 1]
        if len(linear) != 1 or len(linear) + len(rest) != len(difference.terms):
            continue
        (term, coefficient), constant = linear[0], sum(rest)
        if not isinstance(term, Symbol):
            continue
        if coefficient > 0:
            yield term.name, 0, -constant // coefficient
        else:
            yield term.name, -(-constant // -coefficient), None


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
