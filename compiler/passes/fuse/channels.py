"""Products whose rows become channels: what follows the transpose of a convolution belongs to the product.

A convolution leaves its channels last and is transposed back to [batch, channels, ...]. Scales and biases of
channels, sums and activations are applied on the other side of that transpose, in registers.
"""

from __future__ import annotations

from isthmus.ir.graph import Marker, Value
from isthmus.ir.rewrite import Match, Rule, named, such
from isthmus.ops import nn
from isthmus.ops.movement import reshape, transpose
from isthmus.ops.nn import linear
from isthmus.ops.pointwise import add, mul
from isthmus.passes.clean.identities import both
from isthmus.passes.clean.scalars import single_use
from isthmus.passes.constants import is_constant, name_of, weight_from
from isthmus.passes.fuse.normalization import combine


def _perm(m: Match) -> tuple[int, ...]:
    return tuple(m.value("moved").attr("perm"))


def _inverse(perm: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(perm.index(i) for i in range(len(perm)))


def _is_matrix_constant(m: Match) -> str | None:
    return (
        None
        if is_constant(m.value("w")) and is_constant(m.value("b"))
        else "the product is not with a constant"
    )


def _one_per_channel(m: Match) -> str | None:
    """The constant has one element for each column of the product, and nothing else."""
    shape, rank = m.value("c").shape, m.root.t.rank
    if m.root.type != m.value("moved").type:
        return "the constant has more axes than what it applies to"
    axis = _perm(m).index(rank - 1) - (rank - len(shape))
    columns = m.value("product").shape[-1]
    if axis < 0 or any(d != (columns if i == axis else 1) for i, d in enumerate(shape)):
        return "the constant is not one number for each channel"
    return None


def _vector(m: Match) -> Value:
    c = m.value("c")
    line = reshape(c, shape=m.value("product").shape[-1:])
    return weight_from(line, f"{name_of(c)}.channels")


def _scaled(m: Match) -> Value:
    x, w, bias = m.value("product").args
    factors = _vector(m)
    scaled = weight_from(mul(w, factors), f"{name_of(w)}.scaled")
    product = linear(x, scaled, combine(mul, bias, factors), loc=m.value("product").loc)
    return transpose(product, perm=_perm(m))


def _shifted(m: Match) -> Value:
    x, w, bias = m.value("product").args
    product = linear(x, w, combine(add, bias, _vector(m)), loc=m.value("product").loc)
    return transpose(product, perm=_perm(m))


def _same_shape(m: Match) -> str | None:
    moved, r = m.value("moved"), m.value("r")
    return None if moved.shape == r.shape else f"{r.t} would have to be broadcast to {moved.t}"


def _with_residual(m: Match) -> Value:
    x, w, bias = m.value("product").args
    other = transpose(m.value("r"), perm=_inverse(_perm(m)))
    return transpose(linear(x, w, bias, other, loc=m.value("product").loc), perm=_perm(m))


def _activation(name: str, has_residual: bool) -> Rule:
    op = nn.ACTIVATIONS[name]

    def find(x: Value, w: Value, b: Value) -> Value:
        product = named("product", linear(x, w, b, activation="none"))
        return op(named("moved", transpose(product, perm=Marker("perm"))))

    def find_residual(x: Value, w: Value, b: Value, r: Value) -> Value:
        product = named("product", linear(x, w, b, r, activation="none"))
        return op(named("moved", transpose(product, perm=Marker("perm"))))

    def make(m: Match) -> Value:
        product = m.value("product")
        return transpose(linear(*product.args, activation=name, loc=product.loc), perm=_perm(m))

    return Rule(
        f"channels-{name.replace('_', '-')}{'-residual' * has_residual}",
        find_residual if has_residual else find,
        make,
        unless=_ALONE,
        examples=({**_X, **({"r": "f32[b,n,5]"} if has_residual else {})},),
    )


_ALONE = both(single_use("product"), single_use("moved"))
_X = {"x": "f32[b,n,6]", "w": "f32[6,5] = weight", "b": "f32[5] = weight", "perm": (0, 2, 1)}

CHANNELS = (
    Rule(
        "channels-scale",
        lambda x, w, b, c=such(is_constant): mul(
            named(
                "moved", transpose(named("product", linear(x, w, b, activation="none")), perm=Marker("perm"))
            ),
            c,
        ),
        _scaled,
        unless=both(_ALONE, _is_matrix_constant, _one_per_channel),
        examples=(
            {**_X, "c": "f32[5,1] = weight"},
            {**_X, "b": "f32[5] = 0", "perm": (2, 0, 1), "c": "f32[5,1,1] = weight"},
        ),
    ),
    Rule(
        "channels-bias",
        lambda x, w, b, c=such(is_constant): add(
            named(
                "moved", transpose(named("product", linear(x, w, b, activation="none")), perm=Marker("perm"))
            ),
            c,
        ),
        _shifted,
        unless=both(_ALONE, _is_matrix_constant, _one_per_channel),
        examples=({**_X, "c": "f32[5,1] = weight"}, {**_X, "b": "f32[5] = 0", "c": "f32[1,5,1] = weight"}),
    ),
    Rule(
        "channels-residual",
        lambda x, w, b, r: add(
            named(
                "moved", transpose(named("product", linear(x, w, b, activation="none")), perm=Marker("perm"))
            ),
            r,
        ),
        _with_residual,
        unless=both(_ALONE, _same_shape),
        examples=({**_X, "r": "f32[b,5,n]"}, {**_X, "perm": (2, 0, 1), "r": "f32[5,b,n]"}),
    ),
    *(_activation(name, has_residual) for name in nn.ACTIVATIONS for has_residual in (False, True)),
)
