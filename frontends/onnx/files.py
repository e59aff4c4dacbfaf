"""The files that a model is made of, by digest: what a build depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx

from isthmus.frontends.onnx.load import load


def file_digests(path: Path) -> dict[str, str]:
    """The SHA-256 of the model file (under ".") and of each file of external data, by its name in the model.

    A name that leads nowhere, or out of the model's folder, has an empty digest: the import refuses it.
    Raises `ModelError` when the file is no model.
    """
    model, digest = load(path)
    names = sorted(set(_locations(model)))
    return {".": digest, **{name: _digest(path.parent, name) for name in names}}


def _digest(folder: Path, name: str) -> str:
    try:
        file = (folder / name).resolve()
        if not file.is_relative_to(folder.resolve()) or not file.is_file():
            return ""
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except (OSError, RuntimeError, ValueError):
        return ""


def _locations(model: onnx.ModelProto) -> Iterator[str]:
    for tensor in (*_tensors(model.graph), *(t for f in model.functions for n in f.node for t in _held(n))):
        yield from (entry.value for entry in tensor.external_data if entry.key == "location")


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _held(node)


def _held(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        yield from (attribute.t, *attribute.tensors)
        for graph in (attribute.g, *attribute.graphs):
            yield from _tensors(graph)
