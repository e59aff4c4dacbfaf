"""Products of bytes of which two of four are stored, to the bit, on the chips that expand them."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from byte_operands import GUARD, Operands, loaded, pitched
from runners import KNOWN, quick

from isthmus.codegen.native import Call
from isthmus.codegen.objects import assembly
from isthmus.ir.encodings import Padded
from isthmus.ir.sparse import MaskedPanels
from isthmus.kernels import gemm
from isthmus.kernels.byte_arithmetic import GROUP
from isthmus.kernels.byte_products import HalfOfQuads
from isthmus.kernels.kernel import Kernel
from isthmus.target import Target

CHIPS = tuple(target for target in KNOWN.values() if target.expands_bytes)


@pytest.fixture(scope="module", params=CHIPS, ids=lambda target: target.name)
def chip(request: pytest.FixtureRequest) -> Target:
    return quick(request.param)


@pytest.fixture(scope="module")
def kernels(chip: Target, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Call]:
    def make(residual: bool = False, activation: str | None = None) -> Kernel:
        return gemm.kernel(chip, activation, residual, HalfOfQuads)

    return loaded(chip, tmp_path_factory, make)


class Product(Operands):
    """Operands whose matrix has 0, 1 or 2 numbers in every four neighbours of a column."""

    def __init__(self, chip: Target, rows: int, depth: int, columns: int, each: bool = True) -> None:
        super().__init__(chip, rows, depth, columns, each)
        order = np.argsort(self.rng.random((-(-depth // GROUP), GROUP, columns)), axis=1)
        counts = self.rng.integers(0, 3, (order.shape[0], 1, columns))
        self.w[(order >= counts).reshape(-1, columns)[:depth]] = 0
        self.width = gemm.panel_width(chip)
        self.panels = -(-columns // self.width)
        self.copy = np.full(GROUP * gemm.copy_words(chip, depth, HalfOfQuads) + 64, 77, np.int8)
        self.encoding = MaskedPanels(self.width, chip.vector.lanes(32))

    def run(self, call: Call, residual: bool, spans: list[tuple[slice, slice]] | None = None) -> np.ndarray:
        rows, (depth, columns) = self.x.shape[0], self.w.shape
        offset, w_scale, bias = (Padded(self.width).encode(v) for v in (self.offset, self.w_scale, self.bias))
        x, extra = pitched(self.x, 3), pitched(self.residual, 5)
        y = np.full((rows, columns + 2), GUARD, np.float32)
        for r, p in spans or [(slice(0, rows), slice(0, self.panels))]:
            call(
                x, self.encoding.encode(self.w), offset, self.x_scale, int(self.x_scale.ndim > 0), w_scale,
                bias, *((extra,) if residual else ()), y, self.copy, depth, columns, depth + 3,
                *((columns + 5,) if residual else ()), columns + 2, r.start, r.stop, p.start, p.stop,
            )  # fmt: skip
        assert (y[:, columns:] == GUARD).all(), "wrote beyond n"
        assert (self.copy[-64:] == 77).all(), "wrote beyond the scratch"
        return y[:, :columns]


@pytest.mark.parametrize("columns", [1, 47, 48, 49, 100])
@pytest.mark.parametrize("depth", [1, 3, 4, 5, 63, 64, 66, 131])
def test_every_height_and_tail(depth: int, columns: int, chip: Target, kernels: Callable[..., Call]) -> None:
    for rows in (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 25, 41):
        for residual in (False, True):
            product = Product(chip, rows, depth, columns, each=rows != 7)
            got = product.run(kernels(residual), residual)
            np.testing.assert_array_equal(got, product.expected(residual))


def test_ranges_of_rows_and_panels(chip: Target, kernels: Callable[..., Call]) -> None:
    product = Product(chip, 21, 37, 100)
    parts = [slice(0, 1), slice(1, 1), slice(1, product.panels)]
    spans = [(rows, panels) for rows in (slice(0, 3), slice(3, 21)) for panels in parts]
    np.testing.assert_array_equal(product.run(kernels(True), True, spans), product.expected(True))


@pytest.mark.parametrize("rows", [3, 11])
def test_a_deep_sum_is_cut_into_chunks(rows: int, chip: Target, kernels: Callable[..., Call]) -> None:
    for depth in (2 * GROUP * gemm.most_depth(chip) + 7, 3 * GROUP * gemm.most_depth(chip) - 70):
        product = Product(chip, rows, depth, gemm.panel_width(chip) + 1)
        np.testing.assert_array_equal(product.run(kernels(True), True), product.expected(True))


def test_relu_to_the_bit_and_gelu_closely(chip: Target, kernels: Callable[..., Call]) -> None:
    product = Product(chip, 11, 64, 70)
    product.x_scale /= 1e3
    got = product.run(kernels(True, "relu"), True)
    np.testing.assert_array_equal(got, product.expected(True, "relu"))
    got = product.run(kernels(True, "gelu"), True)
    np.testing.assert_allclose(got, product.expected(True, "gelu"), rtol=0, atol=1e-5)


def test_a_matrix_of_zeros(chip: Target, kernels: Callable[..., Call]) -> None:
    for rows in (1, 40):
        product = Product(chip, rows, 70, 50)
        product.w[:] = 0
        np.testing.assert_array_equal(product.run(kernels(), False), product.expected(False))


@pytest.mark.parametrize("chip_of", CHIPS, ids=lambda target: target.name)
def test_sums_stay_in_registers(chip_of: Target) -> None:
    """In the steps of the tallest tile, and where a few rows widen as they go."""
    text = assembly(gemm.kernel(chip_of, None, False, HalfOfQuads), chip_of)
    blocks = re.split(r"^(?=\.LBB)", text, flags=re.M)
    vectors = gemm.tile_of(chip_of).vectors * gemm.STEP
    counts = [(b.count("vpdpbusd"), b.count("vpexpandb"), b) for b in blocks]
    tallest = [b for products, _, b in counts if products == vectors * gemm.tile_of(chip_of).rows]
    few = [b for products, widened, b in counts if widened == vectors and products == 4 * vectors]
    assert tallest and few
    for block in (*tallest, *few):
        assert not re.search(r"zmm\d+, -?\d*\(%rsp|\(%rsp\), %zmm", block)
