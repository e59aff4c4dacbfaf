"""A compiled program against the evaluator, piece by piece.

Where a program rounds to integers in its middle, one rounding in f32 moves a whole step, and everything
after it is another number. So the pieces between are compared: each is evaluated on what the compiled
program itself had at its beginning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from isthmus.ir.evaluate import apply, bind_dims
from isthmus.ir.graph import Graph, Program, Value
from isthmus.ops.nn import matmul
from isthmus.ops.pointwise import cast, mul
from isthmus.ops.quantize import quantize

Arrays = Mapping[str, np.ndarray]


def quantized_places(graph: Graph) -> list[Value]:
    """What is quantized, its scale, its zero point and the result; and products of integers, scaled."""
    found: dict[Value, None] = {}
    for value in graph.nodes():
        if value.op is quantize:
            found.update(dict.fromkeys((*value.args, value)))
        elif is_scaled_sum(value):
            found[value] = None
    return [value for value in found if not value.is_leaf]


def is_scaled_sum(value: Value) -> bool:
    """Whether `value` is a product of integers times a scale."""
    casts = [a.args[0] for a in value.args if a.op is cast] if value.op is mul else []
    return any(total.op is matmul and total.dtype.is_integer for total in casts)


def with_places(program: Program) -> tuple[Program, dict[str, Value]]:
    """`program` with outputs for all of these, and which output is which value."""
    graph = program.main
    places = {f"place{i}": value for i, value in enumerate(quantized_places(graph))}
    told = replace(graph, outputs=(*graph.outputs, *places.items()))
    return replace(program, graphs=(told,)), {**dict(graph.outputs), **places}


def piecewise(
    graph: Graph, inputs: Arrays, known: Mapping[Value, np.ndarray]
) -> dict[Value, tuple[np.ndarray, np.ndarray]]:
    """For each value of `known`: what it is evaluated to from those before it, and what is known of it."""
    sizes = bind_dims(graph, inputs)
    env: dict[Value, np.ndarray] = {v: inputs[v.attr("name")] for v in graph.inputs}
    pairs: dict[Value, tuple[np.ndarray, np.ndarray]] = {}
    for value in graph.nodes():
        env[value] = apply(value, [env[a] for a in value.args], sizes)
        if value in known:
            pairs[value] = env[value], known[value]
            env[value] = known[value]
    return pairs
