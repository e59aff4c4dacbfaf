"""Matrices of linears stored without their zeros, where the product is faster for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from isthmus.ir.graph import Graph, Program, Value, weight_of, weight_value
from isthmus.ir.rewrite import Event, Rule, Watch
from isthmus.ir.sparse import WORD, Blocks, GroupPanels, MaskedPanels
from isthmus.ir.weights import Weight
from isthmus.ops.integer import integer_linear
from isthmus.ops.movement import full
from isthmus.ops.nn import linear
from isthmus.passes.constants import array_of
from isthmus.passes.quantize.layers import products
from isthmus.passes.sparsify.costs import (
    BALANCE,
    EVEN,
    GROUP_OF,
    HALVES,
    Candidate,
    Form,
    Step,
    candidates,
    step_of,
)
from isthmus.passes.sparsify.decisions import Record, Sizes
from isthmus.passes.sparsify.patterns import pattern_of
from isthmus.target import Target, panel_width, sparse_window


@dataclass(frozen=True, slots=True)
class ChooseSparse:
    """Store a matrix without its zeros as `record` says; where there is none, when the declared costs of the
    target promise `gain` times the speed for rows at `sizes`, and no more is lost where few of them may
    come (`BALANCE`). For half of the bytes no gain is asked for: `even` times the speed of dense is
    enough.

    A program says of each layer how it was decided (report.json); the text of a pipeline does not.
    """

    gain: float = 1.1
    even: float = EVEN
    sizes: Sizes = field(default_factory=Sizes, repr=False)
    record: Record | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return "choose-sparse"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        return program.map_graphs(lambda graph: self._graph(graph, program, target, watch))

    def _graph(self, graph: Graph, program: Program, target: Target, watch: Watch) -> Graph:
        names = {value: name for name, value in products(graph).items()}
        done: dict[Value, Value] = {}
        for node in graph.nodes():
            args = tuple(done.get(a, a) for a in node.args)
            changed = any(a is not b for a, b in zip(args, node.args, strict=True))
            made = replace(node, args=args) if changed else node
            stored = self._stored(node, names.get(node, ""), program, target)
            if stored is not None:
                made = replace(made, args=(made.args[0], stored, *made.args[2:]))
                watch(Event(self.name, node, made=made))
            done[node] = made
        return graph.with_outputs(tuple(done.get(v, v) for _, v in graph.outputs))

    def _stored(self, node: Value, name: str, program: Program, target: Target) -> Value | None:
        """The matrix of `node` as it is to be stored; None where it stays as it is."""
        weight = matrix_of(node) or _zeros(node)
        if weight is None or weight.type.encoding is not None:
            return None
        step = step_of(weight.type.dtype, target)
        form = None if step is None else self._form(node, name, weight, step, program, target)
        if form is None:
            return None
        return weight_value(weight.encoded(encoding_of(weight, target, form)), node.args[1].loc)

    def _form(
        self, node: Value, name: str, weight: Weight, step: Step, program: Program, target: Target
    ) -> Form | None:
        """How zeros are left out; None where dense is better."""
        found = pattern_of(weight)
        dims = node.shape[:-1]
        fewest, most = self.sizes.fewest(dims, program), self.sizes.rows(dims, program)
        ways = candidates(found, most, target.vector, step, fewest)
        if not ways:
            return None
        if self.record is not None and found.numbers:
            return self.record.find(name, weight).form
        return next((way.form for way in ways if self._wins(way)), None)

    def _wins(self, way: Candidate) -> bool:
        if isinstance(way.form, str):
            return way.gain >= self.even
        return way.gain >= self.gain and way.balance >= BALANCE


def matrix_of(node: Value) -> Weight | None:
    """The matrix of a linear, of floats or of integers, if it is known."""
    return weight_of(node.args[1]) if node.op in (linear, integer_linear) else None


def _zeros(node: Value) -> Weight | None:
    """The matrix of a linear that is nothing but zeros, and so no weight any more."""
    if node.op is not linear or node.args[1].op is not full or node.args[1].attr("value") != 0:
        return None
    return (
        Weight.of(f"{node.loc or 'linear'}.zeros", array_of(node.args[1]))
        if node.args[1].t.is_static
        else None
    )


def encoding_of(weight: Weight, target: Target, form: Form) -> Blocks | GroupPanels | MaskedPanels:
    """How `weight` is stored for `target` in this form."""
    step = step_of(weight.type.dtype, target)
    if isinstance(form, str):
        width, group = panel_width(target.vector), GROUP_OF[form]
        if form == HALVES[4] and step is not None and step.expands:
            return MaskedPanels(width, target.vector.lanes(32))
        return GroupPanels(group // 2, group, width)
    outputs, inputs = form
    plain = weight.read()
    group = WORD // weight.type.dtype.bytes
    window = sparse_window(target.vector, outputs, inputs // group, -(-plain.shape[0] // group))
    masked = step is not None and step.masks and target.reads_masks(outputs, inputs // group)
    return Blocks.of(plain, window * group, outputs, inputs, masked)
