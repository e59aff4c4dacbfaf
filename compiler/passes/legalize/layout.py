"""Where the rows that are kept lie, as values of the graph: made from the mask when a run begins."""

from __future__ import annotations

from dataclasses import dataclass

from isthmus.ir.dims import Dim, product, symbol
from isthmus.ir.graph import Value
from isthmus.ir.types import DType
from isthmus.ops.movement import dim_value, full, iota, reshape, slice_
from isthmus.ops.pointwise import cast, div, equal, less, logical_not, logical_or, mod, sub, where
from isthmus.ops.ragged import kept_rows
from isthmus.ops.reduce import cumsum, reduce_sum


@dataclass(frozen=True, slots=True)
class Layout:
    """Where kept rows are: `kept` bool[batch, positions], `row` i64[batch, positions] the number of the row
    (or of one before it), `place` i64[rows] which of batch * positions a row is, `position` and `sequence`
    the same in two parts, `ends` i64[batch] the row after each sequence's last."""

    kept: Value
    row: Value
    place: Value
    position: Value
    sequence: Value
    ends: Value

    @property
    def rows(self) -> Dim:
        """How many there are."""
        return self.place.shape[0]


def layout_of(mask: Value, first: bool, name: str) -> Layout:
    """The rows of `mask` that are kept; their number is the dim `name`. `first`: position 0 always is."""
    batch, length = mask.shape
    loc = mask.loc
    kept = _kept(mask, first)
    ones = reshape(cast(kept, dtype=DType.I64), shape=(product(mask.shape),))
    count = cumsum(ones, axis=0, loc=loc)
    counts = reshape(count, shape=mask.shape)
    place = kept_rows(count, dim=(symbol(name),), loc=loc)
    size = dim_value(dim=(length,), dtype=DType.I64)
    ends = slice_(counts, starts=(0, length - 1), sizes=(batch, 1), steps=(1, 1))
    return Layout(
        kept=kept,
        row=sub(counts, _i64(1), loc=loc),
        place=place,
        position=mod(place, size, loc=loc),
        sequence=div(place, size, loc=loc),
        ends=reshape(ends, shape=(batch,), loc=loc),
    )


def _kept(mask: Value, first: bool) -> Value:
    """bool[batch, positions]: where the mask is not 0, and everywhere in a sequence that `padding` says is
    kept whole."""
    if mask.dtype is DType.BOOL:
        present, ones = mask, cast(mask, dtype=DType.I64)
    else:
        zero, one = (full(shape=(), value=v, dtype=mask.dtype) for v in (0.0, 1.0))
        padding = equal(mask, zero)
        present = logical_not(padding)
        # A mask that is neither 0 nor 1 outweighs all ones.
        ones = where(padding, _i64(0), where(equal(mask, one), _i64(1), _i64(-(1 << 40))))
    whole = less(reduce_sum(ones, axes=(1,), loc=mask.loc), _i64(1))
    kept = logical_or(present, whole, loc=mask.loc)
    if not first:
        return kept
    positions = iota(shape=mask.shape, axis=1, dtype=DType.I64)
    return logical_or(kept, equal(positions, _i64(0)), loc=mask.loc)


def _i64(number: int) -> Value:
    return full(shape=(), value=float(number), dtype=DType.I64)
