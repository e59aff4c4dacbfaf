"""Batches without padding: what nobody looks at where the mask says padding is not computed.

The rows that are kept are put one after the other, and everything row-wise happens to them alone; attention
stays within each sequence. A row is kept where the mask is not 0. A sequence is kept whole if no position of
it has a mask of 1, or one has a mask that is neither 0 nor 1: then padding, too, has a weight in attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isthmus.ir.graph import Graph, Program, Value
from isthmus.ir.rewrite import Event, Rule, Watch
from isthmus.passes.legalize.compact import compacted, members
from isthmus.passes.legalize.masks import hides_padding, source_of
from isthmus.passes.legalize.rows import attends_itself, find_rows
from isthmus.target import Target

RULE = "padding-free"
# What makes the rows worth being moved.
HEAVY: tuple[str, ...] = ("linear", "integer_linear", "integer_block_linear", "attention", "matmul")


@dataclass(frozen=True, slots=True)
class PaddingFree:
    """Compute only the rows that are no padding, where nobody can tell."""

    @property
    def name(self) -> str:
        return RULE

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        taken = {dim.name for dim in program.dims}
        return program.map_graphs(lambda graph: _padding_free(graph, taken, watch))


def _padding_free(graph: Graph, taken: set[str], watch: Watch) -> Graph:
    tried: set[Value] = set()
    while True:
        masked = [v for v in graph.nodes() if v.op.name == "attention" and len(v.args) == 4]
        masks = {value: padding_mask(value) for value in masked}
        mask = next((m for m in masks.values() if m is not None and m not in tried), None)
        if mask is None:
            return graph
        tried.add(mask)
        own = [value for value in masked if masks[value] is mask]
        graph = _without(graph, mask, own, taken, watch)


def _without(graph: Graph, mask: Value, attentions: Sequence[Value], taken: set[str], watch: Watch) -> Graph:
    """`graph` without the padding that `mask` hides from `attentions`, as far as nobody looks at it."""
    rows = find_rows(graph, mask)
    inside = members(graph, rows)
    outputs = {value: name for name, value in graph.outputs}
    for value in attentions:
        if value not in inside:
            own = attends_itself(value, mask)
            reason = rows.reason(value, outputs) if own else "its queries are not the positions of its mask"
            watch(Event(RULE, value, reason))
    if not any(v.op.name in HEAVY for v in inside):
        return graph
    name = next(n for n in ("rows", *(f"rows_{i}" for i in range(len(taken) + 1))) if n not in taken)
    taken.add(name)
    for value in attentions:
        if value in inside:
            watch(Event(RULE, value))
    return compacted(graph, rows, inside, name)


def padding_mask(attention: Value) -> Value | None:
    """The mask of [batch, position] that hides padding in `attention`."""
    bias = attention.args[3]
    mask = source_of(bias)
    if mask is None or mask.shape[1] == 1 or not hides_padding(bias, mask):
        return None
    return mask
