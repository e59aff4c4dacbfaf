"""Products of bytes, with all that follows them, to the bit: on every chip this machine can run, and as C."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from byte_operands import CHIPS, GUARD, OTHER_WAYS, Operands, byte_product, loaded, pitched
from runners import KNOWN, quick
from strict_c import CHECKED_C

from isthmus.codegen.native import Call
from isthmus.codegen.objects import assembly
from isthmus.ir.encodings import Interleaved, Padded
from isthmus.ir.types import DType
from isthmus.kernels import gemm
from isthmus.kernels.byte_arithmetic import GROUP
from isthmus.kernels.byte_products import arithmetic_of
from isthmus.kernels.kernel import Kernel
from isthmus.target import Target


@pytest.fixture(scope="module", params=(*CHIPS, CHECKED_C), ids=lambda target: target.name)
def chip(request: pytest.FixtureRequest) -> Target:
    return quick(request.param)


@pytest.fixture(scope="module")
def kernels(chip: Target, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Call]:
    def make(residual: bool = False, activation: str | None = None, short: bool = False) -> Kernel:
        return byte_product(chip, activation, residual, short)

    return loaded(chip, tmp_path_factory, make)


class Product(Operands):
    """Operands whose matrix is packed into panels."""

    def __init__(self, chip: Target, rows: int, depth: int, columns: int, each: bool = True) -> None:
        super().__init__(chip, rows, depth, columns, each)
        self.width, self.word = chip.narrow_width("u8"), chip.byte_word
        self.panels = -(-columns // self.width)

    def run(self, call: Call, residual: bool, spans: list[tuple[slice, slice]] | None = None) -> np.ndarray:
        rows, (depth, columns) = self.x.shape[0], self.w.shape
        packed = Interleaved(self.width, self.word).encode(self.w)
        offset, w_scale, bias = (Padded(self.width).encode(v) for v in (self.offset, self.w_scale, self.bias))
        x, extra = pitched(self.x, 3), pitched(self.residual, 5)
        y = np.full((rows, columns + 2), GUARD, np.float32)
        for r, p in spans or [(slice(0, rows), slice(0, self.panels))]:
            call(
                x, packed, offset, self.x_scale, int(self.x_scale.ndim > 0), w_scale, bias,
                *((extra,) if residual else ()), y, depth, columns, depth + 3,
                *((columns + 5,) if residual else ()), columns + 2, r.start, r.stop, p.start, p.stop,
            )  # fmt: skip
        assert (y[:, columns:] == GUARD).all(), "wrote beyond n"
        return y[:, :columns]


@pytest.mark.parametrize("columns", [1, 47, 48, 49, 100])
@pytest.mark.parametrize("depth", [1, 3, 4, 5, 63, 64, 66, 131])
def test_every_height_and_tail(depth: int, columns: int, chip: Target, kernels: Callable[..., Call]) -> None:
    for rows in (1, 2, 7, 8, 9, 16, 17):
        for residual in (False, True):
            product = Product(chip, rows, depth, columns, each=rows != 7)
            got = product.run(kernels(residual), residual)
            np.testing.assert_array_equal(got, product.expected(residual))


@pytest.mark.parametrize("way", OTHER_WAYS, ids=lambda target: target.name)
def test_ways_of_other_chips(way: Target, tmp_path_factory: pytest.TempPathFactory) -> None:
    call = loaded(quick(way), tmp_path_factory, gemm.kernel)(way, None, True, arithmetic_of(way))
    for depth, columns in product((1, 3, 6, 64, 131), (1, 16, 31)):
        for rows in (1, 2, 5, 6, 7, 17):
            made = Product(way, rows, depth, columns)
            np.testing.assert_array_equal(made.run(call, True), made.expected(True))


def test_ranges_of_rows_and_panels(chip: Target, kernels: Callable[..., Call]) -> None:
    product = Product(chip, 21, 37, 100)
    parts = [slice(0, 1), slice(1, 1), slice(1, product.panels)]
    spans = [(rows, panels) for rows in (slice(0, 5), slice(5, 21)) for panels in parts]
    np.testing.assert_array_equal(product.run(kernels(True), True, spans), product.expected(True))


def test_a_deep_sum_is_cut_into_chunks(chip: Target, kernels: Callable[..., Call]) -> None:
    depth = 2 * GROUP * gemm.most_depth(chip) + 7
    for columns in (5, 2 * gemm.panel_width(chip) + 1):
        product = Product(chip, 3, depth, columns)
        np.testing.assert_array_equal(product.run(kernels(True), True), product.expected(True))
        np.testing.assert_array_equal(product.run(kernels(False), False), product.expected(False))


def test_relu_to_the_bit_and_gelu_closely(chip: Target, kernels: Callable[..., Call]) -> None:
    """With a residual, and without; more of both is in `test_byte_steps`."""
    product = Product(chip, 11, 64, 70)
    product.x_scale /= 1e3
    got = product.run(kernels(True, "relu"), True)
    np.testing.assert_array_equal(got, product.expected(True, "relu"))
    got = product.run(kernels(False, "gelu"), False)
    np.testing.assert_allclose(got, product.expected(False, "gelu"), rtol=0, atol=1e-5)
    short = product.run(kernels(False, "gelu", short=True), False)
    np.testing.assert_allclose(short, product.expected(False, "gelu"), rtol=0, atol=2e-4)
    assert (short != got).any()


def test_sums_wrap(chip: Target, kernels: Callable[..., Call]) -> None:
    product = Product(chip, 2, 64, 3)
    product.offset[:] = np.iinfo(np.int32).max
    product.w[:] = np.abs(product.w)
    np.testing.assert_array_equal(product.run(kernels(), False), product.expected(False))


def whole_steps(chip: Target, instruction: str, at_once: int) -> tuple[str, list[str]]:
    """The assembly, and its whole blocks of the tallest tile: all products by one instruction, of so many
    bytes each."""
    arithmetic = arithmetic_of(chip)
    text = assembly(gemm.kernel(chip, None, False, arithmetic), chip)
    tile = gemm.tile_of(chip, arithmetic)
    products = tile.rows * gemm.panel_width(chip) * gemm.STEP * arithmetic.group
    steps = re.split(r"^(?=\.LBB)", text, flags=re.M)
    return text, [s for s in steps if len(re.findall(rf"\s{instruction}\s", s)) * at_once == products]


@pytest.mark.parametrize(("name", "instruction", "at_once"), [
    ("armv8.2-dotprod", "sdot", 16), ("armv8.6-i8mm", "smmla", 32), ("armv9-sve2", "smmla", 32),
])  # fmt: skip
def test_the_best_instruction_and_nothing_on_the_stack(name: str, instruction: str, at_once: int) -> None:
    text, whole = whole_steps(KNOWN[name], instruction, at_once)
    assert any(not re.search(r"(str|ldr)\s+q\d+, \[sp", step) for step in whole if "b.ne" in step)
    others = {"sdot", "smmla", "smull", "smlal"} - {instruction}
    assert not re.search(rf"\s({'|'.join(others)})\s", text)


@pytest.mark.parametrize(("name", "instruction", "at_once", "most"), [
    ("riscv64-rvv128", "vwmacc.vx", 16, 260), ("armv8-neon", "sadalp", 8, 520),
    ("armv7-neon", "vpadal.s16", 8, 430),
])  # fmt: skip
def test_products_of_other_chips(name: str, instruction: str, at_once: int, most: int) -> None:
    """The same with what is there for them, and few other instructions beside."""
    _, whole = whole_steps(KNOWN[name], instruction, at_once)
    assert any(len(re.findall(r"^\t[a-z]", step, flags=re.M)) < most for step in whole)


def test_the_types_are_those_of_the_target(chip: Target) -> None:
    found = arithmetic_of(chip)
    assert (found.x == "uint8") is chip.unsigned_bytes
    assert DType.I8.numpy == found.w
