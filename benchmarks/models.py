"""Models of published dimensions with random weights, as ONNX files: the same bytes on every machine.

    python benchmarks/models.py bert-base -o build/models

The graphs are written as PyTorch's exporter writes these models (opset 17: separate queries, keys and values,
GELU through Erf, masks as large negative numbers), so that every engine meets the patterns it knows.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8
MASKED = float(np.finfo(np.float32).min)


@dataclass
class Writer:
    """A graph while it is being written: nodes in order, weights by name."""

    name: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def op(self, kind: str, *inputs: str, name: str, outputs: int = 1, **attributes: Any) -> str:
        """One node; the name of its (first) output. Further ones end in `:1`, `:2`."""
        made = [f"{name}:{i}" if i else name for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, made, name=f"/{name}", **attributes))
        return made[0]

    def constant(self, name: str, value: object) -> str:
        """A weight with these values."""
        self.weights[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def random(self, name: str, *shape: int, spread: float = 0.02, around: float = 0.0) -> str:
        """A float32 weight of normal numbers, which depend on its name alone."""
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        values = np.random.default_rng(seed).standard_normal(shape, np.float32)
        return self.constant(name, values * np.float32(spread) + np.float32(around))

    def linear(self, x: str, name: str, depth: int, width: int) -> str:
        """x @ weight + bias."""
        product = self.op("MatMul", x, self.random(f"{name}.weight", depth, width), name=f"{name}/MatMul")
        return self.op("Add", self.random(f"{name}.bias", width), product, name=f"{name}/Add")

    def norm(self, x: str, name: str, width: int, epsilon: float) -> str:
        scale = self.random(f"{name}.weight", width, around=1.0)
        return self.op(
            "LayerNormalization", x, scale, self.random(f"{name}.bias", width), name=name, epsilon=epsilon
        )

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(f"number {value!r}", np.float32(value))

    def gelu(self, x: str, name: str) -> str:
        """x * (1 + erf(x / sqrt 2)) / 2."""
        scaled = self.op("Div", x, self.number(2**0.5), name=f"{name}/Div")
        erf = self.op("Erf", scaled, name=f"{name}/Erf")
        twice = self.op("Mul", x, self.op("Add", erf, self.number(1), name=f"{name}/Add"), name=f"{name}/Mul")
        return self.op("Mul", twice, self.number(0.5), name=f"{name}/Mul_1")

    def gelu_tanh(self, x: str, name: str) -> str:
        """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))."""
        half = self.op("Mul", x, self.number(0.5), name=f"{name}/Mul")
        cube = self.op("Pow", x, self.number(3), name=f"{name}/Pow")
        small = self.op("Mul", cube, self.number(0.044715), name=f"{name}/Mul_1")
        inner = self.op("Add", x, small, name=f"{name}/Add")
        scaled = self.op("Mul", inner, self.number((2 / np.pi) ** 0.5), name=f"{name}/Mul_2")
        tanh = self.op("Tanh", scaled, name=f"{name}/Tanh")
        return self.op(
            "Mul", half, self.op("Add", tanh, self.number(1), name=f"{name}/Add_1"), name=f"{name}/out"
        )

    def attention(self, q: str, k: str, v: str, name: str, heads: int, dim: int, masked: Mask) -> str:
        """softmax(masked(q @ k' / sqrt(dim))) @ v over [batch, length, heads * dim]."""
        split = self.constant(f"shape 0 0 {heads} {dim}", np.array([0, 0, heads, dim]))
        joined = self.constant(f"shape 0 0 {heads * dim}", np.array([0, 0, heads * dim]))
        parts = {"q": (q, (0, 2, 1, 3)), "k": (k, (0, 2, 3, 1)), "v": (v, (0, 2, 1, 3))}
        for part, (value, order) in parts.items():
            apart = self.op("Reshape", value, split, name=f"{name}/{part}/Reshape")
            parts[part] = (self.op("Transpose", apart, name=f"{name}/{part}/Transpose", perm=order), order)
        scores = self.op("MatMul", parts["q"][0], parts["k"][0], name=f"{name}/MatMul")
        scores = self.op("Div", scores, self.number(dim**0.5), name=f"{name}/Div")
        weights = self.op("Softmax", masked(self, scores, name), name=f"{name}/Softmax", axis=-1)
        context = self.op("MatMul", weights, parts["v"][0], name=f"{name}/MatMul_1")
        context = self.op("Transpose", context, name=f"{name}/Transpose", perm=(0, 2, 1, 3))
        return self.op("Reshape", context, joined, name=f"{name}/Reshape")

    def finish(self, inputs: Mapping[str, Port], outputs: Mapping[str, Port]) -> onnx.ModelProto:
        ins, outs = (
            [helper.make_tensor_value_info(name, *port) for name, port in some.items()]
            for some in (inputs, outputs)
        )
        graph = helper.make_graph(self.nodes, self.name, ins, outs, list(self.weights.values()))
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="isthmus",
        )


Mask = Callable[[Writer, str, str], str]
Port = tuple[int, Sequence[str | int]]


def _unmasked(_: Writer, scores: str, __: str) -> str:
    return scores


def bert(
    *,
    layers: int,
    hidden: int,
    heads: int,
    inner: int,
    vocabulary: int = 30522,
    positions: int = 512,
    name: str = "bert",
) -> onnx.ModelProto:
    """input_ids, attention_mask i64[batch, sequence] -> last_hidden_state f32[batch, sequence, hidden].

    An encoder with normalisation after each residual sum, as BERT and MiniLM have it.
    """
    w = Writer(name)
    mask = w.op(
        "Unsqueeze", "attention_mask", w.constant("axes 1 2", np.array([1, 2])), name="mask/Unsqueeze"
    )
    mask = w.op("Cast", mask, name="mask/Cast", to=TensorProto.FLOAT)
    mask = w.op("Sub", w.number(1), mask, name="mask/Sub")
    mask = w.op("Mul", mask, w.number(MASKED), name="mask/Mul")

    def masked(writer: Writer, scores: str, place: str) -> str:
        return writer.op("Add", scores, mask, name=f"{place}/Add")

    words = w.op(
        "Gather", w.random("embeddings.word", vocabulary, hidden), "input_ids", name="embeddings/word"
    )
    length = _length(w, "input_ids")
    types = w.op("Add", words, w.random("embeddings.type", hidden), name="embeddings/type")
    x = w.op("Add", types, _positions(w, length, positions, hidden), name="embeddings/Add")
    x = w.norm(x, "embeddings/norm", hidden, 1e-12)
    for layer in range(layers):
        at = f"layer.{layer}"
        q, k, v = (w.linear(x, f"{at}/{part}", hidden, hidden) for part in ("query", "key", "value"))
        context = w.attention(q, k, v, f"{at}/attention", heads, hidden // heads, masked)
        made = w.linear(context, f"{at}/projection", hidden, hidden)
        x = w.norm(w.op("Add", made, x, name=f"{at}/residual"), f"{at}/norm", hidden, 1e-12)
        up = w.gelu(w.linear(x, f"{at}/up", hidden, inner), f"{at}/gelu")
        made = w.linear(up, f"{at}/down", inner, hidden)
        x = w.norm(w.op("Add", made, x, name=f"{at}/residual_1"), f"{at}/norm_1", hidden, 1e-12)
    w.op("Identity", x, name="last_hidden_state")
    ids: Port = (TensorProto.INT64, ("batch", "sequence"))
    return w.finish(
        {"input_ids": ids, "attention_mask": ids},
        {"last_hidden_state": (TensorProto.FLOAT, ("batch", "sequence", hidden))},
    )


def _positions(w: Writer, length: str, positions: int, hidden: int) -> str:
    """The first `length` rows of the table of positions."""
    table = w.random("embeddings.position", 1, positions, hidden)
    zero, axis = w.constant("start", np.array([0])), w.constant("axis 1", np.array([1]))
    return w.op("Slice", table, zero, length, axis, name="embeddings/position")


def _length(w: Writer, ids: str) -> str:
    """The size of axis 1 of `ids`, as a tensor of one element."""
    shape = w.op("Shape", ids, name="length/Shape")
    return w.op("Gather", shape, w.constant("one", np.array([1])), name="length", axis=0)


def vit(
    *,
    layers: int,
    hidden: int,
    heads: int,
    inner: int,
    image: int = 224,
    patch: int = 16,
    classes: int = 1000,
    name: str = "vit",
) -> onnx.ModelProto:
    """pixel_values f32[batch, 3, image, image] -> logits f32[batch, classes], (image/patch)^2 + 1 tokens."""
    w = Writer(name)
    count = (image // patch) ** 2
    kernel = w.random("patches.weight", hidden, 3, patch, patch)
    bias = w.random("patches.bias", hidden)
    x = w.op("Conv", "pixel_values", kernel, bias, name="patches/Conv", strides=[patch, patch])
    x = w.op("Reshape", x, w.constant("shape patches", np.array([0, hidden, count])), name="patches/Reshape")
    x = w.op("Transpose", x, name="patches/Transpose", perm=(0, 2, 1))
    shape = w.op("Shape", "pixel_values", name="batch/Shape", start=0, end=1)
    rest = w.constant("sizes of a token", np.array([1, hidden]))
    sizes = w.op("Concat", shape, rest, name="batch/Concat", axis=0)
    token = w.op("Expand", w.random("class_token", 1, 1, hidden), sizes, name="class/Expand")
    x = w.op("Concat", token, x, name="embeddings/Concat", axis=1)
    x = w.op("Add", x, w.random("embeddings.position", 1, count + 1, hidden), name="embeddings/Add")
    for layer in range(layers):
        at = f"layer.{layer}"
        normal = w.norm(x, f"{at}/norm", hidden, 1e-6)
        q, k, v = (w.linear(normal, f"{at}/{part}", hidden, hidden) for part in ("query", "key", "value"))
        context = w.attention(q, k, v, f"{at}/attention", heads, hidden // heads, _unmasked)
        x = w.op("Add", w.linear(context, f"{at}/projection", hidden, hidden), x, name=f"{at}/residual")
        normal = w.norm(x, f"{at}/norm_1", hidden, 1e-6)
        up = w.gelu(w.linear(normal, f"{at}/up", hidden, inner), f"{at}/gelu")
        x = w.op("Add", w.linear(up, f"{at}/down", inner, hidden), x, name=f"{at}/residual_1")
    first = w.op(
        "Gather", w.norm(x, "norm", hidden, 1e-6), w.constant("zero", np.int64(0)), name="first", axis=1
    )
    w.op("Identity", w.linear(first, "classifier", hidden, classes), name="logits")
    return w.finish(
        {"pixel_values": (TensorProto.FLOAT, ("batch", 3, image, image))},
        {"logits": (TensorProto.FLOAT, ("batch", classes))},
    )


def gpt2(
    *,
    layers: int,
    hidden: int,
    heads: int,
    inner: int,
    vocabulary: int = 50257,
    positions: int = 1024,
    name: str = "gpt2",
) -> onnx.ModelProto:
    """input_ids i64[batch, sequence] -> logits f32[batch, sequence, vocabulary]: a decoder.

    Queries, keys and values are one product, and the table of words is also the last matrix.
    """
    w = Writer(name)
    length = _length(w, "input_ids")
    causal = w.constant("causal", np.tril(np.ones((1, 1, positions, positions), np.bool_)))
    zeros, axes = w.constant("starts", np.array([0, 0])), w.constant("axes 2 3", np.array([2, 3]))
    ends = w.op("Concat", length, length, name="mask/Concat", axis=0)
    mask = w.op("Slice", causal, zeros, ends, axes, name="mask/Slice")

    def masked(writer: Writer, scores: str, place: str) -> str:
        return writer.op("Where", mask, scores, writer.number(MASKED), name=f"{place}/Where")

    table = w.random("embeddings.word", vocabulary, hidden)
    words = w.op("Gather", table, "input_ids", name="embeddings/word")
    x = w.op("Add", words, _positions(w, length, positions, hidden), name="embeddings/Add")
    widths = w.constant("three widths", np.array([hidden] * 3))
    for layer in range(layers):
        at = f"layer.{layer}"
        normal = w.norm(x, f"{at}/norm", hidden, 1e-5)
        fused = w.linear(normal, f"{at}/qkv", hidden, 3 * hidden)
        q = w.op("Split", fused, widths, name=f"{at}/split", outputs=3, axis=2)
        context = w.attention(q, f"{q}:1", f"{q}:2", f"{at}/attention", heads, hidden // heads, masked)
        x = w.op("Add", w.linear(context, f"{at}/projection", hidden, hidden), x, name=f"{at}/residual")
        normal = w.norm(x, f"{at}/norm_1", hidden, 1e-5)
        up = w.gelu_tanh(w.linear(normal, f"{at}/up", hidden, inner), f"{at}/gelu")
        x = w.op("Add", w.linear(up, f"{at}/down", inner, hidden), x, name=f"{at}/residual_1")
    turned = w.op("Transpose", table, name="head/Transpose", perm=(1, 0))
    w.op("MatMul", w.norm(x, "norm", hidden, 1e-5), turned, name="logits")
    return w.finish(
        {"input_ids": (TensorProto.INT64, ("batch", "sequence"))},
        {"logits": (TensorProto.FLOAT, ("batch", "sequence", vocabulary))},
    )


# Published dimensions. MiniLM-L3 has real weights, too: examples/fetch_data.py.
MODELS: Mapping[str, Callable[[], onnx.ModelProto]] = {
    "minilm-l3": lambda: bert(layers=3, hidden=384, heads=12, inner=1536, name="minilm-l3"),
    "bert-base": lambda: bert(layers=12, hidden=768, heads=12, inner=3072, name="bert-base"),
    "vit-s16": lambda: vit(layers=12, hidden=384, heads=6, inner=1536, name="vit-s16"),
    "gpt2-small": lambda: gpt2(layers=12, hidden=768, heads=12, inner=3072, name="gpt2-small"),
}


def write(name: str, folder: Path) -> Path:
    """The file `folder/<name>.onnx`, made unless it is there."""
    path = folder / f"{name}.onnx"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        scratch = path.with_suffix(".new")
        scratch.write_bytes(MODELS[name]().SerializeToString(deterministic=True))
        scratch.replace(path)
    return path


def main() -> None:
    """Write the models asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=sorted(MODELS))
    parser.add_argument("-o", "--output", type=Path, default=Path("build/models"))
    given = parser.parse_args()
    for name in given.names:
        sys.stdout.write(f"{write(name, given.output)}\n")


if __name__ == "__main__":
    main()
