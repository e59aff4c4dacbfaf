"""Operators that move elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.ir.dims import Dim, Expr, floordiv, interval, maximum, minimum, product
from isthmus.ir.types import DType
from isthmus.ops import movement, pointwise

# Slices say "to the end" with huge numbers.
ENDLESS = 2**40


def reshape(node: Node) -> Tensor:
    x = node[0]
    target = node.integers("shape") or () if node.opset < 5 else node.dims(1, "the new shape")
    if not node.integer("allowzero", 0):
        target = _with_copied(node, x, target)
    free = [i for i, d in enumerate(target) if d == -1]
    if len(free) > 1:
        raise node.error(Code.SHAPE_MISMATCH, f"Reshape to {_shown(target)}: more than one -1")
    if any(isinstance(d, int) and d < -1 for d in target):
        raise node.error(Code.SHAPE_MISMATCH, f"Reshape to {_shown(target)}: a negative size")
    if free:
        i = free[0]
        rest = node.b.quotient(x.shape, target[:i] + target[i + 1 :])
        target = (*target[:i], rest, *target[i + 1 :])
    return node.b.reshape(x, target)


def _with_copied(node: Node, x: Tensor, target: tuple[Dim, ...]) -> tuple[Dim, ...]:
    """Zeros stand for the dim at the same place."""
    for i, d in enumerate(target):
        if d == 0 and i >= x.rank:
            text = f"Reshape to {_shown(target)}: there is no dim {i} to copy"
            raise node.error(Code.SHAPE_MISMATCH, text)
    return tuple(x.shape[i] if d == 0 else d for i, d in enumerate(target))


def _shown(shape: Sequence[Dim]) -> str:
    return f"[{','.join(map(str, shape))}]"


def flatten(node: Node) -> Tensor:
    x = node[0]
    axis = node.integer("axis", 1)
    axis = axis if axis == x.rank else node.normal(axis, x.rank)
    return node.b.reshape(x, (product(x.shape[:axis]), product(x.shape[axis:])))


def _axes_argument(node: Node) -> tuple[int, ...] | None:
    """Axes came as an attribute before opset 13 and as an input since."""
    if node.opset < 13:
        return node.integers("axes")
    return None if node.get(1) is None else node.ints(1, "its axes")


def squeeze(node: Node) -> Tensor:
    x = node[0]
    given = _axes_argument(node)
    if given is None:
        axes = tuple(i for i, d in enumerate(x.shape) if d == 1)
    else:
        axes = node.axes(given, x.rank)
        for axis in axes:
            node.b.must_equal(x.shape[axis], 1, f"{node.operator}: dim {axis} of {x.type} must be 1")
    return node.b.reshape(x, tuple(d for i, d in enumerate(x.shape) if i not in axes))


def unsqueeze(node: Node) -> Tensor:
    x = node[0]
    given = _axes_argument(node)
    if given is None:
        raise node.error(Code.INVALID_GRAPH, f"{node.operator} without axes")
    axes = node.axes(given, x.rank + len(given))
    rest = iter(x.shape)
    return node.b.reshape(x, tuple(1 if i in axes else next(rest) for i in range(x.rank + len(axes))))


def transpose(node: Node) -> Tensor:
    x = node[0]
    perm = node.integers("perm")
    order = tuple(reversed(range(x.rank))) if perm is None else perm
    return node.b.transpose(x, tuple(node.normal(p, x.rank) for p in order))


def expand(node: Node) -> Tensor:
    x = node[0]
    return node.b.broadcast(x, broadcast_dims(node, x.shape, node.dims(1, "the new shape")))


def broadcast_dims(node: Node, a: Sequence[Dim], b: Sequence[Dim]) -> tuple[Dim, ...]:
    """The shape both broadcast to."""
    rank = max(len(a), len(b))
    left, right = (1,) * (rank - len(a)) + tuple(a), (1,) * (rank - len(b)) + tuple(b)
    for one, other in zip(left, right, strict=True):
        if one != 1 and other != 1:
            node.b.must_equal(one, other, f"{node.operator}: {_shown(a)} does not broadcast to {_shown(b)}")
    return tuple(y if x == 1 else x for x, y in zip(left, right, strict=True))


def slice_(node: Node) -> Tensor:
    x = node[0]
    if node.opset < 10:
        begins: tuple[Dim, ...] = node.integers("starts") or ()
        ends: tuple[Dim, ...] = node.integers("ends") or ()
        given, by = node.integers("axes"), None
    else:
        begins, ends = node.dims(1, "where it starts"), node.dims(2, "where it ends")
        given = None if node.get(3) is None else node.ints(3, "its axes")
        by = None if node.get(4) is None else node.ints(4, "its steps")
    axes = tuple(range(len(begins))) if given is None else tuple(node.normal(a, x.rank) for a in given)
    by = (1,) * len(axes) if by is None else by
    if not len(begins) == len(ends) == len(axes) == len(by) or len(set(axes)) < len(axes) or 0 in by:
        raise node.error(Code.INVALID_GRAPH, f"{node.operator}: starts, ends, axes and steps do not fit")
    starts: list[Dim] = [0] * x.rank
    sizes, steps = list(x.shape), [1] * x.rank
    for axis, begin, end, step in zip(axes, begins, ends, by, strict=True):
        starts[axis], sizes[axis] = _extent(node, x.shape[axis], begin, end, step)
        steps[axis] = step
    return node.b.slice(x, starts, sizes, steps)


def _extent(node: Node, dim: Dim, begin: Dim, end: Dim, step: int) -> tuple[Dim, Dim]:
    """First index and number of elements of begin:end:step on an axis of size `dim`."""
    least, most = (0, dim) if step > 0 else (-1, dim - 1)
    start = _clamped(node, begin, dim, 0, dim if step > 0 else dim - 1)
    stop = _clamped(node, end, dim, least, most)
    span = stop - start if step > 0 else start - stop
    # The number of steps that fit, rounded up.
    count = -1 * floordiv(-1 * node.b.facts.resolve(span), abs(step))
    return start, node.b.facts.resolve(maximum(0, count))


def _clamped(node: Node, index: Dim, dim: Dim, least: Dim, most: Dim) -> Dim:
    """`index`, counted from the end when negative, within [least, most]."""
    resolve = node.b.facts.resolve
    if isinstance(index, int) and abs(index) >= ENDLESS:
        return most if index > 0 else least
    low, high = interval(index, node.b.facts.bounds)
    if low is None or low < 0:
        if high is None or high >= 0:
            if isinstance(index, Expr) and all(c < 0 for monomial, c in index.terms if monomial):
                # A place that moves down from a number, as in a table of distances: meant to stay above 0.
                node.b.must_reach(index, 0)
            text = f"{node.operator}: whether {index} counts from the start or the end depends on sizes"
            raise node.error(
                Code.DATA_DEPENDENT_SHAPE, text, "bound the dims in it with --dim NAME=LOW..HIGH"
            )
        index = dim + index
    return resolve(minimum(resolve(maximum(index, least)), most))


def split(node: Node) -> list[Tensor]:
    x = node[0]
    axis = node.axis("axis", 0, x.rank)
    sizes: tuple[Dim, ...] | None
    if node.opset < 13:
        sizes = node.integers("split")
    else:
        sizes = None if node.get(1) is None else node.dims(1, "its sizes")
    if sizes is None:
        sizes = _equal_parts(node, x.shape[axis], node.integer("num_outputs", len(node.outputs)))
    else:
        node.ignore("num_outputs")
    total: Dim = 0
    for size in sizes:
        total = total + size
    node.b.must_equal(total, x.shape[axis], f"{node.operator}: the parts of dim {axis} of {x.type}")
    parts, start = [], 0
    at: Dim = start
    for size in sizes:
        parts.append(node.b.cut(x, axis, at, size))
        at = at + size
    return parts


def _equal_parts(node: Node, dim: Dim, count: int) -> tuple[Dim, ...]:
    """Parts of equal size; the last may be smaller."""
    if count < 1 or count > max(len(node.outputs), 1):
        raise node.error(Code.INVALID_GRAPH, f"{node.operator} into {count} parts")
    if isinstance(dim, int):
        part = -(-dim // count)
        return tuple(min(part, max(0, dim - i * part)) for i in range(count))
    return (node.b.quotient((dim,), (count,)),) * count


def concat(node: Node) -> Tensor:
    parts = node.every()
    if not parts:
        raise node.error(Code.INVALID_GRAPH, "Concat of nothing")
    axis = node.axis("axis", 1, parts[0].rank)
    # Empty constants stand for "nothing" in exported caches.
    kept = [p for p in parts if p.shape[axis] != 0] if len({p.rank for p in parts}) == 1 else parts
    return node.b.concat(kept or parts[:1], axis)


def tile(node: Node) -> Tensor:
    x = node[0]
    repeats = node.dims(1, "its repeats")
    if len(repeats) != x.rank:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: {len(repeats)} repeats for {x.type}")
    return tiled(node, x, repeats)


def tiled(node: Node, x: Tensor, repeats: Sequence[Dim]) -> Tensor:
    """`x` repeated along every axis: an axis of its own for the repeats, merged afterwards."""
    if all(r == 1 for r in repeats):
        return x
    apart: list[Dim] = []
    wide: list[Dim] = []
    for count, dim in zip(repeats, x.shape, strict=True):
        apart += [1, dim] if count != 1 else [dim]
        wide += [count, dim] if count != 1 else [dim]
    spread = node.b.broadcast(node.b.reshape(x, apart), wide)
    return node.b.reshape(spread, tuple(r * d for r, d in zip(repeats, x.shape, strict=True)))


def pad(node: Node) -> Tensor:
    x = node[0]
    mode = node.text("mode", "constant")
    if node.opset < 11:
        amounts: tuple[Dim, ...] = node.integers("pads") or ()
        value = node.number("value", 0.0)
    else:
        amounts = node.dims(1, "its amounts")
        value = 0.0
        if mode == "constant" and node.get(2) is not None and node[2].type.size != 0:
            value = node.one_number(2, "the padding value")
    given = None if node.get(3) is None else node.ints(3, "its axes")
    axes = tuple(range(x.rank)) if given is None else tuple(node.normal(a, x.rank) for a in given)
    if len(amounts) != 2 * len(axes):
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator}: {len(amounts)} amounts for {len(axes)} axes")
    before, after = [0] * x.rank, [0] * x.rank  # type: list[Dim], list[Dim]
    for i, axis in enumerate(axes):
        before[axis], after[axis] = amounts[i], amounts[len(axes) + i]
    return padded(node, x, before, after, mode, value)


def padded(
    node: Node, x: Tensor, before: Sequence[Dim], after: Sequence[Dim], mode: str, value: float
) -> Tensor:
    """`x` with each axis grown; negative amounts cut."""
    cut_before = [-d if isinstance(d, int) and d < 0 else 0 for d in before]
    cut_after = [-d if isinstance(d, int) and d < 0 else 0 for d in after]
    sizes = [d - b - a for d, b, a in zip(x.shape, cut_before, cut_after, strict=True)]
    x = node.b.slice(x, cut_before, sizes)
    before = [0 if isinstance(d, int) and d < 0 else d for d in before]
    after = [0 if isinstance(d, int) and d < 0 else d for d in after]
    if all(d == 0 for d in (*before, *after)):
        return x
    if mode == "constant":
        if x.dtype is DType.BOOL:
            value = float(bool(value))
        return node.b.op(movement.pad, x, before=tuple(before), after=tuple(after), value=float(value))
    if mode not in _EDGES:
        raise node.unsupported(f"mode={mode!r}; known: constant, {', '.join(_EDGES)}")
    for axis, (low, high) in enumerate(zip(before, after, strict=True)):
        x = _with_edges(node, x, axis, low, high, mode)
    return x


_EDGES = ("edge", "reflect", "wrap")


def _with_edges(node: Node, x: Tensor, axis: int, low: Dim, high: Dim, mode: str) -> Tensor:
    """One axis grown by its own elements."""
    dim = x.shape[axis]
    if mode == "edge":
        first, last = node.b.cut(x, axis, 0, 1), node.b.cut(x, axis, dim - 1, 1)
        left, right = _stretched(node, first, axis, low), _stretched(node, last, axis, high)
    elif mode == "wrap":
        left, right = node.b.cut(x, axis, dim - low, low), node.b.cut(x, axis, 0, high)
    else:
        left, right = _reversed(node, x, axis, low, low), _reversed(node, x, axis, dim - 2, high)
    parts = [(low, left), (dim, x), (high, right)]
    return node.b.concat([part for size, part in parts if size != 0], axis)


def _stretched(node: Node, x: Tensor, axis: int, size: Dim) -> Tensor:
    return node.b.broadcast(x, (*x.shape[:axis], size, *x.shape[axis + 1 :]))


def _reversed(node: Node, x: Tensor, axis: int, start: Dim, size: Dim) -> Tensor:
    """`size` elements from `start` down."""
    starts: list[Dim] = [0] * x.rank
    sizes, steps = list(x.shape), [1] * x.rank
    starts[axis], sizes[axis], steps[axis] = start if size != 0 else 0, size, -1
    return node.b.slice(x, starts, sizes, steps)


def trilu(node: Node) -> Tensor:
    x = node[0]
    if x.rank < 2:
        raise node.error(Code.SHAPE_MISMATCH, f"Trilu of {x.type}")
    k = node.get(1)
    offset = node.like(0, DType.I64) if k is None else node.b.reshape(node.b.cast(k, DType.I64), ())
    rows, columns = (node.b.iota(x.shape[-2:], axis) for axis in (0, 1))
    distance = node.b.op(pointwise.sub, columns, rows)
    compare = pointwise.greater_equal if node.integer("upper", 1) else pointwise.less_equal
    keep = node.b.op(compare, distance, offset)
    if x.dtype is DType.BOOL:
        return node.b.op(pointwise.logical_and, keep, x)
    return node.b.op(pointwise.where, keep, x, node.like(0, x))


def eye_like(node: Node) -> Tensor:
    x = node[0]
    rows, columns = (node.b.iota(x.shape, axis) for axis in (0, 1))
    distance = node.b.op(pointwise.sub, columns, rows)
    on = node.b.op(pointwise.equal, distance, node.like(node.integer("k", 0), DType.I64))
    return node.b.cast(on, node.dtype("dtype", x.dtype))


def depth_to_space(node: Node) -> Tensor:
    x, size = node[0], node.integer("blocksize", 1)
    batch, channels, height, width = _four(node, x)
    rest = node.b.quotient((channels,), (size * size,))
    if node.text("mode", "DCR") == "DCR":
        split_ = node.b.reshape(x, (batch, size, size, rest, height, width))
        moved = node.b.transpose(split_, (0, 3, 4, 1, 5, 2))
    else:
        split_ = node.b.reshape(x, (batch, rest, size, size, height, width))
        moved = node.b.transpose(split_, (0, 1, 4, 2, 5, 3))
    return node.b.reshape(moved, (batch, rest, height * size, width * size))


def space_to_depth(node: Node) -> Tensor:
    x, size = node[0], node.integer("blocksize", 1)
    batch, channels, height, width = _four(node, x)
    rows, columns = node.b.quotient((height,), (size,)), node.b.quotient((width,), (size,))
    split_ = node.b.reshape(x, (batch, channels, rows, size, columns, size))
    # Blocks before channels (depth, column, row), or after them.
    order = (0, 3, 5, 1, 2, 4) if node.text("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    moved = node.b.transpose(split_, order)
    return node.b.reshape(moved, (batch, channels * size * size, rows, columns))


def _four(node: Node, x: Tensor) -> tuple[Dim, Dim, Dim, Dim]:
    if x.rank != 4:
        raise node.error(Code.SHAPE_MISMATCH, f"{node.operator} of {x.type}, which should have rank 4")
    a, b, c, d = x.shape
    return a, b, c, d


OPERATORS: Mapping[str, Importer] = {
    "Concat": concat,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "EyeLike": eye_like,
    "Flatten": flatten,
    "Pad": pad,
    "Reshape": reshape,
    "Slice": slice_,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Trilu": trilu,
    "Unsqueeze": unsqueeze,
}
