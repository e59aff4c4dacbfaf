"""Products of quantized numbers in all their spellings: which become products of bytes, meaning the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program, Value, constant, weight_of
from isthmus.ir.types import DType
from isthmus.lowering.lower import lower
from isthmus.ops.integer import block_linear
from isthmus.ops.movement import reshape, transpose
from isthmus.ops.nn import linear, matmul
from isthmus.ops.pointwise import add, cast, gelu, mul, sub
from isthmus.ops.quantize import dequantize, quantize, row_scale
from isthmus.passes.pipeline import run
from isthmus.target import Routine, Target
from isthmus.tools.conformance.cases import Case, Maker, program

K, N = 12, 5


def legal(value: Value, maker: Maker, target: Target, bound: float = 1e-5) -> Program:
    """The legal program, which has to mean what the given one does, and to have kernels."""
    whole, arrays = program([Case("test", maker.name, value, maker.arrays)])
    after = run(whole, target)
    (wanted,), (got,) = evaluate(whole.main, arrays).values(), evaluate(after.main, arrays).values()
    np.testing.assert_allclose(got, wanted, rtol=0, atol=bound * np.abs(wanted).max())
    lower(after, after.main, target)
    return after


def ops(after: Program) -> list[str]:
    wanted = ("linear", "matmul", "quantize_rows", "row_scale")
    found = (v.op.name for v in after.main.nodes())
    return sorted(name for name in found if name in wanted or name.endswith("_linear"))


def number(value: float, dtype: DType = DType.F32) -> Value:
    return constant(f"number {value}", np.asarray(value, dtype.numpy))


def matrix(maker: Maker, dtype: DType = DType.I8, shape: tuple[int, int] = (K, N)) -> Value:
    return maker.whole_weight(*shape, dtype=dtype)


def rows(maker: Maker, dtype: DType = DType.U8, zero: int | None = 117) -> Value:
    """x, quantized and dequantized."""
    parameters = [number(0.02)] if zero is None else [number(0.02), number(zero, dtype)]
    q = quantize(maker.floats(f"f32[b,n,{K}]"), *parameters, dtype=dtype)
    return dequantize(q, *parameters)


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8])
@pytest.mark.parametrize("zero", [None, 3])
def test_qdq(dtype: DType, zero: int | None, target: Target) -> None:
    maker = Maker("test", f"qdq {dtype} {zero}")
    w = dequantize(matrix(maker), constant("scales", maker.scales(N)))
    assert ops(legal(matmul(rows(maker, dtype, zero), w), maker, target)) == [
        "integer_linear",
        "quantize_rows",
    ]


def test_bias_activation_and_residual_come_along(target: Target) -> None:
    maker = Maker("test", "fused")
    w = dequantize(matrix(maker), number(0.01))
    total = add(matmul(rows(maker), w), maker.weight(N))
    after = legal(gelu(add(total, maker.floats(f"f32[b,n,{N}]"))), maker, target)
    (product,) = (v for v in after.main.nodes() if v.op.name == "integer_linear")
    assert product.attr("activation") == "gelu" and len(product.args) == 7


def test_q_k_and_v_are_one_product(target: Target) -> None:
    maker = Maker("test", "wide")
    x = rows(maker)
    parts = [matmul(x, dequantize(matrix(maker), number(0.5 + i))) for i in (1, 2)]
    assert ops(legal(mul(*parts), maker, target)) == ["integer_linear", "quantize_rows"]


@pytest.mark.parametrize(("dtype", "zero", "fits"), [(DType.U8, 128, True), (DType.U8, 3, False)])
def test_zero_points_of_weights(dtype: DType, zero: int, fits: bool, target: Target) -> None:
    maker = Maker("test", f"weights of {dtype} at {zero}")
    w = transpose(dequantize(matrix(maker, dtype, (N, K)), number(0.01), number(zero, dtype)), perm=(1, 0))
    found = ops(legal(matmul(rows(maker), w), maker, target))
    assert ("integer_linear" in found) is fits and ("linear" in found) is not fits


def test_a_scale_for_each_row(target: Target) -> None:
    maker = Maker("test", "rows")
    x = maker.floats(f"f32[b,n,{K}]")
    scale = row_scale(x)
    near = dequantize(quantize(x, scale, dtype=DType.I8), scale)
    value = linear(near, dequantize(matrix(maker), constant("s", maker.scales(N))), maker.weight(N))
    assert ops(legal(value, maker, target)) == ["integer_linear", "quantize_rows", "row_scale"]


def test_sums_of_integers_that_are_scaled(target: Target) -> None:
    maker = Maker("test", "sums")
    q, zero = maker.integers(f"u8[b,n,{K}]"), maker.integers("u8[]")
    wide = sub(cast(q, dtype=DType.I32), cast(zero, dtype=DType.I32))
    total = matmul(wide, cast(matrix(maker), dtype=DType.I32))
    scaled = mul(cast(total, dtype=DType.F32), mul(maker.floats("f32[]", 0.1, 1), number(0.5)))
    # The same roundings: to the bit.
    assert ops(legal(scaled, maker, target, 0.0)) == ["integer_linear"]


def test_a_chip_with_a_routine_gets_the_sums(target: Target) -> None:
    routine = Routine("integer_matmul", ("u8", "i8"), "i32", "mixed", "static int x;")
    maker = Maker("test", "routine")
    total = matmul(*(cast(v, dtype=DType.I32) for v in (maker.integers(f"u8[b,{K}]"), matrix(maker))))
    whole, _ = program([maker.case(mul(cast(total, dtype=DType.F32), number(0.5)))])
    after = run(whole, replace(target, routines=(routine,)))
    assert "integer_matmul" in {v.op.name for v in after.main.nodes()}


@pytest.mark.parametrize("dtype", [DType.F16, DType.BF16])
def test_blocks_beside_rows_of_16_bits(dtype: DType, target: Target) -> None:
    """As decoders are exported in f16: products read rows as they are."""
    maker = Maker("test", f"blocks by {dtype}")
    x, matrices = maker.floats(f"{dtype}[b,n,32]"), []
    for width in (N, 32):
        q = constant(f"q{width}", np.arange(2 * 16 * width).reshape(2, 16, width).astype(np.int8) % 16)
        scale = constant(f"s{width}", maker.scales(2 * width).reshape(2, 1, width).astype(dtype.numpy))
        matrices.append(reshape(dequantize(q, scale), shape=(32, width)))
    hidden = matmul(x, matrices[1])
    both = add(matmul(hidden, matrices[0]), matmul(gelu(hidden), matrices[0]))
    after = legal(both, maker, target, {DType.F16: 2e-3, DType.BF16: 2e-2}[dtype])
    products = [v for v in after.main.nodes() if v.op is block_linear]
    assert [v.args[0].dtype for v in products] == [dtype] * 3


@pytest.mark.parametrize(("low", "bits"), [(-8, 4), (-100, 8)])
def test_blocks(low: int, bits: int, target: Target) -> None:
    maker = Maker("test", f"blocks {bits}")
    q = np.clip(np.arange(2 * 16 * N, dtype=np.int64).reshape(2, 16, N) % 16 - 8, low, 7).astype(np.int8)
    q[0, 0, 0] = low
    scale = constant("s", maker.scales(2 * N).reshape(2, 1, N))
    w = reshape(dequantize(constant("q", q), scale), shape=(32, N))
    after = legal(matmul(maker.floats("f32[b,n,32]"), w), maker, target)
    (product,) = (v for v in after.main.nodes() if v.op.name == "block_linear")
    assert product.attr("bits") == bits
    stored = weight_of(product.args[1])
    assert stored is not None and len(stored.stored().tobytes()) == 48 * 32 * bits // 8


def rows_by_blocks(maker: Maker, size: int, zero: int | None = None) -> Value:
    """Rows of bytes, each at its own scale or all at one zero point, by a matrix of 4 bits in blocks."""
    x = maker.floats("f32[b,n,64]")
    parameters = [row_scale(x)] if zero is None else [number(0.02), number(zero, DType.I8)]
    near = dequantize(quantize(x, *parameters, dtype=DType.I8), *parameters)
    q = (np.arange(64 * N, dtype=np.int64).reshape(-1, size, N) * 7919 % 16 - 8).astype(np.int8)
    scale = constant("s", maker.scales(64 // size * N).reshape(-1, 1, N))
    w = reshape(dequantize(constant("q", q), scale), shape=(64, N))
    return gelu(linear(near, w, maker.weight(N), maker.floats(f"f32[b,n,{N}]")))


@pytest.mark.parametrize("zero", [None, 0])
def test_rows_of_bytes_by_blocks(zero: int | None, target: Target) -> None:
    maker = Maker("test", f"rows by blocks {zero}")
    after = legal(rows_by_blocks(maker, 32, zero), maker, target)
    (product,) = (v for v in after.main.nodes() if v.op.name == "integer_block_linear")
    assert product.attr("bits") == 4 and product.attr("activation") == "gelu" and len(product.args) == 6
    assert ops(after) == ["integer_block_linear", "quantize_rows", *["row_scale"] * (zero is None)]


@pytest.mark.parametrize(("size", "zero"), [(16, None), (32, 3)])
def test_other_rows_by_blocks_are_floats(size: int, zero: int | None, target: Target) -> None:
    """Where blocks are short, or there is a zero point, numbers mean the same in f32."""
    maker = Maker("test", f"rows by blocks of {size} at {zero}")
    assert "block_linear" in ops(legal(rows_by_blocks(maker, size, zero), maker, target))
