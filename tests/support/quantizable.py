"""A small program of the shape that quantization is about: a table, two products between norms, a head."""

from __future__ import annotations

import numpy as np

from isthmus.ir.dims import symbol
from isthmus.ir.graph import Graph, NamedDim, Program, constant, graph_input
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ops.movement import gather
from isthmus.ops.nn import layer_norm, linear

WORDS, WIDTH, INNER, CLASSES = 50, 64, 128, 5
UP, DOWN, HEAD = "/up/MatMul", "/down/MatMul", "/head/MatMul"


def feed_forward(activation: str = "gelu", outlier: float = 1.0) -> Program:
    """ids [b, n] -> scores [b, n, 5]. One channel of the norm is `outlier` times as large as the others."""
    rng = np.random.default_rng(7)

    def weight(name: str, *shape: int) -> Array:
        return (rng.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)

    ids = graph_input("ids", TensorType(DType.I64, (symbol("b"), symbol("n"))))
    table = constant("table", rng.standard_normal((WORDS, WIDTH)).astype(np.float32))
    scale = np.ones(WIDTH, np.float32)
    scale[3] *= np.float32(outlier)
    norm = (constant("norm.scale", scale), constant("norm.bias", weight("bias", WIDTH)))
    words = gather(table, ids, axis=0, loc="/words")
    rows = layer_norm(words, *norm, epsilon=1e-5, loc="/norm")
    up = linear(
        rows,
        constant("up", weight("up", WIDTH, INNER)),
        constant("up.bias", weight("up.bias", INNER)),
        activation=activation,
        loc=UP,
    )
    down = linear(
        up,
        constant("down", weight("down", INNER, WIDTH)),
        constant("down.bias", weight("down.bias", WIDTH)),
        words,
        loc=DOWN,
    )
    flat = (
        constant("flat.scale", np.ones(WIDTH, np.float32)),
        constant("flat.bias", np.zeros(WIDTH, np.float32)),
    )
    last = layer_norm(down, *flat, epsilon=1e-5, loc="/last")
    head = linear(
        last,
        constant("head", weight("head", WIDTH, CLASSES)),
        constant("head.bias", np.zeros(CLASSES, np.float32)),
        loc=HEAD,
    )
    graph = Graph("main", (ids,), (("scores", head),))
    return Program("feed_forward", (graph,), (NamedDim("b"), NamedDim("n", 1, 32)))


def requests(count: int = 8, length: int = 12) -> tuple[dict[str, Array], ...]:
    """Ids, different in each."""
    rng = np.random.default_rng(1)
    return tuple({"ids": rng.integers(0, WORDS, (2, length))} for _ in range(count))
