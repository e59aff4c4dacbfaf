"""The polynomials against double precision: the errors their docstrings claim, NaN, infinities."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from isthmus.codegen.native import Call
from isthmus.kernels import math as kmath
from isthmus.kernels import math_short
from isthmus.kernels.builder import Builder, Expr
from isthmus.kernels.kernel import Kernel
from isthmus.target import Target

Compiled = Callable[[Kernel], Call]
Truth = Callable[[np.ndarray], np.ndarray]

_erf = np.vectorize(math.erf)


def _gelu(x: np.ndarray) -> np.ndarray:
    y: np.ndarray = x * 0.5 * (1 + _erf(x / math.sqrt(2)))
    return y


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    y: np.ndarray = x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return y


def _sigmoid(x: np.ndarray) -> np.ndarray:
    y: np.ndarray = 1 / (1 + np.exp(-x))
    return y


# function, truth, range, absolute tolerance, relative tolerance (either may hold)
CASES: dict[str, tuple[kmath.Function, Truth, tuple[float, float], float, float]] = {
    "exp": (kmath.exp, np.exp, (-87, 88.7), 0, 3e-7),
    "exp_subnormal": (kmath.exp, np.exp, (-104, -87), 1.5e-45, 3e-7),
    "exp_negative": (kmath.exp_negative, np.exp, (-87.3, 0), 0, 6e-6),
    "log": (kmath.log, np.log, (1e-30, 100), 1e-7, 3e-7),
    "log_large": (kmath.log, np.log, (1e30, 3e38), 0, 3e-7),
    "log_subnormal": (kmath.log, np.log, (1e-44, 1e-38), 0, 3e-7),
    "tanh": (kmath.tanh, np.tanh, (-12, 12), 0, 4e-7),
    "erf": (kmath.erf, _erf, (-6, 6), 0, 7e-7),
    "sigmoid": (kmath.sigmoid, _sigmoid, (-80, 30), 0, 5e-7),
    "silu": (kmath.silu, lambda x: x * _sigmoid(x), (-80, 30), 0, 5e-7),
    "softplus": (kmath.softplus, lambda x: np.log1p(np.exp(x)), (-80, 80), 4e-7, 4e-7),
    "gelu": (kmath.gelu, _gelu, (-20, 20), 5e-6, 1e-6),
    "gelu_tanh": (kmath.gelu_tanh, _gelu_tanh, (-20, 20), 4e-6, 1e-6),
    "gelu_short": (math_short.GELU, _gelu, (-20, 20), 1.8e-4, 0),
    "gelu_short_near_0": (math_short.GELU, _gelu, (-0.1, 0.1), 0, 4e-3),
    "gelu_tanh_short": (math_short.GELU_TANH, _gelu_tanh, (-20, 20), 1.6e-4, 0),
    "gelu_tanh_short_near_0": (math_short.GELU_TANH, _gelu_tanh, (-0.1, 0.1), 0, 4e-3),
    "sin": (kmath.sin, np.sin, (-8192, 8192), 3e-7, 0),
    "cos": (kmath.cos, np.cos, (-8192, 8192), 3e-7, 0),
    "sqrt": (kmath.sqrt, np.sqrt, (0, 1e6), 0, 6e-8),
}

LIMITS: dict[str, tuple[float, float]] = {  # at -inf and +inf
    "exp": (0, math.inf),
    "log": (math.nan, math.inf),
    "tanh": (-1, 1),
    "erf": (-1, 1),
    "sigmoid": (0, 1),
    "softplus": (0, math.inf),
    "relu": (0, math.inf),
    "sin": (math.nan, math.nan),
    "floor": (-math.inf, math.inf),
    "round_even": (-math.inf, math.inf),
}


def _map(name: str, function: kmath.Function, target: Target) -> Kernel:
    k = Builder(f"test_{name}", target)
    x, y, n = k.input("x"), k.output("y"), k.size("n")

    def element(i: Expr, lanes: int) -> None:
        y.store(i, function(k, k.let("element", x.load(i, lanes))))

    k.vectorized("i", n, element)
    return k.finish()


def _apply(call: Call, x: np.ndarray) -> np.ndarray:
    y = np.full_like(x, 77)
    call(x, y, x.size)
    return y


@pytest.mark.parametrize("name", CASES)
def test_error(name: str, target: Target, compiled: Compiled) -> None:
    function, truth, (low, high), absolute, relative = CASES[name]
    call = compiled(_map(name, function, target))
    x = np.linspace(low, high, 100_003, dtype=np.float64).astype(np.float32)  # odd: the scalar tail runs too
    expected = truth(x.astype(np.float64))
    error = np.abs(_apply(call, x) - expected)
    worst = np.argmax(error - absolute - relative * np.abs(expected))
    assert error[worst] <= absolute + relative * abs(expected[worst]), f"at {x[worst]}: {error[worst]}"


@pytest.mark.parametrize("name", LIMITS)
def test_limits_and_nan(name: str, target: Target, compiled: Compiled) -> None:
    call = compiled(_map(name, getattr(kmath, name), target))
    odd_nan = np.array([0x7FC00001, 0xFFFFFFFF, 0x7FFFFFFF], np.uint32).view(np.float32)
    x = np.concatenate([np.full(16, [-np.inf]), np.full(16, np.inf), odd_nan, [-np.inf, np.inf]]).astype(
        np.float32
    )
    at_low, at_high = LIMITS[name]
    y = _apply(call, x)
    np.testing.assert_array_equal(y[:16], at_low)
    np.testing.assert_array_equal(y[16:32], at_high)
    assert np.isnan(y[32:35]).all()
    np.testing.assert_array_equal(y[35:], [at_low, at_high])


def test_exact_points(target: Target, compiled: Compiled) -> None:
    zero = np.zeros(17, np.float32)
    for name, value in {
        "exp": 1,
        "exp_negative": 1,
        "tanh": 0,
        "erf": 0,
        "gelu": 0,
        "sin": 0,
        "cos": 1,
    }.items():
        np.testing.assert_array_equal(_apply(compiled(_map(name, getattr(kmath, name), target)), zero), value)
    large = np.array([-1e30, -500, -4.8, 4.8, 500, 1e30] * 4, np.float32)
    for name in ("gelu", "gelu_tanh"):
        saturated = _apply(compiled(_map(name, getattr(kmath, name), target)), large)
        np.testing.assert_array_equal(saturated, np.maximum(large, 0))
    assert _apply(compiled(_map("log", kmath.log, target)), zero)[0] == -np.inf
    assert np.isnan(_apply(compiled(_map("log", kmath.log, target)), zero - 1)).all()


@pytest.mark.parametrize("name", math_short.SHORT)
def test_short_forms_end_exactly(name: str, target: Target, compiled: Compiled) -> None:
    call = compiled(_map(f"{name}_short", math_short.SHORT[name], target))
    ends = np.array([-np.inf, -1e30, -500, -4, -0.0, 0, 4, 500, 1e30, np.inf] * 2, np.float32)
    np.testing.assert_array_equal(_apply(call, ends), np.maximum(ends, 0))
    assert np.isnan(_apply(call, np.full(17, np.nan, np.float32))).all()


def test_tanh_never_exceeds_one(target: Target, compiled: Compiled) -> None:
    x = np.linspace(4, 9, 200_001).astype(np.float32)
    assert _apply(compiled(_map("tanh", kmath.tanh, target)), x).max() == 1


def test_power(target: Target, compiled: Compiled) -> None:
    k = Builder("test_power", target)
    a, b, y, n = k.input("a"), k.input("b"), k.output("y"), k.size("n")
    k.vectorized("i", n, lambda i, lanes: y.store(i, kmath.power(k, a.load(i, lanes), b.load(i, lanes))))
    call = compiled(k.finish())
    special = np.array([-np.inf, -3, -1, -0.5, 0, 0.5, 1, 2, np.inf, np.nan], np.float32)
    exponents = np.array([-np.inf, -3, -2, -0.5, 0, 0.5, 1, 2, 3, np.inf, np.nan], np.float32)
    base, exponent = (np.ascontiguousarray(g).ravel() for g in np.meshgrid(special, exponents))
    got = np.empty_like(base)
    call(base, exponent, got, base.size)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(got, np.power(base, exponent), rtol=3e-6)


def test_maximum_and_minimum(target: Target, compiled: Compiled) -> None:
    values = np.array([-np.inf, -1, 0, 2, np.inf, np.nan], np.float32)
    a, b = (np.ascontiguousarray(g).ravel() for g in np.meshgrid(values, values))
    for name, function, truth in (
        ("maximum", kmath.maximum, np.maximum),
        ("minimum", kmath.minimum, np.minimum),
    ):
        k = Builder(f"test_{name}", target)
        left, right, y, n = k.input("a"), k.input("b"), k.output("y"), k.size("n")

        def element(i: Expr, lanes: int, k=k, f=function, left=left, right=right, y=y) -> None:  # type: ignore[no-untyped-def]
            y.store(i, f(k, k.let("a", left.load(i, lanes)), k.let("b", right.load(i, lanes))))

        k.vectorized("i", n, element)
        got = np.empty_like(a)
        compiled(k.finish())(a, b, got, a.size)
        np.testing.assert_array_equal(got, truth(a, b))
