"""Attention on bf16, in f32: where the target has no kernel for it, or keys and values are f32 anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from isthmus.ir.graph import Graph, Program, Trait, Value, use_counts
from isthmus.ir.rewrite import Rule, Watch
from isthmus.ir.types import DType
from isthmus.ops.nn import attention
from isthmus.ops.pointwise import cast
from isthmus.ops.ragged import ragged_attention
from isthmus.passes.steps import mapped
from isthmus.target import Target


@dataclass(frozen=True, slots=True)
class WidenAttention:
    """Mixed attention becomes attention in f32 between casts, unless the target multiplies bf16.

    So it does if somebody else wants keys and values in f32, as who keeps a decoder's cache: they are read as
    they are then, and rounded where that is faster, instead of being copied for each token. But tiles take
    bf16 from memory only.

    The powers may then not be rounded: what is allowed for, as it makes the result better.
    """

    @property
    def name(self) -> str:
        return "widen-attention"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        return program.map_graphs(lambda graph: mapped(graph, _change(graph, target), watch, self.name))


def _change(graph: Graph, target: Target) -> Callable[[Value, Value], Value | None]:
    counts = use_counts(graph)

    def change(node: Value, new: Value) -> Value | None:
        if node.op not in (attention, ragged_attention) or not node.attr("mixed"):
            return None
        kept = not target.multiplies_in_tiles("bf16") and all(_is_kept(a, counts) for a in node.args[1:3])
        if kept:
            return _in_f32(new, [*map(_unrounded, new.args[:3]), *new.args[3:]], rounds="bf16")
        if _has_kernel(node, target):
            return None
        return _in_f32(new, [_wide(a) if a.dtype is DType.BF16 else a for a in new.args])

    return change


def _has_kernel(node: Value, target: Target) -> bool:
    """Whether the target has a kernel for mixed attention, or the ragged one, which does not use tiles."""
    if node.op is ragged_attention:
        return target.instruction("dot_bf16") is not None
    return target.multiplies_bf16


def _in_f32(node: Value, args: Sequence[Value], rounds: str = "") -> Value:
    attrs = {**dict(node.attrs), "mixed": False, "rounds": rounds}
    return cast(node.op(*args, loc=node.loc, **attrs), dtype=DType.BF16, loc=node.loc)


def _wide(value: Value) -> Value:
    return cast(value, dtype=DType.F32, loc=value.loc)


def _moves(value: Value) -> bool:
    return Trait.MOVEMENT in value.op.traits and len(value.args) == 1


def _rounds_f32(value: Value) -> bool:
    return value.op is cast and value.args[0].dtype is DType.F32


def _is_kept(value: Value, counts: Mapping[Value, int]) -> bool:
    """Whether `value` is a rounded copy of what is in memory in f32: an input, or used by others as well."""
    while _moves(value):
        value = value.args[0]
    if not _rounds_f32(value):
        return False
    (source,) = value.args
    return source.is_leaf or counts[source] > 1


def _unrounded(value: Value) -> Value:
    """`value` in f32, as it was before it was rounded, if that can be had."""
    if _rounds_f32(value):
        return value.args[0]
    if _moves(value):
        return value.op(_unrounded(value.args[0]), loc=value.loc, **dict(value.attrs))
    return _wide(value)
