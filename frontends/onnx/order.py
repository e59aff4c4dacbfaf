"""The nodes of a graph that matter, in an order in which they can be imported."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence

import onnx

from isthmus.errors import Code, ModelError, Problem

MAX_SHOWN = 8  # nodes of a cycle that are named
MAX_NESTING = 32  # graphs inside graphs

Given = Callable[[str], bool]  # whether a name stands for a value from elsewhere


def label(node: onnx.NodeProto, index: int) -> str:
    """How messages and values call a node."""
    return node.name or f"{node.op_type}#{index}"


def outer_names(graph: onnx.GraphProto, depth: int = 0) -> Iterator[str]:
    """Names that a graph inside a node takes from outside it."""
    if depth > MAX_NESTING:
        raise ModelError(
            Problem(Code.TOO_LARGE, f"graphs are nested more than {MAX_NESTING} deep", graph.name)
        )
    own = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    own.update(name for node in graph.node for name in node.output)
    for node in graph.node:
        yield from (name for name in needs(node, depth + 1) if name not in own)
    yield from (o.name for o in graph.output if o.name not in own)


def needs(node: onnx.NodeProto, depth: int = 0) -> Iterator[str]:
    """Every name a node reads, those inside its graphs included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from outer_names(attribute.g, depth)
        for graph in attribute.graphs:
            yield from outer_names(graph, depth)


def ordered(nodes: Sequence[onnx.NodeProto], wanted: Iterable[str], given: Given) -> list[int]:
    """Indices of the nodes that compute `wanted` from what is `given`, arguments first, else in file order.

    Raises `ModelError` for names defined twice or never, and for cycles.
    """
    reads = [tuple(dict.fromkeys(needs(node))) for node in nodes]
    maker = _makers(nodes, given)
    _check_defined(nodes, reads, wanted, maker, given)
    live = _reached(wanted, reads, maker)
    waiting = {i: {maker[name] for name in reads[i] if name in maker} for i in live}
    users: dict[int, list[int]] = {i: [] for i in live}
    for i in live:
        for source in waiting[i]:
            users[source].append(i)
    ready = [i for i in live if not waiting[i]]
    heapq.heapify(ready)
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for user in users[i]:
            waiting[user].discard(i)
            if not waiting[user]:
                heapq.heappush(ready, user)
    if len(order) < len(live):
        stuck = {i: sources for i, sources in waiting.items() if sources}
        raise ModelError(_cycle(nodes, stuck))
    return order


def _makers(nodes: Sequence[onnx.NodeProto], given: Given) -> dict[str, int]:
    maker: dict[str, int] = {}
    problems = []
    for i, node in enumerate(nodes):
        for name in node.output:
            if not name:
                continue
            if name in maker or given(name):
                other = label(nodes[maker[name]], maker[name]) if name in maker else "an input or initializer"
                text = f"value {name!r} is defined twice: here and by {other}"
                problems.append(Problem(Code.INVALID_GRAPH, text, label(node, i)))
            maker.setdefault(name, i)
    if problems:
        raise ModelError(problems)
    return maker


def _check_defined(
    nodes: Sequence[onnx.NodeProto],
    reads: Sequence[Sequence[str]],
    wanted: Iterable[str],
    maker: dict[str, int],
    given: Given,
) -> None:
    problems = [
        Problem(Code.INVALID_GRAPH, f"input {name!r} is not defined anywhere", label(nodes[i], i))
        for i, names in enumerate(reads)
        for name in names
        if name not in maker and not given(name)
    ]
    problems += [
        Problem(Code.INVALID_GRAPH, f"no node computes output {name!r}", "graph")
        for name in wanted
        if name not in maker and not given(name)
    ]
    if problems:
        raise ModelError(problems)


def _reached(wanted: Iterable[str], reads: Sequence[Sequence[str]], maker: dict[str, int]) -> list[int]:
    seen: set[int] = set()
    stack = [maker[name] for name in wanted if name in maker]
    while stack:
        i = stack.pop()
        if i not in seen:
            seen.add(i)
            stack.extend(maker[name] for name in reads[i] if name in maker)
    return sorted(seen)


def _cycle(nodes: Sequence[onnx.NodeProto], stuck: dict[int, set[int]]) -> Problem:
    """Follow what stuck nodes wait for until one comes again."""
    # A stuck node waits for one that is stuck as well, so the walk cannot end elsewhere.
    at = min(stuck)
    path: dict[int, None] = {}
    while at not in path:
        path[at] = None
        at = min(stuck[at])
    steps = list(path)
    cycle = steps[steps.index(at) :]
    cycle = cycle[cycle.index(min(cycle)) :] + cycle[: cycle.index(min(cycle))]
    names = [label(nodes[i], i) for i in cycle]
    shown = " <- ".join(names[:MAX_SHOWN]) + (
        f" <- ... ({len(names)} nodes)" if len(names) > MAX_SHOWN else ""
    )
    return Problem(Code.CYCLIC_GRAPH, f"these nodes wait for each other: {shown} <- {names[0]}", names[0])
