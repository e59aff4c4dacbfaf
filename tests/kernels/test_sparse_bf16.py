"""Products of bf16 with sparse matrices against their meaning: every way to multiply pairs, tails, NaN."""

from __future__ import annotations

import math
from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from byte_operands import GUARD, loaded, pitched
from runners import most_capable, quick
from strict_c import CHECKED_C

from isthmus.codegen.native import Call
from isthmus.errors import CompilerBug
from isthmus.ir.sparse import Blocks
from isthmus.kernels import sparse
from isthmus.kernels.arithmetic import bf16_of
from isthmus.kernels.kernel import Kernel
from isthmus.passes.sparsify.patterns import BLOCKS_OF
from isthmus.target import Target

BF16 = np.dtype(ml_dtypes.bfloat16)
# One chip for each way of multiplying bf16: an instruction, and f32 in vectors of every width.
CHIPS = most_capable(lambda target: (target.vector, target.instruction("dot_bf16")))


@pytest.fixture(scope="module", params=(*CHIPS, CHECKED_C), ids=lambda target: target.name)
def chip(request: pytest.FixtureRequest) -> Target:
    return quick(request.param)


@pytest.fixture(scope="module")
def kernels(chip: Target, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Call]:
    def make(
        block: tuple[int, int], residual: bool = False, activation: str | None = None, rounded: bool = False
    ) -> Kernel:
        return sparse.kernel(chip, *block, activation, residual, bf16_of(chip), rounded)

    return loaded(chip, tmp_path_factory, make)


class Product:
    """Operands of which whole blocks are zero, the call, and what it has to give."""

    def __init__(
        self,
        chip: Target,
        rows: int,
        depth: int,
        columns: int,
        block: tuple[int, int] = (1, 2),
        density: float = 0.2,
        rounded: bool = False,
    ) -> None:
        random = np.random.default_rng(rows * depth + columns)
        outputs, inputs = block
        kept = random.random((-(-depth // inputs), -(-columns // outputs))) < density
        kept = np.repeat(np.repeat(kept, inputs, 0), outputs, 1)[:depth, :columns]
        # Also zeros inside of blocks, as of a matrix that was not pruned in blocks.
        kept &= random.random(kept.shape) < 0.8
        w = random.standard_normal((depth, columns)) / math.sqrt(depth)
        self.x, self.w = random.standard_normal((rows, depth)).astype(BF16), np.where(kept, w, 0).astype(BF16)
        self.bias, self.residual = (
            random.standard_normal(shape).astype(np.float32) for shape in (columns, (rows, columns))
        )
        self.rounded = rounded
        self.block = block
        self.width = sparse.group_width(chip, outputs)
        self.groups = -(-columns // self.width)
        self.told = (rows,) if sparse.tells_rows(chip) else ()
        self.chip = chip

    def run(self, call: Call, residual: bool, spans: list[tuple[slice, slice]] | None = None) -> np.ndarray:
        rows, (depth, columns) = self.x.shape[0], self.w.shape
        stored = Blocks.of(self.w, 32, *self.block)
        tile, sums = sparse.scratch_words(self.chip, stored, (depth, columns), bf16_of(self.chip))
        scratch = np.full(2 * tile, np.nan, BF16).view(np.uint16), np.full(sums, np.nan, np.float32)
        bias = np.zeros(self.groups * self.width, np.float32)
        bias[:columns] = self.bias
        x, extra = pitched(self.x, 3).view(np.uint16), pitched(self.residual, 5)
        y = np.full((rows, columns + 2), GUARD, np.uint16 if self.rounded else np.float32)
        for r, g in spans or [(slice(0, rows), slice(0, self.groups))]:
            sizes = (depth, columns, stored.window, *self.told)
            pitches = (depth + 3, *((columns + 5,) if residual else ()), columns + 2)
            call(
                x, stored.encode(self.w).view(np.uint16), bias, *((extra,) if residual else ()), y,
                *scratch, *sizes, *pitches, r.start, r.stop, g.start, g.stop,
            )  # fmt: skip
        assert (y[:, columns:] == GUARD.astype(y.dtype)).all(), "wrote beyond n"
        got = y[:, :columns]
        return got.view(BF16).astype(np.float32) if self.rounded else got

    def expected(self, residual: bool) -> np.ndarray:
        y: np.ndarray = self.x.astype(np.float64) @ self.w.astype(np.float64) + self.bias
        return y + self.residual if residual else y

    def check(self, call: Call, residual: bool = False) -> None:
        # Half a unit of bf16, and what sums in another order may differ by.
        relative = 2.0**-8 if self.rounded else 2e-6
        want = self.expected(residual)
        np.testing.assert_allclose(self.run(call, residual), want, rtol=relative, atol=2e-5)


@pytest.mark.parametrize("block", BLOCKS_OF[2], ids=str)
@pytest.mark.parametrize(("depth", "columns"), [(1, 1), (3, 5), (31, 47), (64, 48), (67, 33), (130, 17)])
def test_every_height_and_tail(
    block: tuple[int, int], depth: int, columns: int, chip: Target, kernels: Callable[..., Call]
) -> None:
    residual, rounded = block[0] == 1, block[1] == 2
    for rows in (1, 2, 3, 4, 15, 16, 17, 33, 64, 65, 130):
        product = Product(chip, rows, depth, columns, block, rounded=rounded)
        product.check(kernels(block, residual, rounded=rounded), residual)


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_nothing_and_everything(density: float, chip: Target, kernels: Callable[..., Call]) -> None:
    Product(chip, 20, 70, 40, density=density).check(kernels((1, 2)))


@pytest.mark.parametrize("rows", [1, 2, 37])
def test_ranges_give_the_bits_of_the_whole(rows: int, chip: Target, kernels: Callable[..., Call]) -> None:
    call = kernels((1, 2), True)
    product = Product(chip, rows, 70, 100)
    groups = [slice(0, 1), slice(1, 1), slice(1, product.groups)]
    spans = [(part, group) for part in (slice(0, 1), slice(1, rows)) for group in groups]
    np.testing.assert_array_equal(product.run(call, True, spans), product.run(call, True))


def test_rounding_is_of_the_finished_number(chip: Target, kernels: Callable[..., Call]) -> None:
    product = Product(chip, 19, 64, 70)
    for activation in (None, "relu"):
        wide = product.run(kernels((1, 2), True, activation), True)
        product.rounded = True
        got = product.run(kernels((1, 2), True, activation, True), True)
        np.testing.assert_array_equal(got, wide.astype(BF16).astype(np.float32))
        product.rounded = False


def test_gelu(chip: Target, kernels: Callable[..., Call]) -> None:
    product = Product(chip, 40, 64, 96, rounded=True)
    sums = product.expected(residual=False)
    want = sums * 0.5 * (1 + np.vectorize(math.erf)(sums / math.sqrt(2)))
    got = product.run(kernels((1, 2), False, "gelu", True), residual=False)
    np.testing.assert_allclose(got, want, rtol=2.0**-8, atol=3e-4)


@pytest.mark.parametrize("rows", [1, 3, 21])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_what_is_no_number_meets_stored_pairs_only(
    odd: float, rows: int, chip: Target, kernels: Callable[..., Call]
) -> None:
    product = Product(chip, rows, 71, 50)
    clean = product.run(kernels((1, 2)), residual=False)
    product.x[rows - 1, [7, 70]] = odd
    got = product.run(kernels((1, 2)), residual=False)
    np.testing.assert_array_equal(got[: rows - 1], clean[: rows - 1])
    pairs = np.pad(product.w != 0, ((0, 1), (0, 0))).reshape(-1, 2, 50).any(axis=1)
    met = pairs[[3, 35]].any(axis=0)
    assert met.any()
    assert not met.all()
    np.testing.assert_array_equal(got[rows - 1, ~met], clean[rows - 1, ~met])
    assert not np.isfinite(got[rows - 1, met]).any()


def test_subnormal_numbers_may_count_as_zero(chip: Target, kernels: Callable[..., Call]) -> None:
    product = Product(chip, 5, 16, 8)
    product.x[:] = np.float32(1e-39)
    product.bias[:] = 0
    assert np.abs(product.run(kernels((1, 2)), residual=False)).max() < 1.2e-38


def test_blocks_are_whole_words(chip: Target) -> None:
    with pytest.raises(CompilerBug, match="blocks of 1 inputs are no whole words"):
        sparse.kernel(chip, 4, 1, arithmetic=bf16_of(chip))
