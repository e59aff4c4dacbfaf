"""Products of rows of bytes with weights of 4 and 8 bits in blocks: the same bits as NumPy, on every chip."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from byte_operands import CHIPS, GUARD, OTHER_WAYS, loaded, pitched
from runners import KNOWN, native
from strict_c import CHECKED_C

from isthmus.codegen.native import Call
from isthmus.errors import CompilerBug
from isthmus.ir.encodings import Interleaved, Nibbles, Padded, Panels
from isthmus.ir.types import DType
from isthmus.kernels import block_bytes, gemm
from isthmus.kernels.kernel import Kernel
from isthmus.ops.integer import BLOCK_SCALES, integer_block_linear
from isthmus.target import Target

Kernels = Callable[..., Call]


@pytest.fixture(scope="module", params=(*CHIPS, *OTHER_WAYS, CHECKED_C), ids=lambda chip: chip.name)
def chip(request: pytest.FixtureRequest) -> Target:
    return native(request.param)


@pytest.fixture(scope="module")
def kernels(chip: Target, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    def make(*args: object) -> Kernel:
        return block_bytes.kernel(chip, *args)

    return loaded(chip, tmp_path_factory, make)


class Operands:
    """Operands, of which some bytes are at their limits."""

    def __init__(self, rows: int, depth: int, columns: int, bits: int, block: int, scales: DType) -> None:
        rng, half = np.random.default_rng(rows * depth + columns), 1 << bits - 1
        self.bits, self.block = bits, block
        self.x = rng.integers(-128, 128, (rows, depth)).astype(np.int8)
        self.q = rng.integers(-half, half, (depth, columns)).astype(np.int8)
        self.x[0], self.q[:, 0] = -128, -half
        self.x[-1, ::2], self.q[::2, -1] = 127, half - 1
        self.scale = rng.uniform(0.01, 0.1, (depth // block, columns)).astype(scales.numpy)
        self.x_scale = rng.uniform(1e-3, 1e-1, (rows, 1)).astype(np.float32)
        self.bias = rng.standard_normal(columns).astype(np.float32)
        self.residual = rng.standard_normal((rows, columns)).astype(np.float32)

    def expected(self, residual: bool, activation: str) -> np.ndarray:
        operands = self.x, self.q, self.scale, self.x_scale, self.bias, *[self.residual] * residual
        return np.asarray(integer_block_linear.reference(*operands, bits=self.bits, activation=activation))

    def found(self, call: Call, chip: Target, residual: bool) -> np.ndarray:
        (rows, depth), columns, width = self.x.shape, self.q.shape[1], gemm.panel_width(chip)
        q = (Nibbles(width) if self.bits == 4 else Interleaved(width, 4)).encode(self.q)
        starts = np.full(block_bytes.scratch_words(depth, self.block), 1 << 30, np.int32)
        y, panels = np.full((rows, columns + 2), GUARD, np.float32), -(-columns // width)
        operands = (
            pitched(self.x, 3), q, Panels(width).encode(self.scale), self.block.bit_length() - 1,
            self.x_scale, 1, starts, Padded(width).encode(self.bias),
            *[pitched(self.residual, 1)] * residual, y,
        )  # fmt: skip
        sizes = depth, columns, depth + 3, *[columns + 1] * residual, columns + 2
        for first, last in ((0, rows // 2), (rows // 2, rows)):
            for begin, end in ((0, panels // 2), (panels // 2, panels)):
                call(*operands, *sizes, first, last, begin, end)
        assert (y[:, columns:] == GUARD).all()
        return y[:, :columns]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("columns", [1, 48, 100])
def test_blocks_and_tails(bits: int, columns: int, chip: Target, kernels: Kernels) -> None:
    call = kernels(f"q{bits}", DType.F16)
    for depth, block in ((32, 32), (96, 32), (128, 64), (256, 128)):
        for rows in (1, 2, 3, 7, 8, 9, 17, 2 * block_bytes.ROWS + 5):
            operands = Operands(rows, depth, columns, bits, block, DType.F16)
            wanted = operands.expected(False, "none")
            np.testing.assert_array_equal(operands.found(call, chip, False), wanted)


@pytest.mark.parametrize("scales", BLOCK_SCALES)
@pytest.mark.parametrize(("activation", "residual"), [("none", True), ("relu", False), ("relu", True)])
def test_ends_and_scales(
    activation: str, residual: bool, scales: DType, chip: Target, kernels: Kernels
) -> None:
    call = kernels("q4", scales, None if activation == "none" else activation, residual)
    for rows, columns in ((1, 70), (19, 70), (19, 48)):
        operands = Operands(rows, 64, columns, 4, 32, scales)
        wanted = operands.expected(residual, activation)
        np.testing.assert_array_equal(operands.found(call, chip, residual), wanted)


def test_the_longest_block_is_exact(chip: Target, kernels: Kernels) -> None:
    """Sums at their limits: all bytes the lowest of their kind, in one block."""
    operands = Operands(2, 4096, 3, 8, 4096, DType.F32)
    operands.x[:], operands.q[:] = -128, -128
    found = operands.found(kernels("q8", DType.F32), chip, False)
    np.testing.assert_array_equal(found, operands.expected(False, "none"))


def test_unknown_kinds_are_a_bug() -> None:
    target = KNOWN["x86-64-v3"]
    with pytest.raises(CompilerBug, match="no product of bytes and e2m1"):
        block_bytes.kernel(target, "e2m1", DType.F16)
    with pytest.raises(CompilerBug, match="then swish"):
        block_bytes.kernel(target, "q4", DType.F16, "swish")
