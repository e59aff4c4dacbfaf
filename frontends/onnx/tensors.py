"""ONNX tensors as weights: embedded, or in files beside the model that are read when needed.

Nothing in a model file is believed: lengths are compared with shapes, and external data must lie inside
the model's own folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from isthmus.errors import Code, ModelError, Problem
from isthmus.frontends.onnx.limits import check_type
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ir.weights import InFile, InMemory, Unpacked, Weight

DTYPES: Mapping[int, DType] = {
    onnx.TensorProto.FLOAT: DType.F32,
    onnx.TensorProto.FLOAT16: DType.F16,
    onnx.TensorProto.BFLOAT16: DType.BF16,
    onnx.TensorProto.DOUBLE: DType.F64,
    onnx.TensorProto.INT8: DType.I8,
    onnx.TensorProto.INT16: DType.I16,
    onnx.TensorProto.INT32: DType.I32,
    onnx.TensorProto.INT64: DType.I64,
    onnx.TensorProto.UINT8: DType.U8,
    onnx.TensorProto.UINT16: DType.U16,
    onnx.TensorProto.UINT32: DType.U32,
    onnx.TensorProto.UINT64: DType.U64,
    onnx.TensorProto.BOOL: DType.BOOL,
    onnx.TensorProto.FLOAT8E4M3FN: DType.F8E4M3,
    onnx.TensorProto.FLOAT8E4M3FNUZ: DType.F8E4M3FNUZ,
    onnx.TensorProto.FLOAT8E5M2: DType.F8E5M2,
    onnx.TensorProto.FLOAT8E5M2FNUZ: DType.F8E5M2FNUZ,
    onnx.TensorProto.FLOAT8E8M0: DType.F8E8M0,
    onnx.TensorProto.FLOAT4E2M1: DType.F4E2M1,
}

# Numbers of less than a byte: (bits, the type they are read as).
NARROW: Mapping[int, tuple[int, DType]] = {
    onnx.TensorProto.INT4: (4, DType.I8),
    onnx.TensorProto.UINT4: (4, DType.U8),
    onnx.TensorProto.INT2: (2, DType.I8),
    onnx.TensorProto.UINT2: (2, DType.U8),
    onnx.TensorProto.FLOAT4E2M1: (4, DType.F4E2M1),
}

# The repeated field that holds elements when raw_data does not (onnx.proto).
FIELDS: Mapping[DType, str] = {
    DType.F32: "float_data",
    DType.F64: "double_data",
    DType.I64: "int64_data",
    DType.U32: "uint64_data",
    DType.U64: "uint64_data",
}

CHUNK = 1 << 22  # elements looked at together for NaN


def dtype_of(code: int, where: str) -> DType:
    """The element type with ONNX's number `code`. Raises `ModelError` E1205."""
    if code in DTYPES:
        return DTYPES[code]
    names = {number: name for name, number in onnx.TensorProto.DataType.items()}
    text = f"element type {names.get(code, code)} is not supported"
    raise ModelError(Problem(Code.UNSUPPORTED_DTYPE, text, where, f"supported: {', '.join(map(str, DType))}"))


def weight_from(tensor: onnx.TensorProto, folder: Path, where: str) -> Weight:
    """`tensor` as a handle. `folder` is the model's. Raises `ModelError`."""
    bits, dtype = NARROW.get(tensor.data_type, (0, None))
    dtype = dtype or dtype_of(tensor.data_type, where)
    shape = tuple(tensor.dims)
    if any(d < 0 for d in shape):
        raise _invalid(f"the shape {list(shape)} has a negative dim", where)
    type_ = TensorType(dtype, shape)
    check_type(type_, where)
    nbytes = math.prod(shape) * dtype.bytes
    if bits:
        return Weight(where, type_, _narrow(tensor, math.prod(shape), bits, dtype is DType.I8, folder, where))
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return Weight(where, type_, external(tensor, nbytes, folder, where))
    return Weight(where, type_, InMemory(embedded(tensor, type_, where)))


def _narrow(
    tensor: onnx.TensorProto, count: int, bits: int, signed: bool, folder: Path, where: str
) -> Unpacked:
    """`count` numbers of less than 8 bits, read as bytes."""
    nbytes = -(-count * bits // 8)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return Unpacked(external(tensor, nbytes, folder, where), bits, signed, count)
    # Where the elements are a list, each of its numbers is a byte.
    raw = tensor.raw_data if tensor.HasField("raw_data") else bytes(n & 0xFF for n in tensor.int32_data)
    if len(raw) != nbytes:
        raise _invalid(f"{count} elements of {bits} bits need {nbytes} bytes, the file has {len(raw)}", where)
    return Unpacked(InMemory(raw), bits, signed, count)


def embedded(tensor: onnx.TensorProto, type_: TensorType, where: str) -> bytes:
    """The bytes of a tensor stored in the model file, in row order. Raises `ModelError` E1104."""
    count = math.prod(type_.static_shape)
    if tensor.HasField("raw_data"):
        raw = tensor.raw_data
        if len(raw) != count * type_.dtype.bytes:
            text = f"{type_} needs {count * type_.dtype.bytes} bytes, raw_data has {len(raw)}"
            raise _invalid(text, where)
        return raw
    field = getattr(tensor, FIELDS.get(type_.dtype, "int32_data"))
    if len(field) != count:
        raise _invalid(f"{type_} needs {count} elements, the file has {len(field)}", where)
    return elements(field, type_.dtype, where).tobytes()


def elements(field: object, dtype: DType, where: str) -> Array:
    """The elements of a repeated field; floats of less than 32 bits are stored as their bits."""
    if dtype.is_narrow:
        return np.array(field, np.int32).astype(f"u{dtype.bytes}").view(dtype.numpy)
    values = np.array(field)
    if values.size and dtype.is_integer:
        limits = np.iinfo(dtype.numpy.type)  # type: ignore[type-var]
        if int(values.min()) < limits.min or int(values.max()) > limits.max:
            raise _invalid(f"elements do not fit into {dtype}", where)
    return values.astype(dtype.numpy)


def external(tensor: onnx.TensorProto, nbytes: int, folder: Path, where: str) -> InFile:
    """Where the bytes of `tensor` lie in a file below `folder`. Raises `ModelError` E1105."""
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    if not location:
        raise _external("external data without a location", where)
    parts = location.replace("\\", "/").split("/")
    if location.startswith(("/", "\\")) or ":" in parts[0] or "\0" in location:
        raise _external(f"external data at {location!r}: the path must be relative to the model", where)
    if ".." in parts:
        raise _external(f"external data at {location!r}: '..' may not be part of the path", where)
    path = folder / location
    try:
        path = path.resolve()
        inside = path.is_relative_to(folder.resolve())
        is_file = path.is_file()
        size = path.stat().st_size if is_file else 0
    except (OSError, RuntimeError, ValueError) as error:
        raise _external(f"external data at {location!r}: {error}", where) from None
    if not inside:
        raise _external(f"external data at {location!r}: a link leads out of the model's folder", where)
    if not is_file:
        raise _external(f"external data: there is no file {location!r} beside the model", where)
    offset = _number(entries.get("offset", "0"), "offset", where)
    length = _number(entries.get("length", str(nbytes)), "length", where)
    if length != nbytes:
        raise _external(f"external data of {length} bytes for a tensor of {nbytes}", where)
    if offset + nbytes > size:
        text = f"external data {location!r} has {size} bytes, the tensor ends at {offset + nbytes}"
        raise _external(text, where)
    return InFile(path, offset, nbytes)


def _number(text: str, key: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise _external(f"external data: {key} is {text[:40]!r}, not a size in bytes", where)
    return int(text)


def has_nan(weight: Weight) -> bool:
    """Whether a floating-point weight has a NaN anywhere."""
    if not weight.type.dtype.is_float:
        return False
    flat = weight.read().reshape(-1)
    for start in range(0, flat.size, CHUNK):
        part = flat[start : start + CHUNK]
        with np.errstate(all="ignore"):
            # A sum of squares is NaN exactly when an element is, and BLAS reads at the speed of memory.
            wide = part.dtype.itemsize >= 4
            found = math.isnan(np.dot(part, part)) if wide else bool(np.isnan(part).any())
        if found:
            return True
    return False


def _invalid(text: str, where: str) -> ModelError:
    return ModelError(Problem(Code.INVALID_GRAPH, text, where))


def _external(text: str, where: str) -> ModelError:
    hint = "the files of a model belong into one folder; download or copy them all"
    return ModelError(Problem(Code.EXTERNAL_DATA, text, where, hint))
