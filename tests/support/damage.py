"""Damaged models: real ones with something wrong, and small files that ask for everything.

All of it is made from seeds: one seed, one corpus.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

NUMBERS = (0, 1, -1, 2, 7, -(2**31), 2**31 - 1, 2**31, 2**40, 2**62, -(2**63), 2**63 - 1)
REALS = (0.0, -1.0, 1e30, float("inf"), float("nan"))
OPERATORS = (
    "Reshape", "Gather", "Softmax", "Concat", "Nothing", "Attention", "Expand", "Tile", "Slice", "Loop", "If",
    "Conv", "Resize", "Pad", "Einsum", "TopK", "DequantizeLinear", "Range", "ConstantOfShape", "LSTM",
)  # fmt: skip

Damage = Callable[[random.Random, onnx.ModelProto], None]


def damaged(rng: random.Random, good: bytes) -> bytes:
    """`good`, a serialized model, with one kind of damage, or sometimes two."""
    if rng.random() < 0.25:
        return _bytes_changed(rng, good)
    model = onnx.load_from_string(good)
    for _ in range(rng.choice((1, 1, 1, 2))):
        rng.choice(DAMAGES)(rng, model)
    try:
        return model.SerializeToString()
    except (ValueError, UnicodeEncodeError):
        return good


def _bytes_changed(rng: random.Random, good: bytes) -> bytes:
    """Bytes flipped, a part cut out, a part doubled, or the end missing."""
    data = bytearray(good)
    match rng.randrange(5):
        case 0 | 1:
            for _ in range(rng.randint(1, 8)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 2:
            del data[rng.randrange(len(data)) :]
        case 3:
            start = rng.randrange(len(data))
            del data[start : start + rng.randint(1, 64)]
        case 4:
            start = rng.randrange(len(data))
            data[start:start] = data[start : start + rng.randint(1, 64)]
    return bytes(data)


# --- fields: any of them, found by chance ---------------------------------------------------------


def _field(rng: random.Random, model: onnx.ModelProto) -> tuple[Message, FieldDescriptor]:
    """Some field that is set, of some message in `model`."""
    message: Message = model
    while True:
        fields = [field for field, _ in message.ListFields()]
        inner = [f for f in fields if f.type == FieldDescriptor.TYPE_MESSAGE]
        if not fields:
            return model, model.ListFields()[0][0]
        if not inner or (message is not model and rng.random() < 0.3):
            return message, rng.choice(fields)
        field = rng.choice(inner)
        value = getattr(message, field.name)
        message = rng.choice(value) if _is_list(field) else value


def _is_list(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def _field_deleted(rng: random.Random, model: onnx.ModelProto) -> None:
    message, field = _field(rng, model)
    if _is_list(field) and rng.random() < 0.7:
        values = getattr(message, field.name)
        del values[rng.randrange(len(values))]
    else:
        message.ClearField(field.name)


def _field_changed(rng: random.Random, model: onnx.ModelProto) -> None:
    message, field = _field(rng, model)
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if _is_list(field):
            values = getattr(message, field.name)
            values.append(rng.choice(values))
        return
    old = getattr(message, field.name)
    if _is_list(field):
        old[rng.randrange(len(old))] = _other(rng, model, field, old[0])
    else:
        setattr(message, field.name, _other(rng, model, field, old))


def _other(rng: random.Random, model: onnx.ModelProto, field: FieldDescriptor, old: Any) -> Any:
    """Another value for a field."""
    if isinstance(old, str):
        return rng.choice((rng.choice(_names(model)), rng.choice(OPERATORS), "", "\0", old * 2))
    if isinstance(old, bytes):
        return rng.choice((old[: len(old) // 2], old * 2, b"", old[::-1]))
    if isinstance(old, float):
        return rng.choice(REALS)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return rng.choice(list(field.enum_type.values_by_number))
    small = field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32)
    unsigned = field.type in (FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_UINT64)
    fitting = [n for n in NUMBERS if not (unsigned and n < 0) and not (small and not -(2**31) <= n < 2**31)]
    return rng.choice(fitting)


def _names(model: onnx.ModelProto) -> list[str]:
    return [name for node in model.graph.node for name in (*node.input, *node.output)] or [""]


# --- meanings: what tends to hurt -----------------------------------------------------------------


def _wired_otherwise(rng: random.Random, model: onnx.ModelProto) -> None:
    node = rng.choice(model.graph.node)
    match rng.randrange(4):
        case 0 if node.input:
            del node.input[rng.randrange(len(node.input)) :]
        case 1 if node.input:
            node.input[rng.randrange(len(node.input))] = rng.choice(_names(model))
        case 2:
            node.op_type = rng.choice(OPERATORS)
        case _:
            node.input.append(rng.choice(_names(model)))


def _other_rank(rng: random.Random, model: onnx.ModelProto) -> None:
    """An axis more, less, or many more, of a weight or an input."""
    dims = _some_dims(rng, model)
    match rng.randrange(3):
        case 0:
            del dims[-1:]
        case 1:
            _append(dims, 1)
        case 2:
            for _ in range(rng.choice((3, 40, 3000))):
                _append(dims, 1)


def _huge_dims(rng: random.Random, model: onnx.ModelProto) -> None:
    dims = _some_dims(rng, model)
    for i in range(len(dims)):
        if rng.random() < 0.6:
            number = rng.choice(NUMBERS)
            if isinstance(dims[i], int):
                dims[i] = number
            else:
                dims[i].dim_value = number


def _some_dims(rng: random.Random, model: onnx.ModelProto) -> Any:
    if model.graph.initializer and rng.random() < 0.6:
        return rng.choice(model.graph.initializer).dims
    return rng.choice(model.graph.input).type.tensor_type.shape.dim


def _append(dims: Any, number: int) -> None:
    if hasattr(dims, "add"):
        dims.add().dim_value = number
    else:
        dims.append(number)


def _huge_constant(rng: random.Random, model: onnx.ModelProto) -> None:
    """Integers that may be sizes, made larger."""
    integers = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT64]
    integers += [
        a.t
        for node in model.graph.node
        for a in node.attribute
        if a.HasField("t") and a.t.data_type == onnx.TensorProto.INT64
    ]
    if not integers:
        return
    tensor = rng.choice(integers)
    count = len(tensor.raw_data) // 8
    if count:
        place = 8 * rng.randrange(count)
        number = rng.choice(NUMBERS).to_bytes(8, "little", signed=True)
        tensor.raw_data = tensor.raw_data[:place] + number + tensor.raw_data[place + 8 :]


def _external(rng: random.Random, model: onnx.ModelProto) -> None:
    """Weights that lie in files: over each other, beyond the end, or where nobody may look."""
    places = ("weights.bin", "weights.bin", "../weights.bin", "/etc/passwd", "none.bin", ".", "link.bin", "")
    for tensor in model.graph.initializer:
        if rng.random() < 0.5:
            continue
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entries = {
            "location": rng.choice(places),
            "offset": str(rng.choice((0, 0, 0, 1, 4096, 2**62, -1))),
            "length": str(rng.choice((length, length, length, 0, 2**62, -1))),
        }
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value)


DAMAGES: tuple[Damage, ...] = (
    _field_deleted, _field_changed, _field_changed, _wired_otherwise, _other_rank, _huge_dims,
    _huge_constant, _external,
)  # fmt: skip


def put_files(folder: Path) -> None:
    """The files that models with external data name."""
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 256)
    (folder / "link.bin").symlink_to("/etc/hostname")


# --- small files that ask for everything ----------------------------------------------------------


def _tag(number: int, content: bytes) -> bytes:
    """A protobuf field that has a length."""
    size, digits = len(content), bytearray()
    while size > 127:
        digits.append(size & 127 | 128)
        size >>= 7
    return bytes((number << 3 | 2, *digits, size)) + content


def _graph(model: onnx.ModelProto, number: int, contents: Iterator[bytes]) -> bytes:
    """`model` with more in the field `number` of its graph. (By hand: a million messages take time.)"""
    graph = b"".join(_tag(number, content) for content in contents)
    return bytes(model.SerializeToString()) + _tag(7, graph)


node = onnx.helper.make_node
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def _model(nodes: Sequence[onnx.NodeProto], **constants: list[int]) -> onnx.ModelProto:
    """`nodes` from x[b, 4] to y."""
    info = onnx.helper.make_tensor_value_info
    vectors = [onnx.helper.make_tensor(name, INT64, [len(v)], v) for name, v in constants.items()]
    weight = onnx.helper.make_tensor("w", FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    yes = onnx.helper.make_tensor("yes", onnx.TensorProto.BOOL, [], [True])
    graph = onnx.helper.make_graph(
        nodes, "g", [info("x", FLOAT, ["b", 4])], [info("y", FLOAT, None)], [*vectors, weight, yes]
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


def _chain(first: str, last: str, operator: str, count: int) -> Iterator[bytes]:
    names = [first, *(f"v{i}" for i in range(count - 1)), last]
    for before, after in pairwise(names):
        yield _tag(1, before.encode()) + _tag(2, after.encode()) + _tag(4, operator.encode())


def _doubling(operator: str, count: int, **attributes: int) -> bytes:
    """A constant that doubles `count` times and is added up."""
    second = {"Tile": "two", "Concat": ""}[operator]
    nodes = [
        node(operator, [f"t{i}", second or f"t{i}"], [f"t{i + 1}"], **attributes) for i in range(1, count)
    ]
    nodes = [node(operator, ["w", second or "w"], ["t1"], **attributes), *nodes]
    nodes += [node("ReduceSum", [f"t{count}"], ["s"]), node("Add", ["x", "s"], ["y"])]
    return bytes(_model(nodes, two=[2]).SerializeToString())


def _filled(size: list[int], *operators: str) -> bytes:
    """A constant of `size`, through `operators`, added up."""
    nodes = [node("ConstantOfShape", ["size"], ["c0"])]
    nodes += [
        node(op, [f"c{i}", *(["zero"] if op == "CumSum" else [])], [f"c{i + 1}"])
        for i, op in enumerate(operators)
    ]
    nodes += [node("ReduceSum", [f"c{len(operators)}"], ["s"]), node("Add", ["x", "s"], ["y"])]
    return bytes(_model(nodes, size=size, zero=[0]).SerializeToString())


def _functions(count: int) -> bytes:
    """Functions that each call the one before twice."""
    own = onnx.helper.make_opsetid("f", 1), onnx.helper.make_opsetid("", 18)
    made = [onnx.helper.make_function("f", "F0", ["a"], ["b"], [node("Tanh", ["a"], ["b"])], own)]
    for i in range(1, count):
        calls = [node(f"F{i - 1}", [a], [b], domain="f") for a, b in (("a", "m"), ("m", "b"))]
        made.append(onnx.helper.make_function("f", f"F{i}", ["a"], ["b"], calls, own))
    model = _model([node(f"F{count - 1}", ["x"], ["y"], domain="f")])
    model.functions.extend(made)
    model.opset_import.append(own[0])
    return bytes(model.SerializeToString())


def _nested(count: int) -> bytes:
    """Branches in branches; the others are short."""

    def branch(name: str, inner: bytes, result: str) -> bytes:
        graph = _tag(1, inner) + _tag(2, b"g") + _tag(12, _tag(1, result.encode()))
        return _tag(5, _tag(1, name.encode()) + _tag(6, graph) + bytes((0xA0, 1, 5)))  # type: GRAPH

    def tanh(result: str) -> bytes:
        return _tag(1, b"x") + _tag(2, result.encode()) + _tag(4, b"Tanh")

    inner = tanh("o0")
    for i in range(count):
        branches = branch("then_branch", inner, f"o{i}") + branch("else_branch", tanh(f"e{i}"), f"e{i}")
        inner = _tag(1, b"yes") + _tag(2, f"o{i + 1}".encode()) + _tag(4, b"If") + branches
    last = _tag(1, f"o{count}".encode()) + _tag(2, b"y") + _tag(4, b"Identity")
    return _graph(_model([]), 1, iter((inner, last)))


def _loops(depth: int, trips: int) -> bytes:
    """Loops in loops."""
    info = onnx.helper.make_tensor_value_info

    def body(level: int) -> onnx.GraphProto:
        state, result = f"s{level}", f"r{level}"
        inner = (
            node("Tanh", [state], [result])
            if level == 0
            else node("Loop", ["trips", "yes", state], [result], body=body(level - 1))
        )
        going = node("Identity", [f"c{level}"], [f"d{level}"])
        shape = ["b", 4]
        inputs = [info(f"i{level}", INT64, []), info(f"c{level}", 9, []), info(state, FLOAT, shape)]
        outputs = [info(f"d{level}", 9, []), info(result, FLOAT, shape)]
        return onnx.helper.make_graph([inner, going], "body", inputs, outputs)

    model = _model([node("Loop", ["trips", "yes", "x"], ["y"], body=body(depth - 1))], trips=[trips])
    return bytes(model.SerializeToString())


def _of_rank(rank: int) -> bytes:
    nodes = [node("Unsqueeze", ["x", "axes"], ["z"]), node("Tanh", ["z"], ["y"])]
    return bytes(_model(nodes, axes=list(range(rank))).SerializeToString())


def _with_input(shape: Sequence[int | str]) -> bytes:
    model = _model([node("Tanh", ["x"], ["y"])])
    model.graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("x", FLOAT, shape))
    return bytes(model.SerializeToString())


def _nothing(count: int) -> Iterator[bytes]:
    tensor = bytes((1 << 3, 1, 2 << 3, 1)) + _tag(9, bytes(4))  # dims [1], FLOAT, four bytes
    return (tensor + _tag(8, f"c{i}".encode()) for i in range(count))


MILLION = 10**6

# By name; each makes its file when it is called. Those of MANY take seconds to make or to read.
MONSTERS: Mapping[str, Callable[[], bytes]] = {
    "a constant of 10^12": lambda: _filled([10**12]),
    "arithmetic on 10^12": lambda: _filled([10**12], "Cos", "CumSum", "Exp"),
    "arithmetic on 10^18": lambda: _filled([10**9, 10**9], "Cos"),
    "a product of 10^5 x 10^5": lambda: _filled([10**5, 10**5], "CumSum", "Softmax"),
    "tiles of tiles": lambda: _doubling("Tile", 50),
    "joined with itself": lambda: _doubling("Concat", 50, axis=0),
    "functions a hundred deep": lambda: _functions(100),
    "branches 10 deep": lambda: _nested(10),
    "branches 20 deep": lambda: _nested(20),
    "branches 1000 deep": lambda: _nested(1000),
    "loops 12 deep": lambda: _loops(12, 2),
    "3000 axes": lambda: _of_rank(3000),
    "an input of 3000 axes": lambda: _with_input([f"d{i}" for i in range(3000)]),
    "an input of 10^96": lambda: _with_input([10**12] * 8),
    "a sum of 10^5": lambda: bytes(_model([node("Sum", ["x"] * 10**5, ["y"])]).SerializeToString()),
    "padding of 10^18": lambda: bytes(
        _model([node("Pad", ["x", "p"], ["y"])], p=[10**18] * 4).SerializeToString()
    ),
}
MANY: Mapping[str, Callable[[], bytes]] = {
    "functions twice": lambda: _functions(40),
    "loops in loops": lambda: _loops(3, 1000),
    "10^6 nodes": lambda: _graph(_model([]), 1, _chain("x", "y", "Identity", MILLION)),
    "10^6 unused nodes": lambda: _graph(
        _model([node("Tanh", ["x"], ["y"])]), 1, _chain("x", "z", "Tanh", MILLION)
    ),
    "10^6 unused constants": lambda: _graph(_model([node("Tanh", ["x"], ["y"])]), 5, _nothing(MILLION)),
    "as many nodes as are taken": lambda: _graph(_model([]), 1, _chain("x", "y", "Identity", 99_000)),
    "as many values as are taken": lambda: _graph(_model([]), 1, _chain("x", "y", "Tanh", 39_000)),
}
