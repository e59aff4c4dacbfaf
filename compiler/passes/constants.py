"""Constants: their values, weights computed from other weights when read, and weights renamed or reshaped."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

import numpy as np

from isthmus.errors import CompilerBug
from isthmus.ir.evaluate import apply
from isthmus.ir.graph import Value, walk, weight_of, weight_value
from isthmus.ir.types import Array, TensorType
from isthmus.ir.weights import Weight
from isthmus.ops.movement import full

# Weights up to this size are computed when they are made, larger ones when they are read.
EAGER_BYTES = 1 << 16


@dataclass(frozen=True, eq=False)
class Computed:
    """The contents of a constant expression, computed by the evaluator whenever someone reads them."""

    value: Value

    def read(self, type_: TensorType) -> Array:
        env: dict[Value, Array] = {}
        order = list(walk((self.value,)))
        uses = Counter(arg for node in order for arg in node.args)
        for node in order:
            env[node] = apply(node, [env[a] for a in node.args], {})
            for arg in node.args:
                uses[arg] -= 1
                if uses[arg] == 0:
                    del env[arg]  # large weights: two or three of them fit, not one for each step
        return np.ascontiguousarray(env[self.value]).reshape(type_.static_shape)

    def digest(self, type_: TensorType) -> str:
        """The hash of the expression: its ops, their attributes, and the digests of the weights in it."""
        numbers: dict[Value, int] = {}
        lines: list[str] = []
        for node in walk((self.value,)):
            numbers[node] = len(numbers)
            weight = weight_of(node)
            what = weight.digest if weight is not None else f"{node.op.name}{node.attrs}"
            lines.append(f"{what} {[numbers[a] for a in node.args]} {node.type}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def is_constant(value: Value) -> bool:
    """Whether the contents are known now."""
    return weight_of(value) is not None or (value.op is full and value.t.is_static)


def array_of(value: Value) -> Array:
    """The contents of a constant; reads a weight."""
    if not is_constant(value):
        raise CompilerBug(f"{value.op.name} ({value.loc}) is not a constant")
    return apply(value, [], {})


def weight_from(value: Value, name: str) -> Value:
    """The constant expression `value` as a weight: computed now if small, else when read."""
    size = value.t.nbytes
    source = Weight(name, value.t, Computed(value))
    if isinstance(size, int) and size <= EAGER_BYTES:
        return weight_value(Weight.of(name, source.read()), value.loc)
    return weight_value(source, value.loc)


def name_of(value: Value) -> str:
    """A name for a weight made from `value`: that of the first weight in it, else its place in the model."""
    for node in walk((value,)):
        if (weight := weight_of(node)) is not None:
            return weight.name
    return value.loc or value.op.name


def as_vector(value: Value) -> Value:
    """A constant of one long axis (the last) as a vector; the contents stay where they are."""
    (length,) = value.shape[-1:] if value.shape else (1,)
    if value.op is full:
        return full(shape=(length,), value=value.attr("value"), dtype=value.dtype, loc=value.loc)
    weight = weight_of(value)
    if weight is None:
        raise CompilerBug(f"{value.op.name} ({value.loc}) is not a constant")
    return weight_value(Weight(weight.name, TensorType(value.dtype, (length,)), weight.source), value.loc)
