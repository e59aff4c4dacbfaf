"""The largest and the smallest, compiled: ties, infinities and NaN, at any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from isthmus.driver import Options, compile_model
from isthmus.runtime import load


@pytest.mark.parametrize("largest", [0, 1])
def test_top_k(largest: int, tmp_path: Path) -> None:
    node = helper.make_node("TopK", ["x", "k"], ["values", "places"], largest=largest)
    graph = helper.make_graph(
        [node],
        "top",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 9])],
        [onnx.ValueInfoProto(name=n) for n in ("values", "places")],
        [helper.make_tensor("k", TensorProto.INT64, [1], [5])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = tmp_path / "top.onnx"
    path.write_bytes(model.SerializeToString())
    bundle = compile_model(path, "host", tmp_path, Options())
    rng = np.random.default_rng(3)
    with load(bundle.path) as session:
        for batch in (1, 6):
            x = rng.integers(-3, 3, (batch, 9)).astype(np.float32)
            x[0, 2:5] = np.nan, np.inf, -np.inf
            got = session.run({"x": x})
            order = np.array([_order(row, largest) for row in x])[:, :5]
            np.testing.assert_array_equal(got["places"], order)
            np.testing.assert_array_equal(got["values"], np.take_along_axis(x, order, 1))


def _order(row: np.ndarray, largest: int) -> list[int]:
    """Places in order; NaN is the largest, equals stay in order."""
    sign = -1 if largest else 1

    def key(place: int) -> tuple[float, float]:
        is_nan = bool(np.isnan(row[place]))
        return sign * float(is_nan), 0.0 if is_nan else sign * float(row[place])

    return sorted(range(len(row)), key=key)
