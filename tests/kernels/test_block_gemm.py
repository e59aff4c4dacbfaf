"""Products with weights of 4 and 8 bits against NumPy in double precision: blocks, tails, ranges."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from isthmus.codegen.native import Call
from isthmus.errors import CompilerBug
from isthmus.ir.encodings import Interleaved, Nibbles, Padded, Panels, SmallFloats
from isthmus.ir.small_floats import from_codes
from isthmus.ir.types import DType
from isthmus.kernels import block_gemm, block_row, gemm
from isthmus.kernels.kernel import Kernel
from isthmus.ops.integer import block_linear
from isthmus.target import Target

Compiled = Callable[[Kernel], Call]
GUARD = np.float32(12345.0)


def scratch(target: Target, depth: int) -> tuple[np.ndarray, ...]:
    """Memory for one row, with nothing in it that helps, where the kernel takes any."""
    room = block_row.scratch_floats(target, depth)
    return (np.full(room, np.nan, np.float32),) if room else ()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [1, 47, 48, 100])
@pytest.mark.parametrize("scales", block_gemm.SCALES)
def test_blocks_and_tails(bits: int, columns: int, scales: DType, target: Target, compiled: Compiled) -> None:
    call, width = compiled(block_gemm.kernel(target, f"q{bits}", scales)), gemm.panel_width(target)
    rng = np.random.default_rng(columns)
    half = 1 << bits - 1
    for depth, block in ((8, 8), (64, 16), (96, 32), (128, 128), (40, None)):
        groups = depth // block if block else 1
        q = rng.integers(-half, half, (depth, columns)).astype(np.int8)
        q[:, 0], q[:, -1] = -half, half - 1
        scale = rng.uniform(0.01, 0.1, (groups, columns)).astype(scales.numpy)
        bias = rng.standard_normal(columns).astype(np.float32)
        stored = (Nibbles(width) if bits == 4 else Interleaved(width, 4)).encode(q)
        operands = stored, Panels(width).encode(scale), Padded(width).encode(bias)
        panels = -(-columns // width)
        for rows in (1, 2, 7, 8, 9, 17):
            x = np.full((rows, depth + 3), GUARD, np.float32)
            x[:, :depth] = rng.standard_normal((rows, depth))
            y = np.full((rows, columns + 2), GUARD, np.float32)
            shift = block.bit_length() - 1 if block else 62
            for begin, end in ((0, panels // 2), (panels // 2, panels)):
                sizes = depth, columns, shift, depth + 3, columns + 2
                call(x, *operands, y, *scratch(target, depth), *sizes, 0, rows, begin, end)
            wanted = block_linear.reference(x[:, :depth], q, scale, bias, bits=bits)
            np.testing.assert_allclose(y[:, :columns], wanted, rtol=1e-5, atol=1e-5 * half * depth**0.5 / 8)
            assert (y[:, columns:] == GUARD).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e33, -1e30, 1e-30, 1e-42, 0.0])
def test_one_number_of_the_row(bits: int, value: float, target: Target, compiled: Compiled) -> None:
    """Beside ordinary numbers it is what it is, and nothing happens to rows without others."""
    call, width = compiled(block_gemm.kernel(target, f"q{bits}")), gemm.panel_width(target)
    rng, depth, columns = np.random.default_rng(3), 128, 50
    half = 1 << bits - 1
    q = rng.integers(1, half, (depth, columns)).astype(np.int8)
    scale = rng.uniform(0.01, 0.1, (4, columns)).astype(np.float32)
    bias = np.zeros(columns, np.float32)
    stored = (Nibbles(width) if bits == 4 else Interleaved(width, 4)).encode(q)
    operands = stored, Panels(width).encode(scale), Padded(width).encode(bias)
    among, alone = rng.uniform(1, 2, (1, depth)).astype(np.float32), np.zeros((1, depth), np.float32)
    for x in (among, alone):
        x[0, 70] = value
        y = np.zeros((1, columns), np.float32)
        sizes = depth, columns, 5, depth, columns
        call(x, *operands, y, *scratch(target, depth), *sizes, 0, 1, 0, -(-columns // width))
        with np.errstate(over="ignore", invalid="ignore"):
            wanted = block_linear.reference(x, q, scale, bias, bits=bits)
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-44)


@pytest.mark.parametrize("kind", ["e2m1", "e4m3", "e5m2"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e33, -1e17, -1e14, 1e-30, 1e-42, 0.0])
def test_one_number_of_the_row_by_floats(kind: str, value: float, target: Target, compiled: Compiled) -> None:
    """The same where weights are floats, the least and the largest of their kind among them."""
    call, width = compiled(block_gemm.kernel(target, kind)), gemm.panel_width(target)
    rng, depth, columns = np.random.default_rng(5), 128, 50
    dtype = {"e2m1": DType.I8, "e4m3": DType.F8E4M3, "e5m2": DType.F8E5M2}[kind]
    if kind == "e2m1":
        q = from_codes(rng.integers(1, 8, (depth, columns)).astype(np.int8))
    else:
        q = rng.uniform(0.5, 2, (depth, columns)).astype(dtype.numpy)
        q[:, 3], q[:, 4] = 1, np.nextafter(np.zeros(1, dtype.numpy), np.ones(1, dtype.numpy))
    encoding = SmallFloats(width) if kind == "e2m1" else Interleaved(width, 4)
    scale = rng.uniform(0.01, 0.1, (4, columns)).astype(np.float32)
    operands = (
        encoding.encode(q),
        Panels(width).encode(scale),
        np.zeros(-(-columns // width) * width, np.float32),
    )
    among, alone = rng.uniform(1, 2, (1, depth)).astype(np.float32), np.zeros((1, depth), np.float32)
    for x in (among, alone):
        x[0, 70] = value
        y = np.zeros((1, columns), np.float32)
        sizes = depth, columns, 5, depth, columns
        call(x, *operands, y, *scratch(target, depth), *sizes, 0, 1, 0, -(-columns // width))
        with np.errstate(over="ignore", invalid="ignore"):
            bits, floats = (4, True) if kind == "e2m1" else (8, False)
            wanted = block_linear.reference(
                x, q, scale, np.zeros(columns, np.float32), bits=bits, floats=floats
            )
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-43)


@pytest.mark.parametrize("columns", [1, 48, 70])
@pytest.mark.parametrize("kind", ["e2m1", "e4m3", "e5m2"])
@pytest.mark.parametrize("scales", block_gemm.SCALES)
def test_floats_of_few_bits(
    kind: str, columns: int, scales: DType, target: Target, compiled: Compiled
) -> None:
    call = compiled(block_gemm.kernel(target, kind, scales))
    width, rng = gemm.panel_width(target), np.random.default_rng(columns)
    dtype = {"e2m1": DType.I8, "e4m3": DType.F8E4M3, "e5m2": DType.F8E5M2}[kind]
    bits, floats = (4, True) if kind == "e2m1" else (8, False)
    for depth, block in ((16, 16), (96, 32), (64, 8)):
        q = from_codes(rng.integers(-8, 8, (depth, columns)).astype(np.int8))
        if kind != "e2m1":
            q = rng.normal(0, 0.1, (depth, columns)).astype(dtype.numpy)
        encoding = SmallFloats(width) if kind == "e2m1" else Interleaved(width, 4)
        scale = rng.uniform(0.01, 0.1, (depth // block, columns)).astype(scales.numpy)
        bias = rng.standard_normal(columns).astype(np.float32)
        stored = encoding.encode(q), Panels(width).encode(scale), Padded(width).encode(bias)
        for rows in (1, 2, 9):
            x = rng.standard_normal((rows, depth)).astype(np.float32)
            y = np.full((rows, columns), GUARD, np.float32)
            sizes = depth, columns, block.bit_length() - 1, depth, columns
            call(x, *stored, y, *scratch(target, depth), *sizes, 0, rows, 0, -(-columns // width))
            wanted = block_linear.reference(x, q, scale, bias, bits=bits, floats=floats)
            np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "x_in"), [("q4", DType.BF16), ("q4", DType.F16), ("q8", DType.F16), ("e4m3", DType.BF16)]
)
def test_rows_of_16_bits(kind: str, x_in: DType, target: Target, compiled: Compiled) -> None:
    """The same numbers as from these rows in f32."""
    exact = compiled(block_gemm.kernel(target, kind))
    call, width = compiled(block_gemm.kernel(target, kind, x=x_in)), gemm.panel_width(target)
    rng, bits = np.random.default_rng(7), 4 if kind == "q4" else 8
    for depth, columns in ((8, 1), (40, 47), (96, 100)):
        q = rng.integers(-(1 << bits - 1), 1 << bits - 1, (depth, columns)).astype(np.int8)
        if kind == "e4m3":
            q = rng.normal(0, 20, (depth, columns)).astype(DType.F8E4M3.numpy)
        scale = rng.uniform(0.01, 0.1, (depth // 8, columns)).astype(np.float32)
        bias = rng.standard_normal(columns).astype(np.float32)
        stored = (Nibbles(width) if bits == 4 else Interleaved(width, 4)).encode(q)
        operands = stored, Panels(width).encode(scale), Padded(width).encode(bias)
        for rows in (1, 2, 9, 17):
            x = np.full((rows, depth + 3), np.nan, x_in.numpy)
            x[:, :depth] = rng.standard_normal((rows, depth))
            y, wanted = (np.full((rows, columns + 2), GUARD, np.float32) for _ in range(2))
            sizes = depth, columns, 3, depth + 3, columns + 2, 0, rows, 0, -(-columns // width)
            room = np.full(block_gemm.scratch_floats(target, depth, x_in), np.nan, np.float32)
            call(x, *operands, y, room, *sizes)
            exact(x.astype(np.float32), *operands, wanted, *scratch(target, depth), *sizes)
            np.testing.assert_array_equal(y, wanted)


@pytest.mark.parametrize("dtype", [DType.F8E4M3, DType.F8E5M2])
def test_every_float_of_8_bits(dtype: DType, target: Target, compiled: Compiled) -> None:
    """Each finite code alone, exactly."""
    call = compiled(block_gemm.kernel(target, str(dtype).removeprefix("f8"), DType.F8E8M0))
    width = gemm.panel_width(target)
    codes = np.arange(256, dtype=np.uint8).view(dtype.numpy)
    codes = np.where(np.isfinite(codes), codes, np.zeros_like(codes))
    q = np.zeros((8, 256), dtype.numpy)
    q[5] = codes
    scale = np.full((1, 256), 2.0, DType.F8E8M0.numpy)
    encoded = (Interleaved(width, 4).encode(q), Panels(width).encode(scale))
    for rows in (1, 3):
        x, y = np.ones((rows, 8), np.float32), np.zeros((rows, 256), np.float32)
        bias = np.zeros(-(-256 // width) * width, np.float32)
        call(x, *encoded, bias, y, *scratch(target, 8), 8, 256, 3, 8, 256, 0, rows, 0, -(-256 // width))
        np.testing.assert_array_equal(y, np.tile(2 * codes.astype(np.float32), (rows, 1)))


def test_nibbles_are_read_back() -> None:
    q = np.random.default_rng(0).integers(-8, 8, (19, 50)).astype(np.int8)
    stored = Nibbles(16).encode(q)
    assert stored.nbytes == Nibbles(16).nbytes((19, 50), DType.I8)
    np.testing.assert_array_equal(Nibbles(16).decode(stored, (19, 50)), q)


def test_there_are_no_other_kinds(target: Target) -> None:
    with pytest.raises(CompilerBug, match="weights of q2"):
        block_gemm.kernel(target, "q2")
    with pytest.raises(CompilerBug, match="scales in f64"):
        block_gemm.kernel(target, "q8", DType.F64)
    with pytest.raises(CompilerBug, match="rows of i8"):
        block_gemm.kernel(target, "q8", x=DType.I8)
