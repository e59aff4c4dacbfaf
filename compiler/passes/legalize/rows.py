"""Which values nobody looks at where the mask says padding.

Every user of a value says which of its elements it looks at: all, or, for a row-wise op whose own result is
not looked at there, only those of rows that are kept. A value of which no user looks at padding is free
there: it may hold anything, and need not be computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from isthmus.ir.dims import Shape
from isthmus.ir.graph import Graph, Trait, Value
from isthmus.passes.legalize.masks import hides_padding, is_zero_where_padded, of_mask

# Which arguments of an op are walked row by row; an axis of positions that is not the last.
ROW_WISE: Mapping[str, tuple[int, ...]] = {
    "linear": (0, 3),
    "integer_linear": (0, 3, 6),
    "block_linear": (0,),
    "integer_block_linear": (0, 3, 5),
    "quantize_rows": (0, 1),
    "row_scale": (0,),
    "layer_norm": (0, 3),
    "rms_norm": (0,),
    "softmax": (0,),
}
REDUCTIONS = ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod")


@dataclass(slots=True)
class Rows:
    """`axis[v]` is the axis of positions of v (its batch comes first) where padding is free, else None.

    `first`: position 0 of each sequence is looked at, whether it is padding or not. `blocked` says which user
    looks at the padding of a value, and None that the value is an output.
    """

    mask: Value
    axis: dict[Value, int | None] = field(default_factory=dict)
    first: bool = False
    blocked: dict[Value, Value | None] = field(default_factory=dict)

    def reason(self, value: Value, outputs: Mapping[Value, str]) -> str:
        """Why padding of `value` is looked at: the end of the way by which others need it."""
        while True:
            user = self.blocked.get(value)
            if user is None:
                return f"output {outputs.get(value, '')!r} shows what padding came to"
            if not self._hands_on(user, value):
                return f"{user.op.name} ({user.loc}) looks at what padding came to"
            value = user

    def _hands_on(self, user: Value, value: Value) -> bool:
        """Whether `user` would not look at padding of `value` if nobody looked at its own."""
        axes = range(1, user.t.rank)
        places = [i for i, arg in enumerate(user.args) if arg is value]
        return any(demanded(user, i, axis, self.mask) is not None for i in places for axis in axes)


def find_rows(graph: Graph, mask: Value) -> Rows:
    """What is free in `graph` where `mask`, of [batch, position], is 0."""
    rows = Rows(mask)
    demands: dict[Value, set[int | None]] = {}
    firsts: set[Value] = set()
    for _, value in graph.outputs:
        demands.setdefault(value, set()).add(None)
        rows.blocked[value] = None
    for user in reversed(list(graph.nodes())):
        found = demands.get(user, {None})
        own = rows.axis[user] = found.pop() if len(found) == 1 else None
        for i, arg in enumerate(user.args):
            axis = demanded(user, i, own, mask)
            if axis is None and own is None and reads_first(user, mask.shape):
                axis = 1
                firsts.add(arg)
            demands.setdefault(arg, set()).add(axis)
            if axis is None:
                rows.blocked.setdefault(arg, user)
    for value in graph.inputs:
        found = demands.get(value, {None})
        rows.axis[value] = found.pop() if len(found) == 1 else None
    rows.first = any(rows.axis.get(value) is not None for value in firsts)
    return rows


def reads_first(user: Value, sizes: Shape) -> bool:
    """Whether `user` takes position 0 of each sequence, and no other."""
    if user.op.name != "slice" or user.args[0].t.rank < 2:
        return False
    taken = user.attr("starts")[1] == 0 and user.attr("sizes")[1] == 1
    return taken and user.args[0].shape[:2] == sizes


def is_rows(value: Value, axis: int, sizes: Shape) -> bool:
    """Whether `value` has the sizes [batch, position] on its first axis and on `axis`."""
    return value.t.rank > axis > 0 and (value.shape[0], value.shape[axis]) == sizes


def demanded(user: Value, i: int, axis: int | None, mask: Value) -> int | None:
    """Which of argument `i` is looked at by `user`, whose own padding along `axis` is free, or not (None):
    the axis of positions of the argument, if nothing is that is padding; else None."""
    arg = user.args[i]
    found = _killed(user, i, mask) if axis is None else _same_row(user, i, axis, mask)
    return found if found is not None and is_rows(arg, found, mask.shape) else None


def _killed(user: Value, i: int, mask: Value) -> int | None:
    """The axis of positions of argument `i` that `user` puts zeros, or something else, in the place of."""
    arg = user.args[i]
    if arg.t.rank != user.t.rank:
        return None
    if user.op.name in ("mul", "and"):
        other = user.args[1 - i]
        return is_zero_where_padded(other, mask) if other.t.rank == user.t.rank else None
    if user.op.name == "where" and i > 0 and user.args[0].t.rank == user.t.rank:
        condition = of_mask(user.args[0], mask)
        if condition is not None and bool(condition.at(0.0)) is (i == 2):
            return condition.axis
    return None


def _same_row(user: Value, i: int, axis: int, mask: Value) -> int | None:
    """The axis of positions of argument `i`, if row r of the result needs row r of it alone."""
    op, arg = user.op.name, user.args[i]
    if Trait.POINTWISE in user.op.traits or op == "broadcast":
        return axis if arg.t.rank == user.t.rank else None
    if op in ROW_WISE:
        return axis if i in ROW_WISE[op] and axis < user.t.rank - 1 else None
    if op == "attention":
        return axis if i < 3 and axis == 2 and attends_itself(user, mask) else None
    return _moved(user, i, axis)


def _moved(user: Value, i: int, axis: int) -> int | None:
    """The same for ops that move elements, and for reductions."""
    op, arg = user.op.name, user.args[i]
    rank = arg.t.rank
    match op:
        case "reshape":
            return axis if arg.shape[: axis + 1] == user.shape[: axis + 1] else None
        case "transpose":
            perm: tuple[int, ...] = user.attr("perm")
            return perm[axis] if perm[0] == 0 else None
        case "slice":
            starts, steps = user.attr("starts"), user.attr("steps")
            whole = all(starts[a] == 0 and steps[a] == 1 and user.shape[a] == arg.shape[a] for a in (0, axis))
            return axis if whole else None
        case "concat":
            return axis if user.attr("axis") not in (0, axis) else None
        case "gather":
            return axis if i == 1 and user.attr("axis") == 0 and axis < rank else None
        case "matmul":
            return axis if i == 0 and axis < rank - 1 and user.args[1].t.rank == 2 else None
    if op in REDUCTIONS:
        return axis if all(a > axis for a in user.attr("axes")) else None
    return None


def attends_itself(attention: Value, mask: Value) -> bool:
    """Whether queries and keys are the positions of `mask`, and padding is hidden from them."""
    q, k, v, *biases = attention.args
    own = all(is_rows(a, 2, mask.shape) for a in (q, k, v))
    return own and len(biases) == 1 and hides_padding(biases[0], mask)
