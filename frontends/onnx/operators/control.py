"""Control flow that is decided at import."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.ir.graph import walk
from isthmus.ir.types import DType

# A loop becomes as many copies of its body.
MOST_TRIPS = 1024


def if_(node: Node) -> list[Tensor]:
    """The branch that is taken; the condition must not depend on data."""
    branches = node.graph("else_branch"), node.graph("then_branch")
    condition = node.known_scalar(node[0])
    if condition is None:
        text = f"{node.operator}: which branch is taken depends on data ({node.input_names[0]!r})"
        hint = _remedy(node[0]) or "export the two cases as two models"
        raise node.error(Code.DATA_DEPENDENT_SHAPE, text, hint)
    return node.subgraph(branches[bool(condition)], [])


def _remedy(condition: Tensor) -> str:
    """How to decide a condition that is made of a single small input; else nothing."""
    if condition.value is None:
        return ""
    leaves = [v for v in walk((condition.value,)) if v.op.name == "input"]
    if len(leaves) != 1 or not leaves[0].t.is_static:
        return ""
    name = leaves[0].attr("name")
    example = "true" if leaves[0].dtype is DType.BOOL else "1"
    return f"fix the input with --fix {name}={example} (or another value), one bundle for each"


def loop(node: Node) -> list[Tensor]:
    """The body once for each trip; how often must not depend on data."""
    b, body = node.b, node.graph("body")
    trips = None if node.get(0) is None else node.ints(0, "how often it runs")[0]
    condition = node.get(1)
    going = True if condition is None else bool(node.one_number(1, "whether it runs"))
    state = [_state(node, i) for i in range(2, len(node.inputs))]
    scans: list[list[Tensor]] = [[] for _ in range(len(body.output) - 1 - len(state))]
    keep = b.array(np.asarray(True))
    trip = 0
    while going and (trips is None or trip < trips):
        if trip == MOST_TRIPS:
            raise node.unsupported(f"more than {MOST_TRIPS} trips")
        results = node.subgraph(body, [b.array(np.asarray(trip, np.int64)), keep, *state])
        decided = node.known_scalar(results[0])
        if decided is None:
            text = f"{node.operator}: whether it goes on after trip {trip} depends on data"
            raise node.error(Code.DATA_DEPENDENT_SHAPE, text, "export the model with a fixed number of trips")
        going, trip = bool(decided), trip + 1
        state = results[1 : 1 + len(state)]
        for kept, made in zip(scans, results[1 + len(state) :], strict=True):
            kept.append(made)
    return [*state, *(_stacked(node, kept, 0) for kept in scans)]


def _state(node: Node, index: int) -> Tensor:
    """What a loop carries: a tensor or a sequence."""
    found = node.value(index)
    return node[index] if found is None else found


def _stacked(node: Node, parts: list[Tensor], axis: int) -> Tensor:
    if not parts:
        raise node.unsupported("no trips at all, with an output that collects them")
    shape = parts[0].shape
    return node.b.concat([node.b.reshape(p, (*shape[:axis], 1, *shape[axis:])) for p in parts], axis)


def scan(node: Node) -> list[Tensor]:
    """The body once for each element along an axis of fixed length, forwards or backwards."""
    b, body = node.b, node.graph("body")
    if node.opset < 9:
        raise node.unsupported("the form of opset 8")
    count = node.integer("num_scan_inputs", 1)
    fixed = len(node.inputs) - count
    state, sources = [node[i] for i in range(fixed)], [node[fixed + i] for i in range(count)]
    made = len(body.output) - fixed
    axes = _each(node, "scan_input_axes", count)
    axes = [node.normal(a, s.rank) for a, s in zip(axes, sources, strict=True)]
    backwards = _each(node, "scan_input_directions", count)
    reverse = _each(node, "scan_output_directions", made)
    places = _each(node, "scan_output_axes", made)
    length = sources[0].shape[axes[0]]
    if not isinstance(length, int) or not 1 <= length <= MOST_TRIPS:
        text = f"{node.operator}: how often it runs is {length}"
        raise node.error(Code.DATA_DEPENDENT_SHAPE, text, "fix the dim with --dim NAME=SIZE")
    scans: list[list[Tensor]] = [[] for _ in range(made)]
    for trip in range(length):
        parts = []
        for source, axis, back in zip(sources, axes, backwards, strict=True):
            part = b.cut(source, axis, length - 1 - trip if back else trip, 1)
            parts.append(b.reshape(part, (*source.shape[:axis], *source.shape[axis + 1 :])))
        results = node.subgraph(body, [*state, *parts])
        state = results[:fixed]
        for kept, result in zip(scans, results[fixed:], strict=True):
            kept.append(result)
    outputs = [
        _stacked(node, kept[::-1] if back else kept, node.normal(axis, kept[0].rank + 1))
        for kept, back, axis in zip(scans, reverse, places, strict=True)
    ]
    return [*state, *outputs]


def _each(node: Node, name: str, count: int) -> list[int]:
    given = list(node.integers(name) or (0,) * count)
    if len(given) != count:
        raise node.error(Code.INVALID_GRAPH, f"{node.operator}: {name} has {len(given)} of {count} numbers")
    return given


def optional_has_element(node: Node) -> Tensor:
    """Known at import: a tensor is there or it is not."""
    return node.b.full((), node.value(0) is not None, DType.BOOL)


def optional_get_element(node: Node) -> Tensor:
    return _state(node, 0)


OPERATORS: Mapping[str, Importer] = {
    "If": if_,
    "Loop": loop,
    "OptionalGetElement": optional_get_element,
    "OptionalHasElement": optional_has_element,
    "Scan": scan,
}
