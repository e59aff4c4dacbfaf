"""Operators that ONNX itself defines by a function body, for those we have no importer for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import onnx

from isthmus.frontends.onnx.builder import Tensor
from isthmus.frontends.onnx.tensors import DTYPES
from isthmus.ir.types import TensorType


class _Schema(Protocol):
    """The parts of `onnx.defs.OpSchema` that its own stub leaves out."""

    @property
    def attributes(self) -> Mapping[str, onnx.defs.OpSchema.Attribute]: ...
    @property
    def has_function(self) -> bool: ...
    @property
    def has_context_dependent_function(self) -> bool: ...
    @property
    def function_opset_versions(self) -> Sequence[int]: ...
    @property
    def context_dependent_function_opset_versions(self) -> Sequence[int]: ...
    def get_function_with_opset_version(self, version: int, /) -> bytes: ...
    def get_context_dependent_function_with_opset_version(
        self, version: int, node: bytes, types: Sequence[bytes], /
    ) -> bytes: ...


_CODES = {dtype: code for code, dtype in DTYPES.items()}


def has_body(op_type: str, domain: str, opset: int) -> bool:
    """Whether ONNX says what this operator does in terms of others."""
    schema = _schema(op_type, domain, opset)
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def body(
    node: onnx.NodeProto,
    opset: int,
    attributes: Mapping[str, onnx.AttributeProto],
    inputs: Sequence[Tensor | None],
) -> onnx.FunctionProto | None:
    """The body of `node`'s operator, defaults of its attributes included; None when these inputs have none.

    `attributes` are the node's, with those that refer to a caller's replaced.
    """
    schema = _schema(node.op_type, "" if node.domain == "ai.onnx" else node.domain, opset)
    if schema is None:
        return None
    if schema.has_function:
        version = _newest(schema.function_opset_versions, opset)
        found = schema.get_function_with_opset_version(version)
    elif schema.has_context_dependent_function:
        version = _newest(schema.context_dependent_function_opset_versions, opset)
        types = [_type_proto(t).SerializeToString() for t in inputs]
        raw = _resolved(node, attributes).SerializeToString()
        found = schema.get_context_dependent_function_with_opset_version(version, raw, types)
    else:
        return None
    function = onnx.FunctionProto()
    function.ParseFromString(found)
    given = {a.name for a in function.attribute_proto}
    function.attribute_proto.extend(
        a.default_value for n, a in schema.attributes.items() if n not in given and a.default_value.name
    )
    return function if function.node else None


def _resolved(node: onnx.NodeProto, attributes: Mapping[str, onnx.AttributeProto]) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.attribute[:]
    for name, attribute in attributes.items():
        added = copy.attribute.add()
        added.CopyFrom(attribute)
        added.name = name  # inside a function it may have another one
    return copy


def _schema(op_type: str, domain: str, opset: int) -> _Schema | None:
    try:
        return cast(_Schema, onnx.defs.get_schema(op_type, opset, domain))
    except onnx.defs.SchemaError:
        return None


def _newest(versions: Sequence[int], opset: int) -> int:
    return max((v for v in versions if v <= opset), default=min(versions))


def _type_proto(tensor: Tensor | None) -> onnx.TypeProto:
    if tensor is None:
        return onnx.TypeProto()
    type_: TensorType = tensor.type
    dims = [d if isinstance(d, int) else str(d) for d in type_.shape]
    return onnx.helper.make_tensor_type_proto(_CODES[type_.dtype], dims)
