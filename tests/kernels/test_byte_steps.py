"""Bytes at known steps, to the bit: of rows alone, of norms, and of products of bytes, on every chip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pytest
from byte_operands import CHIPS, GUARD, Operands, byte_product, loaded, pitched
from runners import quick
from strict_c import CHECKED_C

from isthmus.codegen.native import Call
from isthmus.errors import CompilerBug
from isthmus.ir.encodings import Interleaved, Padded
from isthmus.ir.types import Array
from isthmus.kernels import byte_steps, gemm, layer_norm, rms_norm
from isthmus.kernels.arithmetic import F32
from isthmus.kernels.byte_arithmetic import GROUP
from isthmus.kernels.byte_products import HalfOfQuads
from isthmus.kernels.byte_steps import Steps, Way
from isthmus.kernels.kernel import Kernel
from isthmus.ops.integer import quantize_rows
from isthmus.target import Target

Compiled = Callable[[Kernel], Call]
WAYS: tuple[Way, ...] = get_args(Way)
ALL = [Steps(dtype, way) for dtype in ("int8", "uint8") for way in WAYS]
EPS = 1e-12


@dataclass(frozen=True)
class Made:
    """Steps with numbers: what a kernel is given, and what comes of it."""

    steps: Steps
    factors: Array
    scale: float
    zero: int

    @property
    def pointers(self) -> tuple[Array, ...]:
        return (self.factors,) if self.steps.way == "times" else ()

    @property
    def numbers(self) -> tuple[float, ...]:
        return (*((self.scale,) if self.steps.way == "over" else ()), self.zero)

    def expected(self, x: Array) -> Array:
        if self.steps.way == "times":
            x = x * self.factors
        scale = np.float32(self.scale if self.steps.way == "over" else 1)
        return np.asarray(quantize_rows.reference(x, scale, np.asarray(self.zero, self.steps.dtype)))


def made(steps: Steps, width: int, scale: float = 0.0371, zero: int = 3) -> Made:
    """Numbers of about `scale` become about 1."""
    factors = np.random.default_rng(width).uniform(0.3, 3, width) / scale
    return Made(steps, factors.astype(np.float32), float(np.float32(scale)), zero)


@pytest.mark.parametrize("width", [1, 17, 384])
@pytest.mark.parametrize("steps", ALL, ids=lambda steps: steps.suffix)
def test_rows(steps: Steps, width: int, target: Target, compiled: Compiled) -> None:
    call = compiled(byte_steps.kernel(target, steps))
    rng = np.random.default_rng(width)
    for rows in (1, 4, 7):
        for zero in (0, 102, 255) if steps.dtype == "uint8" else (-128, 0, 127):
            to = made(steps, width, 1.0 if steps.way == "whole" else 0.0371, zero)
            x = (rng.uniform(-300, 300, (rows, width)) * to.scale).astype(np.float32)
            # Halves, of which every other one goes down, what is beyond the limits, and what is no number.
            x[0] = (np.arange(width, dtype=np.float32) - width // 2 + 0.5) * np.float32(to.scale)
            x[-1, :3] = np.float32([1e30, -np.inf, np.inf])[:width]
            y = np.full((rows, width + 2), 77, steps.dtype)
            call(pitched(x, 3), y, *to.pointers, *to.numbers, width, width + 3, width + 2, 0, rows)
            np.testing.assert_array_equal(y[:, :width], to.expected(x))
            assert (y[:, width:] == 77).all()


@pytest.mark.parametrize("steps", ALL, ids=lambda steps: steps.suffix)
def test_no_number_is_the_least(steps: Steps, target: Target, compiled: Compiled) -> None:
    to, y = made(steps, 20), np.zeros((1, 20), steps.dtype)
    x = np.full((1, 20), np.nan, np.float32)
    compiled(byte_steps.kernel(target, steps))(x, y, *to.pointers, *to.numbers, 20, 20, 20, 0, 1)
    assert (y == np.iinfo(steps.dtype).min).all()


def test_quotients_are_rounded_as_such(target: Target, compiled: Compiled) -> None:
    """At halves and beside them, at scales of 12 digits, where halves are floats, and of all."""
    call = compiled(byte_steps.kernel(target, Steps("int8", "over")))
    rng = np.random.default_rng(1)
    scales = rng.uniform(1e-3, 10, 200).astype(np.float32)
    scales[:100] = np.ceil(scales[:100] * 64) / 64
    halves = (np.arange(-127, 127) + 0.5).astype(np.float32)
    for scale in scales:
        near = halves * scale
        x = np.concatenate([near, np.nextafter(near, np.float32(20)), np.nextafter(near, np.float32(-20))])
        y = np.zeros((1, x.size), np.int8)
        call(x[None], y, float(scale), 0, x.size, x.size, x.size, 0, 1)
        np.testing.assert_array_equal(y[0], quantize_rows.reference(x, scale, np.asarray(0, np.int8)))


@pytest.mark.parametrize("norm", ["layer", "layer with residual", "rms"])
@pytest.mark.parametrize("width", [1, 37])
def test_rows_of_norms(width: int, norm: str, target: Target, compiled: Compiled) -> None:
    """The same y as without bytes, and beside it what a kernel of its own makes of that."""
    random = np.random.default_rng(width)
    residual = norm == "layer with residual"
    steps_of = ALL[1::2] if residual else ALL[::2]  # each way, and both types
    gains = random.standard_normal((1 if norm == "rms" else 2, width)).astype(np.float32)
    for steps in steps_of:
        plain, both = (
            compiled(
                rms_norm.kernel(target, kind) if norm == "rms" else layer_norm.kernel(target, residual, kind)
            )
            for kind in ("f32", steps)
        )
        to = made(steps, width)
        for rows in (1, 4, 7):
            x, extra = (pitched(random.standard_normal((rows, width)) * 3, pad) for pad in (3, 5))
            x, extra = x.astype(np.float32), extra.astype(np.float32)
            wanted, y = np.zeros((2, rows, width), np.float32)
            operands, pitches = ((extra,), (width + 5,)) if residual else ((), ())
            plain(x, *operands, *gains, wanted, EPS, width, width + 3, *pitches, width, 0, rows)
            found = np.full((rows, width + 2), 77, steps.dtype)
            given = (*to.pointers, *to.numbers, EPS, width, width + 3, *pitches, width, width + 2, 0, rows)
            both(x, *operands, *gains, y, found, *given)
            np.testing.assert_array_equal(y, wanted)
            np.testing.assert_array_equal(found[:, :width], to.expected(y))
            assert (found[:, width:] == 77).all()


# Products


@pytest.fixture(scope="module", params=(*CHIPS, CHECKED_C), ids=lambda target: target.name)
def chip(request: pytest.FixtureRequest) -> Target:
    return quick(request.param)


@pytest.fixture(scope="module")
def kernels(chip: Target, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Call]:
    def make(
        steps: Steps | None = None, residual: bool = False, activation: str | None = None, short: bool = False
    ) -> Kernel:
        return byte_product(chip, activation, residual, short, steps)

    return loaded(chip, tmp_path_factory, make)


class Product(Operands):
    """Operands whose matrix is packed into panels, with results of a few quanta."""

    def __init__(self, chip: Target, rows: int, depth: int, columns: int, each: bool = True) -> None:
        super().__init__(chip, rows, depth, columns, each)
        self.width = chip.narrow_width("u8")
        self.offset >>= 8
        self.w_scale *= np.float32(2e-2 / depth)
        self.packed = Interleaved(self.width, chip.byte_word).encode(self.w)

    def run(self, call: Call, to: Made | None, residual: bool) -> Array:
        rows, (depth, columns) = self.x.shape[0], self.w.shape
        offset, w_scale, bias = (Padded(self.width).encode(v) for v in (self.offset, self.w_scale, self.bias))
        x, extra = pitched(self.x, 3), pitched(self.residual, 5)
        y = np.full(
            (rows, columns + 2), GUARD if to is None else 77, "float32" if to is None else to.steps.dtype
        )
        panels = -(-columns // self.width)
        for begin, end in ((0, rows // 2), (rows // 2, rows)):
            call(
                x, self.packed, offset, self.x_scale, int(self.x_scale.ndim > 0), w_scale, bias,
                *((extra,) if residual else ()), y, *((*to.pointers, *to.numbers) if to else ()),
                depth, columns, depth + 3, *((columns + 5,) if residual else ()), columns + 2,
                begin, end, 0, panels,
            )  # fmt: skip
        assert (y[:, columns:] == (GUARD if to is None else 77)).all(), "wrote beyond n"
        return y[:, :columns]


def told(given: object) -> str:
    """A parameter in the name of a test."""
    return given.suffix.strip("_") if isinstance(given, Steps) else str(given)


# A kernel of a product takes seconds to compile, and bytes come last, by code that knows neither activation
# nor residual: all pairs of type or way with a residual and without, each activation, each way after one.
PRODUCTS = [(steps, n % 2 == 1) for n, steps in enumerate(ALL)]
ACTIVATED = [
    (Steps("int8", "over"), True, "relu", False),
    (Steps("uint8", "times"), True, "gelu", False),
    (Steps("int8", "times"), False, "gelu", True),
    (Steps("uint8", "whole"), False, "silu", False),
]


@pytest.mark.parametrize(("steps", "residual"), PRODUCTS, ids=told)
def test_products(steps: Steps, residual: bool, chip: Target, kernels: Callable[..., Call]) -> None:
    """Every height of tiles, whole panels and not, from sums of both signs beyond both limits."""
    for columns in (47, 100):
        to = made(steps, columns, 1.0 if steps.way == "whole" else 0.011)
        beyond = 0
        for rows, depth in ((1, 5), (2, 64), (7, 66), (16, 131), (17, 3)):
            product = Product(chip, rows, depth, columns, each=rows != 7)
            got = product.run(kernels(steps, residual), to, residual)
            np.testing.assert_array_equal(got, to.expected(product.expected(residual)))
            beyond += int(np.isin(got, [np.iinfo(steps.dtype).min, np.iinfo(steps.dtype).max]).sum())
        assert beyond or steps.way == "whole"


@pytest.mark.parametrize(("steps", "residual", "activation", "short"), ACTIVATED, ids=told)
def test_activations(
    steps: Steps, residual: bool, activation: str, short: bool, chip: Target, kernels: Callable[..., Call]
) -> None:
    """ReLU to the bit, of others the bytes of what the kernel without bytes gives."""
    product = Product(chip, 11, 64, 70)
    to = made(steps, 70, 0.011)
    got = product.run(kernels(steps, residual, activation, short), to, residual)
    if activation == "relu":
        np.testing.assert_array_equal(got, to.expected(product.expected(residual, "relu")))
        return
    plain = product.run(kernels(None, residual, activation, short), None, residual)
    # The same function inlined twice may be fused in two ways, which is a unit in the last place.
    off = np.abs(got.astype(int) - to.expected(plain).astype(int))
    assert off.max() <= 1 and (off > 0).mean() < 1e-2
    assert len(np.unique(got)) > (2 if steps.way == "whole" else 20)


def test_a_deep_sum_is_not_cut(chip: Target, kernels: Callable[..., Call]) -> None:
    depth = 2 * GROUP * gemm.most_depth(chip) + 7
    to = made(Steps("uint8", "over"), 50, 0.011)
    product = Product(chip, 3, depth, 50)
    got = product.run(kernels(to.steps, True), to, True)
    np.testing.assert_array_equal(got, to.expected(product.expected(True)))


def test_what_makes_no_bytes() -> None:
    with pytest.raises(CompilerBug, match="gemm_f32 makes no bytes"):
        gemm.kernel(CHIPS[0], arithmetic=F32, steps=ALL[0])
    with pytest.raises(CompilerBug, match="no bytes of int16"):
        Steps("int16", "whole")
    assert gemm.kernel(CHIPS[-1], None, False, HalfOfQuads, steps=ALL[0]).symbol.endswith("i8_nm_int8_whole")
