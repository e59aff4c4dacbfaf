"""Folding, sharing, and weights that are computed when read."""

from __future__ import annotations

import numpy as np
import pytest

from isthmus.ir.encodings import Panels
from isthmus.ir.graph import Graph, Program, Value, constant, graph_input, weight_of
from isthmus.ir.rewrite import Event
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ops.movement import broadcast, full, gather, iota, pad, reshape, transpose
from isthmus.ops.pointwise import add, cast, exp, mul
from isthmus.passes.clean.fold import Fold
from isthmus.passes.clean.share import Share
from isthmus.passes.constants import Computed, array_of
from isthmus.target import Target

RNG = np.random.default_rng(0)


def program(*outputs: Value) -> Program:
    inputs = tuple(dict.fromkeys(v for o in outputs for v in _inputs(o)))
    return Program("p", (Graph("g", inputs, tuple((f"y{i}", v) for i, v in enumerate(outputs))),), ())


def _inputs(value: Value) -> list[Value]:
    return [value] if value.op.name == "input" else [i for a in value.args for i in _inputs(a)]


def silent(_: Event) -> None:
    """Nobody listens."""


def fold(value: Value, target: Target, limit: int = 1 << 16) -> Value:
    return Fold(limit)(program(value), target, silent).main.outputs[0][1]


def const(array: Array) -> Value:
    return constant("c", array)


def test_small_results_are_bytes_at_once(target: Target) -> None:
    a = RNG.standard_normal((3, 4)).astype(np.float32)
    folded = fold(transpose(const(a), perm=(1, 0)), target)
    weight = weight_of(folded)
    assert weight is not None and not isinstance(weight.source, Computed)
    np.testing.assert_array_equal(weight.read(), a.T)


def test_large_results_are_computed_when_read(target: Target) -> None:
    a = RNG.standard_normal((300, 400)).astype(np.float32)
    folded = fold(transpose(const(a), perm=(1, 0)), target)
    weight = weight_of(folded)
    assert weight is not None and isinstance(weight.source, Computed)
    np.testing.assert_array_equal(weight.read(), a.T)
    np.testing.assert_array_equal(
        weight.encoded(Panels(16)).stored(), Panels(16).encode(np.ascontiguousarray(a.T))
    )


def test_digests_of_computed_weights_tell_expressions_apart() -> None:
    a, b = (const(RNG.standard_normal((4, 4)).astype(np.float32)) for _ in range(2))
    values = [
        transpose(a, perm=(1, 0)),
        transpose(b, perm=(1, 0)),
        reshape(a, shape=(2, 8)),
        reshape(a, shape=(8, 2)),
        add(a, b),
        add(b, a),
        add(a, a),
    ]
    digests = {Computed(v).digest(v.t) for v in values}
    assert len(digests) == len(values)
    again = transpose(constant("other name", array_of(a)), perm=(1, 0))
    assert Computed(again).digest(again.t) == Computed(values[0]).digest(values[0].t)


def test_folding_does_not_grow_weights(target: Target) -> None:
    a = const(RNG.standard_normal((4,)).astype(np.float32))
    wide = broadcast(a, shape=(64, 4))
    assert fold(wide, target, limit=512) is wide
    assert weight_of(fold(wide, target, limit=1024)) is not None


@pytest.mark.parametrize("number", [0.0, -0.0, 1.5, -3.4028234663852886e38, float("inf")])
def test_one_number_becomes_full(number: float, target: Target) -> None:
    folded = fold(const(np.full((2, 3), number, np.float32)), target)
    assert folded.op is full and folded.shape == (2, 3)
    assert np.signbit(array_of(folded)).all() == np.signbit(number)


@pytest.mark.parametrize(
    "array",
    [
        np.array([0.0, -0.0], np.float32),
        np.array([1, 2], np.float32),
        np.full(3, (1 << 53) + 1, np.int64),
        np.array([1, 2, 4], np.int64),
        np.zeros((0, 2), np.float32),
    ],
)
def test_what_is_no_formula_stays_bytes(array: Array, target: Target) -> None:
    value = const(array)
    assert fold(value, target) is value


def test_integer_ranges_become_iota(target: Target) -> None:
    plain = fold(const(np.arange(512)[None]), target)
    assert plain.op is iota and plain.attr("axis") == 1
    shifted = fold(const(np.arange(2, 10, dtype=np.int32)[:, None] + np.zeros((1, 3), np.int32)), target)
    assert shifted.op is add and array_of(shifted.args[1]) == 2
    floats = const(np.arange(4, dtype=np.float32))
    assert fold(floats, target) is floats


def test_numbers_fold_through_symbolic_shapes(target: Target) -> None:
    x = graph_input("x", TensorType(DType.F32, (4,)))
    two = full(shape=(), value=2.0, dtype=DType.I64)
    folded = fold(
        mul(cast(add(two, two), dtype=DType.F32), exp(full(shape=(), value=0.0, dtype=DType.F32))), target
    )
    assert folded.op is full and folded.attr("value") == 4.0
    padded = pad(full(shape=(2,), value=1.0, dtype=DType.F32), before=(1,), after=(0,), value=0.0)
    assert fold(padded, target) is padded
    assert fold(exp(x), target).args == (x,)


def test_integer_overflow_wraps_as_at_run_time(target: Target) -> None:
    big = full(shape=(), value=float(1 << 31 - 1), dtype=DType.I32)
    folded = fold(add(big, big), target)
    assert array_of(folded) == -(1 << 31)


def test_sharing_is_exact(target: Target) -> None:
    x = graph_input("x", TensorType(DType.F32, (4,)))
    zero, minus = (full(shape=(), value=v, dtype=DType.F32) for v in (0.0, -0.0))
    shared = Share()(program(add(x, zero), add(zero, x), add(x, minus), exp(x), exp(x)), target, silent)
    values = [v for _, v in shared.main.outputs]
    assert values[0] is values[1] and values[3] is values[4]
    assert values[0] is not values[2], "0.0 and -0.0 are not the same number"


def test_equal_weights_are_one(target: Target) -> None:
    table = RNG.standard_normal((4, 2)).astype(np.float32)
    ids = graph_input("ids", TensorType(DType.I64, (3,)))
    one, two = (gather(constant(name, table), ids, axis=0) for name in ("encoder", "decoder"))
    other = gather(constant("other", table + 1), ids, axis=0)
    shared = Share()(program(one, two, other), target, silent)
    values = [v for _, v in shared.main.outputs]
    assert values[0] is values[1] and values[0] is not values[2]
    assert len(list(shared.main.weights())) == 2
