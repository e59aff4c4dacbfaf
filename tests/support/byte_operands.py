"""What tests of products of bytes share: the chips, operands with bytes at their limits, the meaning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from runners import CACHE, KNOWN, most_capable

from isthmus.codegen.native import Call, load
from isthmus.kernels import gemm, gemm_tiles
from isthmus.kernels.byte_products import arithmetic_of
from isthmus.kernels.byte_steps import Steps
from isthmus.kernels.kernel import Kernel
from isthmus.ops.integer import integer_linear
from isthmus.target import ByteProducts, Target, VectorUnit

# One for each way of multiplying bytes: tiles, or an instruction and its vectors.
CHIPS = most_capable(lambda target: (target.byte_products, target.vector, target.multiplies_in_tiles("u8")))
# Ways of multiplying bytes that other chips have, in the LLVM that is right on any chip.
_BASE = KNOWN["x86-64-v1"]
_ADD_PAIRS = """\
define linkonce_odr <4 x i32> @isthmus_add_pairs(<4 x i32> %sums, <8 x i16> %products) alwaysinline {
  %wide = sext <8 x i16> %products to <8 x i32>
  %even = shufflevector <8 x i32> %wide, <8 x i32> poison, <4 x i32> <i32 0, i32 2, i32 4, i32 6>
  %odd = shufflevector <8 x i32> %wide, <8 x i32> poison, <4 x i32> <i32 1, i32 3, i32 5, i32 7>
  %pairs = add <4 x i32> %even, %odd
  %r = add <4 x i32> %sums, %pairs
  ret <4 x i32> %r
}
"""
OTHER_WAYS = (
    replace(
        _BASE,
        name="widening",
        byte_products=ByteProducts("", 1, False),
        vector=VectorUnit(128, 32, False, group=4),
    ),
    replace(_BASE, name="pair-sums", byte_products=None, instructions=(("add_pairs", _ADD_PAIRS),)),
)
GUARD = np.float32(12345.0)


def loaded(chip: Target, folders: pytest.TempPathFactory, make: Callable[..., Kernel]) -> Callable[..., Call]:
    """The function behind the kernel that `make` makes of its arguments; each symbol is compiled once."""
    made: dict[str, Call] = {}

    def get(*args: object, **options: object) -> Call:
        kernel = make(*args, **options)
        if kernel.symbol not in made:
            made.update(load([kernel], chip, folders.mktemp(kernel.symbol), CACHE))
        return made[kernel.symbol]

    return get


def byte_product(
    chip: Target, activation: str | None, residual: bool, short: bool = False, steps: Steps | None = None
) -> Kernel:
    """The product of bytes with a packed matrix that `chip` runs."""
    if chip.multiplies_in_tiles("u8"):
        return gemm_tiles.byte_kernel(chip, activation, residual, short, steps)
    return gemm.kernel(chip, activation, residual, arithmetic_of(chip), short=short, steps=steps)


def pitched(values: np.ndarray, extra: int) -> np.ndarray:
    """`values` with so many more columns of guards."""
    room = np.full((values.shape[0], values.shape[1] + extra), GUARD).astype(values.dtype)
    room[:, : values.shape[1]] = values
    return room


class Operands:
    """Operands, of which some bytes are at their limits, and what comes of them. `each` row has a scale."""

    def __init__(self, chip: Target, rows: int, depth: int, columns: int, each: bool) -> None:
        rng = self.rng = np.random.default_rng(rows * depth + columns)
        self.dtype = np.uint8 if chip.unsigned_bytes else np.int8
        limits = np.iinfo(self.dtype)
        x = rng.integers(limits.min, limits.max + 1, (rows, depth)).astype(self.dtype)
        w = rng.integers(-128, 128, (depth, columns)).astype(np.int8)
        x[0], w[:, 0] = limits.max, -128
        x[-1, ::2], w[::2, -1] = limits.min, 127
        self.x, self.w = x, w
        self.offset = rng.integers(-(1 << 20), 1 << 20, columns).astype(np.int32)
        self.x_scale = rng.uniform(1e-3, 1e-1, (rows, 1) if each else ()).astype(np.float32)
        self.w_scale, self.bias = rng.uniform(1e-3, 1, (2, columns)).astype(np.float32)
        self.residual = rng.standard_normal((rows, columns)).astype(np.float32)

    def expected(self, residual: bool, activation: str = "none") -> np.ndarray:
        extra = (self.residual,) if residual else ()
        operands = (self.x, self.w, self.offset, self.x_scale, self.w_scale, self.bias, *extra)
        found = integer_linear.reference(*operands, activation=activation)
        assert isinstance(found, np.ndarray)
        return found
