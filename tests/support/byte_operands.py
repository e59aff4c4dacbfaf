"""What tests of products of bytes share: the chips, operands with bytes at their limits, the meaning."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from runners import most_capable

from isthmus.codegen.native import Call, load
from isthmus.kernels import gemm, gemm_tiles
from isthmus.kernels.byte_arithmetic import arithmetic_of
from isthmus.kernels.byte_steps import Steps
from isthmus.kernels.kernel import Kernel
from isthmus.ops.integer import integer_linear
from isthmus.target import Target

# One for each way of multiplying bytes: tiles, or an instruction and its vectors.
CHIPS = most_capable(lambda target: (target.byte_products, target.vector, target.multiplies_in_tiles("u8")))
GUARD = np.float32(12345.0)


def loaded(chip: Target, folders: pytest.TempPathFactory, make: Callable[..., Kernel]) -> Callable[..., Call]:
    """The function behind the kernel that `make` makes of its arguments; each symbol is compiled once."""
    made: dict[str, Call] = {}

    def get(*args: object, **options: object) -> Call:
        kernel = make(*args, **options)
        if kernel.symbol not in made:
            made.update(load([kernel], chip, folders.mktemp(kernel.symbol)))
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
