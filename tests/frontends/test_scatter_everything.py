"""ScatterND at every place in order, as exporters write x[:, :, :, :] = y: it is y."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

node = helper.make_node


def test_scatter_at_every_place_is_the_updates(tools: Any, tmp_path: Path) -> None:
    """Each place looking for its update would be (b * s)^2 comparisons."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "0"], ["b"]),
        node("Gather", ["shape", "1"], ["s"]),
        node("Range", ["0", "b", "1"], ["rows"]),
        node("Range", ["0", "s", "1"], ["columns"]),
        node("Unsqueeze", ["rows", "last"], ["tall"]),
        node("Expand", ["tall", "shape"], ["all_rows"]),
        node("Expand", ["columns", "shape"], ["all_columns"]),
        node("Unsqueeze", ["all_rows", "last"], ["i"]),
        node("Unsqueeze", ["all_columns", "last"], ["j"]),
        node("Concat", ["i", "j"], ["ij"], axis=-1),
        node("ScatterND", ["x", "ij", "y"], ["z"]),
    ]
    constants = {"0": np.int64(0), "1": np.int64(1), "last": np.array([-1])}
    inputs = {"x": "f32[b,s]", "y": "f32[b,s]"}
    program = tools.check_model(tools.make_model(nodes, inputs, ["z"], constants), inputs, tmp_path)
    assert {value.op.name for value in program.main.nodes()} <= {"reshape"}
