"""Constant folding: evaluation that happens early, and constants that have a formula become the formula."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from isthmus.errors import Code, ModelError, Problem
from isthmus.ir.evaluate import apply
from isthmus.ir.graph import Graph, Program, Trait, Value, weight_of
from isthmus.ir.rewrite import Event, Rule, Watch
from isthmus.ir.types import Array
from isthmus.ops import movement, pointwise
from isthmus.ops.nn import linear, matmul
from isthmus.ops.quantize import dequantize
from isthmus.passes.constants import EAGER_BYTES, name_of, weight_from
from isthmus.passes.integers import is_block_matrix, is_integer_product
from isthmus.target import Target

# Ops whose result is all one number when every argument is that number.
KEEPS_FULL = {
    movement.reshape, movement.transpose, movement.broadcast, movement.slice_, movement.concat, movement.pad,
    movement.windows,
}  # fmt: skip
# Ops that pick from their first argument.
PICKS = {movement.gather, movement.gather_elements, movement.gather_nd}
# Above 2^53 an integer is not exact in f64, which is what `full` holds.
EXACT = 1 << 53
# Bytes of constants that one sweep may read: seconds. A model of large matrices reads little now.
MOST_READ = 1 << 33


@dataclass(frozen=True, slots=True)
class Fold:
    """Evaluate what depends on constants alone, if at most `limit` bytes or no more than its parts.

    Small results are computed now; large ones when they are read, so that a transposed or concatenated
    weight costs nothing until the weights file is written. Constants of one number become `full`, integer
    ranges become `iota`; these two are never folded back into bytes.

    Quantized weights stay as they are, unless `dequantized`: then they become what they stand for, whatever
    their size, computed when they are read; all but the matrices that bytes are multiplied with.
    """

    limit: int = EAGER_BYTES
    dequantized: bool = False

    @property
    def name(self) -> str:
        return "dequantize-weights" if self.dequantized else "fold"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        return program.map_graphs(lambda graph: self._graph(graph, watch))

    def _graph(self, graph: Graph, watch: Watch) -> Graph:
        done: dict[Value, Value] = {}
        kept = _integer_matrices(graph)
        read = 0
        for node in graph.nodes():
            args = tuple(done.get(a, a) for a in node.args)
            same = all(a is b for a, b in zip(args, node.args, strict=True))
            new = node if same else replace(node, args=args)
            folded = None if node in kept else self._fold(new)
            if folded is not None:
                watch(Event(self.name, node))
                read += _read(new)
            if read > MOST_READ:
                text = f"folding constants means reading more than {MOST_READ} bytes of them"
                hint = (
                    "fold the constants of the model before, for example with onnxruntime or onnx-simplifier"
                )
                raise ModelError(Problem(Code.TOO_LARGE, text, node.loc, hint))
            done[node] = new if folded is None else folded
        return graph.with_outputs(tuple(done.get(v, v) for _, v in graph.outputs))

    def _fold(self, node: Value) -> Value | None:
        if node.op in (movement.full, movement.iota) or (node.is_leaf and weight_of(node) is None):
            return None
        if weight_of(node) is not None:
            return _formula(node)
        if (number := _one_number(node)) is not None:
            return movement.full(shape=node.shape, value=number, dtype=node.dtype, loc=node.loc)
        return self._evaluate(node)

    def _evaluate(self, node: Value) -> Value | None:
        weights = {w for a in node.args if (w := weight_of(a)) is not None}
        if not weights or not all(_known(a) for a in node.args) or not _static(node):
            return None
        before = sum(w.type.nbytes for w in weights if isinstance(w.type.nbytes, int))
        after = node.t.nbytes
        assert isinstance(after, int)
        if node.op is dequantize:
            # One number is no weight.
            if not self.dequantized and node.t.size != 1:
                return None
        elif after > max(self.limit, before):
            return None
        made = weight_from(node, f"{name_of(node)}.{node.op.name}")
        return _formula(made) or made


def _integer_matrices(graph: Graph) -> set[Value]:
    """The weights of products for which there are kernels on integers."""
    products = [v for v in graph.nodes() if v.op in (matmul, linear)]
    blocks = {v.args[1].args[0] for v in products if is_block_matrix(v.args[1])}
    return blocks | {v.args[1] for v in products if is_integer_product(*v.args[:2])}


def _read(node: Value) -> int:
    """Bytes that were read to compute `node`; what is large is computed when the weights file is written."""
    size = node.t.nbytes
    if not isinstance(size, int) or size > EAGER_BYTES:
        return 0
    sizes = [w.type.nbytes for a in node.args if (w := weight_of(a)) is not None]
    return sum(s for s in sizes if isinstance(s, int))


def _known(value: Value) -> bool:
    return weight_of(value) is not None or (value.op in (movement.full, movement.iota) and value.t.is_static)


def _static(node: Value) -> bool:
    """Whether neither the type nor an attribute depends on a named dim."""
    attrs = (a for _, attr in node.attrs for a in (attr if isinstance(attr, tuple) else (attr,)))
    return node.t.is_static and not any(type(a).__name__ == "Expr" for a in attrs)


def _one_number(node: Value) -> float | None:
    """The number that all elements of `node` equal, when its arguments say so."""
    numbers = [_number(a) for a in node.args]
    if not numbers or numbers[0] is None:
        return None
    if node.op in PICKS:
        return numbers[0]
    if any(n is None for n in numbers):
        return None
    if node.op in KEEPS_FULL:
        padding = [node.attr("value")] if node.op is movement.pad else []
        return numbers[0] if all(_identical(n, numbers[0]) for n in (*numbers, *padding)) else None
    if Trait.POINTWISE not in node.op.traits:
        return None
    scalars = [movement.full(shape=(), value=a.attr("value"), dtype=a.dtype) for a in node.args]
    result = apply(replace(node, args=tuple(scalars)), [apply(s, [], {}) for s in scalars], {})
    return _exact(result)


def _number(value: Value) -> float | None:
    return value.attr("value") if value.op is movement.full else None


def _identical(a: float | None, b: float | None) -> bool:
    return a is not None and b is not None and np.float64(a).tobytes() == np.float64(b).tobytes()


def _exact(scalar: Array) -> float | None:
    """A one-element array as a float, if that loses nothing."""
    if scalar.dtype.kind in "iu" and abs(int(scalar)) > EXACT:
        return None
    return float(scalar)


def _formula(node: Value) -> Value | None:
    """A small weight as `full` or `iota` when it is one number or an integer range."""
    weight = weight_of(node)
    size = node.t.size
    if (
        weight is None
        or weight.type.encoding is not None
        or not isinstance(size, int)
        or not 0 < size <= EAGER_BYTES
    ):
        return None
    array = weight.read()
    flat = np.ascontiguousarray(array).reshape(-1)
    # Bytes, so that -0.0 is not taken for 0.0.
    if (flat.view(f"V{flat.itemsize}") == flat.view(f"V{flat.itemsize}")[0]).all():
        number = _exact(flat[0])
        if number is None:
            return None
        return movement.full(shape=node.shape, value=number, dtype=node.dtype, loc=node.loc)
    return _range(node, array) if node.dtype.is_integer else None


def _range(node: Value, array: Array) -> Value | None:
    """An integer constant that counts up by one along one axis and is the same along the others."""
    axes = [
        axis
        for axis, length in enumerate(array.shape)
        if length > 1 and (np.diff(array, axis=axis) != 0).any()
    ]
    if len(axes) != 1:
        return None
    (axis,) = axes
    line = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)[:, 0]
    start = int(line[0])
    if abs(start) > EXACT or not (line == start + np.arange(len(line))).all():
        return None
    count = movement.iota(shape=node.shape, axis=axis, dtype=node.dtype, loc=node.loc)
    if start == 0:
        return count
    return pointwise.add(count, movement.full(shape=(), value=float(start), dtype=node.dtype), loc=node.loc)
