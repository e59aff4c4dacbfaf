"""Values, ops, graphs and programs: an immutable directed acyclic graph.

A `Value` is an op applied to arguments. Passes build new values and share the rest; two values are the
same only when they are the same object. An `Op` is one declaration: type rule, NumPy reference, traits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeAlias

from isthmus.ir.dims import Bounds, Expr, Shape
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ir.weights import Weight

# What an attribute can be. Any appears only here: attributes are checked against their declared kind.
Attr: TypeAlias = "int | float | bool | str | DType | Expr | Weight | tuple[int | Expr, ...] | Marker"


class Kind(Enum):
    """Kinds of attributes; printer, parser and checks go by these."""

    INT = "int"
    INTS = "ints"
    FLOAT = "float"
    BOOL = "bool"
    TEXT = "text"
    DIMS = "dims"
    DTYPE = "dtype"
    WEIGHT = "weight"


class Trait(Enum):
    """A fact about an op that generic passes may rely on."""

    COMMUTATIVE = "the order of its two arguments does not matter"
    POINTWISE = "computes each element from the elements at the same place, after broadcasting"
    MOVEMENT = "only moves elements; computes nothing"
    REDUCTION = "combines elements along axes; keeps them as size 1"
    LEAF = "has no arguments: an input, a weight, or a hole in a pattern"
    COUNTS = "its attribute `dim` names a dim; the last element of its argument says how large that is"


class Marker:
    """Stands for an attribute in a pattern: matches anything, or binds what it met to a name."""

    def __init__(self, name: str = "") -> None:
        self.name = name


class TypeMismatch(TypeError):
    """An op was given types or attributes it does not accept."""


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    """Everything the compiler knows about one operator.

    `infer(*types, **attrs)` gives the result type or raises TypeMismatch. `reference(*arrays, **attrs)`
    computes it in NumPy, with symbolic dims in attributes already replaced by integers. `arity` is the
    least and the greatest number of arguments. `attrs` names and kinds the attributes; those in
    `defaults` may be left out. `tolerance` is the relative error a kernel may have in f32.
    """

    name: str
    infer: Callable[..., TensorType]
    reference: Callable[..., Array]
    arity: tuple[int, int]
    attrs: Mapping[str, Kind] = field(default_factory=dict)
    defaults: Mapping[str, Attr] = field(default_factory=dict)
    traits: frozenset[Trait] = frozenset()
    tolerance: float = 1e-5
    doc: str = ""

    def __call__(self, *args: Value, loc: str = "", **attrs: Attr) -> Value:
        """Build a value with its inferred type; the same call builds a pattern when an argument is a hole."""
        given = {**self.defaults, **attrs}
        if given.keys() != self.attrs.keys():
            raise TypeMismatch(f"{self.name} takes attributes {sorted(self.attrs)}, got {sorted(given)}")
        if not self.arity[0] <= len(args) <= self.arity[1]:
            raise TypeMismatch(
                f"{self.name} takes {self.arity[0]} to {self.arity[1]} arguments, got {len(args)}"
            )
        types = [a.type for a in args if a.type is not None]
        is_pattern = len(types) < len(args) or any(isinstance(a, Marker) for a in given.values())
        type_ = None if is_pattern else self.infer(*types, **given)
        return Value(self, args, tuple(sorted(given.items())), type_, loc)

    def __repr__(self) -> str:
        return f"Op({self.name})"


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """One immutable result. `loc` is the source node's name, kept through every rewrite."""

    op: Op
    args: tuple[Value, ...] = field(repr=False)
    attrs: tuple[tuple[str, Attr], ...]
    type: TensorType | None
    loc: str = ""

    def attr(self, name: str) -> Any:
        """The attribute called `name`. Raises KeyError."""
        for known, attr in self.attrs:
            if known == name:
                return attr
        raise KeyError(name)

    @property
    def t(self) -> TensorType:
        """The type of a value outside patterns."""
        assert self.type is not None, f"{self.op.name} is part of a pattern and has no type"
        return self.type

    @property
    def shape(self) -> Shape:
        return self.t.shape

    @property
    def dtype(self) -> DType:
        return self.t.dtype

    @property
    def is_leaf(self) -> bool:
        return Trait.LEAF in self.op.traits


def _no_infer(*types: TensorType, **attrs: Attr) -> TensorType:
    raise TypeMismatch("a leaf is given its type when it is made")


def _no_reference(*arrays: Array, **attrs: Attr) -> Array:
    raise TypeMismatch("a leaf has no reference: its contents are given")


def _leaf(name: str, /, **attrs: Kind) -> Op:
    return Op(name, _no_infer, _no_reference, (0, 0), attrs, traits=frozenset({Trait.LEAF}))


INPUT = _leaf("input", name=Kind.TEXT)
WEIGHT = _leaf("weight", weight=Kind.WEIGHT)
HOLE = _leaf("hole", name=Kind.TEXT)


def graph_input(name: str, type_: TensorType) -> Value:
    """An argument of a graph."""
    return Value(INPUT, (), (("name", name),), type_, name)


def weight_value(weight: Weight, loc: str = "") -> Value:
    """A constant."""
    return Value(WEIGHT, (), (("weight", weight),), weight.type, loc)


def constant(name: str, array: Array, loc: str = "") -> Value:
    """A constant that holds a copy of `array`."""
    return weight_value(Weight.of(name, array), loc)


def counted_by(value: Value) -> str | None:
    """The name of the dim whose size `value` says at run time, if it says one."""
    if Trait.COUNTS not in value.op.traits:
        return None
    (dim,) = value.attr("dim")
    name: str | None = dim.name
    return name


def weight_of(value: Value) -> Weight | None:
    """The weight behind a constant value, else None."""
    if value.op is not WEIGHT:
        return None
    weight = value.attr("weight")
    assert isinstance(weight, Weight)
    return weight


@dataclass(frozen=True, slots=True)
class Graph:
    """A pure function from named inputs to named outputs; its nodes are whatever the outputs reach."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[tuple[str, Value], ...]

    def nodes(self) -> Iterator[Value]:
        """Yield every value that is not an input once, arguments before users; weights included."""
        return walk(tuple(v for _, v in self.outputs), frozenset(self.inputs))

    def weights(self) -> Iterator[Weight]:
        """Yield every weight once, in the order of first use."""
        for value in self.nodes():
            if (weight := weight_of(value)) is not None:
                yield weight

    def with_outputs(self, values: tuple[Value, ...]) -> Graph:
        """The same signature computed by other values; `self` when nothing differs."""
        if all(new is old for new, (_, old) in zip(values, self.outputs, strict=True)):
            return self
        names = (name for name, _ in self.outputs)
        return replace(self, outputs=tuple(zip(names, values, strict=True)))


def walk(roots: tuple[Value, ...], stop: frozenset[Value] = frozenset()) -> Iterator[Value]:
    """Yield the values `roots` reach, arguments first, each once, without recursion; not those in `stop`."""
    done: set[Value] = set(stop)
    stack = list(reversed(roots))
    while stack:
        value = stack[-1]
        if value in done:
            stack.pop()
        elif waiting := [a for a in value.args if a not in done]:
            waiting.reverse()
            stack += waiting
        else:
            stack.pop()
            done.add(value)
            yield value


def use_counts(graph: Graph) -> dict[Value, int]:
    """How often each value is an argument or an output of `graph`."""
    counts: dict[Value, int] = {}
    for value in graph.nodes():
        for arg in value.args:
            counts[arg] = counts.get(arg, 0) + 1
    for _, value in graph.outputs:
        counts[value] = counts.get(value, 0) + 1
    return counts


@dataclass(frozen=True, slots=True)
class NamedDim:
    """A dimension that inputs bind at run time. `high` None: any size."""

    name: str
    low: int = 1
    high: int | None = None

    def __str__(self) -> str:
        return f"{self.name} = {self.low}..{'' if self.high is None else self.high}"


@dataclass(frozen=True, slots=True)
class Program:
    """One or more graphs over shared weights and named dims. `origin` is the digest of the model file."""

    name: str
    graphs: tuple[Graph, ...]
    dims: tuple[NamedDim, ...]
    origin: str = ""

    @property
    def bounds(self) -> Bounds:
        return {d.name: (d.low, d.high) for d in self.dims}

    @property
    def main(self) -> Graph:
        """The first entry point."""
        return self.graphs[0]

    def with_main(self, graph: Graph) -> Program:
        """`graph` as the first entry point; `self` when it is that already."""
        return self if graph is self.main else replace(self, graphs=(graph, *self.graphs[1:]))

    def map_graphs(self, change: Callable[[Graph], Graph]) -> Program:
        """Apply `change` to every graph; `self` when none changed."""
        graphs = tuple(change(g) for g in self.graphs)
        if all(new is old for new, old in zip(graphs, self.graphs, strict=True)):
            return self
        return replace(self, graphs=graphs)
