"""Products with matrices of which half is stored, to the bit: every arithmetic, tails, chunks, ranges."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from byte_operands import CHIPS, GUARD, OTHER_WAYS, loaded, pitched
from runners import KNOWN, native
from strict_c import CHECKED_C

from isthmus.codegen.native import Call
from isthmus.ir.encodings import Padded
from isthmus.ir.sparse import GroupPanels
from isthmus.kernels import gemm
from isthmus.kernels.arithmetic import F32, Arithmetic, bf16_of
from isthmus.kernels.byte_products import arithmetic_of
from isthmus.kernels.kernel import Kernel
from isthmus.target import Target

TYPES = {"f32": np.dtype(np.float32), "bf16": np.dtype(ml_dtypes.bfloat16), "i8": np.dtype(np.int8)}
# Every way of multiplying bytes, floats in vectors of every width, and either group with each type.
BYTES = (*(chip for chip in CHIPS if not chip.multiplies_in_tiles("u8")), *OTHER_WAYS, CHECKED_C)
FLOATS = tuple({chip.vector: chip for chip in (*BYTES[: len(CHIPS)], CHECKED_C)}.values())
WAYS = (
    *((chip, "i8", 4 + 4 * (i % 2)) for i, chip in enumerate(BYTES)),
    *((chip, "f32", 4 + 4 * (i % 2)) for i, chip in enumerate(FLOATS)),
    *((chip, "bf16", 8 - 4 * (i % 2)) for i, chip in enumerate(FLOATS)),
)


def arithmetic(chip: Target, name: str) -> type[Arithmetic]:
    return {"f32": F32, "bf16": bf16_of(chip), "i8": arithmetic_of(chip)}[name]


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"{way[0].name}-{way[1]}-{way[2]}")
def way(request: pytest.FixtureRequest) -> tuple[Target, str, int]:
    chip, name, group = request.param
    return native(chip), name, group


@pytest.fixture(scope="module")
def call(way: tuple[Target, str, int], tmp_path_factory: pytest.TempPathFactory) -> Call:
    chip, name, group = way

    def make() -> Kernel:
        return gemm.kernel(chip, None, True, arithmetic(chip, name), halved=group)

    return loaded(chip, tmp_path_factory, make)()


class Product:
    """Operands of small whole numbers, whose sums are exact in every type, and the call.

    Of every `group` neighbours of a column none, some or half are there.
    """

    def __init__(self, way: tuple[Target, str, int], rows: int, depth: int, columns: int) -> None:
        self.chip, self.name, group = way
        self.arithmetic = arithmetic(self.chip, self.name)
        rng = np.random.default_rng(rows * depth + columns)
        signed = self.arithmetic.x != "uint8"
        self.x = rng.integers(-9 if signed else 0, 10, (rows, depth))
        whole = rng.integers(-9, 10, (-(-depth // group), group, columns))
        counts = rng.integers(0, group // 2 + 1, (len(whole), 1, columns))
        whole[np.argsort(rng.random(whole.shape), axis=1) >= counts] = 0
        self.w = whole.reshape(-1, columns)[:depth]
        self.bias, self.residual = rng.integers(-9, 10, columns), rng.integers(-9, 10, (rows, columns))
        self.width = gemm.panel_width(self.chip)
        self.panels = -(-columns // self.width)
        self.stored = GroupPanels(group // 2, group, self.width)
        words = gemm.copy_words(self.chip, depth, self.arithmetic)
        self.copy = np.full(words * 4 // TYPES[self.name].itemsize + 64, 77, TYPES[self.name])

    def run(self, call: Call, spans: list[tuple[slice, slice]] | None = None) -> None:
        (rows, depth), columns = self.x.shape, self.w.shape[1]
        bytes_ = self.name == "i8"
        x = pitched(self.x.astype(self.arithmetic.x if bytes_ else TYPES[self.name]), 3)
        w = self.stored.encode(self.w.astype(TYPES[self.name]))
        bias = Padded(self.width).encode(self.bias.astype(np.float32))
        residual = pitched(self.residual.astype(np.float32), 5)
        ones, offset = np.ones_like(bias), np.zeros(len(bias), np.int32)
        more = (offset, ones, 0, ones) if bytes_ else ()
        y = np.full((rows, columns + 2), GUARD, np.float32)
        pitches = (depth + 3, columns + 5, columns + 2)
        for r, p in spans or [(slice(0, rows), slice(0, self.panels))]:
            ranges = (r.start, r.stop, p.start, p.stop)
            call(x, w, *more, bias, residual, y, self.copy, depth, columns, *pitches, *ranges)
        np.testing.assert_array_equal(y[:, :columns], self.x @ self.w + self.bias + self.residual)
        assert (y[:, columns:] == GUARD).all(), "wrote beyond n"
        assert (self.copy[-64:] == 77).all(), "wrote beyond the scratch"


@pytest.mark.parametrize("depth", [1, 3, 8, 15, 16, 63, 64, 66, 131])
def test_every_height_and_tail(depth: int, way: tuple[Target, str, int], call: Call) -> None:
    for columns in (1, 47, 48, 100):
        for rows in (1, 2, 3, 5, 7, 8, 17, 25):
            Product(way, rows, depth, columns).run(call)


def test_ranges_of_rows_and_panels(way: tuple[Target, str, int], call: Call) -> None:
    product = Product(way, 21, 37, 100)
    parts = [slice(0, 1), slice(1, 1), slice(1, product.panels)]
    product.run(call, [(rows, panels) for rows in (slice(0, 3), slice(3, 21)) for panels in parts])


@pytest.mark.parametrize("rows", [3, 11])
def test_a_deep_sum_is_cut_into_chunks(rows: int, way: tuple[Target, str, int], call: Call) -> None:
    chip, name, _ = way
    most = gemm.most_depth(chip, arithmetic(chip, name).word_bytes) * arithmetic(chip, name).group
    for depth in (most + 7, 2 * most - 70):
        Product(way, rows, depth, gemm.panel_width(chip) + 1).run(call)


def test_a_number_that_is_none_is_like_others(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The product is the dense one, to the bit: with NaN, infinities, and zeros that are stored."""
    chip = native(KNOWN["x86-64-v3"])
    product = Product((chip, "f32", 8), 5, 40, 30)
    x = product.x.astype(np.float32)
    x[0, 3], x[1, 4], w = np.nan, np.inf, product.w.astype(np.float32)
    w[5, 2] = w[6, 2] = w[2, 2] = 0
    w[1, 2] = -np.inf
    bias, found = np.zeros(product.panels * product.width, np.float32), []
    for group in (0, 8):
        kernel = loaded(chip, tmp_path_factory, lambda of: gemm.kernel(chip, halved=of))(group)
        y = np.empty((5, 30), np.float32)
        packed = product.stored.encode(w) if group else gemm.pack(w, product.width)
        scratch = (product.copy,) if group else ()
        kernel(x, packed, bias, y, *scratch, 40, 30, 40, 30, 0, 5, 0, product.panels)
        found.append(y)
    np.testing.assert_array_equal(*found)
    assert np.isnan(found[0]).any()


def test_where_y_is_narrow_the_copy_holds_all_of_k() -> None:
    chip = KNOWN["x86-64-v3"]
    most = gemm.most_depth(chip)
    assert gemm.copy_words(chip, 4 * most, F32) == (most + gemm.BLOCK) * gemm.panel_width(chip)
    assert gemm.copy_words(chip, 4 * most, F32, narrow=True) == 4 * most * gemm.panel_width(chip)
