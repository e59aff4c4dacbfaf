"""Products with sparse matrices against NumPy in double precision: tails everywhere, ranges, NaN."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from isthmus.codegen.native import Call
from isthmus.errors import CompilerBug
from isthmus.ir.sparse import Blocks
from isthmus.kernels import sparse
from isthmus.kernels.kernel import Kernel
from isthmus.passes.sparsify.patterns import BLOCKS_OF
from isthmus.target import Target

Compiled = Callable[[Kernel], Call]
GUARD = np.float32(12345.0)


class Product:
    """One product: its operands, the call, and the check of what was written and what was not."""

    def __init__(
        self,
        target: Target,
        rows: int,
        depth: int,
        columns: int,
        block: tuple[int, int] = (1, 1),
        density: float = 0.15,
        window: int = 32,
        masked: bool = False,
    ) -> None:
        random = np.random.default_rng(rows)
        outputs, inputs = block
        kept = random.random((-(-depth // inputs), -(-columns // outputs))) < density
        kept = np.repeat(np.repeat(kept, inputs, 0), outputs, 1)[:depth, :columns]
        self.weight = np.where(kept, random.standard_normal((depth, columns)), 0).astype(np.float32)
        self.rows, self.depth, self.columns = rows, depth, columns
        self.stored = Blocks.of(self.weight, -(-window // inputs) * inputs, *block, masked)
        self.width = sparse.group_width(target, outputs)
        self.groups = -(-columns // self.width)
        self.told = (rows,) if sparse.tells_rows(target) else ()
        self.words = self.stored.encode(self.weight)
        self.x = self._pitched(random.standard_normal((rows, depth)), 3)
        self.residual = self._pitched(random.standard_normal((rows, columns)), 5)
        self.bias = np.zeros(self.groups * self.width, np.float32)
        self.bias[:columns] = random.standard_normal(columns)
        self.y = np.full((rows, columns + 2), GUARD, np.float32)
        words = sparse.scratch_words(target, self.stored, (depth, columns))
        self.scratch = [np.full(count, np.nan, np.float32) for count in words]

    @staticmethod
    def _pitched(values: np.ndarray, extra: int) -> np.ndarray:
        room = np.full((values.shape[0], values.shape[1] + extra), GUARD, np.float32)
        room[:, : values.shape[1]] = values
        return room

    def run(self, call: Call, residual: np.ndarray | None, rows: slice, groups: slice) -> None:
        extra = () if residual is None else (residual,)
        pitch = () if residual is None else (residual.shape[1],)
        sizes = (
            self.depth,
            self.columns,
            self.stored.window,
            *self.told,
            self.x.shape[1],
            *pitch,
            self.y.shape[1],
        )
        ranges = (rows.start, rows.stop, groups.start, groups.stop)
        call(self.x, self.words, self.bias, *extra, self.y, *self.scratch, *sizes, *ranges)

    def all(self, call: Call, residual: np.ndarray | None = None) -> None:
        self.run(call, residual, slice(0, self.rows), slice(0, self.groups))

    def expected(self, residual: np.ndarray | None = None) -> np.ndarray:
        x = self.x[:, : self.depth].astype(np.float64)
        y: np.ndarray = x @ self.weight + self.bias[: self.columns]
        return y if residual is None else y + residual[:, : self.columns]

    def check(self, expected: np.ndarray) -> None:
        bound = 1e-6 * (1 + math.sqrt(self.depth))
        np.testing.assert_allclose(self.y[:, : self.columns], expected, rtol=2e-6, atol=bound)
        assert (self.y[:, self.columns :] == GUARD).all(), "wrote beyond n"


@pytest.fixture(params=[False, True], ids=["places", "masks"])
def masked(request: pytest.FixtureRequest, target: Target) -> bool:
    """Without masks, and with them where the chip reads them."""
    if request.param and not target.reads_masks(1, 1):
        pytest.skip("this chip reads no masks")
    if request.param and request.node.callspec.params.get("block", (1, 1)) != (1, 1):
        pytest.skip("masks are for blocks of one number")
    return bool(request.param)


@pytest.mark.parametrize("block", BLOCKS_OF[1], ids=str)
@pytest.mark.parametrize(("depth", "columns"), [(1, 1), (15, 47), (67, 48), (130, 17)])
def test_every_height_and_tail(
    block: tuple[int, int], depth: int, columns: int, masked: bool, target: Target, compiled: Compiled
) -> None:
    plain, residual = (
        compiled(sparse.kernel(target, *block, residual=r, masked=masked)) for r in (False, True)
    )
    for rows in (1, 2, 3, 4, 7, 15, 16, 17, 33, 63, 64, 65, 130):
        product = Product(target, rows, depth, columns, block, masked=masked)
        product.all(plain)
        product.check(product.expected())
        product.all(residual, product.residual)
        product.check(product.expected(product.residual))


@pytest.mark.parametrize("density", [0.5, 1.0])
@pytest.mark.parametrize(("depth", "columns"), [(1, 1), (15, 47), (67, 48), (130, 17)])
def test_few_rows_and_many_numbers(
    depth: int, columns: int, density: float, masked: bool, target: Target, compiled: Compiled
) -> None:
    """For which masks are read where there are any, four rows at a time."""
    call = compiled(sparse.kernel(target, 1, 1, residual=True, masked=masked))
    for rows in range(1, 12):
        product = Product(target, rows, depth, columns, density=density, masked=masked)
        product.all(call, product.residual)
        product.check(product.expected(product.residual))


@pytest.mark.parametrize("density", [0.0, 1.0])
def test_nothing_and_everything(density: float, masked: bool, target: Target, compiled: Compiled) -> None:
    product = Product(target, 20, 70, 40, density=density, masked=masked)
    product.all(compiled(sparse.kernel(target, 1, 1, masked=masked)))
    product.check(product.expected())


def test_activation_comes_last_and_residual_may_be_the_result(
    masked: bool, target: Target, compiled: Compiled
) -> None:
    product = Product(target, 37, 70, 45, masked=masked)
    product.y[:, : product.columns] = product.residual[:, : product.columns]
    product.all(compiled(sparse.kernel(target, 1, 1, "relu", residual=True, masked=masked)), product.y)
    product.check(np.maximum(product.expected(product.residual), 0))


@pytest.mark.parametrize("block", [(1, 1), (4, 4)], ids=str)
def test_ranges_compose(block: tuple[int, int], masked: bool, target: Target, compiled: Compiled) -> None:
    """Rows and columns done in pieces give the bits of the whole, and a piece writes nothing else."""
    call = compiled(sparse.kernel(target, *block, masked=masked))
    whole = Product(target, 45, 100, 70, block, masked=masked)
    whole.all(call)
    pieces = Product(target, 45, 100, 70, block, masked=masked)
    pieces.run(call, None, slice(8, 16), slice(1, 2))
    untouched = np.ones_like(pieces.y, bool)
    untouched[8:16, pieces.width : 2 * pieces.width] = False
    assert (pieces.y[untouched] == GUARD).all()
    for rows in (slice(0, 1), slice(1, 20), slice(20, 45)):
        for groups in (slice(0, 1), slice(1, pieces.groups)):
            pieces.run(call, None, rows, groups)
    np.testing.assert_array_equal(pieces.y, whole.y)


@pytest.mark.parametrize("block", [(1, 1), (4, 1), (4, 4)], ids=str)
@pytest.mark.parametrize("density", [0.15, 0.6])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_few_rows_have_one_order_too(
    rows: int,
    density: float,
    block: tuple[int, int],
    masked: bool,
    target: Target,
    compiled: Compiled,
) -> None:
    """Threads share out the rows and columns of a product of few rows as well."""
    call = compiled(sparse.kernel(target, *block, masked=masked))
    whole, pieces = (Product(target, rows, 100, 70, block, density, masked=masked) for _ in range(2))
    whole.all(call)
    for span in (slice(0, 1), slice(1, rows)):
        for groups in (slice(0, 1), slice(1, pieces.groups)):
            pieces.run(call, None, span, groups)
    np.testing.assert_array_equal(pieces.y, whole.y)


@pytest.mark.parametrize("density", [0.15, 0.6])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_few_rows_meet_stored_numbers_only(
    odd: float, rows: int, density: float, masked: bool, target: Target, compiled: Compiled
) -> None:
    product = Product(target, rows, 70, 50, density=density, masked=masked)
    product.x[rows - 1, [7, 32]] = odd
    product.weight[40, 3] = odd
    product.stored = Blocks.of(product.weight, product.stored.window, masked=masked)
    product.words = product.stored.encode(product.weight)
    product.all(compiled(sparse.kernel(target, 1, 1, masked=masked)))
    x = product.x[:, : product.depth].astype(np.float64)
    with np.errstate(invalid="ignore"):
        terms = np.where(product.weight[None] == 0, 0, x[:, :, None] * product.weight[None])
        product.check(terms.sum(1) + product.bias[: product.columns])


def test_nothing_to_do(masked: bool, target: Target, compiled: Compiled) -> None:
    product = Product(target, 5, 9, 9, masked=masked)
    call = compiled(sparse.kernel(target, 1, 1, masked=masked))
    product.run(call, None, slice(3, 3), slice(0, product.groups))
    product.run(call, None, slice(0, 5), slice(1, 1))
    assert (product.y == GUARD).all()


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_numbers_that_are_no_numbers_meet_stored_ones_only(
    odd: float, masked: bool, target: Target, compiled: Compiled
) -> None:
    product = Product(target, 21, 40, 50, masked=masked)
    product.x[4, 7] = odd
    product.all(compiled(sparse.kernel(target, 1, 1, masked=masked)))
    x = product.x[:, : product.depth].astype(np.float64)
    with np.errstate(invalid="ignore"):
        terms = np.where(product.weight[None] == 0, 0, x[:, :, None] * product.weight[None])
    product.check(terms.sum(1) + product.bias[: product.columns])


def test_unknown_activation(target: Target) -> None:
    with pytest.raises(CompilerBug, match="no activation 'cube'"):
        sparse.kernel(target, 1, 1, "cube")
