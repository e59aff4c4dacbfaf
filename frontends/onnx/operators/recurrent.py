"""Recurrent layers, one step after the other: the number of steps is fixed at import."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from isthmus.errors import Code
from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.node import Importer, Node
from isthmus.frontends.onnx.operators.activation import leaky
from isthmus.ir.dims import Dim
from isthmus.ir.graph import Op
from isthmus.ir.types import DType
from isthmus.ops import nn
from isthmus.ops import pointwise as ops

MOST_STEPS = 1024

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """What one direction of a layer computes with. Gates lie side by side in every weight."""

    node: Node
    w: Tensor  # [input, gates * hidden]
    r: Tensor  # [hidden, gates * hidden]
    w_bias: Tensor | None  # [gates * hidden]
    r_bias: Tensor | None
    peepholes: Tensor | None  # [3 * hidden]
    functions: Sequence[Function]
    hidden: Dim

    def gate(self, x: Tensor, index: int) -> Tensor:
        """One of the gates that lie side by side in the last axis."""
        return self.node.b.cut(x, x.rank - 1, index * self.hidden, self.hidden)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y = self.node.b.op(nn.matmul, x, weight)
        return y if bias is None else self.do(ops.add, y, bias)

    def do(self, op: Op, *args: Tensor) -> Tensor:
        return self.node.b.op(op, *args)

    def peep(self, total: Tensor, cell: Tensor, index: int) -> Tensor:
        if self.peepholes is None:
            return total
        return self.do(ops.add, total, self.do(ops.mul, cell, self.gate(self.peepholes, index)))


# (cell, what the input gives all gates [batch, gates * hidden], states) to new states, the output first.
Step = Callable[[Cell, Tensor, list[Tensor]], list[Tensor]]


def _rnn_step(cell: Cell, x: Tensor, states: list[Tensor]) -> list[Tensor]:
    """h = f(x W + h R + b)."""
    return [cell.functions[0](cell.do(ops.add, x, cell.linear(states[0], cell.r, cell.r_bias)))]


def _gru_step(cell: Cell, x: Tensor, states: list[Tensor]) -> list[Tensor]:
    """Cho et al. 2014; with linear_before_reset the reset gate is applied after the product."""
    (h,) = states
    f, g = cell.functions
    one = cell.node.like(1, h)
    after = cell.node.integer("linear_before_reset", 0)
    inner = cell.linear(h, cell.r, cell.r_bias)
    z, r = (f(cell.do(ops.add, cell.gate(x, i), cell.gate(inner, i))) for i in (0, 1))
    if after:
        candidate = cell.do(ops.mul, r, cell.gate(inner, 2))
    else:
        bias = None if cell.r_bias is None else cell.gate(cell.r_bias, 2)
        candidate = cell.linear(cell.do(ops.mul, r, h), cell.gate(cell.r, 2), bias)
    candidate = g(cell.do(ops.add, cell.gate(x, 2), candidate))
    new = cell.do(ops.mul, cell.do(ops.sub, one, z), candidate)
    return [cell.do(ops.add, new, cell.do(ops.mul, z, h))]


def _lstm_step(cell: Cell, x: Tensor, states: list[Tensor]) -> list[Tensor]:
    """Hochreiter and Schmidhuber 1997; gates in the order i, o, f, c."""
    h, c = states
    f, g, last = cell.functions
    total = cell.do(ops.add, x, cell.linear(h, cell.r, cell.r_bias))
    i = f(cell.peep(cell.gate(total, 0), c, 0))
    forget = f(cell.peep(cell.gate(total, 2), c, 2))
    if cell.node.integer("input_forget", 0):
        forget = cell.do(ops.sub, cell.node.like(1, i), i)
    candidate = g(cell.gate(total, 3))
    new = cell.do(ops.add, cell.do(ops.mul, forget, c), cell.do(ops.mul, i, candidate))
    o = f(cell.peep(cell.gate(total, 1), new, 1))
    return [cell.do(ops.mul, o, last(new)), new]


def layer(step: Step, gates: int, states: int, default: Sequence[str]) -> Importer:
    """A recurrent layer of one or two directions."""

    def importer(node: Node) -> list[Tensor | None]:
        b = node.b
        node.ignore("hidden_size", "input_forget", "linear_before_reset")
        if node.number("clip", 0.0):
            raise node.unsupported("clip")
        direction = node.text("direction", "forward")
        if direction not in ("forward", "reverse", "bidirectional"):
            raise node.unsupported(f"direction={direction!r}; known: forward, reverse, bidirectional")
        ways = [False, True] if direction == "bidirectional" else [direction == "reverse"]
        batch_first = bool(node.integer("layout", 0))
        x = b.transpose(node[0], (1, 0, 2)) if batch_first else node[0]
        length, batch = x.shape[0], x.shape[1]
        if not isinstance(length, int) or not 1 <= length <= MOST_STEPS:
            text = f"{node.operator}: the number of steps is {length}"
            raise node.error(Code.DATA_DEPENDENT_SHAPE, text, "fix the dim with --dim NAME=SIZE")
        hidden = node[2].shape[-1]
        functions = _functions(node, default, len(ways))
        outputs, finals = [], []
        for i, backwards in enumerate(ways):
            cell = _cell(node, i, gates, functions[i * len(default) : (i + 1) * len(default)], hidden)
            start = [_start(node, 5 + s, i, (batch, hidden), batch_first) for s in range(states)]
            line, last = _walk(cell, step, x, start, backwards)
            outputs.append(b.concat([b.reshape(y, (1, 1, batch, hidden)) for y in line], 0))
            finals.append([b.reshape(s, (1, batch, hidden)) for s in last])
        y = b.concat(outputs, 1)
        last_states = [b.concat([one[s] for one in finals], 0) for s in range(states)]
        if batch_first:
            y = b.transpose(y, (2, 0, 1, 3))
            last_states = [b.transpose(s, (1, 0, 2)) for s in last_states]
        return [y, *last_states]

    return importer


def _walk(
    cell: Cell, step: Step, x: Tensor, states: list[Tensor], backwards: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs in the order of time, and the states at the end. Items that are over keep their states."""
    node, b = cell.node, cell.node.b
    length, batch = x.shape[:2]
    assert isinstance(length, int)
    inputs = cell.linear(x, cell.w, cell.w_bias)
    lengths = node.get(4)
    line: list[Tensor] = []
    for at in range(length - 1, -1, -1) if backwards else range(length):
        given = b.reshape(b.cut(inputs, 0, at, 1), (batch, inputs.shape[-1]))
        new = step(cell, given, states)
        shown = new[0]
        if lengths is not None:
            going = b.op(ops.less, node.like(at, DType.I64), b.cast(lengths, DType.I64))
            going = b.reshape(going, (batch, 1))
            new = [b.op(ops.where, going, a, old) for a, old in zip(new, states, strict=True)]
            shown = b.op(ops.where, going, shown, node.like(0, shown))
        states = new
        line.append(shown)
    return line[::-1] if backwards else line, states


def _one(node: Node, x: Tensor, index: int) -> Tensor:
    """What the direction `index` has of an input that starts with the axis of directions."""
    return node.b.reshape(node.b.cut(x, 0, index, 1), x.shape[1:])


def _cell(node: Node, i: int, gates: int, functions: Sequence[Function], hidden: Dim) -> Cell:
    w, r = (node.b.swap(_one(node, node[n], i), 0, 1) for n in (1, 2))
    bias = None if node.get(3) is None else _one(node, node[3], i)
    w_bias, r_bias = (
        None if bias is None else node.b.cut(bias, 0, n * gates * hidden, gates * hidden) for n in (0, 1)
    )
    peepholes = None if node.get(7) is None else _one(node, node[7], i)
    return Cell(node, w, r, w_bias, r_bias, peepholes, functions, hidden)


def _start(node: Node, index: int, way: int, shape: tuple[Dim, Dim], batch_first: bool) -> Tensor:
    given = node.get(index)
    if given is None:
        return node.b.full(shape, 0, node[0].dtype)
    return _one(node, node.b.transpose(given, (1, 0, 2)) if batch_first else given, way)


def _functions(node: Node, default: Sequence[str], ways: int) -> list[Function]:
    """The activations of all directions, one after the other."""
    given = node.attributes.get("activations")
    node.ignore("activations")
    names = [s.decode() for s in given.strings] if given is not None else [*default] * ways
    if len(names) != len(default) * ways:
        raise node.error(Code.INVALID_GRAPH, f"{node.operator}: {len(names)} activations")
    known: Mapping[str, Function] = {
        "relu": lambda x: node.b.op(ops.relu, x),
        "sigmoid": lambda x: node.b.op(ops.sigmoid, x),
        "tanh": lambda x: node.b.op(ops.tanh, x),
        "leakyrelu": lambda x: leaky(node, x, 0.01),
        "softsign": lambda x: node.b.op(
            ops.div, x, node.b.op(ops.add, node.b.op(ops.absolute, x), node.like(1, x))
        ),
    }
    if unknown := {n for n in names if n.lower() not in known}:
        raise node.unsupported(f"activations {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return [known[n.lower()] for n in names]


OPERATORS: Mapping[str, Importer] = {
    "GRU": layer(_gru_step, 3, 1, ("Sigmoid", "Tanh")),
    "LSTM": layer(_lstm_step, 4, 2, ("Sigmoid", "Tanh", "Tanh")),
    "RNN": layer(_rnn_step, 1, 1, ("Tanh",)),
}
