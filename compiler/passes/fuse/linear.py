"""Products with constant matrices, and what follows them while the result is still in registers."""

from __future__ import annotations

from isthmus.ir.graph import Marker, Value, weight_of
from isthmus.ir.rewrite import Match, Rule, named, such
from isthmus.ops import nn
from isthmus.ops.movement import full, reshape
from isthmus.ops.nn import linear, matmul
from isthmus.ops.pointwise import add
from isthmus.passes.clean.identities import both
from isthmus.passes.clean.scalars import single_use
from isthmus.passes.fuse.normalization import combine, is_vector
from isthmus.passes.integers import is_block_matrix, is_integer_matrix


def _floating(m: Match) -> str | None:
    return None if m.root.dtype.is_float else f"a product of {m.root.dtype}"


def _is_matrix(w: Value) -> bool:
    return (weight_of(w) is not None and w.t.rank == 2) or is_integer_matrix(w) or is_block_matrix(w)


def _plain(m: Match) -> Value:
    x, w = m.value("x"), m.value("w")
    zeros = full(shape=w.shape[1:], value=0.0, dtype=w.dtype)
    return linear(x, w, zeros, loc=m.root.loc)


MATMUL = (
    Rule(
        "linear",
        lambda x, w=such(_is_matrix): matmul(x, w),
        _plain,
        unless=_floating,
        examples=({"x": "f32[b,n,6]", "w": "f32[6,5] = weight"}, {"x": "f32[n,6]", "w": "f32[6,1] = weight"}),
    ),
)


def _fits(m: Match) -> str | None:
    product, bias = m.value("product"), m.value("v")
    if product.type != m.root.type:
        return "the bias has more axes than what it is added to"
    if bias.shape and bias.shape[-1] not in (1, product.shape[-1]):
        return f"a bias of {bias.shape[-1]} for rows of {product.shape[-1]}"
    return None


def _with_bias(m: Match) -> Value:
    product = m.value("product")
    x, w, bias, *rest = product.args
    return linear(x, w, combine(add, bias, m.value("v")), *rest, loc=product.loc)


_X = {"x": "f32[b,n,6]", "w": "f32[6,5] = weight", "b": "f32[5] = weight"}

BIAS = (
    Rule(
        "linear-bias",
        lambda x, w, b=such(is_vector), v=such(is_vector): add(
            named("product", linear(x, w, b, activation="none")), v
        ),
        _with_bias,
        unless=both(single_use("product"), _fits),
        examples=(
            {**_X, "b": "f32[5] = 0", "v": "f32[5] = weight"},
            {**_X, "v": "f32[1,5] = weight"},
            {**_X, "v": 0.5},
        ),
    ),
    Rule(
        "linear-bias-residual",
        lambda x, w, r, b=such(is_vector), v=such(is_vector): add(
            named("product", linear(x, w, b, r, activation="none")), v
        ),
        _with_bias,
        unless=both(single_use("product"), _fits),
        examples=({**_X, "r": "f32[b,n,5]", "v": "f32[5] = weight"},),
    ),
)


def _keeps_rows(m: Match) -> str | None:
    """The outer reshape arranges rows anew, and leaves each of them whole."""
    product = m.value("product")
    if m.root.t.rank == 0 or m.root.shape[-1] != product.shape[-1]:
        return ""
    return single_use("product")(m)


def _rows_first(m: Match) -> Value:
    product = m.value("product")
    rows, w, bias = product.args
    x = reshape(m.value("x"), shape=(*m.root.shape[:-1], rows.shape[-1]))
    return linear(x, w, bias, activation=product.attr("activation"), loc=product.loc)


ROWS = (
    # Exporters that only have products of two matrices put a reshape before and another one after.
    Rule(
        "linear-of-rows",
        lambda x, w, b: reshape(
            named("product", linear(reshape(x, shape=Marker("rows")), w, b, activation=Marker("activation"))),
            shape=Marker("shape"),
        ),
        _rows_first,
        unless=_keeps_rows,
        examples=({**_X, "rows": "b*n,6", "shape": "b,n,5", "activation": "none"},),
    ),
)


def _same_shape(m: Match) -> str | None:
    product, r = m.value("product"), m.value("r")
    if product.shape == r.shape:
        return None
    return f"{r.t} would have to be broadcast to {product.t}"


def _with_residual(m: Match) -> Value:
    product = m.value("product")
    x, w, bias = product.args
    return linear(x, w, bias, m.value("r"), loc=product.loc)


RESIDUAL = (
    # When both terms are products the first takes the second: the matcher tries the order as written first.
    Rule(
        "linear-residual",
        lambda x, w, b, r: add(named("product", linear(x, w, b, activation="none")), r),
        _with_residual,
        unless=both(single_use("product"), _same_shape),
        examples=({**_X, "r": "f32[b,n,5]"},),
    ),
)


def _activation(name: str, has_residual: bool) -> Rule:
    op = nn.ACTIVATIONS[name]

    def find(x: Value, w: Value, b: Value) -> Value:
        return op(named("product", linear(x, w, b, activation="none")))

    def find_residual(x: Value, w: Value, b: Value, r: Value) -> Value:
        return op(named("product", linear(x, w, b, r, activation="none")))

    def make(m: Match) -> Value:
        product = m.value("product")
        return linear(*product.args, activation=name, loc=product.loc)

    return Rule(
        f"linear-{name.replace('_', '-')}{'-residual' * has_residual}",
        find_residual if has_residual else find,
        make,
        unless=single_use("product"),
        examples=({**_X, **({"r": "f32[b,n,5]"} if has_residual else {})},),
    )


ACTIVATION = tuple(_activation(name, residual) for name in nn.ACTIVATIONS for residual in (False, True))
