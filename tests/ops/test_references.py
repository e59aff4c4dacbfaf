"""References against formulas written independently of them, and at the edges of what numbers can do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from isthmus.ir.evaluate import apply
from isthmus.ir.graph import Attr, Op, graph_input
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ops import OPS
from isthmus.ops.movement import gather, gather_elements, gather_nd, iota, pad, slice_
from isthmus.ops.nn import attention, layer_norm, linear, matmul, rms_norm, softmax
from isthmus.ops.pointwise import cast, div, mod, pow_
from isthmus.ops.quantize import dequantize, quantize, row_scale
from isthmus.ops.reduce import argmax, argmin, cumsum, reduce_max, reduce_mean, reduce_min, reduce_sum

NAN, INF = math.nan, math.inf


def run(op: Op, *arrays: Array, **attrs: Attr) -> Array:
    inputs = [graph_input(f"x{i}", TensorType(DType.of(a.dtype), a.shape)) for i, a in enumerate(arrays)]
    return apply(op(*inputs, **attrs), list(arrays), {})


def f32(*numbers: float) -> Array:
    return np.asarray(numbers, np.float32)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


FORMULAS = {
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "reciprocal": lambda x: 1 / x,
    "sin": math.sin,
    "cos": math.cos,
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,  # Python rounds halves to even, too
    "erf": math.erf,
    "tanh": math.tanh,
    "sigmoid": sigmoid,
    "gelu": lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2)),
    "gelu_tanh": lambda x: x * sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "silu": lambda x: x * sigmoid(x),
    "neg": lambda x: -x,
    "abs": math.fabs,
    "sign": lambda x: (x > 0) - (x < 0),
    "relu": lambda x: max(x, 0.0),
}


@pytest.mark.parametrize("name", sorted(FORMULAS))
def test_elementary_functions(name: str) -> None:
    low = 0.01 if name in ("log", "sqrt", "reciprocal") else -9
    numbers = [*np.random.default_rng(0).uniform(low, 9, 200), 0.5, 1.5, 2.5]
    got = run(OPS[name], f32(*numbers))
    wanted = [FORMULAS[name](float(np.float32(x))) for x in numbers]
    np.testing.assert_allclose(got, wanted, rtol=3e-7, atol=3e-8)


@pytest.mark.parametrize(
    ("name", "x", "wanted"),
    [
        ("exp", (INF, -INF, NAN, 1000), (INF, 0, NAN, INF)),
        ("log", (0, -1, INF), (-INF, NAN, INF)),
        ("sqrt", (-1, -0.0, INF), (NAN, -0.0, INF)),
        ("reciprocal", (0.0, -0.0, INF), (INF, -INF, 0)),
        ("relu", (NAN, -INF, INF), (NAN, 0, INF)),
        ("sigmoid", (-INF, INF, NAN, -200), (0, 1, NAN, 0)),
        ("tanh", (-INF, INF, NAN), (-1, 1, NAN)),
        ("erf", (-INF, INF, NAN), (-1, 1, NAN)),
        ("gelu", (INF, NAN), (INF, NAN)),
        ("round", (0.5, 1.5, -0.5, -2.5), (0, 2, -0.0, -2)),
        ("sign", (-0.0, NAN, -INF), (0, NAN, -1)),
        ("is_nan", (NAN, INF, 0), (True, False, False)),
        ("is_inf", (NAN, -INF, 0), (False, True, False)),
    ],
)
def test_at_the_edges(name: str, x: tuple[float, ...], wanted: tuple[float, ...]) -> None:
    np.testing.assert_array_equal(run(OPS[name], f32(*x)), wanted)


def test_nan_wins_in_extremes() -> None:
    for name in ("min", "max"):
        assert np.isnan(run(OPS[name], f32(NAN, 1), f32(1, NAN))).all()
    x = f32(1, NAN, 3)
    assert np.isnan(run(reduce_max, x, axes=(0,))) and np.isnan(run(reduce_min, x, axes=(0,)))


INTEGERS = [-128, -127, -7, -2, -1, 0, 1, 2, 7, 127]


def test_integer_division_truncates() -> None:
    a, b = (g.astype(np.int8).reshape(-1) for g in np.meshgrid(INTEGERS, INTEGERS))
    for x, y, got in zip(a.tolist(), b.tolist(), run(div, a, b).tolist(), strict=True):
        wanted = 0 if y == 0 else math.trunc(x / y)
        assert got == (wanted + 128) % 256 - 128, f"{x} / {y}"


def test_integer_remainder_has_the_sign_of_the_divisor() -> None:
    a, b = (g.astype(np.int8).reshape(-1) for g in np.meshgrid(INTEGERS, INTEGERS))
    for x, y, got in zip(a.tolist(), b.tolist(), run(mod, a, b).tolist(), strict=True):
        assert got == (0 if y == 0 else x % y), f"{x} % {y}"


def test_integer_powers_are_exact() -> None:
    a = np.asarray([3, -3, 2, 1, -1, -1, 5, 0, 10], np.int64)
    b = np.asarray([39, 3, -1, -5, -5, -4, 0, 0, 18], np.int64)
    assert run(pow_, a, b).tolist() == [3**39, -27, 0, 1, -1, 1, 1, 1, 10**18]


def test_integers_wrap() -> None:
    big = np.asarray([120], np.int8)
    assert run(OPS["add"], big, big).tolist() == [-16]
    assert run(reduce_sum, np.full(4, 100, np.int8), axes=(0,)).tolist() == [-112]


def test_sums_do_not_lose_digits() -> None:
    x = np.full(1 << 20, 0.1, np.float32)
    exact = float(np.float32(0.1)) * (1 << 20)
    assert run(reduce_sum, x, axes=(0,))[0] == np.float32(exact)
    assert run(reduce_mean, x, axes=(0,))[0] == np.float32(0.1)
    y = np.asarray([1e8, 1, -1e8, 1], np.float32)
    assert run(reduce_sum, y, axes=(0,)).tolist() == [2.0]
    assert run(matmul, y[None], np.ones((4, 1), np.float32)).tolist() == [[2.0]]
    assert run(cumsum, y, axis=0).tolist() == [1e8, 1e8, 1.0, 2.0]


def test_reductions_of_nothing() -> None:
    empty = np.zeros((0, 2), np.float32)
    np.testing.assert_array_equal(run(reduce_sum, empty, axes=(0,)), [[0, 0]])
    np.testing.assert_array_equal(run(reduce_max, empty, axes=(0,)), [[-INF, -INF]])
    np.testing.assert_array_equal(run(reduce_mean, empty, axes=(0,)), [[NAN, NAN]])


def test_cumsum() -> None:
    x = f32(1, 2, INF, 4)
    assert run(cumsum, x, axis=0).tolist() == [1, 3, INF, INF]
    assert run(cumsum, x, axis=0, exclusive=True).tolist() == [0, 1, 3, INF]
    assert run(cumsum, x, axis=0, reverse=True).tolist() == [INF, INF, INF, 4]
    assert run(cumsum, f32(1, 2, 3), axis=0, reverse=True, exclusive=True).tolist() == [5, 3, 0]


def test_positions_of_extremes() -> None:
    x = f32(1, 5, 2, 5, 1)
    assert [int(run(op, x, axis=0, last=last)[0]) for op in (argmax, argmin) for last in (False, True)] == [
        1,
        3,
        0,
        4,
    ]


def test_casting() -> None:
    assert run(cast, f32(-1.9, 1.9, 0.5), dtype=DType.I32).tolist() == [-1, 1, 0]
    assert run(cast, f32(0, -0.0, NAN, 0.1), dtype=DType.BOOL).tolist() == [False, False, True, True]
    assert run(cast, f32(1 + 2**-9), dtype=DType.BF16).tolist() == [1.0]
    assert run(cast, np.asarray([300], np.int64), dtype=DType.U8).tolist() == [44]


# --- movement ------------------------------------------------------------------------------------


def test_slices() -> None:
    x = np.arange(20, dtype=np.float32).reshape(4, 5)
    got = run(slice_, x, starts=(3, 1), sizes=(2, 2), steps=(-2, 3))
    np.testing.assert_array_equal(got, x[3::-2, 1::3])


def test_padding() -> None:
    got = run(pad, np.ones((1, 2), np.float32), before=(1, 0), after=(0, 1), value=7.0)
    np.testing.assert_array_equal(got, [[7, 7, 7], [1, 1, 7]])


def test_iota() -> None:
    np.testing.assert_array_equal(run(iota, shape=(2, 3), axis=0, dtype=DType.I64), [[0, 0, 0], [1, 1, 1]])


def test_gathers_take_negative_indices_and_refuse_those_outside() -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(run(gather, table, np.asarray([-1, 0]), axis=0), table[[3, 0]])
    with pytest.raises(IndexError):
        run(gather, table, np.asarray([4]), axis=0)
    ids = np.asarray([[0, -1, 1]])
    np.testing.assert_array_equal(run(gather_elements, table, ids, axis=0), [[0, 10, 5]])
    np.testing.assert_array_equal(run(gather_nd, table, np.asarray([[-1, 2], [0, 1]]), batch_dims=0), [11, 1])


def test_indices_may_be_narrower_than_the_axis() -> None:
    table = np.arange(300, dtype=np.float32)
    for dtype in (np.int8, np.uint8):
        ids = np.asarray([5, 100], dtype)
        assert run(gather_elements, table, ids, axis=0).tolist() == [5, 100]
    assert run(gather_elements, table, np.asarray([-1], np.int8), axis=0).tolist() == [299]


def test_batched_gather() -> None:
    rng = np.random.default_rng(0)
    x, ids = rng.standard_normal((2, 5, 6)).astype(np.float32), rng.integers(0, 5, (2, 3, 1))
    got = run(gather_nd, x, ids, batch_dims=1)
    for b in range(2):
        for i in range(3):
            np.testing.assert_array_equal(got[b, i], x[b, ids[b, i, 0]])


# --- what a Transformer is made of ---------------------------------------------------------------


def test_softmax() -> None:
    x = [0.3, -2.0, 5.0]
    total = sum(math.exp(v) for v in x)
    np.testing.assert_allclose(run(softmax, f32(*x)), [math.exp(v) / total for v in x], rtol=1e-6)
    np.testing.assert_allclose(run(softmax, f32(1e4, 1e4 + 1)), [sigmoid(-1), sigmoid(1)], rtol=1e-6)
    assert run(softmax, f32(-INF, 0)).tolist() == [0, 1]
    assert np.isnan(run(softmax, f32(-INF, -INF))).all()


def test_layer_norm() -> None:
    x, scale, bias = [1.0, 2.0, 4.0, 9.0], [1.0, -1.0, 0.5, 2.0], [0.0, 1.0, 2.0, 3.0]
    mean = sum(x) / 4
    variance = sum((v - mean) ** 2 for v in x) / 4
    wanted = [(v - mean) / math.sqrt(variance + 1e-3) * s + b for v, s, b in zip(x, scale, bias, strict=True)]
    got = run(layer_norm, f32(*x), f32(*scale), f32(*bias), epsilon=1e-3)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)
    with_residual = run(layer_norm, f32(0, 0, 1, 1), f32(*scale), f32(*bias), f32(1, 2, 3, 8), epsilon=1e-3)
    np.testing.assert_array_equal(with_residual, got)


def test_rms_norm() -> None:
    x, scale = [1.0, 2.0, 4.0, 9.0], [1.0, -1.0, 0.5, 2.0]
    size = math.sqrt(sum(v * v for v in x) / 4 + 1e-3)
    got = run(rms_norm, f32(*x), f32(*scale), epsilon=1e-3)
    np.testing.assert_allclose(got, [v / size * s for v, s in zip(x, scale, strict=True)], rtol=1e-6)


def test_layer_norm_far_from_zero() -> None:
    # E[x^2] - E[x]^2 would cancel to nothing here.
    x = f32(1e4, 1e4 + 1, 1e4 + 2, 1e4 + 3)
    got = run(layer_norm, x, np.ones(4, np.float32), np.zeros(4, np.float32), epsilon=0.0)
    np.testing.assert_allclose(got, np.asarray([-3, -1, 1, 3]) / math.sqrt(5), rtol=1e-6)


def test_linear() -> None:
    rng = np.random.default_rng(1)
    x, w, b, r = (rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 4), (4, 5), (5,), (2, 3, 5)))
    plain = np.einsum("bik,kj->bij", x.astype(np.float64), w.astype(np.float64)) + b
    np.testing.assert_allclose(run(linear, x, w, b), plain, rtol=1e-6)
    np.testing.assert_allclose(run(linear, x, w, b, r), plain + r, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run(linear, x, w, b, activation="tanh"), np.tanh(plain), rtol=1e-6)
    relu = run(linear, x, w, b, r, activation="relu")
    np.testing.assert_allclose(relu, np.maximum(plain + r, 0), rtol=1e-5, atol=1e-6)


def by_hand(q: Array, k: Array, v: Array, mask: Array, scale: float) -> Array:
    """Attention one query at a time."""
    batch, heads, length, _ = q.shape
    out = np.zeros((*q.shape[:3], v.shape[3]))
    group = heads // k.shape[1]
    for b, h, i in np.ndindex(batch, heads, length):
        keys, values = k[b, h // group], v[b, h // group]
        scores = [scale * float(q[b, h, i] @ key) + float(mask[b, h, i, j]) for j, key in enumerate(keys)]
        weights = [math.exp(s - max(scores)) for s in scores]
        out[b, h, i] = sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)
    return out


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_attention(kv_heads: int) -> None:
    rng = np.random.default_rng(2)
    q = rng.standard_normal((2, 4, 3, 8)).astype(np.float32)
    k, v = (rng.standard_normal((2, kv_heads, 5, w)).astype(np.float32) for w in (8, 6))
    mask = rng.standard_normal((2, 1, 1, 5)).astype(np.float32)
    got = run(attention, q, k, v, mask, scale=0.35)
    np.testing.assert_allclose(
        got, by_hand(q, k, v, np.broadcast_to(mask, (2, 4, 3, 5)), 0.35), rtol=1e-5, atol=1e-6
    )
    none = run(attention, q, k, v, scale=0.35)
    np.testing.assert_allclose(none, by_hand(q, k, v, np.zeros((2, 4, 3, 5)), 0.35), rtol=1e-5, atol=1e-6)


def test_rows_that_are_masked_out() -> None:
    q = np.ones((1, 1, 1, 2), np.float32)
    v = np.asarray([[1, 2], [3, 4]], np.float32).reshape(1, 1, 2, 2)
    lowest = np.finfo(np.float32).min
    first, both = run(attention, v, v, v, scale=1.0, causal=True), run(attention, v, v, v, scale=1.0)
    np.testing.assert_array_equal(first[..., 0, :], v[..., 0, :])
    np.testing.assert_array_equal(first[..., 1, :], both[..., 1, :])
    last = run(attention, v[..., 1:, :], v, v, scale=1.0, causal=True)  # the queries are the last of the keys
    np.testing.assert_array_equal(last, both[..., 1:, :])
    early = run(attention, v, v[..., 1:, :], v[..., 1:, :], scale=1.0, safe=True, causal=True)
    assert (early[..., 0, :] == 0).all()
    uniform = run(attention, q, v, v, np.full((1, 1, 1, 2), lowest, np.float32), scale=1.0)
    np.testing.assert_array_equal(uniform.reshape(-1), [2, 3])
    nothing = np.full((1, 1, 1, 2), -INF, np.float32)
    assert np.isnan(run(attention, q, v, v, nothing, scale=1.0)).all()
    assert run(attention, q, v, v, nothing, scale=1.0, safe=True).reshape(-1).tolist() == [0, 0]


def test_row_scales() -> None:
    tiny = float(np.finfo(np.float32).smallest_subnormal)
    x = np.asarray([[1, -254, 3], [0, -0.0, 0], [tiny, 0, 0], [1, NAN, 2], [1, -INF, 2]], np.float32)
    assert run(row_scale, x).tolist()[:3] == [[2], [1], [1]]
    assert np.isnan(run(row_scale, x)[3]) and np.isinf(run(row_scale, x)[4])
    assert run(row_scale, np.zeros((2, 0), np.float16)).tolist() == [[1], [1]]


def test_a_row_of_8_bits_is_half_a_step_off_at_most() -> None:
    x = np.random.default_rng(0).standard_normal((50, 33)).astype(np.float32) * np.float32(1e-20)
    scale = run(row_scale, x)
    back = run(dequantize, run(quantize, x, scale, dtype=DType.I8), scale)
    assert (np.abs(back - x) <= scale * np.float32(0.500001)).all()
