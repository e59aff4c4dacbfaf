"""The NumPy evaluator. Slow, and by definition right: kernels, folding and rules are checked against it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isthmus.errors import Code, InputError, Problem, nearest
from isthmus.ir.dims import Dim, Expr, as_multiple, evaluate_dim, names
from isthmus.ir.graph import Attr, Graph, Value, counted_by, weight_of
from isthmus.ir.types import Array


def bind_dims(graph: Graph, arrays: Mapping[str, Array]) -> dict[str, int]:
    """The sizes of named dims that the shapes of `arrays` imply. Raises `InputError` listing every misfit."""
    declared = {value.attr("name"): value.t for value in graph.inputs}
    sizes: dict[str, int] = {}
    problems = [
        f"there is no input {name!r}; {nearest(name, declared)}" for name in arrays if name not in declared
    ]
    fitting: list[tuple[str, int, Dim, int]] = []
    for name, type_ in declared.items():
        if name not in arrays:
            problems.append(f"input {name!r} is missing")
            continue
        got = arrays[name]
        if got.dtype != type_.dtype.numpy or got.ndim != type_.rank:
            problems.append(f"input {name!r} should be {type_}, got {got.dtype}{list(got.shape)}")
            continue
        axes = enumerate(zip(type_.shape, got.shape, strict=True))
        fitting += [(name, axis, dim, size) for axis, (dim, size) in axes]
    # Names first: an expression over them may stand in an earlier input than they do.
    factors = {dim: as_multiple(dim) for _, _, dim, _ in fitting}
    for plain in (True, False):
        for _, _, dim, size in fitting:
            found = factors[dim]
            if found is not None and (found[1] == 1) is plain and size % found[1] == 0:
                sizes.setdefault(found[0], size // found[1])
    for name, axis, dim, size in fitting:
        if names(dim) <= sizes.keys():
            expected = f"{evaluate_dim(dim, sizes)}"
        elif (found := factors[dim]) is not None:
            expected = f"a multiple of {found[1]}"
        else:
            continue
        if expected != str(size):
            problems.append(f"input {name!r}: dim {axis} ({dim}) is {size}, expected {expected}")
    if problems:
        raise InputError([Problem(Code.BAD_INPUT, text) for text in problems])
    return sizes


def evaluate(graph: Graph, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Run `graph` on `arrays` (by input name); returns the outputs by name.

    Raises `InputError` when the arrays do not fit the signature.
    """
    sizes = bind_dims(graph, arrays)
    env: dict[Value, Array] = {v: arrays[v.attr("name")] for v in graph.inputs}
    uses: dict[Value, int] = {}
    order = list(graph.nodes())
    for value in order:
        for arg in value.args:
            uses[arg] = uses.get(arg, 0) + 1
    kept = {v for _, v in graph.outputs}
    for value in order:
        if (counted := counted_by(value)) is not None:
            sizes[counted] = int(env[value.args[0]].reshape(-1)[-1])
        env[value] = apply(value, [env[a] for a in value.args], sizes)
        for arg in value.args:
            uses[arg] -= 1
            if uses[arg] == 0 and arg not in kept:
                env.pop(arg, None)
    return {name: env[v] for name, v in graph.outputs}


def apply(value: Value, args: list[Array], sizes: Mapping[str, int]) -> Array:
    """One value from its arguments' arrays, with named dims replaced by `sizes`."""
    if (weight := weight_of(value)) is not None:
        return weight.read()
    attrs = {name: resolve(attr, sizes) for name, attr in value.attrs}
    # Infinities and NaN are values like others here: kernels must reproduce them.
    with np.errstate(all="ignore"):
        return np.asarray(value.op.reference(*args, **attrs), dtype=value.dtype.numpy)


def resolve(attr: Attr, sizes: Mapping[str, int]) -> Attr:
    """An attribute with symbolic dims replaced by integers."""
    if isinstance(attr, Expr):
        return evaluate_dim(attr, sizes)
    if isinstance(attr, tuple):
        return tuple(evaluate_dim(d, sizes) for d in attr)
    return attr
