"""Cases of matrices with zeros: every way to store them, and every kernel that reads what is stored."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from isthmus.ir.graph import Value, constant, weight_of
from isthmus.ir.types import DType
from isthmus.ops import nn
from isthmus.ops.integer import integer_linear
from isthmus.passes.sparsify.patterns import BLOCKS_OF
from isthmus.tools.conformance.cases import SUM, Case, Maker

# Three rows and two, where there may be many: matrices are stored for those, and masks read for these.
FEW = ("b*b-b+1", "b*b-b")


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


def two_of_four(value: Value) -> Value:
    """A matrix of which two of every four neighbours of a column are left, in all six ways."""
    weight = weight_of(value)
    assert weight is not None
    plain = weight.read()
    row, column = np.indices(plain.shape)
    pairs = np.array([0b0011, 0b0101, 0b0110, 0b1001, 0b1010, 0b1100])[(row // 4 + column) % 6]
    return constant(weight.name, np.where(pairs >> row % 4 & 1, plain, plain.dtype.type(0)))


def sparse_bytes() -> Iterator[Case]:
    """Matrices of bytes with so many zeros that they are stored without, or as two of four."""
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
    """Matrices of bytes of which two of four neighbours are zero, few rows and many."""
    for rows, k, n in (("1", 132, 70), ("m,b", 67, 48), ("m,b,n", 330, 101)):
        for dtype in (DType.I8, DType.U8):
            name = f"integer_linear by 2:4 {dtype}[{rows},{k}] x {n}"
            maker = Maker("bytes", name)
            scale = constant(f"{name} scale", np.asarray(0.004, np.float32))
            vectors = [constant(f"{name} {i}", maker.scales(n)) for i in range(2)]
            offset = constant(f"{name} offset", np.arange(n, dtype=np.int32) * 101 - 2000)
            w = two_of_four(maker.whole_weight(k, n))
            x = maker.integers(f"{dtype}[{rows},{k}]")
            yield maker.case(integer_linear(x, w, offset, scale, *vectors, activation="relu"), 0.0)
