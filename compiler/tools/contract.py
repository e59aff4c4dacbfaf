"""The fusion contract: what was fused, and what nearly was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from isthmus.ir.graph import Graph, Value, counted_by
from isthmus.passes import pipeline
from isthmus.passes.legalize.padding import RULE
from isthmus.passes.pipeline import Step

# Ops that do the work of a Transformer, in the order in which they are told.
FUSED = (
    "attention", "ragged_attention", "layer_norm", "rms_norm", "linear", "integer_linear", "block_linear",
    "integer_block_linear",
)  # fmt: skip
# Arguments of products without a residual.
_OPERANDS = {"linear": 3, "integer_linear": 6, "integer_block_linear": 5}
# What is left of the work when a fusion did not happen.
UNFUSED = ("matmul", "softmax")
MAX_NODES = 5  # nodes named for each near miss


@dataclass(frozen=True, slots=True)
class Fusion:
    """`count` values of one op; `parts` says how many of them do more: `{"gelu": 3, "residual": 6}`."""

    op: str
    count: int
    parts: Mapping[str, int]

    def __str__(self) -> str:
        parts = ", ".join(f"{count} {name}" for name, count in self.parts.items())
        return f"{self.count} {self.op}" + (f" ({parts})" if parts else "")


@dataclass(frozen=True, slots=True)
class Miss:
    """A rule that nearly matched: why it refused, at how many nodes, and the first of those."""

    rule: str
    reason: str
    count: int
    nodes: tuple[str, ...]


def fusions(graph: Graph) -> tuple[Fusion, ...]:
    """The ops of `graph` after all passes that do its work; those that do not occur are left out."""
    found: dict[str, list[Value]] = {op: [] for op in (*FUSED, *UNFUSED)}
    slices: Counter[Value] = Counter()
    for value in graph.nodes():
        if value.op.name in found:
            found[value.op.name].append(value)
        elif value.op.name == "slice":
            slices[value.args[0]] += 1
    return tuple(
        Fusion(op, len(values), _parts(op, values, slices)) for op, values in found.items() if values
    )


def _parts(op: str, values: Sequence[Value], slices: Mapping[Value, int]) -> Mapping[str, int]:
    """How many of `values` do more than the op alone."""
    parts: Counter[str] = Counter()
    if op == "layer_norm":
        parts["with residual"] = sum(len(v.args) == 4 for v in values)
        return parts
    if op == "attention":
        parts.update("with mask" for v in values if len(v.args) == 4)
    elif op == "ragged_attention":
        parts.update("with mask" for v in values if len(v.args) == 5)
    elif op in _OPERANDS:
        activations = sorted(v.attr("activation") for v in values)
        parts.update(name for name in activations if name != "none")
        parts.update("with residual" for v in values if len(v.args) > _OPERANDS[op])
        # Q, K and V are one wide product whose result is sliced.
        parts.update("wide" for v in values if slices.get(v, 0) > 1)
    return parts


def misses(steps: Iterable[Step]) -> tuple[Miss, ...]:
    """What rules of fusion refused, the most frequent first; not where they fired in the end.

    Rules that only tidy up are left out: nothing is lost when they refuse.
    """
    tidying = {rule.name for each in pipeline.CLEAN.passes for rule in each.rules}
    fired: set[tuple[str, str]] = set()
    refused: dict[tuple[str, str], dict[str, None]] = {}
    for step in steps:
        for event in step.events if step.phase == pipeline.FUSE.name else ():
            if not event.reason:
                fired.add((event.rule, event.at.loc))
            elif event.rule not in tidying:
                refused.setdefault((event.rule, event.reason), {})[event.at.loc or event.at.op.name] = None
    found = []
    for (rule, reason), places in refused.items():
        nodes = [node for node in places if (rule, node) not in fired]
        if nodes:
            found.append(Miss(rule, reason, len(nodes), tuple(nodes[:MAX_NODES])))
    return tuple(sorted(found, key=lambda miss: (-miss.count, miss.rule, miss.reason)))


def padding_text(graph: Graph, steps: Iterable[Step]) -> str:
    """Whether padding is computed, and why; empty for a model that has none."""
    masks = dict.fromkeys(v.loc for v in graph.nodes() if counted_by(v) is not None)
    events = [event for step in steps for event in step.events if event.rule == RULE]
    reasons = "; ".join(dict.fromkeys(event.reason for event in events if event.reason))
    if not masks:
        return f"computed: {reasons}" if reasons else ""
    text = f"not computed where {', '.join(masks)} is 0: a batch costs the sum of its lengths"
    return f"{text}; but in part: {reasons}" if reasons else text
