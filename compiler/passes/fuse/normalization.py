"""Layer normalisation written out, its scale and shift, and the sum before it."""

from __future__ import annotations

import numpy as np

from isthmus.ir.graph import Marker, Op, Trait, Value
from isthmus.ir.rewrite import Match, Rule, named, scalar, such
from isthmus.ops.movement import full, gather
from isthmus.ops.nn import layer_norm
from isthmus.ops.pointwise import add, div, mul, reciprocal, sqrt, sub
from isthmus.ops.reduce import reduce_mean
from isthmus.passes.clean.scalars import single_use
from isthmus.passes.constants import array_of, as_vector, is_constant, name_of, weight_from


def _centred(x: Value) -> Value:
    return sub(x, reduce_mean(x, axes=Marker("axes")))


def _deviation(x: Value, epsilon: Value) -> Value:
    """sqrt(var x + epsilon)."""
    return sqrt(add(reduce_mean(mul(_centred(x), _centred(x)), axes=Marker("axes")), epsilon))


def last_axis(m: Match) -> str | None:
    """Refuse a mean that does not run over the last axis alone, or one of unknown length."""
    axes, rank = m.attr("axes"), m.root.t.rank
    if axes != (rank - 1,):
        return f"the mean runs over axes {axes}, not over the last of {rank}"
    return None if isinstance(m.root.shape[-1], int) else "the length of the last axis is not known"


def _plain(m: Match) -> Value:
    x = m.value("x")
    width = x.shape[-1:]
    ones, zeros = (full(shape=width, value=v, dtype=x.dtype) for v in (1.0, 0.0))
    return layer_norm(x, ones, zeros, epsilon=m.scalar("epsilon"))


_EXAMPLE = {"x": "f32[2,n,6]", "epsilon": 1e-5, "axes": (2,)}

WRITTEN_OUT = (
    Rule(
        "layer-norm-divided",
        lambda x, epsilon=scalar(): div(_centred(x), _deviation(x, epsilon)),
        _plain,
        unless=last_axis,
        examples=(_EXAMPLE,),
    ),
    Rule(
        "layer-norm-multiplied",
        lambda x, epsilon=scalar(): mul(_centred(x), reciprocal(_deviation(x, epsilon))),
        _plain,
        unless=last_axis,
        examples=(_EXAMPLE,),
    ),
)


def is_vector(value: Value) -> bool:
    """A constant of at most one long axis, the last."""
    return is_constant(value) and all(d == 1 for d in value.shape[:-1])


def same_width(m: Match) -> str | None:
    """Refuse a vector `v` that is wider than the rows of `norm`, and a norm that others use as well."""
    vector, norm = m.value("v"), m.value("norm")
    if norm.type != m.root.type:
        return "the vector has more axes than what it applies to"
    if vector.shape and vector.shape[-1] not in (1, norm.shape[-1]):
        return f"a vector of {vector.shape[-1]} for rows of {norm.shape[-1]}"
    return single_use("norm")(m)


def combine(op: Op, left: Value, right: Value) -> Value:
    """The sum or product of two constant vectors; `left` has the width of the result."""
    width = left.shape[-1]
    if right.t.rank == 0 or right.shape[-1] != width:
        (number,) = array_of(right).reshape(-1)
        right = full(shape=(width,), value=float(number), dtype=right.dtype)
    right = as_vector(right)
    neutral = 0.0 if op is add else 1.0
    for kept, other in ((left, right), (right, left)):
        if other.op is full and other.attr("value") == neutral:
            return kept
    if op is mul and left.op is full and left.attr("value") == 0.0:
        return left  # a shift that was never there
    if left.op is full and right.op is full:
        number = np.asarray(op.reference(left.attr("value"), right.attr("value"))).astype(left.dtype.numpy)
        return full(shape=(width,), value=float(number), dtype=left.dtype)
    return weight_from(op(left, right), f"{name_of(right)}.{'sum' if op is add else 'product'}")


def _with_scale(m: Match) -> Value:
    x, scale, bias, *rest = m.value("norm").args
    v = m.value("v")
    return layer_norm(x, combine(mul, scale, v), combine(mul, bias, v), *rest, epsilon=m.attr("epsilon"))


def _with_shift(m: Match) -> Value:
    x, scale, bias, *rest = m.value("norm").args
    return layer_norm(x, scale, combine(add, bias, m.value("v")), *rest, epsilon=m.attr("epsilon"))


_NORM = {"x": "f32[2,n,6]", "s": "f32[6] = weight", "b": "f32[6] = weight", "epsilon": 1e-5}

SCALE_AND_SHIFT = (
    Rule(
        "layer-norm-scale",
        lambda x, s=such(is_vector), b=such(is_vector), v=such(is_vector): mul(
            named("norm", layer_norm(x, s, b, epsilon=Marker("epsilon"))), v
        ),
        _with_scale,
        unless=same_width,
        examples=(
            {**_NORM, "v": "f32[6] = weight"},
            {**_NORM, "v": "f32[1,1,6] = weight"},
            {**_NORM, "s": "f32[6] = 1", "b": "f32[6] = 0", "v": "f32[6] = weight"},
        ),
    ),
    Rule(
        "layer-norm-shift",
        lambda x, s=such(is_vector), b=such(is_vector), v=such(is_vector): add(
            named("norm", layer_norm(x, s, b, epsilon=Marker("epsilon"))), v
        ),
        _with_shift,
        unless=same_width,
        examples=({**_NORM, "v": "f32[6] = weight"}, {**_NORM, "v": 0.5}),
    ),
)


def _worth_adding(m: Match) -> str | None:
    x, r = m.value("x"), m.value("r")
    if x.shape != r.shape:
        return f"the sum broadcasts {x.t} and {r.t}"
    for name in ("x", "r"):
        value = m.value(name)
        generated = value.op is gather or Trait.POINTWISE in value.op.traits
        if generated and m.uses(name) == 1:
            # One generated loop computes the whole sum; taking its last term away would make it two.
            return f"the sum is computed together with its {value.op.name}"
    return single_use("sum")(m)


RESIDUAL = (
    Rule(
        "layer-norm-residual",
        lambda x, r, s, b: layer_norm(named("sum", add(x, r)), s, b, epsilon=Marker("epsilon")),
        lambda x, r, s, b, epsilon: layer_norm(x, s, b, r, epsilon=epsilon),
        unless=_worth_adding,
        examples=({**_NORM, "r": "f32[2,n,6]"},),
    ),
)
