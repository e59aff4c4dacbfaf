"""The verifier: what every program keeps to, whatever pass has just run.

Programs
- have at least one graph; no two graphs, and no two dims, share a name;
- name dims by words (letters, digits, underscores; not `min` or `max`), with 0 <= low <= high.

Graphs
- have at least one output; no two inputs, and no two outputs, share a name;
- use no input that they do not declare;
- use no dim that the program does not declare, or that is not by itself the size of an axis of an input,
  because nothing would say how large it is at run time; but for dims that one value counts, and that no
  program declares.

Values
- apply ops to as many arguments as they take, with the attributes they declare, of the declared kinds;
- have the type that their op infers from the types of their arguments;
- have no dim that is negative at every size within bounds;
- are no parts of patterns: no holes, no names, no markers.

Weights
- have the type of the value that stands for them, all dims integers;
- have as many bytes as their type says;
- are the only values with an encoding, and it fits their shape.

Graphs are acyclic by construction. Names of weights need not differ: the printer tells them apart.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from isthmus.errors import CompilerBug
from isthmus.ir.dims import Bounds, Dim, DimTooLarge, Expr, as_multiple, interval, names
from isthmus.ir.graph import (
    HOLE,
    INPUT,
    WEIGHT,
    Attr,
    Graph,
    Kind,
    Marker,
    NamedDim,
    Program,
    TypeMismatch,
    Value,
    counted_by,
)
from isthmus.ir.printer import Printed
from isthmus.ir.types import DType, TensorType
from isthmus.ir.weights import InFile, InMemory, Weight

DIM_NAME = re.compile(r"(?!(?:min|max)\Z)[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing wrong with a program, and the part of it that has it."""

    at: Value | Graph | NamedDim | Program
    message: str


def verify(program: Program) -> list[Diagnostic]:
    """Every way in which `program` breaks the invariants above, in the order of its text."""
    found = [Diagnostic(program, text) for text in _program_problems(program)]
    for dim in program.dims:
        found += [Diagnostic(dim, text) for text in _dim_problems(dim)]
    bounds = program.bounds
    for graph in program.graphs:
        found += _verify_graph(graph, bounds)
    return found


def report(program: Program, found: Sequence[Diagnostic]) -> str:
    """The program with each problem under the line that has it."""
    printed = Printed(program)
    under: dict[int, list[str]] = {}
    for diagnostic in found:
        line = printed.line_of.get(diagnostic.at, 0)
        indent = len(printed.lines[line]) - len(printed.lines[line].lstrip())
        under.setdefault(line, []).append(f"{' ' * indent}^ error: {diagnostic.message}")
    lines = (text for i, line in enumerate(printed.lines) for text in (line, *under.get(i, ())))
    return "\n".join(lines) + "\n"


def check(program: Program, after: str) -> None:
    """Raises `CompilerBug` with a report when `program`, as `after` left it, breaks an invariant."""
    if found := verify(program):
        raise CompilerBug(f"{after} left a program that is broken:\n{report(program, found)}")


def _program_problems(program: Program) -> Iterator[str]:
    if not program.graphs:
        yield "the program has no graph"
    yield from _twice("graphs are", (graph.name for graph in program.graphs))
    yield from _twice("dims are", (dim.name for dim in program.dims))


def _twice(what: str, given: Iterable[str]) -> Iterator[str]:
    for name, count in Counter(given).items():
        if count > 1:
            yield f"{count} {what} called {name!r}"


def _dim_problems(dim: NamedDim) -> Iterator[str]:
    if not DIM_NAME.fullmatch(dim.name):
        yield f"{dim.name!r} cannot name a dim: letters, digits and underscores, not starting with a digit"
    if dim.low < 0 or (dim.high is not None and dim.high < dim.low):
        yield f"the bounds of {dim.name!r} hold no size"


def _verify_graph(graph: Graph, bounds: Bounds) -> list[Diagnostic]:
    found = [Diagnostic(graph, text) for text in _signature_problems(graph)]
    inputs = frozenset(graph.inputs)
    sizes = [d for v in inputs if v.type is not None for d in v.type.shape]
    bound = {multiple[0] for d in sizes if (multiple := as_multiple(d)) is not None}
    told: set[str] = set()
    counted = [name for v in graph.nodes() if (name := _counted(v)) is not None]
    found += [Diagnostic(graph, text) for text in _twice("values count dims", counted)]
    found += [
        Diagnostic(graph, f"the dim {name!r} is counted, and declared") for name in counted if name in bounds
    ]
    bounds = {**dict.fromkeys(counted, (0, None)), **bounds}
    bound |= set(counted)
    for value in (*graph.inputs, *graph.nodes()):
        problems = list(_value_problems(value, value in inputs))
        if value.type is not None:
            negative = [d for d in value.type.shape if _is_negative(d, bounds)]
            problems += [f"the size {d} is always negative" for d in negative]
        found += [Diagnostic(value, text) for text in problems]
        for dim in _dims_of(value):
            # What is wrong with a dim is told once: where it first occurs.
            for text in _size_problems(dim, bounds, bound):
                if text not in told:
                    told.add(text)
                    found.append(Diagnostic(value, text))
    return found


def _counted(value: Value) -> str | None:
    """The dim that `value` counts, unless its attributes are broken."""
    return None if list(_attr_problems(value)) or value.type is None else counted_by(value)


def _signature_problems(graph: Graph) -> Iterator[str]:
    if not graph.outputs:
        yield "the graph has no outputs"
    declared = (dict(v.attrs).get("name") for v in graph.inputs)
    yield from _twice("inputs are", (name for name in declared if isinstance(name, str)))
    yield from _twice("outputs are", (name for name, _ in graph.outputs))


def _value_problems(value: Value, is_declared_input: bool) -> Iterator[str]:
    if value.op is HOLE or value.op.name in ("hole", "named"):
        yield "part of a pattern is left in the graph"
        return
    if is_declared_input and value.op is not INPUT:
        yield f"the graph declares {value.op.name} as an input"
    if value.op is INPUT and not is_declared_input:
        yield f"the graph does not declare its input {dict(value.attrs).get('name')!r}"
    attrs = list(_attr_problems(value))
    yield from attrs
    if value.type is None:
        yield "the value has no type"
    elif value.op is WEIGHT:
        yield from () if attrs else _weight_problems(value, value.type)
    elif value.type.encoding is not None:
        yield f"only weights have encodings, this is {value.type}"
    if not attrs and not value.is_leaf:
        yield from _inferred_problems(value)


def _attr_problems(value: Value) -> Iterator[str]:
    op = value.op
    attrs = dict(value.attrs)
    if attrs.keys() != op.attrs.keys() or len(attrs) != len(value.attrs):
        yield f"{op.name} takes attributes {sorted(op.attrs)}, has {[name for name, _ in value.attrs]}"
        return
    for name, attr in value.attrs:
        if isinstance(attr, Marker):
            yield f"attribute {name} is a marker: part of a pattern is left in the graph"
        elif not KINDS[op.attrs[name]](attr):
            yield f"attribute {name} should be of kind {op.attrs[name].value}, is {attr!r}"
    if not op.arity[0] <= len(value.args) <= op.arity[1]:
        yield f"{op.name} takes {op.arity[0]} to {op.arity[1]} arguments, has {len(value.args)}"


def _is_int(attr: object) -> bool:
    return isinstance(attr, int) and not isinstance(attr, bool)


# What an attribute of each kind is.
KINDS: Mapping[Kind, Callable[[Attr], bool]] = {
    Kind.INT: _is_int,
    Kind.INTS: lambda attr: isinstance(attr, tuple) and all(map(_is_int, attr)),
    Kind.FLOAT: lambda attr: _is_int(attr) or isinstance(attr, float),
    Kind.BOOL: lambda attr: isinstance(attr, bool),
    Kind.TEXT: lambda attr: isinstance(attr, str),
    Kind.DIMS: lambda attr: isinstance(attr, tuple) and all(isinstance(d, Expr) or _is_int(d) for d in attr),
    Kind.DTYPE: lambda attr: isinstance(attr, DType),
    Kind.WEIGHT: lambda attr: isinstance(attr, Weight),
}


def _inferred_problems(value: Value) -> Iterator[str]:
    types = [arg.type for arg in value.args if arg.type is not None]
    if len(types) < len(value.args) or value.type is None:
        return  # said where that argument is
    try:
        inferred = value.op.infer(*types, **dict(value.attrs))
    except (TypeMismatch, DimTooLarge) as error:
        yield str(error)
        return
    if inferred != value.type:
        yield f"declared {value.type}, inferred {inferred}"


def _weight_problems(value: Value, type_: TensorType) -> Iterator[str]:
    weight: Weight = value.attr("weight")
    if weight.type != type_:
        yield f"declared {type_}, the weight is {weight.type}"
    if not weight.type.is_static:
        yield f"a weight has no symbolic dims, this is {weight.type}"
        return
    plain = TensorType(weight.type.dtype, weight.type.shape)
    match weight.source:
        case InMemory(data=data) if len(data) != plain.nbytes:
            yield f"{plain} needs {plain.nbytes} bytes, there are {len(data)}"
        case InFile(nbytes=nbytes) if nbytes != plain.nbytes:
            yield f"{plain} needs {plain.nbytes} bytes, there are {nbytes}"
    if weight.type.encoding is not None:
        try:
            weight.type.encoding.nbytes(weight.type.static_shape, weight.type.dtype)
        except (ValueError, IndexError):
            yield f"the encoding {weight.type.encoding} does not fit the shape of {plain}"


def _size_problems(dim: Dim, bounds: Bounds, bound: set[str]) -> Iterator[str]:
    for name in sorted(names(dim)):
        if name not in bounds:
            yield f"the program does not declare the dim {name!r}"
        elif name not in bound:
            yield f"no axis of an input has the size {name!r}, so nothing says how large it is"


def _dims_of(value: Value) -> Iterator[Dim]:
    if value.type is not None:
        yield from value.type.shape
    for _, attr in value.attrs:
        if isinstance(attr, tuple):
            yield from (d for d in attr if isinstance(d, Expr))


def _is_negative(dim: Dim, bounds: Bounds) -> bool:
    high = interval(dim, bounds)[1]
    return high is not None and high < 0
