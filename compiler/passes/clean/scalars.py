"""Scalar factors move towards the result: whatever the exporter scaled, the scale ends up in one place."""

from __future__ import annotations

import math
from collections.abc import Callable

from isthmus.ir.graph import Marker, Value
from isthmus.ir.rewrite import Guard, Match, Rule, named, scalar, splat, such
from isthmus.ops.movement import reshape, transpose
from isthmus.ops.pointwise import div, mul, neg
from isthmus.passes.clean.identities import both, number


def varies(value: Value) -> bool:
    """Not a constant of one number."""
    return splat(value) is None


def is_float(m: Match) -> str | None:
    return None if m.root.dtype.is_float else ""


def single_use(name: str) -> Guard:
    """The value bound to `name` has no other user, so that moving its work does not double it."""

    def guard(m: Match) -> str | None:
        return None if m.uses(name) == 1 else f"{m.value(name).op.name} has other users too"

    return guard


def same_shape(name: str) -> Guard:
    def guard(m: Match) -> str | None:
        return None if m.value(name).shape == m.root.shape else "the factor would be applied to more elements"

    return guard


def _ordinary_product(m: Match) -> str | None:
    total = abs(m.scalar("c") * m.scalar("d"))
    if math.isfinite(total) and 1e-30 < total < 1e30:
        return None
    return "the product of the factors is not an ordinary number"


def _through(
    name: str, wrap: Callable[[Value], Value], make: Callable[..., Value], attr: str, value: str
) -> Rule:
    return Rule(
        name,
        lambda x, c=scalar(): wrap(named("inner", mul(x, c))),
        make,
        unless=both(is_float, single_use("inner"), _has_shape_of_inner),
        examples=({"x": "f32[2,n,6]", "c": 0.25, attr: value},),
    )


def _has_shape_of_inner(m: Match) -> str | None:
    return None if m.value("x").shape == m.value("inner").shape else "the factor also broadcasts"


SCALARS = (
    Rule(
        "factors-meet",
        lambda x, c=scalar(), d=scalar(): mul(mul(x, c), d),
        lambda m: mul(m.value("x"), number(m.scalar("c") * m.scalar("d"), m.root)),
        unless=both(is_float, same_shape("x"), _ordinary_product),
        examples=({"x": "f32[2,n]", "c": 0.5, "d": -3.0},),
    ),
    Rule(
        "factor-after-neg",
        lambda x, c=scalar(): neg(mul(x, c)),
        lambda m: mul(m.value("x"), number(-m.scalar("c"), m.root)),
        unless=both(is_float, same_shape("x")),
        examples=({"x": "f32[2,n]", "c": 0.5},),
    ),
    Rule(
        "factor-after-mul",
        lambda x, y=such(varies), c=scalar(): mul(named("inner", mul(x, c)), y),
        lambda x, y, c: mul(mul(x, y), c),
        unless=both(is_float, single_use("inner"), same_shape("inner")),
        examples=({"x": "f32[2,n]", "y": "f32[n]", "c": 0.5},),
    ),
    Rule(
        "factor-after-div",
        lambda x, y=such(varies), c=scalar(): div(named("inner", mul(x, c)), y),
        lambda x, y, c: mul(div(x, y), c),
        unless=both(is_float, single_use("inner"), same_shape("inner")),
        examples=({"x": "f32[2,n]", "y": "f32[n]", "c": 0.5},),
    ),
    _through(
        "factor-after-transpose",
        lambda x: transpose(x, perm=Marker("perm")),
        lambda x, c, perm: mul(transpose(x, perm=perm), c),
        "perm",
        (1, 0, 2),  # type: ignore[arg-type]
    ),
    _through(
        "factor-after-reshape",
        lambda x: reshape(x, shape=Marker("shape")),
        lambda x, c, shape: mul(reshape(x, shape=shape), c),
        "shape",
        "2,n,3,2",
    ),
)
