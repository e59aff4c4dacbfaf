"""GEMM and packing against NumPy in double precision: tails everywhere, ranges, NaN, code quality."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import pytest

from isthmus.codegen.native import Call
from isthmus.codegen.objects import assembly
from isthmus.errors import CompilerBug
from isthmus.kernels import gemm, layer_norm, pack
from isthmus.kernels.kernel import Kernel
from isthmus.target import Target

Compiled = Callable[[Kernel], Call]
GUARD = np.float32(12345.0)

_erf = np.vectorize(math.erf, otypes=[np.float64])
TRUTH: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu": lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
}


def _pitched(values: np.ndarray, extra: int = 3) -> np.ndarray:
    """The same matrix with rows further apart, and a guard between them."""
    room = np.full((values.shape[0], values.shape[1] + extra), GUARD, np.float32)
    room[:, : values.shape[1]] = values
    return room


class Product:
    """One product: its operands, the call, and the check of what was written and what was not."""

    def __init__(self, rows: int, depth: int, columns: int, width: int, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.rows, self.depth, self.columns = rows, depth, columns
        self.x = _pitched(random.standard_normal((rows, depth)).astype(np.float32))
        self.weight = random.standard_normal((depth, columns)).astype(np.float32)
        self.panels = gemm.pack(self.weight, width)
        self.bias = np.zeros(self.panels.shape[0] * width, np.float32)
        self.bias[:columns] = random.standard_normal(columns)
        self.residual = _pitched(random.standard_normal((rows, columns)).astype(np.float32), 5)
        self.y = np.full((rows, columns + 2), GUARD, np.float32)

    def run(self, call: Call, residual: np.ndarray | None, rows: slice, panels: slice) -> None:
        extra = () if residual is None else (residual,)
        pitch = () if residual is None else (residual.shape[1],)
        sizes = (self.depth, self.columns, self.x.shape[1], *pitch, self.y.shape[1])
        ranges = (rows.start, rows.stop, panels.start, panels.stop)
        call(self.x, self.panels, self.bias, *extra, self.y, *sizes, *ranges)

    def all(self, call: Call, residual: np.ndarray | None = None) -> None:
        self.run(call, residual, slice(0, self.rows), slice(0, self.panels.shape[0]))

    def expected(self, residual: np.ndarray | None = None) -> np.ndarray:
        x = self.x[:, : self.depth].astype(np.float64)
        y: np.ndarray = x @ self.weight + self.bias[: self.columns]
        return y if residual is None else y + residual[:, : self.columns]

    def check(self, expected: np.ndarray, absolute: float = 0.0) -> None:
        bound = absolute + 1e-6 * (1 + math.sqrt(self.depth))
        np.testing.assert_allclose(self.y[:, : self.columns], expected, rtol=2e-6, atol=bound)
        assert (self.y[:, self.columns :] == GUARD).all(), "wrote beyond n"


@pytest.mark.parametrize("columns", [1, 47, 48, 49, 100])
@pytest.mark.parametrize("depth", [1, 15, 16, 67])
def test_every_height_and_tail(columns: int, depth: int, target: Target, compiled: Compiled) -> None:
    plain, residual = (compiled(gemm.kernel(target, residual=r)) for r in (False, True))
    for rows in (*range(1, 19), 33):
        product = Product(rows, depth, columns, gemm.panel_width(target), rows)
        product.all(plain)
        product.check(product.expected())
        product.all(residual, product.residual)
        product.check(product.expected(product.residual))


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("extra", [1, 40])
def test_chunks_of_depth(activation: str | None, extra: int, target: Target, compiled: Compiled) -> None:
    """A K that is cut: sums go on where they were left, and bias, residual and activation come once."""
    depth, width = 2 * gemm.most_depth(target) + extra, gemm.panel_width(target)
    # Every product is rounded where it is not fused with its sum, and one lane sums ten thousands of them.
    absolute = 3e-4 if target.vector.fma else 2e-3
    plain, residual = (compiled(gemm.kernel(target, activation, r)) for r in (False, True))
    for rows in (1, 11):
        product = Product(rows, depth, 2 * width + 3, width, rows)
        for call, extra_rows in ((plain, None), (residual, product.residual)):
            product.all(call, extra_rows)
            expected = product.expected(extra_rows)
            product.check(np.maximum(expected, 0) if activation else expected, absolute=absolute)
        product.y[:, : product.columns] = product.residual[:, : product.columns]
        product.all(residual, product.y)
        product.check(np.maximum(expected, 0) if activation else expected, absolute=absolute)


@pytest.mark.parametrize("activation", TRUTH)
def test_activations(activation: str, target: Target, compiled: Compiled) -> None:
    product = Product(17, 24, 70, gemm.panel_width(target))
    product.all(compiled(gemm.kernel(target, activation)))
    product.check(TRUTH[activation](product.expected()), absolute=5e-6)


def test_activation_after_residual(target: Target, compiled: Compiled) -> None:
    product = Product(9, 24, 70, gemm.panel_width(target))
    product.all(compiled(gemm.kernel(target, "relu", residual=True)), product.residual)
    product.check(np.maximum(product.expected(product.residual), 0))


def test_residual_in_place(target: Target, compiled: Compiled) -> None:
    product = Product(19, 40, 100, gemm.panel_width(target))
    product.y[:, : product.columns] = product.residual[:, : product.columns]
    product.all(compiled(gemm.kernel(target, residual=True)), product.y)
    product.check(product.expected(product.residual))


def test_ranges_compose(target: Target, compiled: Compiled) -> None:
    """Rows and panels done in pieces give the bits of the whole, and a piece writes nothing else."""
    width = gemm.panel_width(target)
    call = compiled(gemm.kernel(target))
    whole = Product(23, 50, 3 * width + 5, width)
    whole.all(call)
    pieces = Product(23, 50, 3 * width + 5, width)
    last = pieces.panels.shape[0]
    pieces.run(call, None, slice(8, 16), slice(1, 3))
    untouched = np.ones_like(pieces.y, bool)
    untouched[8:16, width : 3 * width] = False
    assert (pieces.y[untouched] == GUARD).all()
    for rows in (slice(0, 8), slice(8, 16), slice(16, 23)):
        for panels in (slice(0, 1), slice(1, last)):
            pieces.run(call, None, rows, panels)
    np.testing.assert_array_equal(pieces.y, whole.y)
    pieces.run(call, None, slice(5, 5), slice(0, last))
    pieces.run(call, None, slice(0, 23), slice(2, 2))
    np.testing.assert_array_equal(pieces.y, whole.y)


def test_misaligned(
    target: Target, compiled: Compiled, misaligned: Callable[[np.ndarray], np.ndarray]
) -> None:
    product = Product(9, 33, 100, gemm.panel_width(target))
    for name in ("x", "panels", "bias", "residual", "y"):
        setattr(product, name, misaligned(getattr(product, name)))
    product.all(compiled(gemm.kernel(target, residual=True)), product.residual)
    product.check(product.expected(product.residual))


def test_nan_and_inf_stay_in_their_row(target: Target, compiled: Compiled) -> None:
    product = Product(10, 20, 50, gemm.panel_width(target))
    product.x[2, 3], product.x[5, 4], product.x[7, 5] = np.nan, np.inf, -np.inf
    product.weight[4, 7] = 0.0  # inf * 0 is NaN
    product.panels = gemm.pack(product.weight, gemm.panel_width(target))
    for activation in (None, "gelu", "relu", "tanh", "sigmoid"):
        product.all(compiled(gemm.kernel(target, activation)))
        with np.errstate(invalid="ignore"):
            expected = product.expected()
            product.check(TRUTH[activation](expected) if activation else expected, absolute=5e-6)


def test_unknown_activation(target: Target) -> None:
    with pytest.raises(CompilerBug, match="swish"):
        gemm.kernel(target, "swish")


def test_prototype(target: Target) -> None:
    assert gemm.kernel(target, "gelu", residual=True).prototype() == (
        "void gemm_f32_res_gelu(const float *x, const float *w, const float *bias, const float *residual, "
        "float *y, int64_t k, int64_t n, int64_t ldx, int64_t ldr, int64_t ldy, int64_t row_begin, "
        "int64_t row_end, int64_t panel_begin, int64_t panel_end);"
    )


def test_inner_loop_is_clean(level: Target) -> None:
    """The k loops of the tall tiles multiply from registers: nothing is spilt, nothing assumes alignment."""
    if not level.vector.fma:
        pytest.skip("a product apart from its sum takes a register more than this tile leaves")
    shape = gemm.tile_of(level)
    blocks = re.split(r"\n\.LBB\w+:", assembly(gemm.kernel(level), level))
    product = r"vfmadd\d+ps"
    hot = [block for block in blocks if len(re.findall(product, block)) >= shape.rows * shape.vectors]
    assert hot
    spilt = re.compile(r"[xyz]mm\d+, -?\d*\(%r[sb]p\)|\(%r[sb]p\), %[xyz]mm")
    assert not [line for block in hot for line in block.splitlines() if spilt.search(line)]


def test_pointers_need_no_alignment(level: Target) -> None:
    """Aligned vector moves touch only constants and the stack, which LLVM aligns itself."""
    pointer = r"[^\n]*\(%(?!rsp|rbp|rip)[^\n]*"
    for kernel in (gemm.kernel(level, residual=True), layer_norm.kernel(level, True)):
        text = assembly(kernel, level)
        assert re.search(r"v?movups\s" + pointer, text)
        assert not re.findall(r"^\s*v?mov(?:ap[sd]|dqa\d*|ntp[sd])\s" + pointer, text, re.MULTILINE)
        if not level.vector.fma:
            # Without VEX, arithmetic on a vector in memory faults when it is not aligned.
            assert not re.findall(r"^\s*(?:mul|add|sub|max|min)ps\s" + pointer, text, re.MULTILINE)


@pytest.mark.parametrize("order", ["rows", "columns", "strided"])
def test_pack(order: str, target: Target, compiled: Compiled) -> None:
    call = compiled(pack.kernel(target))
    width = gemm.panel_width(target)
    random = np.random.default_rng(0)
    for depth, columns in ((1, 1), (16, width), (37, 2 * width + 3), (50, width - 1)):
        matrix = {
            "rows": lambda d=depth, n=columns: random.standard_normal((d, n)),
            "columns": lambda d=depth, n=columns: random.standard_normal((n, d)).T,
            "strided": lambda d=depth, n=columns: random.standard_normal((2 * d, 3 * n))[::2, ::3],
        }[order]()
        source = np.asarray(matrix, np.float32, order="K")
        expected = gemm.pack(source, width)
        strides = (source.strides[0] // 4, source.strides[1] // 4)
        panels = np.full((expected.size + 1,), GUARD, np.float32)
        count = expected.shape[0]
        for begin, end in ((0, count // 2), (count // 2, count)):
            call(source, panels, depth, columns, *strides, begin, end)
        np.testing.assert_array_equal(panels[:-1].reshape(expected.shape), expected)
        assert panels[-1] == GUARD
