"""The language of kernels: each construct does what its docstring says, on every level."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isthmus.codegen.native import Call, load
from isthmus.codegen.objects import assembly, compile_kernels
from isthmus.errors import CompilerBug
from isthmus.kernels.builder import Builder, Expr
from isthmus.kernels.kernel import Kernel
from isthmus.target import Target

Compiled = Callable[[Kernel], Call]


def _scale_relu(target: Target) -> Kernel:
    """The example in the builder's docstring."""
    k = Builder("scale_relu_f32", target)
    x = k.input("x")
    y = k.output("y")
    alpha = k.scalar("alpha")
    n = k.size("n")

    def element(i: Expr, lanes: int) -> None:
        scaled = k.let("scaled", x.load(i, lanes) * alpha)
        y.store(i, k.select(scaled < 0.0, 0.0, scaled))

    k.vectorized("i", n, element)
    return k.finish()


def test_example(target: Target, compiled: Compiled, misaligned: Callable[[np.ndarray], np.ndarray]) -> None:
    kernel = _scale_relu(target)
    assert kernel.prototype() == "void scale_relu_f32(const float *x, float *y, float alpha, int64_t n);"
    for n in (0, 1, 15, 16, 17, 100):
        x = misaligned(np.linspace(-1, 1, n + 1, dtype=np.float32))
        x[n // 2] = np.nan
        y = misaligned(np.full(n + 1, 9, np.float32))
        compiled(kernel)(x, y, 2.0, n)
        np.testing.assert_array_equal(y[:n], np.where(x[:n] < 0, 0, x[:n] * 2))
        assert y[n] == 9


def test_control_flow(target: Target, compiled: Compiled) -> None:
    """y[i] for i in [begin, end): 10 i for even i, -1 for the odd ones below 5, else -2."""
    k = Builder("test_control", target)
    y, begin, end = k.output("y", "int64"), k.size("begin"), k.size("end")
    with k.loop("i", begin, end) as i:
        with k.when(k.equal(k.remainder(i, 2), 0)):
            y.store(i, i * 10)
        with k.otherwise():
            k.choose([(i < 5, lambda: y.store(i, -1))], lambda: y.store(i, -2))
    y64 = np.full(10, 7, np.int64)
    compiled(k.finish())(y64, 1, 8)
    assert y64.tolist() == [7, -1, 20, -1, 40, -2, 60, -2, 7, 7]
    compiled(k.finish())(y64, 8, 1)
    assert y64[8] == 7


def test_integers_and_casts(target: Target, compiled: Compiled) -> None:
    k = Builder("test_integers", target)
    a, b, y = k.size("a"), k.size("b"), k.output("y", "int64")
    real = k.scalar("real", "float64")
    values = [k.divide(a, b), k.remainder(a, b), k.divide_up(a, b), k.smaller(a, b), k.larger(a, b)]
    for i, value in enumerate([*values, k.cast(real, "int64"), k.bits(real, "int64")]):
        y.store(i, value)
    out = np.zeros(7, np.int64)
    compiled(k.finish())(17, 5, out, -2.75)
    assert out.tolist() == [3, 2, 4, 5, 17, -2, np.float64(-2.75).view(np.int64)]


def test_registers_stack_and_reductions(target: Target, compiled: Compiled) -> None:
    """The sum of x squared, lane by lane in a register, and x reversed through the stack."""
    k = Builder("test_state", target)
    x, y = k.input("x"), k.output("y")
    lanes = k.lanes
    total = k.register("total", lanes, 0.0)
    stack = k.stack("stack", 4 * lanes)
    with k.loop("i", 0, 4) as i:
        vector = k.let("vector", x.load(i * lanes, lanes))
        total.add(vector * vector)
        stack.store(i * lanes, vector)
    y.store(0, k.reduce_sum(total.value))
    y.store(1, k.reduce(stack.load(0, lanes), lambda a, b: a * b))
    with k.loop("j", 0, 4 * lanes) as j:
        y.store(j + 2, stack.load(4 * lanes - 1 - j))
    values = np.random.default_rng(0).standard_normal(4 * lanes).astype(np.float32)
    out = np.empty(4 * lanes + 2, np.float32)
    compiled(k.finish())(values, out)
    np.testing.assert_allclose(out[:2], [(values**2).sum(), values[:lanes].prod()], rtol=1e-5)
    np.testing.assert_array_equal(out[2:], values[::-1])


def test_shuffles_and_lanes(level: Target, tmp_path: Path) -> None:
    k = Builder("test_lanes", level)
    y, n = k.output("y"), k.size("n")
    numbers = k.cast(k.lane_numbers(8), "float32")
    y.store(0, k.shuffle([numbers], [7, 6, 5, 4, 3, 2, 1, 0]))
    y.store(8, k.select(k.lane_numbers(8) < k.cast(n, "int32"), numbers, -1.0))
    y.store(16, k.select(k.is_nan(numbers / numbers), 1.0, 0.0))
    out = np.empty(24, np.float32)
    load([k.finish()], level, tmp_path)["test_lanes"](out, 3)
    assert out.tolist() == [7, 6, 5, 4, 3, 2, 1, 0, 0, 1, 2, *[-1] * 5, 1, *[0] * 7]


def test_products_are_fused(level: Target) -> None:
    k = Builder("test_fma", level)
    x, y = k.input("x"), k.output("y")
    y.store(0, x.load(0, k.lanes) * x.load(64, k.lanes) + x.load(128, k.lanes))
    text = assembly(k.finish(), level)
    assert bool(re.search(r"vfmadd\d+ps", text)) == level.vector.fma
    register = {128: "xmm", 256: "ymm", 512: "zmm"}[level.vector.bits]
    assert register in text


def test_prefetch_writes_nothing_and_reads_nowhere(target: Target, compiled: Compiled) -> None:
    k = Builder("test_prefetch", target)
    x, y = k.input("x"), k.output("y")
    for level in (1, 2, 3):
        x.prefetch(1 << 35, level=level)
    y.prefetch(-(1 << 35), write=True)
    y.store(0, 1.0)
    kernel = k.finish()
    assert len(re.findall("prefetch", assembly(kernel, target))) >= 4
    out = np.zeros(1, np.float32)
    compiled(kernel)(out, out)
    assert out[0] == 1


def test_later_builds_the_same_each_time(target: Target) -> None:
    k = Builder("test_later", target)
    y, built = k.output("y"), []

    def body() -> None:
        built.append(1)
        y.store(0, 1.0)

    kernel = k.later(body)
    assert kernel.parameters[0].ctype == "float *"
    assert not built
    first = compile_kernels([kernel], target, None)
    again = Kernel(kernel.symbol, kernel.declare)
    assert compile_kernels([again], target, None) == first
    assert len(built) == 2


def test_misuse_is_our_bug(target: Target) -> None:
    k = Builder("test_misuse", target)
    y = k.output("y")
    y.store(0, 1.0)
    with pytest.raises(CompilerBug, match="otherwise"), k.otherwise():
        pass
    with k.loop("i", 0, 3), pytest.raises(CompilerBug, match="open block"):
        k.finish()
