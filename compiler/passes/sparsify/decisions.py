"""What was decided about matrices with zeros: dense or sparse, and what it was decided by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from isthmus.errors import Code, ModelError, Problem
from isthmus.ir.dims import Dim, evaluate_dim, interval, product
from isthmus.ir.dims import names as names_of
from isthmus.ir.graph import Program
from isthmus.ir.weights import Weight
from isthmus.passes.sparsify.costs import MANY, Form

_DIGITS = 16  # of a digest: as many as tell matrices of one model apart


@dataclass(frozen=True, slots=True)
class Decision:
    """How the matrix of one layer is stored: without zeros in a `form`, or dense (None).

    `matrix` says which one it is (`mark`). It was decided for so many `rows`, where what is fastest without
    its zeros had `measured` times the speed of dense; None: declared costs decided.
    """

    matrix: str
    form: Form | None
    rows: int
    measured: float | None


@dataclass(frozen=True, slots=True)
class Record:
    """Decisions by the name of their layer."""

    of: Mapping[str, Decision] = field(default_factory=dict, repr=False)

    def find(self, name: str, weight: Weight) -> Decision:
        """The decision about a layer. Raises ModelError where there is none, or about another matrix."""
        found = self.of.get(name)
        if found is not None and found.matrix == mark(weight):
            return found
        known = "nothing" if found is None else "another matrix"
        text = f"of this layer, whose matrix has zeros, {known} is recorded"
        hint = "decide anew with --measure; a record is for one model, pruned in one way, and one chip"
        raise ModelError(Problem(Code.BAD_SPARSITY, text, name, hint))


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of open dims that decisions are made for; what is not said is as large as its bound allows."""

    of: Mapping[str, int] = field(default_factory=dict)

    def rows(self, dims: tuple[Dim, ...], program: Program) -> int:
        """Rows of a tensor with these leading dims, MANY at most; without any bound they are many."""
        most = self._range(dims, program)[1]
        return max(1, MANY if most is None else min(most, MANY))

    def fewest(self, dims: tuple[Dim, ...], program: Program) -> int:
        """The fewest rows that such a tensor may have, of those that have any."""
        return max(1, self._range(dims, program)[0] or 1)

    def _range(self, dims: tuple[Dim, ...], program: Program) -> tuple[int | None, int | None]:
        whole = product(dims)
        if names_of(whole) <= self.of.keys():
            size = evaluate_dim(whole, self.of)
            return size, size
        given = {name: (size, size) for name, size in self.of.items()}
        return interval(whole, {**program.bounds, **given})


def mark(weight: Weight) -> str:
    """What a matrix is known by in a record."""
    return weight.digest[:_DIGITS]
