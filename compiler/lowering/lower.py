"""From a graph of fused ops to a plan of kernel calls."""

from __future__ import annotations

from isthmus.ir.graph import Graph, Program
from isthmus.lowering.heavy import HANDLERS
from isthmus.lowering.memory import plan_memory
from isthmus.lowering.plan import Plan, Port
from isthmus.lowering.stages import form_stages
from isthmus.lowering.state import Lowering
from isthmus.target import Target


def lower(program: Program, graph: Graph, target: Target) -> Plan:
    """The plan of one entry point on `target`.

    Raises `ModelError` listing every op that the target has no kernel for.
    """
    lowering = Lowering(graph, target, HANDLERS)
    lowering.run()
    stages = form_stages(lowering.calls, target.caches)
    return Plan(
        graph.name,
        program.dims,
        tuple(Port(v.attr("name"), v) for v in graph.inputs),
        tuple(Port(name, v) for name, v in graph.outputs),
        tuple(lowering.weights.values()),
        stages,
        plan_memory(stages, program.dims, target),
        tuple(lowering.sites),
    )
