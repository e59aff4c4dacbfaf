"""Every op: its type rule and its reference agree on examples of all kinds, and bad arguments are refused."""

from __future__ import annotations

import numpy as np
import pytest

from isthmus.ir.dims import symbol
from isthmus.ir.evaluate import apply
from isthmus.ir.graph import Attr, Kind, Op, Trait, TypeMismatch, Value, counted_by, graph_input
from isthmus.ir.read import parse_type
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ir.verify import KINDS
from isthmus.ops import OPS
from isthmus.tools.conformance.examples import EXAMPLES, SIZES

CASES = [pytest.param(name, i, id=f"{name}-{i}") for name in EXAMPLES for i in range(len(EXAMPLES[name]))]


def value_of(op: Op, types: str, attrs: dict[str, Attr]) -> Value:
    inputs = [graph_input(f"x{i}", parse_type(t)) for i, t in enumerate(types.split())]
    return op(*inputs, **attrs)


def arrays_for(value: Value, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    arrays = []
    for arg in value.args:
        shape = arg.t.substitute(SIZES).static_shape
        numbers = rng.integers(0, 3, shape) if not arg.dtype.is_float else rng.uniform(0.2, 2, shape)
        arrays.append(np.asarray(numbers).astype(arg.dtype.numpy))
    return arrays


def test_every_op_has_examples() -> None:
    assert EXAMPLES.keys() == OPS.keys()


@pytest.mark.parametrize(("name", "index"), CASES)
def test_type_rule_and_reference_agree(name: str, index: int) -> None:
    types, attrs, result = EXAMPLES[name][index]
    value = value_of(OPS[name], types, attrs)
    assert value.type == parse_type(result)
    given = arrays_for(value)
    copies = [a.copy() for a in given]
    counted = counted_by(value)
    sizes = SIZES if counted is None else {**SIZES, counted: int(given[0].reshape(-1)[-1])}
    array = apply(value, given, sizes)
    assert array.shape == value.t.substitute(sizes).static_shape
    assert array.dtype == value.dtype.numpy
    assert all((a == b).all() for a, b in zip(given, copies, strict=True)), "arguments are not written to"


@pytest.mark.parametrize("name", sorted(OPS))
def test_declarations_are_complete(name: str) -> None:
    op = OPS[name]
    assert op.name == name
    assert op.defaults.keys() <= op.attrs.keys()
    assert all(KINDS[op.attrs[key]](default) for key, default in op.defaults.items())
    assert Kind.WEIGHT not in op.attrs.values()
    least, most = op.arity
    assert 0 <= least <= most
    assert 0 < op.tolerance < 1
    if Trait.COMMUTATIVE in op.traits:
        assert op.arity == (2, 2)
    if Trait.MOVEMENT in op.traits:
        assert Trait.POINTWISE not in op.traits


@pytest.mark.parametrize("name", [n for n in OPS if Trait.COMMUTATIVE in OPS[n].traits])
def test_commutative_ops_commute(name: str) -> None:
    for types, attrs, _ in EXAMPLES[name]:
        value = value_of(OPS[name], types, attrs)
        a, b = arrays_for(value)
        np.testing.assert_array_equal(OPS[name].reference(a, b), OPS[name].reference(b, a))


@pytest.mark.parametrize("name", [n for n in OPS if Trait.POINTWISE in OPS[n].traits])
def test_pointwise_ops_look_at_one_place(name: str) -> None:
    types, attrs, _ = EXAMPLES[name][0]
    value = value_of(OPS[name], types, attrs)
    arrays = arrays_for(value)
    whole = apply(value, arrays, SIZES)
    spread = [np.broadcast_to(a, whole.shape) for a in arrays]
    for place in np.ndindex(whole.shape):
        part = apply(value, [a[place].reshape(()) for a in spread], SIZES)
        np.testing.assert_array_equal(part.reshape(()), whole[place])


n = symbol("n")
RAGGED: dict[str, Attr] = {"longest": (3,), "scale": 1.0}
# op, argument types, attributes, what the message says
REFUSED: list[tuple[str, str, dict[str, Attr], str]] = [
    ("add", "f32[2] f32[3]", {}, r"shapes \[2\] and \[3\] do not broadcast: 2 and 3 differ"),
    ("add", "f32[n] f32[m]", {}, "n and m differ"),
    ("add", "f32[2] f16[2]", {}, "expected one element type, got f32, f16"),
    ("add", "bool[2] bool[2]", {}, "expected numbers, got bool"),
    ("add", "f32[2]", {}, "takes 2 to 2 arguments, got 1"),
    ("add", "f32[2] f32[2]", {"axis": 0}, "takes attributes"),
    ("neg", "bool[2]", {}, "expected numbers"),
    ("exp", "i64[2]", {}, "expected floating-point"),
    ("and", "f32[2] f32[2]", {}, "expected bool"),
    ("where", "f32[2] f32[2] f32[2]", {}, "the condition must be bool"),
    ("where", "bool[2] f32[2] i64[2]", {}, "one element type"),
    ("reduce_sum", "f32[2,3]", {"axes": (2,)}, r"axis 2 is not in 0\.\.1"),
    ("reduce_sum", "f32[2,3]", {"axes": (1, 0)}, "sorted and distinct"),
    ("reduce_sum", "f32[2,3]", {"axes": (-1,)}, "axis -1 is not in"),
    ("reduce_sum", "bool[2,3]", {"axes": (1,)}, "expected numbers"),
    ("argmax", "f32[]", {"axis": 0}, "a scalar has no axes"),
    ("cumsum", "bool[2]", {"axis": 0}, "take numbers"),
    ("top_k", "f32[2]", {"axis": 0, "count": (3,), "descending": True}, "the first 3 of 2"),
    ("top_k", "bool[2]", {"axis": 0, "count": (1,), "descending": True}, "takes numbers"),
    ("scatter", "f32[4] i64[2] f32[2]", {"axis": 0, "join": "sub"}, "no join"),
    ("scatter", "f32[4,3] i64[2,3] f32[2,2]", {"axis": 0, "join": "add"}, "scatter of"),
    ("scatter", "f32[4] i64[3] f32[2]", {"axis": 0, "join": "none"}, "do not broadcast"),
    ("scatter", "bool[4] i64[2] bool[2]", {"axis": 0, "join": "add"}, "scatter of"),
    ("scatter", "f32[4] f32[2] f32[2]", {"axis": 0, "join": "add"}, "scatter of"),
    ("reshape", "f32[2,3]", {"shape": (5,)}, "the element counts differ"),
    ("reshape", "f32[2,3]", {"shape": (-2, -3)}, "negative size"),
    ("reshape", "f32[n,3]", {"shape": (3 * n, 2)}, "the element counts differ"),
    ("transpose", "f32[2,3]", {"perm": (0, 0)}, "not a permutation"),
    ("transpose", "f32[2,3]", {"perm": (0,)}, "not a permutation"),
    ("broadcast", "f32[2]", {"shape": (1,)}, "does not broadcast"),
    ("broadcast", "f32[2]", {"shape": (3,)}, "do not broadcast"),
    ("windows", "f32[4]", {"axes": (0,), "sizes": (2,), "strides": (1,), "dilations": ()}, "for each axis"),
    ("windows", "f32[4]", {"axes": (1,), "sizes": (2,), "strides": (1,), "dilations": (1,)}, "axis 1"),
    ("windows", "f32[4]", {"axes": (0,), "sizes": (2,), "strides": (0,), "dilations": (1,)}, "at least 1"),
    ("windows", "f32[4]", {"axes": (0,), "sizes": (6,), "strides": (1,), "dilations": (1,)}, "negative size"),
    (
        "windows",
        "f32[4]",
        {"axes": (0, 0), "sizes": (2, 2), "strides": (1, 1), "dilations": (1, 1)},
        "one axis twice",
    ),
    ("slice", "f32[4]", {"starts": (2,), "sizes": (3,), "steps": (1,)}, r"takes 2\.\.4 of axis 0"),
    ("slice", "f32[4]", {"starts": (0,), "sizes": (2,), "steps": (-1,)}, r"takes 0\.\.-1 of axis 0"),
    ("slice", "f32[4]", {"starts": (0,), "sizes": (2,), "steps": (0,)}, "may not be 0"),
    ("slice", "f32[4]", {"starts": (0,), "sizes": (-1,), "steps": (1,)}, "negative size"),
    ("slice", "f32[4]", {"starts": (0, 0), "sizes": (2,), "steps": (1,)}, "one start, size and step"),
    ("concat", "f32[2] f32[2,1]", {"axis": 0}, "cannot concatenate"),
    ("concat", "f32[2,3] f32[2,4]", {"axis": 0}, "cannot concatenate"),
    ("concat", "f32[]", {"axis": 0}, "a scalar has no axes"),
    ("pad", "f32[2]", {"before": (-1,), "after": (0,), "value": 0.0}, "negative size"),
    ("pad", "f32[2]", {"before": (1, 1), "after": (0,), "value": 0.0}, "two amounts"),
    ("full", "", {"shape": (2,), "value": 0.5, "dtype": DType.I64}, "0.5 is not a value of i64"),
    ("full", "", {"shape": (2,), "value": 256.0, "dtype": DType.U8}, "256.0 is not a value of u8"),
    ("full", "", {"shape": (2,), "value": float("nan"), "dtype": DType.BOOL}, "nan is not a value of bool"),
    ("full", "", {"shape": (-1,), "value": 0.0, "dtype": DType.F32}, "negative size"),
    ("iota", "", {"shape": (2,), "axis": 1, "dtype": DType.I64}, "axis 1 is not in"),
    ("iota", "", {"shape": (2,), "axis": 0, "dtype": DType.BOOL}, "makes numbers"),
    ("dim_value", "", {"dim": (n, n), "dtype": DType.I64}, "takes one dim"),
    ("gather", "f32[4] f32[2]", {"axis": 0}, "indices must be integers"),
    ("gather", "f32[4] bool[2]", {"axis": 0}, "indices must be integers"),
    ("gather_elements", "f32[4,5] i64[4]", {"axis": 0}, "gather_elements of"),
    ("gather_elements", "f32[4,5] i64[4,6]", {"axis": 0}, "axis 1 of the indices is longer"),
    ("gather_nd", "f32[4,5] i64[2,3]", {"batch_dims": 0}, "gather_nd of"),
    ("gather_nd", "f32[4,5] i64[2,0]", {"batch_dims": 0}, "gather_nd of"),
    ("gather_nd", "f32[4,5] i64[3,1]", {"batch_dims": 1}, "the first 1 axes differ"),
    ("gather_nd", "f32[4,5] i64[4,1]", {"batch_dims": -1}, "gather_nd of"),
    ("matmul", "f32[2,3] f32[4,2]", {}, "cannot multiply"),
    ("matmul", "f32[3] f32[3,2]", {}, "cannot multiply"),
    ("matmul", "bool[2,2] bool[2,2]", {}, "takes numbers"),
    ("linear", "f32[2,3] f32[3,4] f32[3]", {}, "linear of"),
    ("linear", "f32[2,3] f32[3,4] f32[4]", {"activation": "swish"}, "no activation 'swish'; known: none"),
    ("linear", "f32[2,3] f32[3,4] f32[4] f32[4]", {}, "the residual must be"),
    ("linear", "i32[2,3] i32[3,4] i32[4]", {}, "takes floating-point"),
    ("quantize", "f32[b] f32[n,b]", {"dtype": DType.U8, "bits": 0}, "scales"),
    ("quantize", "f32[b] f32[] i8[]", {"dtype": DType.U8, "bits": 0}, "a zero point"),
    ("quantize", "f32[b] f32[]", {"dtype": DType.I32, "bits": 0}, "quantize to 32 bits"),
    ("quantize", "i32[b] f32[]", {"dtype": DType.U8, "bits": 0}, "floating-point"),
    ("dequantize", "u8[b] i32[]", {}, "a scale is"),
    ("dequantize", "i64[b] f32[]", {}, "small integers"),
    ("dequantize", "u8[b] f32[] i8[]", {}, "a zero point"),
    ("step", "i32[] i32[]", {}, "floating-point"),
    ("row_scale", "i8[b,4]", {}, "floating-point"),
    ("row_scale", "f32[]", {}, "rows"),
    ("integer_matmul", "i8[2,3] i8[2,3]", {}, "cannot multiply"),
    ("integer_matmul", "i8[2,3] i32[3,2]", {}, "takes bytes"),
    ("integer_matmul", "i8[b,2,3] i8[3,2]", {}, "cannot multiply"),
    ("softmax", "f32[]", {}, "needs an axis"),
    ("layer_norm", "f32[2,3] f32[2] f32[3]", {"epsilon": 1e-5}, "layer_norm of"),
    ("rms_norm", "f32[2,3] f32[2]", {"epsilon": 1e-5}, "rms_norm of"),
    ("kept_rows", "i32[2]", {"dim": (n,)}, "takes a running count in i64"),
    ("kept_rows", "i64[2]", {"dim": (n + 1,)}, "names one dim"),
    ("ragged_attention", "f32[4,3,8] f32[4,3,8] f32[4,3,8] i32[2]", RAGGED, "in i64"),
    ("ragged_attention", "f32[4,3,8] f32[4,2,8] f32[4,2,8] i64[2]", RAGGED, "rows differ"),
    ("ragged_attention", "f32[4,3,8] f32[4,3,8] f32[4,3,8] i64[2]", {**RAGGED, "mixed": True}, "takes bf16"),
    ("ragged_attention", "i64[4,3,8] i64[4,3,8] i64[4,3,8] i64[2]", RAGGED, "floating-point"),
    ("ragged_attention", "f32[4,3,8] f32[3,3,8] f32[3,3,8] i64[2]", RAGGED, "attention of"),
    ("attention", "f32[2,4,3,8] f32[2,3,3,8] f32[2,3,3,8]", {"scale": 1.0}, "attention of"),
    ("attention", "f32[2,4,3,8] f32[2,4,3,8] f32[2,4,3,8] f32[5]", {"scale": 1.0}, "do not broadcast"),
    ("attention", "f32[2,4,3,8] f32[2,4,3,8] f32[2,4,3,8] bool[3]", {"scale": 1.0}, "one element type"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "types", "attrs", "message"), REFUSED, ids=[f"{r[0]}: {r[3]}"[:50] for r in REFUSED]
)
def test_bad_arguments_are_refused(name: str, types: str, attrs: dict[str, Attr], message: str) -> None:
    with pytest.raises(TypeMismatch, match=message):
        value_of(OPS[name], types, attrs)


def test_rules_give_types_or_say_why_not() -> None:
    """Whatever the types and attributes, a type rule raises nothing but TypeMismatch."""
    rng = np.random.default_rng(0)
    types = [
        parse_type(t)
        for t in [
            "f32[]",
            "f32[n]",
            "i64[2]",
            "f32[2,3]",
            "bool[2,1]",
            "f16[b,n,4]",
            "f32[1,1,2,4]",
            "i32[0]",
            "f32[3]",
        ]
    ]
    choices: dict[Kind, list[Attr]] = {
        Kind.INT: [-1, 0, 1, 7],
        Kind.INTS: [(), (0,), (1, 0), (0, 1, 2), (-1,), (5, 5)],
        Kind.FLOAT: [0.0, 1e-5, float("nan"), float("inf"), -3.5],
        Kind.BOOL: [True, False],
        Kind.TEXT: ["none", "relu", "", "x"],
        Kind.DIMS: [(), (2,), (n,), (2, 3), (0,), (-1,), (n, 4), (n - 9,)],
        Kind.DTYPE: list(DType),
    }
    accepted = 0
    for op in OPS.values():
        for _ in range(400):
            count = int(rng.integers(op.arity[0], min(op.arity[1], op.arity[0] + 2) + 1))
            given = [types[rng.integers(len(types))] for _ in range(count)]
            attrs = {k: choices[kind][rng.integers(len(choices[kind]))] for k, kind in op.attrs.items()}
            try:
                accepted += isinstance(op.infer(*given, **attrs), TensorType)
            except TypeMismatch as error:
                assert str(error)
    assert accepted > 500
