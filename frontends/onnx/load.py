"""From a path to a parsed ONNX model, or to one problem that says why not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from isthmus.errors import Code, ModelError, Problem
from isthmus.frontends.onnx.limits import check_count

# A protobuf message cannot be longer.
LARGEST_MESSAGE = 2**31 - 1


def load(path: Path) -> tuple[onnx.ModelProto, str]:
    """The model in the file at `path` and the SHA-256 of its bytes. Raises `ModelError`."""
    data = read_bytes(path)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        hint = "the file is damaged, incomplete, or not an ONNX model"
        raise ModelError(
            Problem(Code.NOT_ONNX, f"cannot be read as ONNX: {error}", str(path), hint)
        ) from None
    check_is_model(model, path)
    check_count(model, str(path))
    if not all(isinstance(text, str) for text in texts(model)):
        hint = "the file is damaged"
        raise ModelError(Problem(Code.NOT_ONNX, "names in this file are not UTF-8 text", str(path), hint))
    return model, hashlib.sha256(data).hexdigest()


def read_bytes(path: Path) -> bytes:
    """The contents of a regular file of a size that protobuf can hold. Raises `ModelError`."""
    if not path.exists():
        raise ModelError(Problem(Code.NO_SUCH_FILE, "there is no such file", str(path)))
    if path.is_dir():
        hint = "give the path of the .onnx file inside it"
        raise ModelError(Problem(Code.NOT_A_FILE, "this is a folder", str(path), hint))
    if not path.is_file():
        raise ModelError(Problem(Code.NOT_A_FILE, "this is not a regular file", str(path)))
    try:
        size = path.stat().st_size
        if size > LARGEST_MESSAGE:
            hint = "save the model with external data"
            raise ModelError(
                Problem(Code.TOO_LARGE, f"{size} bytes are more than protobuf allows", str(path), hint)
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelError(Problem(Code.NOT_A_FILE, f"cannot be read: {error.strerror}", str(path))) from None


def check_is_model(model: onnx.ModelProto, path: Path) -> None:
    """Other bytes may happen to parse; a model has a graph and the graph has outputs."""
    if not model.HasField("graph"):
        known = model.ir_version or len(model.opset_import)
        code = Code.EMPTY_MODEL if known or path.stat().st_size == 0 else Code.NOT_ONNX
        text = "the file is empty" if path.stat().st_size == 0 else "there is no graph in this file"
        raise ModelError(Problem(code, text, str(path)))
    if not model.graph.output:
        text = "the graph has no outputs, so there is nothing to compute"
        raise ModelError(Problem(Code.EMPTY_MODEL, text, str(path)))


def texts(model: onnx.ModelProto) -> Iterator[object]:
    """Every text that the frontend reads; protobuf hands over what is not UTF-8 as bytes."""
    for opset in model.opset_import:
        yield opset.domain
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output, *function.attribute)
        for node in function.node:
            yield from _node_texts(node)
    yield from _graph_texts(model.graph)


def _graph_texts(graph: onnx.GraphProto) -> Iterator[object]:
    for info in (*graph.input, *graph.output):
        yield info.name
        for dim in info.type.tensor_type.shape.dim:
            yield dim.dim_param
    for tensor in graph.initializer:
        yield from _tensor_texts(tensor)
    for node in graph.node:
        yield from _node_texts(node)


def _node_texts(node: onnx.NodeProto) -> Iterator[object]:
    yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
    for attribute in node.attribute:
        yield attribute.name
        yield attribute.ref_attr_name
        if attribute.HasField("t"):
            yield from _tensor_texts(attribute.t)
        if attribute.HasField("g"):
            yield from _graph_texts(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_texts(graph)


def _tensor_texts(tensor: onnx.TensorProto) -> Iterator[object]:
    yield tensor.name
    for entry in tensor.external_data:
        yield entry.key
        yield entry.value
