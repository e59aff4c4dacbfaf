"""A model of one feed-forward layer, written as exporters write it, with a node for every fate there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, INNER = 16, 48


def layer_model() -> onnx.ModelProto:
    """y = norm(x + gelu(x @ up + b) @ down + c) over x[batch, seq, 16], and nodes that come to nothing."""
    rng = np.random.default_rng(0)
    weights = {
        "up": rng.standard_normal((WIDTH, INNER)),
        "b": rng.standard_normal(INNER),
        "down": rng.standard_normal((INNER, WIDTH)),
        "c": rng.standard_normal(WIDTH),
        "root": np.float32(2**0.5),
        "one": np.float32(1),
        "half": np.float32(0.5),
        "gain": np.ones(WIDTH),
        "shift": np.zeros(WIDTH),
        "three": np.float32(3),
    }
    nodes = [
        helper.make_node("Identity", ["x"], ["same"], name="/identity"),
        helper.make_node("MatMul", ["same", "up"], ["product"], name="/up"),
        helper.make_node("Add", ["product", "b"], ["biased"], name="/up/bias"),
        helper.make_node("Div", ["biased", "root"], ["scaled"], name="/act/div"),
        helper.make_node("Erf", ["scaled"], ["erf"], name="/act/erf"),
        helper.make_node("Add", ["erf", "one"], ["shifted"], name="/act/add"),
        helper.make_node("Mul", ["biased", "shifted"], ["twice"], name="/act/mul"),
        helper.make_node("Mul", ["twice", "half"], ["gelu"], name="/act/half"),
        helper.make_node("MatMul", ["gelu", "down"], ["back"], name="/down"),
        helper.make_node("Add", ["back", "c"], ["with_c"], name="/down/bias"),
        helper.make_node("Add", ["x", "with_c"], ["sum"], name="/residual"),
        helper.make_node("LayerNormalization", ["sum", "gain", "shift"], ["normal"], name="/norm"),
        helper.make_node("Add", ["three", "one"], ["four"], name="/four"),
        helper.make_node("Mul", ["normal", "four"], ["y"], name="/times"),
        helper.make_node("Shape", ["y"], ["nobody"], name="/unused"),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "seq", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "seq", WIDTH])],
        [numpy_helper.from_array(np.asarray(a, np.float32), name) for name, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def sparse_model(share: float = 0.05) -> onnx.ModelProto:
    """A product of x[rows, 96] with a matrix of which so many numbers are no zeros, and nothing says so."""
    rng = np.random.default_rng(1)
    matrix = np.where(rng.random((96, 640)) < share, rng.standard_normal((96, 640)), 0)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="/product")],
        "sparse",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 96])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 640])],
        [numpy_helper.from_array(matrix.astype(np.float32), "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def broken_model() -> onnx.ModelProto:
    """Two operators that nobody knows, one of them twice, and one that makes as much as the data says."""
    nodes = [
        helper.make_node("Strange", ["x"], ["a"], name="/strange", domain="nowhere"),
        helper.make_node("Strange", ["a"], ["b"], name="/stranger", domain="nowhere"),
        helper.make_node("NonZero", ["x"], ["c"], name="/nonzero"),
    ]
    graph = helper.make_graph(
        nodes,
        "broken",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [
            helper.make_tensor_value_info("b", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("c", TensorProto.INT64, None),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def save(model: onnx.ModelProto, folder: Path) -> Path:
    """The file `folder/<name of the graph>.onnx`."""
    path = folder / f"{model.graph.name}.onnx"
    onnx.save(model, path)
    return path
