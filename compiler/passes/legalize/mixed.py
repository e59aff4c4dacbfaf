"""Attention on bf16 where the target has no kernel for it: in f32, on the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isthmus.ir.graph import Program, Value
from isthmus.ir.rewrite import Rule, Watch
from isthmus.ir.types import DType
from isthmus.ops.nn import attention
from isthmus.ops.pointwise import cast
from isthmus.passes.steps import mapped
from isthmus.target import Target


@dataclass(frozen=True, slots=True)
class WidenAttention:
    """Mixed attention becomes attention in f32 between casts, unless the target multiplies bf16.

    Its powers are then not rounded: what is allowed for, as it makes the result better.
    """

    @property
    def name(self) -> str:
        return "widen-attention"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        if target.multiplies_bf16:
            return program
        return program.map_graphs(lambda graph: mapped(graph, _widened, watch, self.name))


def _widened(node: Value, new: Value) -> Value | None:
    if node.op is not attention or not node.attr("mixed"):
        return None
    wide = (a if a.dtype is DType.F32 else cast(a, dtype=DType.F32, loc=node.loc) for a in new.args)
    attrs = {**dict(node.attrs), "mixed": False}
    return cast(attention(*wide, loc=node.loc, **attrs), dtype=DType.BF16, loc=node.loc)
