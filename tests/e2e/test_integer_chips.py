"""A whole model of bytes, out of ONNX: the same bytes on every chip, and those of onnxruntime."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from runners import KNOWN, need_runner, runnable

import isthmus
from isthmus.bundle.reader import open_bundle
from isthmus.kernels.byte_arithmetic import PairSums, Single, Widening
from isthmus.kernels.byte_products import Pairs, Quads, Squares, UnsignedQuads, arithmetic_of
from isthmus.target import Target
from isthmus.tools.emulator import answering

pytestmark = pytest.mark.slow

# Sizes that are no multiple of any register; the first K is of whole blocks of steps and a rest.
WIDTHS = (263, 70, 33, 19)
# One for each way of multiplying bytes on each architecture, those that can run here among them.
CHIPS = tuple(
    {
        (t.arch, arithmetic_of(t), t.byte_products, t.vector, t.multiplies_in_tiles("u8")): t
        for t in sorted(KNOWN.values(), key=runnable)
    }.values()
)


def layer(
    index: int, depth: int, columns: int, rng: np.random.Generator
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """u8 rows to u8 rows: dequantize, product, bias, relu (but for the last), quantize."""
    last = columns == WIDTHS[-1]
    before, x, w = f"q{index}", f"x{index}", f"w{index}"
    # Powers of two: no product of scales is rounded, so that all who do it right agree to the bit.
    numbers = {
        w: rng.choice(np.array([-128, -127, -3, 0, 1, 90, 127], np.int8), (depth, columns)),
        f"{w}.s": np.exp2(rng.integers(-9, -6, columns)).astype(np.float32),
        f"{w}.z": np.zeros(columns, np.int8),
        f"b{index}": (rng.integers(-64, 64, columns) / 8).astype(np.float32),
        f"s{index + 1}": np.float32(2.0 ** (1 + index)),
        f"z{index + 1}": np.uint8(101 if last else 7),
    }
    nodes = [
        helper.make_node("DequantizeLinear", [before, f"s{index}", f"z{index}"], [x]),
        helper.make_node("DequantizeLinear", [w, f"{w}.s", f"{w}.z"], [f"{w}.f"], axis=1),
        helper.make_node("MatMul", [x, f"{w}.f"], [f"m{index}"]),
        helper.make_node("Add", [f"m{index}", f"b{index}"], [f"a{index}"]),
        helper.make_node("Identity" if last else "Relu", [f"a{index}"], [f"r{index}"]),
        helper.make_node(
            "QuantizeLinear", [f"r{index}", f"s{index + 1}", f"z{index + 1}"], [f"q{index + 1}"]
        ),
    ]
    return nodes, numbers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(11)
    nodes: list[onnx.NodeProto] = []
    numbers: dict[str, np.ndarray] = {"s0": np.float32(0.25), "z0": np.uint8(120)}
    for index, (depth, columns) in enumerate(pairwise(WIDTHS)):
        more, found = layer(index, depth, columns, rng)
        nodes += more
        numbers |= found
    out = f"q{len(WIDTHS) - 1}"
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("q0", onnx.TensorProto.UINT8, ["rows", WIDTHS[0]])],
        [helper.make_tensor_value_info(out, onnx.TensorProto.UINT8, ["rows", WIDTHS[-1]])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in numbers.items()],
    )
    path = tmp_path_factory.mktemp("mlp") / "mlp.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def questions() -> list[np.ndarray]:
    """One row, all bytes at a limit among many rows, and random ones."""
    rng = np.random.default_rng(3)
    many = rng.integers(0, 256, (13, WIDTHS[0])).astype(np.uint8)
    many[0], many[1] = 0, 255
    return [many[2:3], many]


@pytest.mark.parametrize("target", CHIPS, ids=lambda target: target.name)
def test_the_same_bytes(target: Target, model: Path, tmp_path: Path) -> None:
    need_runner(target)
    options = onnxruntime.SessionOptions()
    # What it fuses it may compute in pairs that saturate; as written, products are of floats and exact here.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    peer = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    bundle = isthmus.compile(
        model, target=target.name, out=tmp_path / "dist", dims={"rows": (1, 16)}, verify=False
    )
    with answering(open_bundle(bundle.path), target, tmp_path / "cache", threads=1) as run:
        for rows in questions():
            (wanted,) = peer.run(None, {"q0": rows})
            assert len(np.unique(wanted)) > 30 or len(rows) == 1, "a test of bytes that are all alike"
            (got,) = run({"q0": rows}).values()
            assert got.dtype == np.uint8
            np.testing.assert_array_equal(got, wanted)


def test_every_way_of_multiplying_bytes_is_among_them() -> None:
    ways = {arithmetic_of(t) for t in CHIPS if runnable(t)}
    assert ways == {Single, Widening, PairSums, Pairs, Quads, UnsignedQuads, Squares}
