"""From a graph of fused ops to a plan of kernel calls."""

from __future__ import annotations

from isthmus.ir.graph import Graph, Program
from isthmus.lowering import heavy, integers, norms
from isthmus.lowering.memory import plan_memory
from isthmus.lowering.parts import find_parts
from isthmus.lowering.plan import Plan, Port
from isthmus.lowering.stages import form_stages
from isthmus.lowering.state import Lowering
from isthmus.target import Target


def lower(program: Program, graph: Graph, target: Target) -> Plan:
    """The plan of one entry point on `target`. Raises `ModelError` as `choose` does."""
    return arrange(program, choose(graph, target), target)


def choose(graph: Graph, target: Target) -> Lowering:
    """The kernels that compute `graph`, in order. They do not depend on the sizes of caches.

    Raises `ModelError` listing every op that the target has no kernel for.
    """
    lowering = Lowering(graph, target, {**heavy.HANDLERS, **norms.HANDLERS, **integers.HANDLERS})
    lowering.run()
    return lowering


def arrange(program: Program, chosen: Lowering, target: Target) -> Plan:
    """The plan that calls these kernels in stages, as large as the caches of `target` want them."""
    graph, stages = chosen.graph, form_stages(chosen.calls, target.caches)
    return Plan(
        graph.name,
        program.dims,
        tuple(Port(v.attr("name"), v) for v in graph.inputs),
        tuple(Port(name, v) for name, v in graph.outputs),
        tuple(chosen.weights.values()),
        stages,
        plan_memory(stages, program.dims, target),
        tuple(chosen.sites),
        find_parts(graph, program.dims, stages),
    )
