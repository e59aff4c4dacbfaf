"""Left sides of rules made from their examples: holes become inputs or constants, markers become values."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from isthmus.ir.dims import Shape, evaluate_dim, product
from isthmus.ir.graph import HOLE, Attr, Graph, Kind, Marker, Trait, Value, constant, graph_input, walk
from isthmus.ir.read import parse_dim, parse_type
from isthmus.ir.rewrite import NAMED, Rule, weight
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ops import movement, pointwise, reduce

SIZES = {"b": 2, "n": 7, "s": 5, "t": 6, "h": 3, "one": 1}


def left_side(rule: Rule, example: Mapping[str, object]) -> Graph:
    """The graph that `rule.find` describes with the types and values of `example`."""
    restrictions = rule.restrictions()
    dtype = next((parse_type(_type(v)).dtype for v in example.values() if _is_tensor(v)), DType.F32)
    holes = {
        name: _hole(name, example[name], dtype, isinstance(restrictions[name], weight))
        for name in restrictions
    }
    made: dict[Value, Value] = {}
    pattern = rule.pattern()
    for part in walk((pattern,)):
        if part.op is HOLE:
            made[part] = holes[part.attr("name")]
        elif part.op is NAMED:
            made[part] = made[part.args[0]]
        else:
            attrs = {name: _attr(part.op.attrs[name], value, example) for name, value in part.attrs}
            made[part] = part.op(*(made[a] for a in part.args), **attrs)
    root = made[pattern]
    inputs = tuple(v for v in walk((root,)) if v.is_leaf and v.op.name == "input")
    # Gives every dim that attributes may name its size.
    inputs = (*inputs, graph_input("dims", parse_type(f"bool[{','.join(SIZES)}]")))
    return Graph(rule.name, inputs, (("out", root),))


def _is_tensor(value: object) -> bool:
    return isinstance(value, str) and re.match(r"\w+\[", value) is not None


def _type(value: object) -> str:
    return str(value).split(" = ")[0]


def _hole(name: str, given: object, dtype: DType, is_weight: bool) -> Value:
    """An input for a type, a constant for a number or for `type = contents`."""
    if isinstance(given, bool):
        return movement.full(shape=(), value=float(given), dtype=DType.BOOL)
    if isinstance(given, int | float):
        return movement.full(shape=(), value=float(given), dtype=dtype)
    text, _, contents = str(given).partition(" = ")
    type_ = parse_type(text)
    if is_weight or contents == "weight":
        rng = np.random.default_rng(len(name) + type_.rank)
        return constant(name, rng.standard_normal(type_.static_shape).astype(type_.dtype.numpy))
    if not contents:
        return graph_input(name, type_)
    if contents == "square":
        x = graph_input(name, type_)
        return pointwise.mul(x, x)
    if contents == "twice":
        *lead, size = type_.shape
        assert isinstance(size, int)
        half = graph_input(name, TensorType(type_.dtype, (*lead, size // 2)))
        return movement.concat(half, half, axis=len(lead))
    if found := re.fullmatch(r"iota\((\d)\) \+ (-?\d+)", contents):
        count = movement.iota(shape=type_.shape, axis=int(found[1]), dtype=type_.dtype)
        return pointwise.add(count, movement.full(shape=(), value=float(found[2]), dtype=type_.dtype))
    if found := re.fullmatch(r"grid\(([\d,]+)\)", contents):
        part = (*type_.shape[:-1], 1)
        axes = [int(axis) for axis in found[1].split(",")]
        return movement.concat(
            *(movement.iota(shape=part, axis=axis, dtype=type_.dtype) for axis in axes), axis=len(part) - 1
        )
    if found := re.fullmatch(r"flat\((\d),(\d)\)", contents):
        row, column = (
            movement.iota(
                shape=tuple(d if i == axis else 1 for i, d in enumerate(type_.shape)),
                axis=axis,
                dtype=type_.dtype,
            )
            for axis in map(int, found.groups())
        )
        width = movement.dim_value(dim=(type_.shape[int(found[2])],), dtype=type_.dtype)
        return pointwise.add(pointwise.mul(width, row), column)
    if contents.startswith("causal"):
        return _causal(type_, contents)
    return movement.full(shape=type_.shape, value=float(contents), dtype=type_.dtype)


def _causal(type_: TensorType, contents: str) -> Value:
    """A mask [..., queries, keys] that hides what comes later: compared, from a table, or among others."""
    *outer, queries, keys = type_.shape
    low = re.search(r"\((.*)\)", contents)
    zero, hidden = (
        movement.full(shape=(), value=v, dtype=DType.F32) for v in (0.0, float(low[1]) if low else -np.inf)
    )
    if "table" in contents:
        table = np.where(np.tri(32, dtype=bool), 0, np.float32(hidden.attr("value"))).astype(np.float32)
        part = {"starts": (0, 0), "sizes": (queries, keys), "steps": (1, 1)}
        return movement.slice_(constant("table", table), **part)
    ones = tuple(1 for _ in outer)
    key = movement.iota(shape=(*ones, 1, keys), axis=len(outer) + 1, dtype=DType.I64)
    query = movement.iota(shape=(queries,), axis=0, dtype=DType.I64)
    if keys != queries:
        query = pointwise.add(query, movement.dim_value(dim=(keys - queries,), dtype=DType.I64))
    seen = pointwise.less_equal(key, movement.reshape(query, shape=(*ones, queries, 1)))
    if "kept" in contents:
        kept = graph_input("kept", TensorType(DType.BOOL, (*outer, 1, keys)))
        seen = pointwise.logical_and(seen, kept)
    return pointwise.where(seen, zero, hidden)


def _attr(kind: Kind, value: Attr, example: Mapping[str, object]) -> Attr:
    if not isinstance(value, Marker):
        return value
    given = example[value.name]
    if kind is Kind.DIMS and isinstance(given, str):
        return tuple(parse_dim(part) for part in given.split(","))
    if kind is Kind.DTYPE:
        return DType.parse(str(given))
    assert isinstance(given, int | float | bool | str | tuple)
    return given


def arrays_for(graph: Graph, seed: int, special: bool = False) -> dict[str, Array]:
    """Random inputs with the sizes above; with `special`, some are infinite, NaN, zero or negative zero."""
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for value in graph.inputs:
        shape = tuple(evaluate_dim(d, SIZES) for d in value.shape)
        if value.dtype is DType.BOOL:
            array = rng.random(shape) < 0.5
        elif value.dtype.is_integer:
            array = rng.integers(0, 2, shape).astype(value.dtype.numpy)
        else:
            array = np.asarray(rng.standard_normal(shape)).astype(value.dtype.numpy)
            if special and array.size:
                flat = array.reshape(-1)
                picks = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0], array.dtype)
                flat[rng.integers(0, flat.size, 3)] = rng.choice(picks, 3)
        found[value.attr("name")] = np.asarray(array)
    return found


# Work of one element, in multiplications, roughly.
_COSTS = {
    "pow": 40.0, "exp": 10.0, "log": 10.0, "erf": 12.0, "tanh": 12.0, "sigmoid": 12.0, "gelu": 14.0,
    "gelu_tanh": 14.0, "silu": 13.0, "div": 4.0, "sqrt": 4.0, "reciprocal": 4.0, "mod": 8.0,
}  # fmt: skip


def work(graph: Graph) -> float:
    """An estimate of the arithmetic and of the elements moved."""
    return sum(_work(v) for v in graph.nodes())


def _count(shape: Shape) -> int:
    return evaluate_dim(product(shape), SIZES)


def _work(value: Value) -> float:
    size = _count(value.shape)
    name = value.op.name
    # A reshape is a way to look at memory.
    if value.is_leaf or name in ("full", "reshape"):
        return 0
    if name in ("matmul", "linear"):
        return 2.0 * size * _count(value.args[0].shape[-1:])
    if name == "attention":
        return 4.0 * _count(value.args[0].shape) * _count(value.args[1].shape[2:3])
    if name in ("softmax", "layer_norm"):
        return 10.0 * size
    if name == "rms_norm":
        return 4.0 * size
    if Trait.REDUCTION in value.op.traits or value.op in reduce.ALL:
        return float(_count(value.args[0].shape))
    if Trait.MOVEMENT in value.op.traits:
        return 0.5 * size
    return _COSTS.get(name, 1.0) * size
