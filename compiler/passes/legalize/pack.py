"""Weights stored as the kernels of the target read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from isthmus.ir.encodings import Interleaved, Nibbles, Padded, Panels, SmallFloats
from isthmus.ir.graph import Graph, Program, Value, weight_of, weight_value
from isthmus.ir.rewrite import Event, Rule, Watch
from isthmus.ir.sparse import Blocks, GroupPanels, MaskedPanels
from isthmus.ir.types import DType, Encoding
from isthmus.ir.weights import Weight
from isthmus.ops.integer import block_linear, integer_block_linear, integer_linear, quantize_rows
from isthmus.ops.movement import full
from isthmus.ops.nn import layer_norm, linear, rms_norm
from isthmus.passes.constants import array_of, is_constant
from isthmus.target import BYTES_IN_WORD, Target, panel_width


@dataclass(frozen=True, slots=True)
class PackWeights:
    """Matrices of linears become panels, their biases whole panels; vectors of one number get bytes."""

    @property
    def name(self) -> str:
        return "pack-weights"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        packer = _Packer(target, watch, self.name)
        return program.map_graphs(packer.graph)


class _Packer:
    """Packs each weight once, however many linears and graphs use it."""

    def __init__(self, target: Target, watch: Watch, name: str) -> None:
        self.width = panel_width(target.vector)
        self.narrow = target.narrow_width("bf16")
        self.bytes = target.narrow_width("u8")
        self.word = target.byte_word
        self.lanes = target.vector.lanes(32)
        self.watch = watch
        self.name = name
        self.made: dict[tuple[Weight, Encoding], Value] = {}

    def graph(self, graph: Graph) -> Graph:
        done: dict[Value, Value] = {}
        for node in graph.nodes():
            args = [done.get(a, a) for a in node.args]
            for position, encoding in self.wanted(node).items():
                args[position] = self.stored(args[position], encoding)
            changed = any(a is not b for a, b in zip(args, node.args, strict=True))
            done[node] = replace(node, args=tuple(args)) if changed else node
            if changed and self.wanted(node):
                self.watch(Event(self.name, node))
        return graph.with_outputs(tuple(done.get(v, v) for _, v in graph.outputs))

    def wanted(self, node: Value) -> Mapping[int, Encoding | None]:
        """How the kernel of `node` reads its constant arguments, by position."""
        if node.op is linear:
            matrix, whole = self._matrix(node.args[1])
            return {1: matrix, 2: whole}
        if node.op is integer_linear:
            matrix, whole = self._matrix(node.args[1])
            return {1: matrix, 2: whole, 3: None, 4: whole, 5: whole}
        if node.op in (block_linear, integer_block_linear):
            return self._in_blocks(node)
        if node.op is quantize_rows:
            return {1: None, 2: None}
        if node.op is layer_norm:
            return {1: None, 2: None}
        if node.op is rms_norm:
            return {1: None}
        return {}

    def _in_blocks(self, node: Value) -> Mapping[int, Encoding | None]:
        narrow = Nibbles(self.width) if node.attr("bits") == 4 else Interleaved(self.width, BYTES_IN_WORD)
        if node.op is integer_block_linear:
            return {1: narrow, 2: Panels(self.width), 3: None, 4: Padded(self.width)}
        matrix = SmallFloats(self.width) if node.attr("floats") else narrow
        return {1: matrix, 2: Panels(self.width), 3: Padded(self.width)}

    def _matrix(self, value: Value) -> tuple[Encoding, Padded]:
        """How a product reads its matrix, and vectors of its columns."""
        match value.t.encoding:
            case Blocks() as stored:
                return stored, Padded(max(self.lanes, stored.outputs))
            case GroupPanels() | MaskedPanels() as stored:
                return stored, Padded(stored.width)
        if value.dtype is DType.BF16:
            return Interleaved(self.narrow, 4 // DType.BF16.bytes), Padded(self.narrow)
        if value.dtype is DType.I8:
            return Interleaved(self.bytes, self.word), Padded(self.bytes)
        return Panels(self.width), Padded(self.width)

    def stored(self, value: Value, encoding: Encoding | None) -> Value:
        if not is_constant(value) or value.t.encoding == encoding is not None:
            return value
        weight = weight_of(value)
        if weight is None:
            weight = self._bytes(value)
        if encoding is None:
            return value if value.op is not full else weight_value(weight, value.loc)
        key = (weight, encoding)
        if key not in self.made:
            self.made[key] = weight_value(weight.encoded(encoding), value.loc)
        return self.made[key]

    def _bytes(self, value: Value) -> Weight:
        return Weight.of(f"{value.loc or 'constant'}.{value.attr('value')}", array_of(value))
