"""A small encoder with padding, in text, and masks of every kind for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from isthmus.ir.graph import Program, Value, constant
from isthmus.ops.text import parse

HIDDEN, HEADS, WORDS, LONGEST = 24, 3, 11, 40

_POOLS = {
    "mean": """
      %p0 = cast(%mask) dtype=f32 : f32[{b},{s}]
      %p1 = reshape(%p0) shape=[{b},{s},1] : f32[{b},{s},1]
      %p2 = mul(%p1, {x}) : f32[{b},{s},24]
      %p3 = reduce_sum(%p2) axes=[1] : f32[{b},1,24]
      %p4 = reduce_sum(%p1) axes=[1] : f32[{b},1,1]
      %y = div(%p3, %p4) : f32[{b},1,24]""",
    "first": """
      %y = slice({x}) starts=[0,0,0] sizes=[{b},1,24] steps=[1,1,1] : f32[{b},1,24]""",
    "tokens": """
      %p0 = cast(%mask) dtype=bool : bool[{b},{s}]
      %p1 = reshape(%p0) shape=[{b},{s},1] : bool[{b},{s},1]
      %p2 = full() shape=[] value=0.0 dtype=f32 : f32[]
      %y = where(%p1, {x}, %p2) : f32[{b},{s},24]""",
    "all": """
      %y = reduce_mean({x}) axes=[1] : f32[{b},1,24] at pool""",
}


def encoder(
    pool: str,
    hidden: float = -10000.0,
    layers: int = 2,
    causal: bool = False,
    safe: bool = False,
    batch: str = "b",
    length: str = "s",
) -> Program:
    """Word and position embeddings, layers of attention and a product, and one of the pools; the output is
    y. `hidden` is what is added to the scores of padding."""
    lines = [
        "%e0 = gather(%words, %ids) axis=0 : f32[{b},{s},24]",
        "%e1 = slice(%places) starts=[0,0] sizes=[{s},24] steps=[1,1] : f32[{s},24]",
        "%x0 = add(%e0, %e1) : f32[{b},{s},24]",
        "%m0 = cast(%mask) dtype=f32 : f32[{b},{s}]",
        "%m1 = reshape(%m0) shape=[{b},1,1,{s}] : f32[{b},1,1,{s}]",
        "%m2 = full() shape=[] value=0.0 dtype=f32 : f32[]",
        "%m3 = full() shape=[] value=1.0 dtype=f32 : f32[]",
        f"%m4 = full() shape=[] value={hidden} dtype=f32 : f32[]",
        "%m5 = sub(%m3, %m1) : f32[{b},1,1,{s}]",
        "%m6 = cast(%m5) dtype=bool : bool[{b},1,1,{s}]",
        "%m7 = where(%m6, %m4, %m2) : f32[{b},1,1,{s}] at hidden",
    ]
    options = f"scale=0.35{' safe=true' * safe}{' causal=true' * causal}"
    for i in range(layers):
        lines += [
            f"%q{i} = linear(%x{i}, %w, %bias) : f32[{{b}},{{s}},24] at project.{i}",
            f"%r{i} = reshape(%q{i}) shape=[{{b}},{{s}},3,8] : f32[{{b}},{{s}},3,8]",
            f"%t{i} = transpose(%r{i}) perm=[0,2,1,3] : f32[{{b}},3,{{s}},8]",
            f"%a{i} = attention(%t{i}, %t{i}, %t{i}, %m7) {options} : f32[{{b}},3,{{s}},8] at attend.{i}",
            f"%u{i} = transpose(%a{i}) perm=[0,2,1,3] : f32[{{b}},{{s}},3,8]",
            f"%v{i} = reshape(%u{i}) shape=[{{b}},{{s}},24] : f32[{{b}},{{s}},24]",
            f"%x{i + 1} = layer_norm(%v{i}, %bias, %bias, %x{i}) epsilon=1e-05 : f32[{{b}},{{s}},24]",
        ]
    body = "\n      ".join(lines) + _POOLS[pool].replace("{x}", f"%x{layers}")
    head = (
        "%words: f32[11,24], %places: f32[40,24], %w: f32[24,24], %bias: f32[24], "
        "%ids: i64[{b},{s}], %mask: i64[{b},{s}]"
    )
    text = f"graph main({head}) {{\n      {body}\n      return y=%y\n}}\n"
    return parse(text.replace("{b}", batch).replace("{s}", length))


def arrays(batch: int, length: int, mask: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of `encoder`."""
    rng = np.random.default_rng(seed)
    floats = {"words": (WORDS, HIDDEN), "places": (LONGEST, HIDDEN), "w": (HIDDEN, HIDDEN), "bias": (HIDDEN,)}
    return {
        **{name: rng.standard_normal(shape).astype(np.float32) for name, shape in floats.items()},
        "ids": rng.integers(0, WORDS, (batch, length)),
        "mask": mask.astype(np.int64),
    }


def masks(batch: int, length: int, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Padding on the right, on the left, anywhere, nowhere; sequences of nothing else; and no masks."""
    rng = np.random.default_rng(seed)
    places, lengths = np.arange(length), rng.integers(1, length, (batch, 1), endpoint=True)
    right = (places < lengths).astype(np.int64)
    yield "right", right
    yield "left", right[:, ::-1]
    yield "holes", rng.integers(0, 2, (batch, length))
    yield "none", np.ones((batch, length), np.int64)
    yield "one", (places == rng.integers(0, length, (batch, 1))).astype(np.int64)
    some = right.copy()
    some[rng.integers(0, batch)] = 0
    yield "an empty sequence", some
    yield "all", np.zeros((batch, length), np.int64)
    yield "no mask", rng.integers(-1, 3, (batch, length))


def with_weights(program: Program, given: Mapping[str, np.ndarray]) -> Program:
    """`program` with all its inputs but ids and mask made constants of what is `given`."""
    graph = program.main
    kept = tuple(v for v in graph.inputs if v.attr("name") in ("ids", "mask"))
    done: dict[Value, Value] = {
        v: v if v in kept else constant(v.attr("name"), given[v.attr("name")]) for v in graph.inputs
    }
    for node in graph.nodes():
        done[node] = replace(node, args=tuple(done[a] for a in node.args))
    changed = replace(graph, inputs=kept, outputs=tuple((name, done[v]) for name, v in graph.outputs))
    return replace(program, graphs=(changed,))
