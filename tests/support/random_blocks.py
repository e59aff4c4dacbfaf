"""Transformer blocks as hypothesis draws them: an architecture, and its ONNX file in one of many ways."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

VOCABULARY = 50
STATIC = (2, 7)
LOW = np.float32(-3.4e38)


@dataclass(frozen=True, slots=True)
class Block:
    """One architecture in one spelling. Heads are `groups * kv_heads`; hidden sizes need not be multiples."""

    opset: int
    layers: int
    hidden: int
    inner: int
    kv_heads: int
    groups: int
    head_size: int
    norm: str  # layer, rms
    before: bool  # the norm comes before attention and feed-forward, or after the sum
    activation: str  # relu, gelu, gelu_tanh, silu
    gated: bool
    bias: bool
    rotary: bool
    mask: str  # none, causal, padding, both
    packed: bool  # Q, K and V are one product and a split
    transposed_once: bool  # K goes to [batch, heads, size, length] at once
    scaling: str  # mul, div, both (q and k each by the root)
    fused: bool  # operators for norms, GELU and attention, where the opset has them
    half: bool  # weights are stored in f16
    static: bool

    @property
    def heads(self) -> int:
        return self.kv_heads * self.groups


def blocks() -> st.SearchStrategy[Block]:
    """Blocks small enough to compile in a second."""
    sizes = st.sampled_from
    return st.builds(
        Block,
        opset=sizes((13, 14, 17, 18, 20, 21, 23)),
        layers=sizes((1, 2)),
        hidden=sizes((8, 12, 20, 33, 48, 64)),
        inner=sizes((10, 16, 40, 65)),
        kv_heads=sizes((1, 2, 3)),
        groups=sizes((1, 2, 4)),
        head_size=sizes((4, 6, 8, 10, 16, 20)),
        norm=sizes(("layer", "rms")),
        before=st.booleans(),
        activation=sizes(("relu", "gelu", "gelu_tanh", "silu")),
        gated=st.booleans(),
        bias=st.booleans(),
        rotary=st.booleans(),
        mask=sizes(("none", "causal", "padding", "both")),
        packed=st.booleans(),
        transposed_once=st.booleans(),
        scaling=sizes(("mul", "div", "both")),
        fused=st.booleans(),
        half=st.booleans(),
        static=sizes((False, False, True)),
    )


class _Writer:
    """Collects nodes and weights; every method returns the name of a result."""

    def __init__(self, block: Block) -> None:
        self.block, self.rng = block, np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attrs: Any) -> Any:
        names = [f"{kind}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=f"/{kind}_{len(self.nodes)}", **attrs))
        return names[0] if outputs == 1 else names

    def constant(self, value: object, dtype: object = np.float32) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))  # type: ignore[arg-type]
        return name

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def weight(self, *shape: int) -> str:
        """Random, of a size that keeps the numbers near one."""
        array = self.rng.standard_normal(shape) / math.sqrt(shape[0])
        if not self.block.half:
            return self.constant(array)
        return self.op("Cast", self.constant(array, np.float16), to=TensorProto.FLOAT)

    def vector(self, size: int, middle: float = 0.0) -> str:
        return self.constant(middle + 0.3 * self.rng.standard_normal(size))

    def linear(self, x: str, rows: int, columns: int) -> str:
        y = self.op("MatMul", x, self.weight(rows, columns))
        return self.op("Add", y, self.vector(columns)) if self.block.bias else y

    def mean(self, x: str) -> str:
        if self.block.opset >= 18:
            return self.op("ReduceMean", x, self.ints(-1), keepdims=1)
        return self.op("ReduceMean", x, axes=[-1], keepdims=1)

    def norm(self, x: str) -> str:
        block = self.block
        gain = self.vector(block.hidden, 1.0)
        if block.norm == "rms":
            if block.fused and block.opset >= 23:
                return self.op("RMSNormalization", x, gain, axis=-1, epsilon=1e-5)
            mean = self.mean(self.op("Pow", x, self.constant(2.0)))
            root = self.op("Sqrt", self.op("Add", mean, self.constant(1e-5)))
            return self.op("Mul", gain, self.op("Mul", x, self.op("Reciprocal", root)))
        shift = self.vector(block.hidden)
        if block.fused and block.opset >= 17:
            return self.op("LayerNormalization", x, gain, shift, axis=-1, epsilon=1e-5)
        centred = self.op("Sub", x, self.mean(x))
        variance = self.mean(self.op("Mul", centred, centred))
        root = self.op("Sqrt", self.op("Add", variance, self.constant(1e-5)))
        return self.op("Add", self.op("Mul", self.op("Div", centred, root), gain), shift)

    def activation(self, x: str) -> str:
        block, kind = self.block, self.block.activation
        if kind == "relu":
            return self.op("Relu", x)
        if kind == "silu":
            return self.op("Mul", x, self.op("Sigmoid", x))
        if block.fused and block.opset >= 20:
            return self.op("Gelu", x, approximate="tanh" if kind == "gelu_tanh" else "none")
        half, one = self.constant(0.5), self.constant(1.0)
        if kind == "gelu":
            inner = self.op("Erf", self.op("Div", x, self.constant(math.sqrt(2))))
        else:
            cube = self.op("Mul", self.op("Pow", x, self.constant(3.0)), self.constant(0.044715))
            inner = self.op("Mul", self.op("Add", x, cube), self.constant(math.sqrt(2 / math.pi)))
            inner = self.op("Tanh", inner)
        return self.op("Mul", self.op("Mul", x, half), self.op("Add", inner, one))

    def feed_forward(self, x: str) -> str:
        block = self.block
        up = self.activation(self.linear(x, block.hidden, block.inner))
        if block.gated:
            up = self.op("Mul", up, self.linear(x, block.hidden, block.inner))
        return self.linear(up, block.inner, block.hidden)

    def heads(self, x: str, count: int, perm: Iterable[int] = (0, 2, 1, 3)) -> str:
        split = self.op("Reshape", x, self.ints(0, 0, count, self.block.head_size))
        return self.op("Transpose", split, perm=list(perm))

    def rotated(self, x: str, cosine: str, sine: str) -> str:
        """Half of each head turned with the other half."""
        half, size = self.block.head_size // 2, self.block.head_size
        first, second = (
            self.op("Slice", x, self.ints(a), self.ints(b), self.ints(3))
            for a, b in ((0, half), (half, size))
        )
        turned = self.op("Concat", self.op("Neg", second), first, axis=-1)
        return self.op("Add", self.op("Mul", x, cosine), self.op("Mul", turned, sine))

    def repeated(self, x: str, batch: str, length: str) -> str:
        """Each head of K or V once for every head of Q that shares it."""
        block = self.block
        if block.groups == 1:
            return x
        single = self.op("Unsqueeze", x, self.ints(2))
        count, group, size = (self.ints(n) for n in (block.kv_heads, block.groups, block.head_size))
        wide = self.op("Expand", single, self.op("Concat", batch, count, group, length, size, axis=0))
        return self.op("Reshape", wide, self.ints(0, block.heads, -1, block.head_size))

    def projections(self, x: str) -> list[str]:
        block = self.block
        widths = [n * block.head_size for n in (block.heads, block.kv_heads, block.kv_heads)]
        if not block.packed:
            return [self.linear(x, block.hidden, width) for width in widths]
        wide = self.linear(x, block.hidden, sum(widths))
        return list(self.op("Split", wide, self.ints(*widths), outputs=3, axis=-1))

    def attention(self, x: str, shared: Shared) -> str:
        block = self.block
        q, k, v = self.projections(x)
        operator = block.fused and block.opset >= 23
        at_once = block.transposed_once and not block.rotary and block.groups == 1 and not operator
        q, v = self.heads(q, block.heads), self.heads(v, block.kv_heads)
        k = self.heads(k, block.kv_heads, (0, 2, 3, 1) if at_once else (0, 2, 1, 3))
        if block.rotary:
            q, k = (self.rotated(each, shared.cosine, shared.sine) for each in (q, k))
        if operator:
            masks = [shared.mask] if shared.mask else []
            merged = self.op("Attention", q, k, v, *masks)
        else:
            k, v = (each if at_once else self.repeated(each, shared.batch, shared.length) for each in (k, v))
            kt = k if at_once else self.op("Transpose", k, perm=[0, 1, 3, 2])
            merged = self.op("MatMul", self.op("Softmax", self.scores(q, kt, shared.mask), axis=-1), v)
        rows = self.op("Transpose", merged, perm=[0, 2, 1, 3])
        width = block.heads * block.head_size
        return self.linear(self.op("Reshape", rows, self.ints(0, 0, width)), width, block.hidden)

    def scores(self, q: str, kt: str, mask: str) -> str:
        root = math.sqrt(self.block.head_size)
        if self.block.scaling == "both":
            part = self.constant(1 / math.sqrt(root))
            scores = self.op("MatMul", self.op("Mul", q, part), self.op("Mul", kt, part))
        elif self.block.scaling == "div":
            scores = self.op("Div", self.op("MatMul", q, kt), self.constant(root))
        else:
            scores = self.op("Mul", self.op("MatMul", q, kt), self.constant(1 / root))
        return self.op("Add", scores, mask) if mask else scores

    def layer(self, x: str, shared: Shared) -> str:
        for part in (lambda y: self.attention(y, shared), self.feed_forward):
            if self.block.before:
                x = self.op("Add", x, part(self.norm(x)))
            else:
                x = self.norm(self.op("Add", x, part(x)))
        return x

    def shared(self) -> Shared:
        """What all layers use: sizes, the mask, and angles."""
        block = self.block
        shape = self.op("Shape", "input_ids")
        batch, length = (self.op("Slice", shape, self.ints(i), self.ints(i + 1)) for i in (0, 1))
        scalar = self.op("Squeeze", length, self.ints(0))
        places = self.op("Range", self.constant(0, np.int64), scalar, self.constant(1, np.int64))
        masks = []
        if block.mask in ("causal", "both"):
            later = self.op(
                "Less", self.op("Unsqueeze", places, self.ints(1)), self.op("Unsqueeze", places, self.ints(0))
            )
            masks.append(self.op("Where", later, self.constant(LOW), self.constant(0.0)))
        if block.mask in ("padding", "both"):
            kept = self.op(
                "Unsqueeze", self.op("Cast", "attention_mask", to=TensorProto.FLOAT), self.ints(1, 2)
            )
            masks.append(self.op("Mul", self.op("Sub", self.constant(1.0), kept), self.constant(LOW)))
        mask = masks[0] if len(masks) == 1 else self.op("Min", *masks) if masks else ""
        if mask and block.fused and block.opset >= 23:
            whole = self.op("Concat", batch, self.ints(1), length, length, axis=0)
            mask = self.op("Expand", mask, whole)  # the operator's mask has all its axes
        cosine = sine = ""
        if block.rotary:
            rates = 10000.0 ** (-np.arange(0, block.head_size, 2) / block.head_size)
            turns = self.op("Unsqueeze", self.op("Cast", places, to=TensorProto.FLOAT), self.ints(1))
            angles = self.op("Mul", turns, self.constant(rates))
            both = self.op("Concat", angles, angles, axis=-1)
            cosine, sine = self.op("Cos", both), self.op("Sin", both)
        return Shared(batch, length, mask, cosine, sine)


@dataclass(frozen=True, slots=True)
class Shared:
    """Names of what is computed once."""

    batch: str
    length: str
    mask: str
    cosine: str
    sine: str


def model_of(block: Block) -> onnx.ModelProto:
    """`block` over input_ids [batch, seq] and, if it has a padding mask, attention_mask."""
    w = _Writer(block)
    shared = w.shared()
    x = w.op("Gather", w.constant(w.rng.standard_normal((VOCABULARY, block.hidden))), "input_ids")
    for _ in range(block.layers):
        x = w.layer(x, shared)
    w.nodes.append(helper.make_node("Identity", [x], ["y"]))
    shape = STATIC if block.static else ("batch", "seq")
    names = ["input_ids", *["attention_mask"] * (block.mask in ("padding", "both"))]
    graph = helper.make_graph(
        w.nodes,
        "block",
        [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in names],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (*shape, block.hidden))],
        w.weights,
    )
    ir_version = 11 if block.opset >= 23 else 9
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", block.opset)], ir_version=ir_version
    )


def inputs_of(block: Block, batch: int, length: int) -> dict[str, np.ndarray]:
    """Random tokens; rows padded at lengths of their own, never whole rows."""
    rng = np.random.default_rng(length)
    inputs = {"input_ids": rng.integers(0, VOCABULARY, (batch, length))}
    if block.mask in ("padding", "both"):
        valid = rng.integers(1, length + 1, (batch, 1))
        inputs["attention_mask"] = (np.arange(length) < valid).astype(np.int64)
    return inputs
