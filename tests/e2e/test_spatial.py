"""Spatial operators compiled: sliding windows, pools and resampling against onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from isthmus.codegen.cache import cache_dir
from isthmus.driver import Options, compile_model
from isthmus.runtime import load

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = Options(
    cache=cache_dir({"ISTHMUS_CACHE": str(ROOT / "build/cache")}), c_flags=("-DISTHMUS_POISON",)
)

RNG = np.random.default_rng(3)
Step = tuple[str, Sequence[Any], dict[str, Any]]

# Each step reads the result of the one before; arrays are further inputs.
STEM: list[Step] = [
    (
        "Conv",
        [RNG.standard_normal((8, 3, 3, 3)), RNG.standard_normal(8)],
        {"pads": [1, 1, 1, 1], "strides": [2, 2]},
    ),
    ("Relu", [], {}),
    ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("Conv", [RNG.standard_normal((8, 1, 3, 3)), RNG.standard_normal(8)], {"pads": [1, 1, 1, 1], "group": 8}),
    ("Conv", [RNG.standard_normal((8, 4, 3, 3))], {"pads": [1, 1, 1, 1], "group": 2}),
    ("Conv", [RNG.standard_normal((20, 8, 1, 1))], {}),
    ("Sigmoid", [], {}),
]
DECODER: list[Step] = [
    ("ConvTranspose", [RNG.standard_normal((3, 6, 2, 2)), RNG.standard_normal(6)], {"strides": [2, 2]}),
    ("ConvTranspose", [RNG.standard_normal((6, 4, 3, 3))], {"strides": [2, 1], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [], {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
    ("Resize", ["", np.array([1, 1, 1.5, 2], np.float32)], {"mode": "linear"}),
    ("Resize", ["", np.array([1, 1, 2, 0.5], np.float32)], {"mode": "cubic"}),
    ("Resize", ["", np.array([1, 1, 2, 1], np.float32)], {"mode": "nearest"}),
]
SPEECH: list[Step] = [
    ("Conv", [RNG.standard_normal((8, 3, 10))], {"strides": [5]}),
    ("InstanceNormalization", [np.ones(8), np.zeros(8)], {}),
    ("Conv", [RNG.standard_normal((8, 8, 3)), RNG.standard_normal(8)], {"strides": [2]}),
    ("Conv", [RNG.standard_normal((8, 2, 4))], {"pads": [2, 1], "group": 4}),
]
IMAGES = [(2, 3, 17, 20), (1, 3, 8, 9), (1, 3, 33, 6)]


def model_of(steps: list[Step], shape: list[Any]) -> onnx.ModelProto:
    nodes, constants, name = [], [], "x"
    for number, (op, rest, attrs) in enumerate(steps):
        names = []
        for i, array in enumerate(rest):
            names.append("" if isinstance(array, str) else f"c{number}_{i}")
            if names[-1]:
                constants.append(numpy_helper.from_array(np.asarray(array, np.float32), names[-1]))
        nodes.append(helper.make_node(op, [name, *names], [f"y{number}"], name=f"{op}_{number}", **attrs))
        name = f"y{number}"
    inputs = [helper.make_tensor_value_info("x", 1, shape)]
    graph = helper.make_graph(nodes, "tiny", inputs, [onnx.ValueInfoProto(name=name)], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    ("steps", "shape", "sizes"),
    [
        (STEM, ["b", 3, "h", "w"], IMAGES),
        (DECODER, ["b", 3, "h", "w"], IMAGES),
        (SPEECH, ["b", 3, "n"], [(2, 3, 57), (1, 3, 30)]),
    ],
    ids=["stem", "decoder", "speech"],
)
def test_every_size(
    steps: list[Step], shape: list[Any], sizes: list[tuple[int, ...]], tmp_path: Path
) -> None:
    model = model_of(steps, shape)
    path = tmp_path / "tiny.onnx"
    onnx.save(model, path)
    bundle = compile_model(path, "host", tmp_path, OPTIONS)
    peer = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for threads in (1, 2):
        with load(bundle.path, threads=threads) as session:
            for size in sizes:
                x = np.random.default_rng(0).standard_normal(size).astype(np.float32)
                (wanted,), (got,) = peer.run(None, {"x": x}), session.run({"x": x}).values()
                assert got.shape == wanted.shape
                np.testing.assert_allclose(got, wanted, 1e-4, 1e-4 * max(1, np.abs(wanted).max()))
