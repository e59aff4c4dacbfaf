"""Products of bytes with sparse matrices, to the bit, on every chip this machine can run, and as C."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from byte_operands import CHIPS, GUARD, OTHER_WAYS, Operands, loaded, pitched
from runners import quick
from strict_c import CHECKED_C

from isthmus.codegen.native import Call
from isthmus.errors import CompilerBug
from isthmus.ir.encodings import Padded
from isthmus.ir.sparse import Blocks
from isthmus.kernels import sparse
from isthmus.kernels.byte_products import words_of
from isthmus.kernels.kernel import Kernel
from isthmus.target import Target

BLOCKS = ((1, 4), (4, 4))


@pytest.fixture(scope="module", params=(*CHIPS, CHECKED_C), ids=lambda target: target.name)
def chip(request: pytest.FixtureRequest) -> Target:
    return quick(request.param)


def has_masks(chip: Target, block: tuple[int, int]) -> bool:
    """Without them where the chip could read them, floats are tested alone."""
    return chip.reads_masks(block[0], block[1] // 4)


@pytest.fixture(scope="module")
def kernels(chip: Target, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Call]:
    def make(block: tuple[int, int], residual: bool = False, activation: str | None = None) -> Kernel:
        return sparse.kernel(
            chip, *block, activation, residual, words_of(chip), masked=has_masks(chip, block)
        )

    return loaded(chip, tmp_path_factory, make)


class Product(Operands):
    """Operands of which whole blocks are zero."""

    def __init__(
        self,
        chip: Target,
        rows: int,
        depth: int,
        columns: int,
        block: tuple[int, int] = (1, 4),
        density: float = 0.2,
        each: bool = True,
    ) -> None:
        super().__init__(chip, rows, depth, columns, each)
        outputs, inputs = block
        kept = self.rng.random((-(-depth // inputs), -(-columns // outputs))) < density
        self.w[~np.repeat(np.repeat(kept, inputs, 0), outputs, 1)[:depth, :columns]] = 0
        self.width = sparse.group_width(chip, outputs)
        self.groups = -(-columns // self.width)
        self.told = (rows,) if sparse.tells_rows(chip) else ()
        self.stored = Blocks.of(self.w, 32, *block, has_masks(chip, block))
        words = sparse.scratch_words(chip, self.stored, (depth, columns), words_of(chip))
        self.tile = np.full(4 * words[0], 77, self.dtype)
        self.sums = np.full(words[1], 12345, np.int32)

    def run(self, call: Call, residual: bool, spans: list[tuple[slice, slice]] | None = None) -> np.ndarray:
        rows, (depth, columns) = self.x.shape[0], self.w.shape
        offset, w_scale, bias = (Padded(self.width).encode(v) for v in (self.offset, self.w_scale, self.bias))
        x, extra = pitched(self.x, 3), pitched(self.residual, 5)
        y = np.full((rows, columns + 2), GUARD, np.float32)
        for r, g in spans or [(slice(0, rows), slice(0, self.groups))]:
            sizes = (depth, columns, self.stored.window, *self.told)
            pitches = (depth + 3, *((columns + 5,) if residual else ()), columns + 2)
            call(
                x, self.stored.encode(self.w), offset, self.x_scale, int(self.x_scale.ndim > 0), w_scale,
                bias, *((extra,) if residual else ()), y, self.tile, self.sums, *sizes, *pitches,
                r.start, r.stop, g.start, g.stop,
            )  # fmt: skip
        assert (y[:, columns:] == GUARD).all(), "wrote beyond n"
        return y[:, :columns]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
@pytest.mark.parametrize(("depth", "columns"), [(1, 1), (3, 5), (31, 47), (64, 48), (67, 33), (130, 17)])
def test_every_height_and_tail(
    block: tuple[int, int], depth: int, columns: int, chip: Target, kernels: Callable[..., Call]
) -> None:
    residual = block == (1, 4)
    for rows in (1, 2, 3, 4, 15, 16, 17, 33, 64, 65, 130):
        product = Product(chip, rows, depth, columns, block, each=rows != 17)
        got = product.run(kernels(block, residual), residual)
        np.testing.assert_array_equal(got, product.expected(residual))


@pytest.mark.parametrize("way", OTHER_WAYS, ids=lambda target: target.name)
def test_ways_of_other_chips(way: Target, tmp_path_factory: pytest.TempPathFactory) -> None:
    call = loaded(quick(way), tmp_path_factory, sparse.kernel)(way, 1, 4, None, False, words_of(way))
    for depth, columns in ((1, 1), (67, 33), (130, 17)):
        for rows in (1, 4, 17, 65):
            product = Product(way, rows, depth, columns)
            np.testing.assert_array_equal(product.run(call, False), product.expected(False))


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_nothing_and_everything(density: float, chip: Target, kernels: Callable[..., Call]) -> None:
    product = Product(chip, 20, 70, 40, density=density)
    np.testing.assert_array_equal(product.run(kernels((1, 4), True), True), product.expected(True))


def test_ranges_of_rows_and_groups(chip: Target, kernels: Callable[..., Call]) -> None:
    product = Product(chip, 37, 70, 100)
    parts = [slice(0, 1), slice(1, 1), slice(1, product.groups)]
    spans = [(rows, groups) for rows in (slice(0, 5), slice(5, 37)) for groups in parts]
    np.testing.assert_array_equal(product.run(kernels((1, 4), True), True, spans), product.expected(True))


def test_relu_to_the_bit_and_gelu_closely(chip: Target, kernels: Callable[..., Call]) -> None:
    residual = False
    product = Product(chip, 19, 64, 70)
    product.x_scale /= 1e3
    got = product.run(kernels((1, 4), residual, "relu"), residual)
    np.testing.assert_array_equal(got, product.expected(residual, "relu"))
    got = product.run(kernels((1, 4), residual, "gelu"), residual)
    np.testing.assert_allclose(got, product.expected(residual, "gelu"), rtol=0, atol=1e-5)


def test_sums_wrap(chip: Target, kernels: Callable[..., Call]) -> None:
    product = Product(chip, 2, 64, 3, density=1.0)
    product.offset[:] = np.iinfo(np.int32).max
    product.w[:] = np.abs(product.w.clip(-127))
    np.testing.assert_array_equal(product.run(kernels((1, 4), True), True), product.expected(True))


def test_blocks_are_whole_words(chip: Target) -> None:
    with pytest.raises(CompilerBug, match="blocks of 2 inputs are no whole words"):
        sparse.kernel(chip, 4, 2, arithmetic=words_of(chip))
