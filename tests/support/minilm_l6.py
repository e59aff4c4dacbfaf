"""all-MiniLM-L6-v2 as ONNX: its published weights (safetensors) in the graph of a BERT encoder, mean pooled.

python tests/support/minilm_l6.py WEIGHTS.safetensors MODEL.onnx
"""

from __future__ import annotations

import json
import re
import struct
import sys
from pathlib import Path

import numpy as np
import onnx
from models import bert
from onnx import TensorProto, helper, numpy_helper

LAYERS, HIDDEN, HEADS, INNER = 6, 384, 12, 1536

# What the writer of graphs calls a weight, and what the checkpoint does.
_NAMES = (
    (r"embeddings\.(word|position)", r"embeddings.\1_embeddings.weight"),
    (r"embeddings\.type", "embeddings.token_type_embeddings.weight"),
    (r"embeddings/norm\.(\w+)", r"embeddings.LayerNorm.\1"),
    (r"layer\.(\d)/(query|key|value)\.(\w+)", r"encoder.layer.\1.attention.self.\2.\3"),
    (r"layer\.(\d)/projection\.(\w+)", r"encoder.layer.\1.attention.output.dense.\2"),
    (r"layer\.(\d)/norm\.(\w+)", r"encoder.layer.\1.attention.output.LayerNorm.\2"),
    (r"layer\.(\d)/up\.(\w+)", r"encoder.layer.\1.intermediate.dense.\2"),
    (r"layer\.(\d)/down\.(\w+)", r"encoder.layer.\1.output.dense.\2"),
    (r"layer\.(\d)/norm_1\.(\w+)", r"encoder.layer.\1.output.LayerNorm.\2"),
)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The f32 tensors of a file: eight bytes of length, a JSON header, then the bytes it points into."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    found = {}
    for name, entry in header.items():
        if entry.get("dtype") == "F32":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            found[name] = np.frombuffer(content[begin:end], "<f4").reshape(entry["shape"])
    return found


def trained_name(name: str) -> str | None:
    """The checkpoint's name of a weight of the graph; None for constants that are no weights."""
    for pattern, trained in _NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(trained)
    return None


def all_minilm_l6(weights: Path) -> onnx.ModelProto:
    """input_ids, attention_mask i64[batch, sequence] -> sentence_embedding f32[batch, 384]."""
    trained = read_safetensors(weights)
    model = bert(layers=LAYERS, hidden=HIDDEN, heads=HEADS, inner=INNER, name="all-MiniLM-L6-v2")
    for initializer in model.graph.initializer:
        name = trained_name(initializer.name)
        if name is None:
            continue
        array, shape = trained[name], tuple(initializer.dims)
        if name.endswith("dense.weight") or re.search(r"self\.\w+\.weight", name):
            array = array.T  # a checkpoint holds [out, in]
        if name.endswith("token_type_embeddings.weight"):
            array = array[0]
        initializer.CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(array).reshape(shape), initializer.name)
        )
    _pool(model.graph)
    onnx.checker.check_model(model)
    return model


def _pool(graph: onnx.GraphProto) -> None:
    """The mean of the rows that are no padding instead of all rows."""
    graph.initializer.append(numpy_helper.from_array(np.asarray([1]), "pool/axis"))
    graph.initializer.append(numpy_helper.from_array(np.asarray([2]), "pool/last"))
    graph.node.extend(
        [
            helper.make_node(
                "Cast", ["attention_mask"], ["pool/mask"], name="/pool/Cast", to=TensorProto.FLOAT
            ),
            helper.make_node(
                "Unsqueeze", ["pool/mask", "pool/last"], ["pool/column"], name="/pool/Unsqueeze"
            ),
            helper.make_node("Mul", ["last_hidden_state", "pool/column"], ["pool/kept"], name="/pool/Mul"),
            helper.make_node(
                "ReduceSum", ["pool/kept", "pool/axis"], ["pool/sum"], name="/pool/Sum", keepdims=0
            ),
            helper.make_node(
                "ReduceSum", ["pool/column", "pool/axis"], ["pool/count"], name="/pool/Count", keepdims=0
            ),
            helper.make_node("Div", ["pool/sum", "pool/count"], ["sentence_embedding"], name="/pool/Div"),
        ]
    )
    del graph.output[:]
    graph.output.append(
        helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", HIDDEN])
    )


if __name__ == "__main__":
    onnx.save(all_minilm_l6(Path(sys.argv[1])), sys.argv[2])
