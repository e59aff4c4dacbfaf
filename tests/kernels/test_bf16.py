"""Products and attention of bf16 against their meaning: every height and tail, NaN, infinities, ranges."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from attention_request import BF16, GUARD, SIZES, AttentionRequest
from runners import CACHE, most_capable, quick
from strict_c import CHECKED_C

from isthmus.codegen.native import Call, load
from isthmus.ir.encodings import Interleaved
from isthmus.kernels import attention as attention_kernels
from isthmus.kernels import attention_tiles, gemm, gemm_tiles, layer_norm, rms_norm
from isthmus.kernels.arithmetic import bf16_of
from isthmus.kernels.attention_shape import Mask, Scratch
from isthmus.kernels.kernel import Kernel
from isthmus.target import Target

# One chip for each way of multiplying bf16: tiles, an instruction, and f32 in vectors of 16, 8, 4 and 1.
CHIPS = most_capable(lambda target: (target.vector, target.instruction("dot_bf16"), target.tiles))
NARROW = tuple(t for t in CHIPS if t.multiplies_bf16)


@pytest.fixture(scope="module", params=(*CHIPS, CHECKED_C), ids=lambda chip: chip.name)
def chip(request: pytest.FixtureRequest) -> Target:
    return quick(request.param)


@pytest.fixture(scope="module", params=NARROW, ids=lambda chip: chip.name)
def narrow(request: pytest.FixtureRequest) -> Target:
    return quick(request.param)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Kernel, Target], Call]:
    """The function behind a kernel; each is compiled once."""
    calls: dict[tuple[str, str], Call] = {}

    def get(kernel: Kernel, chip: Target) -> Call:
        key = (chip.name, kernel.symbol)
        if key not in calls:
            calls[key] = load([kernel], chip, tmp_path_factory.mktemp("bf16"), CACHE)[kernel.symbol]
        return calls[key]

    return get


def product(
    chip: Target, activation: str | None = None, residual: bool = False, rounded: bool = False
) -> Kernel:
    if chip.multiplies_in_tiles("bf16"):
        return gemm_tiles.kernel(chip, activation, residual, rounded)
    return gemm.kernel(chip, activation, residual, bf16_of(chip), rounded)


class Product:
    """One product: operands with guards between their rows, the call, and what it has to give."""

    def __init__(self, rows: int, depth: int, columns: int, width: int, rounded: bool) -> None:
        random = np.random.default_rng(rows)
        self.rows, self.depth, self.columns = rows, depth, columns
        self.x = np.full((rows, depth + 3), np.nan, BF16)
        self.x[:, :depth] = random.standard_normal((rows, depth))
        self.w = (random.standard_normal((depth, columns)) / math.sqrt(depth)).astype(BF16)
        self.panels = Interleaved(width, 2).encode(self.w)
        self.bias = np.zeros(self.panels.shape[0] * width, np.float32)
        self.bias[:columns] = random.standard_normal(columns)
        self.residual = random.standard_normal((rows, columns + 5)).astype(np.float32)
        self.rounded = rounded
        self.y = np.full((rows, columns + 2), GUARD, np.uint16 if rounded else np.float32)

    def run(self, call: Call, residual: bool, rows: slice | None = None) -> np.ndarray:
        begin, end = (0, self.rows) if rows is None else (rows.start, rows.stop)
        extra, pitch = ((self.residual,), (self.residual.shape[1],)) if residual else ((), ())
        sizes = (self.depth, self.columns, self.x.shape[1], *pitch, self.y.shape[1])
        ranges = (begin, end, 0, self.panels.shape[0])
        x, panels = self.x.view(np.uint16), self.panels.view(np.uint16)
        call(x, panels, self.bias, *extra, self.y, *sizes, *ranges)
        assert (self.y[:, self.columns :] == GUARD).all(), "wrote beyond n"
        got = self.y[:, : self.columns]
        return got.view(BF16).astype(np.float32) if self.rounded else got

    def expected(self, residual: bool) -> np.ndarray:
        x = self.x[:, : self.depth].astype(np.float64)
        y = x @ self.w.astype(np.float64) + self.bias[: self.columns]
        return y + self.residual[:, : self.columns] if residual else y


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("depth", [1, 31, 32, 33, 97, 384])
def test_products(
    depth: int, residual: bool, rounded: bool, chip: Target, build: Callable[[Kernel, Target], Call]
) -> None:
    call = build(product(chip, None, residual, rounded), chip)
    for rows in (1, 7, 16, 17, 33, 70):
        for columns in (1, 31, 33, 100):
            case = Product(rows, depth, columns, chip.narrow_width("bf16"), rounded)
            want = case.expected(residual)
            # Half a unit of bf16, and what sums in another order may differ by.
            relative = 2.0**-8 if rounded else 2e-6
            np.testing.assert_allclose(case.run(call, residual), want, rtol=relative, atol=2e-5)


def test_gelu_is_right_to_what_bf16_holds(chip: Target, build: Callable[[Kernel, Target], Call]) -> None:
    case = Product(40, 64, 96, chip.narrow_width("bf16"), rounded=True)
    case.x[:, :64] = (case.x[:, :64].astype(np.float32) * 4).astype(BF16)
    sums = case.expected(residual=False)
    want = sums * 0.5 * (1 + np.vectorize(math.erf)(sums / math.sqrt(2)))
    got = case.run(build(product(chip, "gelu", False, True), chip), residual=False)
    np.testing.assert_allclose(got, want, rtol=2.0**-8, atol=3e-4)


def test_ranges_of_rows_give_the_same_bits(chip: Target, build: Callable[[Kernel, Target], Call]) -> None:
    """Threads share rows out: where a range ends must change nothing."""
    call = build(product(chip, None, True, False), chip)
    case = Product(53, 97, 70, chip.narrow_width("bf16"), rounded=False)
    whole = case.run(call, residual=True).copy()
    for cut in (1, 16, 23, 40):
        case.y[:] = GUARD
        case.run(call, True, slice(0, cut))
        np.testing.assert_array_equal(case.run(call, True, slice(cut, 53)), whole)


def test_residual_in_place(chip: Target, build: Callable[[Kernel, Target], Call]) -> None:
    """Tiles may overlap; what they share is added once."""
    case = Product(33, 64, 40, chip.narrow_width("bf16"), rounded=False)
    want = case.expected(residual=True)
    case.y[:, :40] = case.residual[:, :40]
    case.residual = case.y
    np.testing.assert_allclose(case.run(build(product(chip, None, True), chip), True), want, atol=2e-5)


def test_nan_and_infinity_stay_in_their_rows(chip: Target, build: Callable[[Kernel, Target], Call]) -> None:
    case = Product(35, 33, 20, chip.narrow_width("bf16"), rounded=True)
    clean = case.run(build(product(chip, rounded=True), chip), residual=False).copy()
    case.x[3, 32], case.x[20, 0] = np.nan, np.inf
    case.w[0, :] = 1.0
    case.panels = Interleaved(chip.narrow_width("bf16"), 2).encode(case.w)
    got = case.run(build(product(chip, rounded=True), chip), residual=False)
    assert np.isnan(got[3]).all() and np.isposinf(got[20]).all()
    others = [i for i in range(35) if i not in (3, 20)]
    assert np.isfinite(got[others]).all() and np.isfinite(clean).all()


def test_subnormal_numbers_may_count_as_zero(chip: Target, build: Callable[[Kernel, Target], Call]) -> None:
    case = Product(5, 16, 8, chip.narrow_width("bf16"), rounded=True)
    case.x[:, :16] = np.float32(1e-39)
    case.bias[:] = 1e-40
    got = case.run(build(product(chip, rounded=True), chip), residual=False)
    assert np.abs(got).max() < 1.2e-38


@pytest.mark.parametrize("width", [1, 15, 64, 100])
def test_norms_round_and_give_both(width: int, chip: Target, build: Callable[[Kernel, Target], Call]) -> None:
    random = np.random.default_rng(width)
    x = random.standard_normal((9, width)).astype(np.float32)
    scale, bias = (random.standard_normal(width).astype(np.float32) for _ in range(2))
    plain, copy, alone = np.empty_like(x), np.empty(x.shape, np.uint16), np.empty(x.shape, np.uint16)
    for norm, args in (
        (lambda kind: layer_norm.kernel(chip, False, kind), (scale, bias)),
        (lambda kind: rms_norm.kernel(chip, kind), (scale,)),
    ):
        build(norm("both"), chip)(x, *args, plain, copy, 1e-5, width, width, width, width, 0, 9)
        build(norm("rounded"), chip)(x, *args, alone, 1e-5, width, width, width, 0, 9)
        # To the bit what NumPy rounds: nearest, and the even one of two.
        np.testing.assert_array_equal(copy, plain.astype(BF16).view(np.uint16))
        np.testing.assert_array_equal(copy, alone)


# Attention in tiles, and by an instruction


def attends(chip: Target, widths: tuple[int, int], kind: Mask, safe: bool, causal: bool = False) -> Kernel:
    if chip.multiplies_in_tiles("bf16"):
        return attention_tiles.kernel(chip, *widths, kind, safe, causal)
    return attention_kernels.kernel(chip, *widths, kind, safe, causal, mixed=True)


def room(chip: Target, widths: tuple[int, int], kind: Mask) -> Scratch:
    if chip.multiplies_in_tiles("bf16"):
        return attention_tiles.scratch(*widths, kind)
    return attention_kernels.scratch(chip, *widths, kind, mixed=True)


def cases() -> Iterator[tuple[tuple[int, int], Mask, bool, bool]]:
    kinds: tuple[Mask, ...] = ("none", "row", "full")
    for kind in kinds:
        for causal in (False, True):
            yield (32, 32), kind, causal, causal
    for widths in ((64, 64), (8, 8), (33, 17), (128, 80), (160, 160), (1, 3)):
        yield widths, "full", True, True
    for widths in ((20, 20), (48, 48)):
        yield widths, "row", False, True


CASES = tuple(cases())


# What is rounded is multiplied by the same code: every other case, which has each mask, and tails, once more.
@pytest.mark.parametrize(
    ("widths", "kind", "safe", "causal", "stored"),
    [*((*case, np.uint16) for case in CASES), *((*case, np.float32) for case in CASES[::2])],
)
def test_attention(
    widths: tuple[int, int],
    kind: Mask,
    safe: bool,
    causal: bool,
    stored: type[np.generic],
    narrow: Target,
    build: Callable[[Kernel, Target], Call],
) -> None:
    """On bf16, and on f32 that bf16 holds: whoever rounds it, products are the same."""
    kernel = attends(narrow, widths, kind, safe, causal)
    if stored is np.float32:
        if narrow.multiplies_in_tiles("bf16"):
            pytest.skip("tiles take bf16 from memory only")
        kernel = attention_kernels.kernel(narrow, *widths, kind, safe, causal, rounds="bf16")
    call = build(kernel, narrow)
    for sizes in SIZES:
        request = AttentionRequest(widths, kind, sizes, safe, causal)
        got, want = request.run(call, room(narrow, widths, kind), stored), request.expected()
        assert np.array_equal(np.isnan(got), np.isnan(want))
        # A unit of bf16 for the result; powers may be rounded the other way, or relative to another highest.
        np.testing.assert_allclose(got, want, rtol=2.0**-7, atol=2.0**-6)


@pytest.mark.parametrize("queries", [1, 5])
def test_a_row_that_is_masked_out_is_uniform_or_nan(
    queries: int, narrow: Target, build: Callable[[Kernel, Target], Call]
) -> None:
    for safe, hidden in ((False, -3.4e38), (False, -np.inf), (True, -np.inf)):
        request = AttentionRequest((32, 32), "row", (1, 1, 1, queries, 9), safe, False)
        assert request.mask is not None
        request.mask[...] = hidden
        got = request.run(
            build(attends(narrow, (32, 32), "row", safe), narrow), room(narrow, (32, 32), "row")
        )
        np.testing.assert_allclose(got, request.expected(), atol=2.0**-8)


@pytest.mark.parametrize("queries", [1, 3, 21])
def test_ranges_of_heads_give_the_same_bits(
    queries: int, narrow: Target, build: Callable[[Kernel, Target], Call]
) -> None:
    """Threads share heads out, a group of them keys and values: where a range ends must change nothing."""
    call = build(attends(narrow, (48, 48), "row", False, True), narrow)
    request = AttentionRequest((48, 48), "row", (3, 4, 2, queries, 70), False, True)
    scratch = room(narrow, (48, 48), "row")
    whole = request.run(call, scratch)
    for cut in (1, 2, 7):
        np.testing.assert_array_equal(request.run(call, scratch, cut=cut), whole)


def test_memory_behind_a_row_is_not_looked_at(
    narrow: Target, build: Callable[[Kernel, Target], Call]
) -> None:
    """Rows lie apart, with NaN between them and behind the last."""
    call = build(attends(narrow, (20, 20), "row", False, True), narrow)
    scratch = room(narrow, (20, 20), "row")
    for queries in (1, 2, 9):
        request = AttentionRequest((20, 20), "row", (1, 2, 1, queries, 37), False, True)
        want = request.run(call, scratch)
        for name in "qkv":
            rows = getattr(request, name)
            apart = np.full((*rows.shape[:3], 27), np.nan, BF16)
            apart[..., :20] = rows
            setattr(request, name, apart[..., :20])
        np.testing.assert_array_equal(request.run(call, scratch), want)
