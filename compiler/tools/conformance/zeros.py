"""Cases of matrices with zeros: every way to store them, and every kernel that reads what is stored."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from isthmus.ir.graph import Value, constant, weight_of
from isthmus.ir.sparse import HALVED
from isthmus.ir.types import DType
from isthmus.ops import nn
from isthmus.ops.integer import integer_linear
from isthmus.passes.sparsify.patterns import BLOCKS_OF
from isthmus.tools.conformance.cases import SUM, Case, Maker

# Three rows and two, where there may be many: matrices are stored for those, and masks read for these.
FEW = ("b*b-b+1", "b*b-b")
# Half of a matrix is stored as such wherever there is a kernel for it, however fast (`Options.even`).
EVEN = 0.0
# Rows, K and N of matrices of which half is stored; the last K is cut.
HALVED_SHAPES = ((1, 132, 70), (4, 67, 48), (30, 330, 101), (5, 3001, 21))


def sparse_floats() -> Iterator[Case]:
    """Matrices with so many zeros that they are stored without, in each shape of block."""
    for outputs, inputs in BLOCKS_OF[1]:
        for activation, residual in (("none", False), ("relu", True)):
            tail = "+residual" if residual else ""
            maker = Maker("linear", f"sparse linear of {outputs}x{inputs} blocks {activation}{tail}")
            x = maker.floats("f32[b,n,380]")
            rest = [maker.floats("f32[b,n,130]")] if residual else []
            w = without_most(maker.weight(380, 130, scale=0.2), outputs, inputs)
            yield maker.case(nn.linear(x, w, maker.weight(130), *rest, activation=activation), SUM)
    for rows in FEW:
        maker = Maker("linear", f"sparse linear of many numbers and few rows [{rows},380]")
        x, other = maker.floats(f"f32[{rows},380]"), maker.floats(f"f32[{rows},130]")
        w = without_most(maker.weight(380, 130, scale=0.2), 1, 1, kept=7, of=32)
        yield maker.case(nn.linear(x, w, maker.weight(130), other, activation="relu"), SUM)


def without_most(value: Value, outputs: int, inputs: int, kept: int = 1, of: int = 16) -> Value:
    """A matrix of which `kept` blocks of every `of` are left."""
    weight = weight_of(value)
    assert weight is not None
    plain = weight.read()
    row, column = (
        axis // size for axis, size in zip(np.indices(plain.shape), (inputs, outputs), strict=True)
    )
    return constant(weight.name, np.where((5 * row + 7 * column) % of < kept, plain, plain.dtype.type(0)))


def half_of(value: Value, group: int) -> Value:
    """A matrix of which at most half of every `group` neighbours of a column are left, in all ways."""
    weight = weight_of(value)
    assert weight is not None
    plain = weight.read()
    ways = np.array([way for way in range(1 << group) if way.bit_count() == group // 2])
    row, column = np.indices(plain.shape)
    bits = ways[(row // group + column) % len(ways)]
    return constant(weight.name, np.where(bits >> row % group & 1, plain, plain.dtype.type(0)))


def halved_floats() -> Iterator[Case]:
    """Matrices of which half is stored, few rows and many."""
    for _, group in HALVED:
        for rows, k, n in HALVED_SHAPES:
            maker = Maker("linear", f"linear by {group // 2}:{group} [{rows},{k}] x {n}")
            x = maker.floats(f"f32[{rows},{k}]")
            w = half_of(maker.weight(k, n, scale=0.2), group)
            yield maker.case(nn.linear(x, w, maker.weight(n), activation="relu"), SUM)


def sparse_bytes() -> Iterator[Case]:
    """Matrices of bytes with so many zeros that they are stored without, or by halves."""
    for outputs in (1, 4):
        for dtype, each in ((DType.I8, True), (DType.U8, False)):
            of = "rows" if each else "all"
            name = f"sparse integer_linear of {outputs}x4 blocks {dtype}, {of}"
            maker = Maker("bytes", name)
            yield _blocks_of_bytes(maker, "m,b", dtype, each, without_most(_plain(maker), outputs, 4))
    for dtype, each in ((DType.I8, True), (DType.U8, False)):
        maker = Maker("bytes", f"sparse integer_linear of many blocks {dtype} and few rows [{FEW[1]},738]")
        w = without_most(_plain(maker), 1, 4, kept=5, of=32)
        yield _blocks_of_bytes(maker, FEW[1], dtype, each, w)
    yield from _halves()


def _plain(maker: Maker) -> Value:
    return maker.whole_weight(738, 70)


def _blocks_of_bytes(maker: Maker, rows: str, dtype: DType, each: bool, w: Value) -> Case:
    """Rows of bytes, with a scale `each` or one for all, by `w`."""
    x = maker.integers(f"{dtype}[{rows},738]")
    scale = maker.floats(f"f32[{rows},1]" if each else "f32[]", 0.001, 0.02)
    vectors = [constant(f"{maker.name} {i}", maker.scales(70)) for i in range(2)]
    offset = constant(f"{maker.name} offset", np.arange(70, dtype=np.int32) * 101 - 2000)
    rest = [maker.floats(f"f32[{rows},70]")] if each else []
    return maker.case(integer_linear(x, w, offset, scale, *vectors, *rest, activation="relu"), 0.0)


def _halves() -> Iterator[Case]:
    """Matrices of bytes of which half is stored, few rows and many."""
    for rows, k, n in HALVED_SHAPES:
        for dtype, (kept, group) in itertools.product((DType.I8, DType.U8), HALVED):
            name = f"integer_linear by {kept}:{group} {dtype}[{rows},{k}] x {n}"
            maker = Maker("bytes", name)
            scale = constant(f"{name} scale", np.asarray(0.004, np.float32))
            vectors = [constant(f"{name} {i}", maker.scales(n)) for i in range(2)]
            offset = constant(f"{name} offset", np.arange(n, dtype=np.int32) * 101 - 2000)
            w = half_of(maker.whole_weight(k, n), group)
            x = maker.integers(f"{dtype}[{rows},{k}]")
            yield maker.case(integer_linear(x, w, offset, scale, *vectors, activation="relu"), 0.0)
