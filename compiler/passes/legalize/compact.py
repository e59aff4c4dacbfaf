"""The values that are computed for kept rows alone, one row after the other, and the way in and out.

A value [batch, .., position at an axis, ..] becomes one without the batch, with all kept rows at that axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from isthmus.ir.dims import Shape
from isthmus.ir.graph import Attr, Graph, Trait, Value
from isthmus.ops.movement import full, gather, reshape, slice_, transpose
from isthmus.ops.pointwise import where
from isthmus.ops.ragged import ragged_attention
from isthmus.passes.legalize.layout import Layout, layout_of
from isthmus.passes.legalize.rows import REDUCTIONS, ROW_WISE, Rows, demanded

MOVED = ("reshape", "transpose", "slice", "broadcast", "concat", "gather", "matmul")


def members(graph: Graph, rows: Rows) -> dict[Value, int]:
    """The values to compute for kept rows alone, and their axes of positions."""
    found: dict[Value, int] = {}
    for value in graph.nodes():
        axis = rows.axis.get(value)
        if axis is not None and not value.is_leaf and _can(value, axis, rows.mask):
            found[value] = axis
    return found


def _can(value: Value, axis: int, mask: Value) -> bool:
    """Whether there is a form of `value` for kept rows: rows among its arguments, all of them where it takes
    rows, and nothing that differs by sequence on an axis we do not move."""
    needed = [demanded(value, i, axis, mask) for i in range(len(value.args))]
    if Trait.POINTWISE in value.op.traits:
        spread = [
            a for a, n in zip(value.args, needed, strict=True) if n is None and a.t.rank == value.t.rank
        ]
        return any(n is not None for n in needed) and (
            axis == 1 or mask.shape[0] == 1 or not any(a.shape[0] == mask.shape[0] for a in spread)
        )
    if value.op.name == "attention":
        return None not in needed[:3]
    if value.op.name == "concat":
        return None not in needed
    if value.op.name in ROW_WISE:
        walked = [i for i in ROW_WISE[value.op.name] if i < len(needed)]
        # One scale for all is a scalar; any other argument has rows.
        return all(needed[i] is not None or not value.args[i].shape for i in walked)
    return (value.op.name in MOVED or value.op.name in REDUCTIONS) and any(n is not None for n in needed)


def compacted(graph: Graph, rows: Rows, inside: Mapping[Value, int], name: str) -> Graph:
    """`graph` with the values `inside` computed for kept rows alone; their number is the dim `name`."""
    work = _Compaction(rows.mask, inside, layout_of(rows.mask, rows.first, name))
    for value in graph.nodes():
        work.visit(value)
    return graph.with_outputs(tuple(work.padded(value) for _, value in graph.outputs))


class _Compaction:
    """`whole` says what became of values that have all rows, `packed` the same with kept rows alone."""

    def __init__(self, mask: Value, inside: Mapping[Value, int], layout: Layout) -> None:
        self.mask = mask
        self.inside = inside
        self.layout = layout
        self.whole: dict[Value, Value] = {}
        self.packed: dict[tuple[Value, int], Value] = {}
        self.biases: dict[Value, Value] = {}

    def visit(self, value: Value) -> None:
        if value in self.inside:
            axis = self.inside[value]
            self.packed[value, axis] = self._packed(value, axis)
            return
        args = tuple(self.padded(a) for a in value.args)
        same = all(new is old for new, old in zip(args, value.args, strict=True))
        self.whole[value] = value if same else replace(value, args=args)

    # In and out

    def padded(self, value: Value) -> Value:
        """`value` with all rows; zeros where they are not kept, if it has been computed without them."""
        if value not in self.inside:
            return self.whole.get(value, value)
        if value not in self.whole:
            axis, layout = self.inside[value], self.layout
            rows = _moved(self.packed[value, axis], axis - 1, 0)
            picked = _moved(gather(rows, layout.row, axis=0, loc=value.loc), 1, axis)
            alone = tuple(d if i in (0, axis) else 1 for i, d in enumerate(value.shape))
            zero = full(shape=(), value=0.0, dtype=value.dtype)
            self.whole[value] = where(reshape(layout.kept, shape=alone), picked, zero, loc=value.loc)
        return self.whole[value]

    def rows(self, value: Value, axis: int) -> Value:
        """Kept rows of `value`, whose positions are at `axis`."""
        if (value, axis) not in self.packed:
            whole = _moved(self.padded(value), axis, 1)
            batch, length, *rest = whole.shape
            flat = reshape(whole, shape=(batch * length, *rest))
            self.packed[value, axis] = _moved(
                gather(flat, self.layout.place, axis=0, loc=value.loc), 0, axis - 1
            )
        return self.packed[value, axis]

    def _shape(self, shape: Shape, axis: int) -> Shape:
        """What is left of a shape without the batch, and with rows for positions."""
        return (*shape[1:axis], self.layout.rows, *shape[axis + 1 :])

    # Ops on kept rows

    def _packed(self, value: Value, axis: int) -> Value:
        args = [self._argument(value, i, axis) for i in range(len(value.args))]
        changed: dict[str, Attr] = {}
        match value.op.name:
            case "attention":
                bias = self._bias(value.args[3])
                known = {name: attr for name, attr in value.attrs if name in ragged_attention.attrs}
                attrs = {**known, "longest": (self.mask.shape[1],)}
                return ragged_attention(*args[:3], self.layout.ends, bias, loc=value.loc, **attrs)
            case "reshape" | "broadcast":
                changed = {"shape": self._shape(value.shape, axis)}
            case "transpose":
                changed = {"perm": tuple(a - 1 for a in value.attr("perm")[1:])}
            case "slice":
                sizes = self._shape(value.attr("sizes"), axis)
                changed = {
                    "starts": value.attr("starts")[1:],
                    "sizes": sizes,
                    "steps": value.attr("steps")[1:],
                }
            case "concat":
                changed = {"axis": value.attr("axis") - 1}
            case name if name in REDUCTIONS:
                changed = {"axes": tuple(a - 1 for a in value.attr("axes"))}
        return value.op(*args, loc=value.loc, **{**dict(value.attrs), **changed})

    def _argument(self, value: Value, i: int, axis: int) -> Value:
        """What argument `i` is for the kept rows of `value`."""
        arg = value.args[i]
        own = demanded(value, i, axis, self.mask)
        if own is not None:
            return self.rows(arg, own)
        arg = self.padded(arg)
        return self._spread(arg, value, axis) if Trait.POINTWISE in value.op.traits else arg

    def _spread(self, arg: Value, user: Value, axis: int) -> Value:
        """An argument that is the same for all sequences, or for all positions, for each kept row."""
        batch, length = self.mask.shape
        place = axis - (user.t.rank - arg.t.rank)
        if arg.t.rank == user.t.rank:
            if arg.shape[0] == batch != 1:
                # One for each sequence: `members` takes it with positions on the second axis alone.
                flat = reshape(arg, shape=(batch, *arg.shape[2:]))
                return gather(flat, self.layout.sequence, axis=0, loc=arg.loc)
            arg, place = reshape(arg, shape=arg.shape[1:], loc=arg.loc), place - 1
        if place >= 0 and arg.shape[place] == length:
            return gather(arg, self.layout.position, axis=place, loc=arg.loc)
        return arg

    def _bias(self, bias: Value) -> Value:
        """What attention adds to the scores of each kept row, as a key: its `bias` is the same for all heads
        and queries."""
        if bias not in self.biases:
            batch, length = self.mask.shape
            line = self.padded(bias)
            if bias.shape != (batch, 1, 1, length):
                line = slice_(line, starts=(0,) * 4, sizes=(batch, 1, 1, length), steps=(1,) * 4)
            flat = reshape(line, shape=(batch * length,))
            self.biases[bias] = gather(flat, self.layout.place, axis=0, loc=bias.loc)
        return self.biases[bias]


def _moved(value: Value, axis: int, to: int) -> Value:
    """`value` with `axis` at another place among the others."""
    if axis == to:
        return value
    perm = [a for a in range(value.t.rank) if a != axis]
    perm.insert(to, axis)
    return transpose(value, perm=tuple(perm), loc=value.loc)
