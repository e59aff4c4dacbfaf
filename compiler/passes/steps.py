"""What a pass is, and passes made of rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

from isthmus.errors import CompilerBug
from isthmus.ir.graph import Graph, Program, Value
from isthmus.ir.rewrite import Event, Rule, Watch, rewrite
from isthmus.target import Target

# More sweeps than any program needs: each must shrink something.
MAX_SWEEPS = 50


class Pass(Protocol):
    """A frozen dataclass: its fields are its options, and `describe` prints the text that recreates it.

    Calling it returns the same program when nothing changed. `rules` are the equations it applies, for
    the tests; empty when it is not made of rules.
    """

    @property
    def name(self) -> str: ...
    @property
    def rules(self) -> Sequence[Rule]: ...
    def __call__(self, program: Program, target: Target, watch: Watch) -> Program: ...


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Apply `rules` until none fits."""

    name: str
    rules: tuple[Rule, ...]

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        return program.map_graphs(lambda graph: exhaust(graph, self.rules, watch, self.name))


def exhaust(graph: Graph, rules: Sequence[Rule], watch: Watch, name: str) -> Graph:
    """`graph` with `rules` applied, sweep after sweep, until none fits."""
    for _ in range(MAX_SWEEPS):
        before, graph = graph, rewrite(graph, rules, watch)
        if graph is before:
            return graph
    raise CompilerBug(f"{name} did not come to rest after {MAX_SWEEPS} sweeps; please send the model")


def mapped(graph: Graph, change: Callable[[Value, Value], Value | None], watch: Watch, name: str) -> Graph:
    """`graph` with `change(node, the same with its new arguments)` for each node, where that is not None."""
    done: dict[Value, Value] = {}
    for node in graph.nodes():
        args = tuple(done.get(a, a) for a in node.args)
        same = all(a is b for a, b in zip(args, node.args, strict=True))
        new = node if same else replace(node, args=args)
        made = change(node, new)
        if made is not None:
            watch(Event(name, node, made=made))
        done[node] = new if made is None else made
    return graph.with_outputs(tuple(done.get(v, v) for _, v in graph.outputs))


@dataclass(frozen=True, slots=True)
class Until:
    """Run `passes` in turn, again and again, until none has anything left to do."""

    name: str
    passes: tuple[Pass, ...]

    @property
    def rules(self) -> Sequence[Rule]:
        return [rule for each in self.passes for rule in each.rules]

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        # A pass has nothing to do on what it left itself.
        left: dict[str, Program] = {}
        for _ in range(MAX_SWEEPS):
            for each in self.passes:
                if left.get(each.name) is not program:
                    program = left[each.name] = each(program, target, watch)
            if all(left[each.name] is program for each in self.passes):
                return program
        raise CompilerBug(
            f"{self.name} did not come to rest after {MAX_SWEEPS} rounds; please send the model"
        )


def describe(step: Pass) -> str:
    """The pass as text, e.g. `fold{limit=65536}`: its name and its options, but for those told elsewhere."""
    if isinstance(step, Until):
        return f"{step.name}({','.join(map(describe, step.passes))})"
    hidden = {"name", "rules"}
    options = [f"{f.name}={getattr(step, f.name)}" for f in fields(step) if f.repr and f.name not in hidden]  # type: ignore[arg-type]
    return f"{step.name}{{{','.join(options)}}}" if options else step.name
