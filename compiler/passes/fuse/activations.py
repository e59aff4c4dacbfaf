"""Activations written out.

Canonical forms have moved scalar factors to the end of a product and turned divisions by numbers into
products, so each formula has few spellings left.
"""

from __future__ import annotations

import math

from isthmus.ir.graph import Marker, Value
from isthmus.ir.rewrite import Match, Rule, named, scalar
from isthmus.ops.nn import softmax
from isthmus.ops.pointwise import (
    add,
    div,
    erf,
    exp,
    gelu,
    gelu_tanh,
    mul,
    neg,
    reciprocal,
    sigmoid,
    silu,
    sub,
    tanh,
)
from isthmus.ops.reduce import reduce_max, reduce_sum
from isthmus.passes.clean.identities import number

HALF_ROOT = math.sqrt(0.5)
ROOT_TWO_OVER_PI = math.sqrt(2 / math.pi)
CUBIC = 0.044715

# How far a constant may be from its formula: exporters write 0.7071 as well as 0.70710678.
RTOL = 1e-4
X = {"x": "f32[2,n]"}
ONE = scalar(1.0)
HALF = scalar(0.5)
ROOT = scalar(HALF_ROOT, RTOL)
K = scalar(CUBIC, RTOL)
C = scalar(ROOT_TWO_OVER_PI, RTOL)


def _erf(x: Value, c: Value) -> Value:
    return erf(mul(x, c))


def _tanh_sum(x: Value, k: Value, c: Value) -> Value:
    """tanh(c * (x + k * x^3))."""
    return tanh(mul(add(x, mul(mul(mul(x, x), x), k)), c))


def _tanh_product(x: Value, one: Value, k: Value, c: Value) -> Value:
    """tanh(c * x * (1 + k * x^2))."""
    return tanh(mul(mul(x, add(mul(mul(x, x), k), one)), c))


_ERF = {**X, "c": HALF_ROOT, "one": 1.0, "half": 0.5}
_TANH = {**X, "k": CUBIC, "c": ROOT_TWO_OVER_PI, "one": 1.0, "half": 0.5}


def _twice(value: Value) -> Value:
    """A factor of 2, for the half that stands somewhere else in the product to cancel; both are exact."""
    return mul(value, number(2.0, value))


GELU = (
    Rule(
        "gelu",
        lambda x, c=ROOT, one=ONE: mul(x, add(_erf(x, c), one)),
        lambda x: _twice(gelu(x)),
        examples=(_ERF,),
    ),
    # Where half of x has other users too, the factor stayed in its place.
    Rule(
        "gelu-half-of-x",
        lambda x, c=ROOT, one=ONE, half=HALF: mul(mul(x, half), add(_erf(x, c), one)),
        lambda x: gelu(x),
        examples=(_ERF,),
    ),
    Rule(
        "gelu-distributed",
        lambda x, c=ROOT, half=HALF: mul(x, add(mul(_erf(x, c), half), half)),
        lambda x: gelu(x),
        examples=(_ERF,),
    ),
    Rule(
        "gelu-tanh",
        lambda x, k=K, c=C, one=ONE: mul(x, add(_tanh_sum(x, k, c), one)),
        lambda x: _twice(gelu_tanh(x)),
        examples=(_TANH,),
    ),
    Rule(
        "gelu-tanh-half-of-x",
        lambda x, k=K, c=C, one=ONE, half=HALF: mul(mul(x, half), add(_tanh_sum(x, k, c), one)),
        lambda x: gelu_tanh(x),
        examples=(_TANH,),
    ),
    Rule(
        "gelu-tanh-factored",
        lambda x, k=K, c=C, one=ONE: mul(x, add(_tanh_product(x, one, k, c), one)),
        lambda x: _twice(gelu_tanh(x)),
        examples=(_TANH,),
    ),
)

SIGMOID = (
    Rule(
        "sigmoid",
        lambda x, one=scalar(1.0): reciprocal(add(exp(neg(x)), one)),
        lambda x: sigmoid(x),
        examples=({**X, "one": 1.0},),
    ),
    Rule("silu", lambda x: mul(x, sigmoid(x)), lambda x: silu(x), examples=(X,)),
    Rule(
        "silu-divided",
        lambda x, one=scalar(1.0): div(x, add(exp(neg(x)), one)),
        lambda x: silu(x),
        examples=({**X, "one": 1.0},),
    ),
)


def _last_axis(m: Match) -> str | None:
    axes, rank = m.attr("axes"), m.root.t.rank
    return None if axes == (rank - 1,) else f"the sum runs over axes {axes}, not over the last of {rank}"


def _shifted_exp(x: Value) -> Value:
    return exp(sub(x, reduce_max(x, axes=Marker("axes"))))


SOFTMAX = (
    Rule(
        "softmax",
        lambda x: div(_shifted_exp(x), reduce_sum(named("exp", _shifted_exp(x)), axes=Marker("axes"))),
        lambda x: softmax(x),
        unless=_last_axis,
        examples=({"x": "f32[2,n]", "axes": (1,)},),
    ),
)

ACTIVATIONS = (*GELU, *SIGMOID, *SOFTMAX)
