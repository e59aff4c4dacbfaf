"""Broadcasts go after the arithmetic they feed: it then works on fewer elements, and most of them vanish."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from isthmus.ir.graph import Marker, Op, Value
from isthmus.ir.rewrite import Guard, Match, Rule, such, weight
from isthmus.ops import pointwise
from isthmus.ops.movement import broadcast, full, reshape, transpose
from isthmus.ops.nn import matmul
from isthmus.ops.rules import broadcast_shapes

HOLES = ("x", "y", "z")
# Examples of the other arguments, for each op's element types.
_LOGICAL = {"and", "or", "xor", "not"}
_INTEGRAL = {"bit_and", "bit_or", "bit_xor", "shift_left", "shift_right"}
# What the examples of ops that name an element type become.
_BECOMES = {"cast": "i64", "bitcast": "i32"}


def _kinds(op: Op) -> tuple[str, ...]:
    """An element type for each argument of `op`, for examples."""
    if op.name == "where":
        return ("bool", "f32", "f32")
    kind = "bool" if op.name in _LOGICAL else "i32" if op.name in _INTEGRAL else "f32"
    return (kind,) * op.arity[0]


def _apply(op: Op, args: tuple[Value, ...], m: Match | None = None) -> Value:
    attrs = {name: Marker(name) if m is None else m.attr(name) for name in op.attrs}
    return op(*args, loc="", **attrs)


def _find(op: Op, position: int, wrap: Callable[[Value], Value]) -> Callable[..., Value]:
    """The pattern op(x, ..) with the argument at `position` wrapped."""

    def build(*holes: Value) -> Value:
        return _apply(op, tuple(wrap(h) if i == position else h for i, h in enumerate(holes)))

    match op.arity[0]:
        case 1:
            return lambda x: build(x)
        case 2:
            return lambda x, y: build(x, y)
        case _:
            return lambda x, y, z: build(x, y, z)


def _find_scalar(op: Op, position: int) -> Callable[..., Value]:
    """The pattern op(c, y) or op(x, c) with a constant of one number."""
    if op.arity[0] == 2:
        if position == 0:
            return lambda y, c=such(_has_axes): _apply(op, (c, y))
        return lambda x, c=such(_has_axes): _apply(op, (x, c))
    if position == 1:
        return lambda x, z, c=such(_has_axes): _apply(op, (x, c, z))
    return lambda x, y, c=such(_has_axes): _apply(op, (x, y, c))


def _has_axes(value: Value) -> bool:
    return value.op is full and value.t.rank > 0


def _outward(op: Op, position: int) -> Rule:
    """op(.., broadcast(x), ..) is broadcast(op(.., x, ..)), or no broadcast at all."""

    def make(m: Match) -> Value:
        args = tuple(m.value(name) for name in HOLES[: op.arity[0]])
        small = _apply(op, args, m)
        return small if small.shape == m.root.shape else broadcast(small, shape=m.root.shape)

    kinds = _kinds(op)
    others = ({}, {}) if op.arity[0] == 1 else ("[2,n,3]", "[n,1]")
    examples = []
    for shape in others:
        example: dict[str, object] = {"shape": "2,n,3"}
        for i, kind in enumerate(kinds):
            example[HOLES[i]] = (
                f"{kind}[n,1]" if i == position or isinstance(shape, dict) else f"{kind}{shape}"
            )
        if op.name in _BECOMES:
            example["dtype"] = _BECOMES[op.name]
        examples.append(example)
    return Rule(
        f"broadcast-after-{op.name}",
        _find(op, position, lambda x: broadcast(x, shape=Marker("shape"))),
        make,
        examples=tuple(examples[: 1 if op.arity[0] == 1 else 2]),
    )


def _plain_scalar(op: Op, position: int) -> Rule:
    """op(x, full([n], c)) is op(x, c) where x has the shape of the result."""

    def make(m: Match) -> Value:
        c = m.value("c")
        bare = full(shape=(), value=c.attr("value"), dtype=c.dtype)
        args = [bare if a is c else a for a in m.root.args]
        small = m.root.op(*args)
        return small if small.shape == m.root.shape else broadcast(small, shape=m.root.shape)

    kinds = _kinds(op)
    example: dict[str, object] = {HOLES[i]: f"{kind}[2,n]" for i, kind in enumerate(kinds) if i != position}
    example["c"] = f"{kinds[position]}[n] = 1"
    return Rule(f"plain-number-in-{op.name}", _find_scalar(op, position), make, examples=(example,))


def _transposed(m: Match) -> Value:
    """The broadcast after the transpose: axes that x lacks are added as ones first."""
    x, whole, perm = m.value("x"), m.root.args[0], m.attr("perm")
    assert isinstance(perm, tuple)
    ones = (1,) * (whole.t.rank - x.t.rank) + x.shape
    full_rank = x if ones == x.shape else reshape(x, shape=ones)
    return broadcast(transpose(full_rank, perm=perm), shape=m.root.shape)


def _same_matrices(name: str, position: int) -> Guard:
    """The broadcast repeats whole matrices, which the product does by itself."""

    def guard(m: Match) -> str | None:
        x = m.value(name)
        args = list(m.root.args)
        if x.shape[-2:] != args[position].shape[-2:]:
            return ""
        args[position] = x
        batches = broadcast_shapes(*(a.shape[:-2] for a in args))
        return None if batches == m.root.shape[:-2] else ""

    return guard


def _rules() -> Iterator[Rule]:
    # Constants only: their transpose is folded. That of a computed value belongs to whoever reads it.
    yield Rule(
        "transpose-before-broadcast",
        lambda x=weight(): transpose(broadcast(x, shape=Marker("shape")), perm=Marker("perm")),
        _transposed,
        examples=(
            {"x": "f32[7,1]", "shape": "7,3", "perm": (1, 0)},
            {"x": "f32[7,2]", "shape": "b,7,2", "perm": (0, 2, 1)},
        ),
    )
    yield Rule(
        "matmul-of-repeated-left",
        lambda x, y: matmul(broadcast(x, shape=Marker("shape")), y),
        lambda x, y: matmul(x, y),
        unless=_same_matrices("x", 0),
        examples=({"x": "f32[2,n]", "shape": "b,2,n", "y": "f32[b,n,3]"},),
    )
    yield Rule(
        "matmul-of-repeated-right",
        lambda x, y: matmul(x, broadcast(y, shape=Marker("shape"))),
        lambda x, y: matmul(x, y),
        unless=_same_matrices("y", 1),
        examples=({"x": "f32[b,2,n]", "shape": "b,n,3", "y": "f32[1,n,3]"},),
    )
    yield Rule(
        "broadcast-nothing",
        lambda x: broadcast(x, shape=Marker("shape")),
        lambda x: x,
        unless=lambda m: None if m.value("x").shape == m.root.shape else "",
        examples=({"x": "f32[2,n]", "shape": "2,n"},),
    )
    yield Rule(
        "broadcast-twice",
        lambda x: broadcast(broadcast(x, shape=Marker("inner")), shape=Marker("shape")),
        lambda x, shape: broadcast(x, shape=shape),
        examples=({"x": "f32[n,1]", "inner": "n,3", "shape": "2,n,3"},),
    )
    for op in pointwise.ALL:
        for position in range(op.arity[0]):
            yield _outward(op, position)
            if op.arity[0] == 2 or (op.arity[0] == 3 and position):
                yield _plain_scalar(op, position)


BROADCASTS = tuple(_rules())
