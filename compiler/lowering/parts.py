"""Whether a batch can be computed a few items at a time, by the same code: what lies between two stages then
stays in the caches, however large the batch is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isthmus.ir.dims import Dim, Shape, names, substitute, symbol
from isthmus.ir.graph import Graph, Kind, NamedDim, Trait, Value
from isthmus.lowering.plan import Parts, RowStage, Stage
from isthmus.passes.legalize.rows import REDUCTIONS, ROW_WISE


def find_parts(graph: Graph, dims: Sequence[NamedDim], stages: Sequence[Stage]) -> Parts | None:
    """How to cut the batch of `graph`, which `stages` compute; None if it cannot be cut, or need not be: one
    chain takes a few rows through all its calls in any case."""
    chains = [stage for stage in stages if isinstance(stage, RowStage)]
    if len(chains) < 2:
        return None
    for dim in dims:
        # What holds from two items on, passes may have relied on.
        if dim.low <= 1 and _Items(dim.name).are_apart(graph):
            rows = dict.fromkeys(substitute(chain.rows, {dim.name: 1}) for chain in chains)
            return Parts(dim.name, tuple(rows), min(chain.block for chain in chains))
    return None


@dataclass(frozen=True, slots=True)
class _Items:
    """Items of a batch; `name` is the dim that says how many. A value is cut if they lie along its first
    axis, one after the other, and common if it is the same for any number of them."""

    name: str

    def are_apart(self, graph: Graph) -> bool:
        """Whether item i of every output comes from item i of what is cut, and from what is common."""
        results = [value for _, value in graph.outputs]
        if not any(map(self.is_cut, results)):
            return False
        nodes = [*graph.inputs, *graph.nodes()]
        return all(map(self._is_apart, nodes))

    def is_cut(self, value: Value) -> bool:
        """Whether the first size is a multiple of the number of items, and no other depends on it."""
        if not value.shape or any(map(self._depends, value.shape[1:])):
            return False
        each = substitute(value.shape[0], {self.name: 1})
        return self._depends(value.shape[0]) and symbol(self.name) * each == value.shape[0]

    def _is_common(self, value: Value) -> bool:
        return not any(map(self._depends, value.shape))

    def _depends(self, dim: Dim) -> bool:
        return self.name in names(dim)

    def _is_apart(self, node: Value) -> bool:
        if node.is_leaf:
            return self.is_cut(node) or self._is_common(node)
        cut = [i for i, arg in enumerate(node.args) if not self._is_common(arg)]
        # Of each attribute in dims, what may depend on the number of items: the first size of what is cut.
        dims: list[Shape] = [node.attr(name) for name, kind in node.op.attrs.items() if kind is Kind.DIMS]
        if self._is_common(node):
            return not cut and not any(self._depends(dim) for attr in dims for dim in attr)
        if any(self._depends(dim) for attr in dims for dim in attr[1:]):
            return False
        return self.is_cut(node) and _keeps_items(node, cut)


def _keeps_items(node: Value, cut: Sequence[int]) -> bool:
    """Whether item i of `node`, which is cut, comes from item i of the arguments number `cut`, which are too,
    and from all of the others."""
    op, rank = node.op.name, node.t.rank
    if Trait.POINTWISE in node.op.traits or op in ("broadcast", "attention"):
        return all(node.args[i].t.rank == rank for i in cut)
    if op in ROW_WISE:
        return rank > 1 and set(cut) <= set(ROW_WISE[op])
    if op in REDUCTIONS:
        return 0 not in node.attr("axes")
    match op:
        case "reshape" | "full":
            return True
        case "transpose":
            return bool(node.attr("perm")[0] == 0)
        case "slice":
            return node.shape[0] == node.args[0].shape[0] and node.attr("steps")[0] == 1
        case "concat" | "cumsum" | "cumprod" | "argmax" | "argmin":
            return bool(node.attr("axis") != 0)
        case "gather":
            return list(cut) == ([1] if node.attr("axis") == 0 else [0])
        case "matmul":
            return all(node.args[i].t.rank == rank for i in cut) and (rank > 2 or list(cut) == [0])
    return False
