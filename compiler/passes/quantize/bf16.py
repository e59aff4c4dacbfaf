"""Products of floats of 16 bits: what goes into them is rounded where it is made, sums and everything else
stay f32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from isthmus.ir.graph import Graph, Program, Trait, Value, weight_of
from isthmus.ir.rewrite import Event, Rule, Watch
from isthmus.ir.types import DType
from isthmus.ops.nn import attention, layer_norm, linear, rms_norm
from isthmus.ops.pointwise import cast
from isthmus.passes.constants import name_of, weight_from
from isthmus.passes.integers import is_integer_rows, is_quantized
from isthmus.passes.quantize.f16 import HalveMatrices
from isthmus.passes.steps import Pass
from isthmus.target import Target

HALVES = (DType.BF16, DType.F16)


@dataclass(frozen=True, slots=True)
class NarrowProducts:
    """Linears with constant matrices, and attention, take bf16; where matrices are quantized, rows that are
    not are rounded to `dtype`. In f16 that is all: other rows stay as the model says.

    What only such products read is rounded by whatever makes it, through ops that merely move it; what others
    read as well (the residual stream) stays f32 beside a rounded copy. Weights are rounded when they are
    written out.
    """

    dtype: DType = DType.BF16

    @property
    def name(self) -> str:
        return "narrow-products"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        return program.map_graphs(lambda graph: _Narrow(graph, self.dtype, watch, self.name).graph())


def _takes_rows(node: Value) -> bool:
    """Whether `node` is the product of rows of f32 with a quantized matrix."""
    if node.op is not linear or not is_quantized(node.args[1]):
        return False
    x = node.args[0]
    return not is_integer_rows(x) and not (x.op is cast and x.args[0].dtype in HALVES)


def _rounds(node: Value) -> bool:
    """Whether `node` can round its own result to bf16, at no cost."""
    if node.op is layer_norm:
        return len(node.args) == 3  # the sums with a residual need room in f32
    if node.op is linear and is_integer_rows(node.args[0]):
        return False
    return node.op in (linear, rms_norm) and node.dtype is DType.F32


def _moves(node: Value) -> bool:
    """Whether `node` only moves the elements of one tensor."""
    return Trait.MOVEMENT in node.op.traits and len(node.args) == 1


class _Narrow:
    def __init__(self, graph: Graph, dtype: DType, watch: Watch, name: str) -> None:
        self.before = graph
        self.dtype = dtype
        self.watch = watch
        self.name = name
        self.only = self._only_narrow(graph)
        self.wide: dict[Value, Value] = {}
        self.narrowed: dict[Value, Value] = {}

    def _products(self, node: Value) -> range:
        """Which arguments of `node` become narrow."""
        if node.dtype is not DType.F32:
            return range(0)
        if _takes_rows(node):
            return range(1)
        if self.dtype is not DType.BF16:
            return range(0)
        if node.op is linear and node.args[1].dtype is DType.F32 and weight_of(node.args[1]) is not None:
            return range(2)
        return range(3) if node.op is attention else range(0)

    def _only_narrow(self, graph: Graph) -> set[Value]:
        """What is read by products alone, in the end."""
        nodes = list(graph.nodes())
        wanted = {v for _, v in graph.outputs}  # by somebody, in f32
        for node in reversed(nodes):
            if _moves(node) and node not in wanted:
                continue
            products = self._products(node)
            wanted.update(a for i, a in enumerate(node.args) if i not in products)
        return {node for node in nodes if node not in wanted}

    def graph(self) -> Graph:
        for node in self.before.nodes():
            self._visit(node)
        return self.before.with_outputs(tuple(self._wide(v) for _, v in self.before.outputs))

    def _visit(self, node: Value) -> None:
        products = self._products(node)
        if not products:
            args = tuple(self.wide.get(a, a) for a in node.args)
            same = all(a is b for a, b in zip(args, node.args, strict=True))
            self.wide[node] = node if same else replace(node, args=args)
            return
        self.watch(Event(self.name, node))
        args = tuple(
            self._narrow(a) if i in products else self.wide.get(a, a) for i, a in enumerate(node.args)
        )
        if node.op is attention:
            made = node.op(*args, loc=node.loc, **{**dict(node.attrs), "mixed": True})
            self.narrowed[node] = made
            self.wide[node] = cast(made, dtype=DType.F32, loc=node.loc)
            return
        if _takes_rows(node):
            # Sums are of f32, which the kernel makes of rows as it reads them.
            args = (cast(args[0], dtype=DType.F32, loc=args[0].loc), *args[1:])
        self.wide[node] = replace(node, args=args)

    def _wide(self, value: Value) -> Value:
        return self.wide.get(value, value)

    def _narrow(self, value: Value) -> Value:
        """`value` rounded, made once."""
        if value not in self.narrowed:
            self.narrowed[value] = self._rounded(value)
        return self.narrowed[value]

    def _rounded(self, value: Value) -> Value:
        if weight_of(value) is not None:
            return weight_from(cast(value, dtype=self.dtype, loc=value.loc), name_of(value))
        wide = self._wide(value)
        if value in self.only and self.dtype is DType.BF16 and _rounds(value):
            return value.op(*wide.args, loc=value.loc, **{**dict(value.attrs), "rounded": True})
        if value in self.only and _moves(value):
            return value.op(self._narrow(value.args[0]), loc=value.loc, **dict(value.attrs))
        return cast(wide, dtype=self.dtype, loc=value.loc)


# `--precision NAME`: floats of fewer bits, and the passes they take. Integers are schemes, in `options`.
FLOATS: Mapping[str, tuple[Pass, ...]] = {
    "bf16": (NarrowProducts(),),
    "f16": (HalveMatrices(), NarrowProducts(DType.F16)),
}
