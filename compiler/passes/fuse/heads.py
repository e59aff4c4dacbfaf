"""What stands around attention: factors of q and k, heads merged with the batch, heads shared by groups."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from isthmus.ir.dims import Dim, Shape
from isthmus.ir.graph import Marker, Value
from isthmus.ir.rewrite import Guard, Match, Rule, named, scalar
from isthmus.ops.movement import broadcast, full, reshape, transpose
from isthmus.ops.nn import attention, matmul, softmax
from isthmus.ops.pointwise import add, mul
from isthmus.passes.clean.movement import axis_groups

_QKV = {"q": "f32[b,4,s,6]", "k": "f32[b,4,t,6]", "v": "f32[b,4,t,3]", "scale": 0.5, "safe": False}
_MASK = {"mask": "f32[b,1,1,t]"}


def _attention(*args: Value) -> Value:
    return attention(*args, scale=Marker("scale"), safe=Marker("safe"))


def _again(m: Match, q: Value, k: Value, v: Value, factor: float = 1.0) -> Value:
    scale = m.root.attr("scale") * factor
    return attention(q, k, v, *m.root.args[3:], scale=scale, safe=m.root.attr("safe"))


# --- factors -------------------------------------------------------------------------------------


def _scaled(m: Match) -> Value:
    return _again(m, m.value("q"), m.value("k"), m.value("v"), m.scalar("c"))


def _keeps(name: str, position: int) -> Guard:
    def guard(m: Match) -> str | None:
        return None if m.value(name).shape == m.root.args[position].shape else "the factor also broadcasts"

    return guard


_FACTOR = {**_QKV, "c": 0.5}

FACTORS = (
    Rule(
        "attention-factor-of-q",
        lambda q, k, v, c=scalar(): _attention(mul(q, c), k, v),
        _scaled,
        _keeps("q", 0),
        (_FACTOR,),
    ),
    Rule(
        "attention-factor-of-q-mask",
        lambda q, k, v, mask, c=scalar(): _attention(mul(q, c), k, v, mask),
        _scaled,
        _keeps("q", 0),
        ({**_FACTOR, **_MASK},),
    ),
    Rule(
        "attention-factor-of-k",
        lambda q, k, v, c=scalar(): _attention(q, mul(k, c), v),
        _scaled,
        _keeps("k", 1),
        (_FACTOR,),
    ),
    Rule(
        "attention-factor-of-k-mask",
        lambda q, k, v, mask, c=scalar(): _attention(q, mul(k, c), v, mask),
        _scaled,
        _keeps("k", 1),
        ({**_FACTOR, **_MASK},),
    ),
)


# --- heads merged with the batch -----------------------------------------------------------------


def _merges_alike(m: Match) -> str | None:
    """Both matrices lie in the last two axes, under the same leading axes."""
    a, b = m.value("a").shape, m.value("b").shape
    left, right = (arg.shape for arg in m.root.args)
    if len(a) < 3 or len(a) != len(b) or a[-2:] != left[-2:] or b[-2:] != right[-2:]:
        return "the reshape changes the matrices"
    if a[:-2] != b[:-2]:
        return f"the leading axes differ: {a[:-2]} and {b[:-2]}"
    return None


def _unmerged(m: Match) -> Value:
    return reshape(matmul(m.value("a"), m.value("b")), shape=m.root.shape)


def _unmerged_scaled(m: Match) -> Value:
    return reshape(matmul(mul(m.value("a"), m.value("c")), m.value("b")), shape=m.root.shape)


_MERGED = {"a": "f32[b,4,s,6]", "b": "f32[b,4,6,t]", "left": "4*b,s,6", "right": "4*b,6,t"}

MERGED = (
    Rule(
        "matmul-of-merged",
        lambda a, b: matmul(reshape(a, shape=Marker("left")), reshape(b, shape=Marker("right"))),
        _unmerged,
        _merges_alike,
        (_MERGED,),
    ),
    Rule(
        "matmul-of-merged-scaled",
        lambda a, b, c=scalar(): matmul(
            mul(reshape(a, shape=Marker("left")), c), reshape(b, shape=Marker("right"))
        ),
        _unmerged_scaled,
        _merges_alike,
        ({**_MERGED, "c": 0.5},),
    ),
    Rule(
        "matmul-of-merged-scaled-right",
        lambda a, b, c=scalar(): matmul(
            reshape(a, shape=Marker("left")), mul(reshape(b, shape=Marker("right")), c)
        ),
        _unmerged_scaled,
        _merges_alike,
        ({**_MERGED, "c": 0.5},),
    ),
    Rule(
        "softmax-of-merged",
        lambda x: softmax(reshape(x, shape=Marker("shape"))),
        lambda x, shape: reshape(softmax(x), shape=shape),
        lambda m: (
            None
            if m.value("x").t.rank and m.value("x").shape[-1] == m.root.shape[-1]
            else "the reshape changes the rows"
        ),
        ({"x": "f32[b,4,s,t]", "shape": "4*b,s,t"},),
    ),
)


def _squeezable(m: Match) -> str | None:
    """Axes of one element between the others; without them fewer axes are transposed."""
    x, perm = m.value("x"), m.attr("perm")
    assert isinstance(perm, tuple)
    thin = sum(d == 1 for d in x.shape)
    return None if 0 < thin < x.t.rank - 1 else ""


def _squeezed(m: Match) -> Value:
    x, perm = m.value("x"), m.attr("perm")
    assert isinstance(perm, tuple)
    kept = [axis for axis, dim in enumerate(x.shape) if dim != 1]
    order = tuple(kept.index(axis) for axis in perm if isinstance(axis, int) and axis in kept)
    thin = reshape(x, shape=tuple(x.shape[axis] for axis in kept))
    return reshape(transpose(thin, perm=order), shape=m.root.shape)


def _unmerged_shape(part: Shape, whole: Shape, wanted: Shape) -> Shape | None:
    """The shape that `part`, which broadcasts to `whole`, takes when `whole` is reshaped to `wanted`."""
    groups = axis_groups(whole, wanted)
    if groups is None or len(part) != len(whole):
        return None
    shape: list[Dim] = []
    for source, target in groups:
        mine, theirs = part[source.start : source.stop], whole[source.start : source.stop]
        if mine == theirs:
            shape += wanted[target.start : target.stop]
        elif all(d == 1 for d in mine):
            shape += [1] * len(target)
        else:
            return None
    return tuple(shape)


def _scores_of_heads(m: Match) -> str | None:
    product = m.value("product")
    if product.t.rank != 4 or product.shape != m.root.shape:
        return ""
    total = m.root.args[0]
    if any(_unmerged_shape(a.shape, total.shape, m.root.shape) is None for a in total.args):
        return f"what is added to scores of {total.t} cannot be split into heads"
    return None


def _split_sum(m: Match) -> Value:
    total = m.root.args[0]
    parts = []
    for arg in total.args:
        shape = _unmerged_shape(arg.shape, total.shape, m.root.shape)
        assert shape is not None
        parts.append(_split(arg, shape))
    return add(*parts)


def _split(value: Value, shape: Shape) -> Value:
    """`value` in another shape; below a factor, so that reshapes meet."""
    if value.op is mul and value.args[1].op is full:
        return mul(reshape(value.args[0], shape=shape), value.args[1])
    return reshape(value, shape=shape)


_SUM = {"a": "f32[b,4,s,6]", "b": "f32[b,4,6,t]", "merged": "4*b,s,t", "shape": "b,4,s,t"}


def _product(a: Value, b: Value) -> Value:
    return reshape(named("product", matmul(a, b)), shape=Marker("merged"))


SPLIT = (
    Rule(
        "reshape-of-thin-transpose",
        lambda x: reshape(transpose(x, perm=Marker("perm")), shape=Marker("shape")),
        _squeezed,
        _squeezable,
        ({"x": "f32[b,s,4,1,6]", "perm": (0, 2, 1, 3, 4), "shape": "4*b,s,6"},),
    ),
    Rule(
        "scores-of-heads",
        lambda a, b, y: reshape(add(_product(a, b), y), shape=Marker("shape")),
        _split_sum,
        _scores_of_heads,
        ({**_SUM, "y": "f32[4*b,1,t]"}, {**_SUM, "y": "f32[1,s,1]"}),
    ),
    Rule(
        "scores-of-heads-scaled",
        lambda a, b, y, c=scalar(): reshape(add(mul(_product(a, b), c), y), shape=Marker("shape")),
        _split_sum,
        _scores_of_heads,
        ({**_SUM, "y": "f32[4*b,s,t]", "c": 0.5},),
    ),
)


# --- heads shared by groups ----------------------------------------------------------------------


def _repeats(name: str, m: Match) -> str | None:
    """[b, heads, length, width] -> [b, heads, 1, ..] -> [b, heads, group, ..] -> [b, heads * group, ..]."""
    x, whole = m.value(name), m.value(f"{name}_repeated")
    if x.t.rank != 4 or whole.t.rank != 5:
        return f"{name} is not repeated head by head"
    batch, heads, length, width = x.shape
    group = whole.shape[2]
    one = whole.args[0].shape
    fits = one == (batch, heads, 1, length, width) and whole.shape == (batch, heads, group, length, width)
    return None if fits else f"{name} is not repeated head by head"


def _same_groups(m: Match) -> str | None:
    for name in ("k", "v"):
        if (reason := _repeats(name, m)) is not None:
            return reason
    if m.value("k_repeated").shape[2] != m.value("v_repeated").shape[2]:
        return "k and v are repeated differently"
    q_heads, heads = m.root.args[0].shape[1], m.value("k").shape[1]
    whole = isinstance(q_heads, int) and isinstance(heads, int) and heads > 0
    return None if whole else "the number of heads is not known"


def _repeat(name: str, x: Value) -> Value:
    inner = broadcast(reshape(x, shape=Marker(f"{name}_one")), shape=Marker(f"{name}_group"))
    return reshape(named(f"{name}_repeated", inner), shape=Marker(f"{name}_all"))


def _grouped(m: Match) -> Value:
    return _again(m, m.root.args[0], m.value("k"), m.value("v"))


_GROUPS = {
    **_QKV,
    "k": "f32[b,2,t,6]",
    "k_one": "b,2,1,t,6",
    "k_group": "b,2,2,t,6",
    "k_all": "b,4,t,6",
    "v": "f32[b,2,t,3]",
    "v_one": "b,2,1,t,3",
    "v_group": "b,2,2,t,3",
    "v_all": "b,4,t,3",
}


def _one_head(m: Match) -> str | None:
    for name, position in (("k", 1), ("v", 2)):
        x, whole = m.value(name).shape, m.root.args[position].shape
        if len(x) != 4 or x != (whole[0], 1, *whole[2:]):
            return f"{name} is not one head for all"
    return None if isinstance(m.root.shape[1], int) else "the number of heads is not known"


_ONE = {**_QKV, "k": "f32[b,1,t,6]", "v": "f32[b,1,t,3]", "k_all": "b,4,t,6", "v_all": "b,4,t,3"}


def _shared(find: Callable[..., Value], masked: Callable[..., Value]) -> Iterator[Rule]:
    name, guard, example = ("attention-groups", _same_groups, _GROUPS)
    yield Rule(name, find, _grouped, guard, (example,))
    yield Rule(f"{name}-mask", masked, _grouped, guard, ({**example, **_MASK},))


SHARED = (
    *_shared(
        lambda q, k, v: _attention(q, _repeat("k", k), _repeat("v", v)),
        lambda q, k, v, mask: _attention(q, _repeat("k", k), _repeat("v", v), mask),
    ),
    Rule(
        "attention-one-head",
        lambda q, k, v: _attention(
            q, broadcast(k, shape=Marker("k_all")), broadcast(v, shape=Marker("v_all"))
        ),
        _grouped,
        _one_head,
        (_ONE,),
    ),
    Rule(
        "attention-one-head-mask",
        lambda q, k, v, mask: _attention(
            q, broadcast(k, shape=Marker("k_all")), broadcast(v, shape=Marker("v_all")), mask
        ),
        _grouped,
        _one_head,
        ({**_ONE, **_MASK},),
    ),
)
