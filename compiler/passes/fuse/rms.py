"""Root mean square normalisation written out, and its scale."""

from __future__ import annotations

from isthmus.ir.graph import Marker, Value
from isthmus.ir.rewrite import Match, Rule, named, scalar, such
from isthmus.ops.movement import full
from isthmus.ops.nn import rms_norm
from isthmus.ops.pointwise import add, div, mul, reciprocal, sqrt
from isthmus.ops.reduce import reduce_mean
from isthmus.passes.fuse.normalization import combine, is_vector, last_axis, same_width


def _size(x: Value, epsilon: Value) -> Value:
    """sqrt(mean x^2 + epsilon)."""
    return sqrt(add(reduce_mean(mul(x, x), axes=Marker("axes")), epsilon))


def _plain(m: Match) -> Value:
    x = m.value("x")
    ones = full(shape=x.shape[-1:], value=1.0, dtype=x.dtype)
    return rms_norm(x, ones, epsilon=m.scalar("epsilon"))


_EXAMPLE = {"x": "f32[2,n,6]", "epsilon": 1e-5, "axes": (2,)}

WRITTEN_OUT = (
    Rule(
        "rms-norm-divided",
        lambda x, epsilon=scalar(): div(x, _size(x, epsilon)),
        _plain,
        unless=last_axis,
        examples=(_EXAMPLE,),
    ),
    Rule(
        "rms-norm-multiplied",
        lambda x, epsilon=scalar(): mul(x, reciprocal(_size(x, epsilon))),
        _plain,
        unless=last_axis,
        examples=(_EXAMPLE,),
    ),
)


def _with_scale(m: Match) -> Value:
    x, scale = m.value("norm").args
    return rms_norm(x, combine(mul, scale, m.value("v")), epsilon=m.attr("epsilon"))


SCALE = (
    Rule(
        "rms-norm-scale",
        lambda x, s=such(is_vector), v=such(is_vector): mul(
            named("norm", rms_norm(x, s, epsilon=Marker("epsilon"))), v
        ),
        _with_scale,
        unless=same_width,
        examples=(
            {"x": "f32[2,n,6]", "s": "f32[6] = weight", "epsilon": 1e-5, "v": "f32[6] = weight"},
            {"x": "f32[2,n,6]", "s": "f32[6] = 1", "epsilon": 1e-5, "v": "f32[1,1,6] = weight"},
            {"x": "f32[2,n,6]", "s": "f32[6] = weight", "epsilon": 1e-5, "v": 0.5},
        ),
    ),
)
