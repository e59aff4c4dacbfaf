"""Types and encodings."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from isthmus.ir import small_floats
from isthmus.ir.dims import minimum, symbol
from isthmus.ir.encodings import (
    Halves,
    Interleaved,
    Packed,
    Padded,
    Panels,
    Powers,
    SmallFloats,
    parse_encoding,
)
from isthmus.ir.graph import TypeMismatch
from isthmus.ir.read import parse_type
from isthmus.ir.sparse import NM, Blocks, GroupPanels, MaskedPanels
from isthmus.ir.types import DType, Encoding, TensorType
from isthmus.ops import rules

seq = symbol("seq")
dtypes = st.sampled_from(list(DType))
dims = st.integers(0, 9) | st.sampled_from([seq, 2 * seq + 1, minimum(seq, 512), seq // 2])
sizes = st.integers(1, 64)
encodings = (
    st.none()
    | sizes.map(Panels)
    | sizes.map(Padded)
    | st.builds(Blocks, sizes, sizes, sizes, st.integers(0, 999), st.booleans())
    | st.builds(NM, sizes, sizes)
    | st.builds(GroupPanels, sizes, sizes, sizes)
    | st.builds(MaskedPanels, sizes, sizes)
    | st.builds(Interleaved, st.integers(1, 64), st.integers(1, 8))
)
types = st.builds(TensorType, dtypes, st.lists(dims, max_size=5).map(tuple), encodings)


@given(types)
def test_what_is_printed_reads_back(type_: TensorType) -> None:
    assert parse_type(str(type_)) == type_


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f32", r"expected '\[', a shape, found the end"),
        ("f33[2]", "no element type 'f33'; known: f32"),
        ("f32[2", r"expected ',' or '\]'"),
        ("f32[2,,3]", "expected a dimension"),
        ("f32[2] as zip(3)", r"not an encoding: 'zip\(3\)'"),
        ("f32[2] as panels(-1)", "not an encoding"),
        ("f32[2] as panels(0)", "not an encoding"),
        ("f32[2] extra", "expected the end of the type, found 'extra'"),
        ("[2]", "expected an element type"),
    ],
)
def test_text_that_is_no_type(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_type(text)


@pytest.mark.parametrize("dtype", list(DType), ids=str)
def test_dtypes(dtype: DType) -> None:
    assert DType.parse(str(dtype)) is dtype
    assert DType.of(dtype.numpy) is dtype
    assert dtype.numpy.itemsize == dtype.bytes
    assert dtype.bits == 8 * dtype.bytes
    assert [dtype.is_float, dtype.is_integer, dtype is DType.BOOL].count(True) == 1


def test_unknown_dtypes() -> None:
    with pytest.raises(ValueError, match="complex64"):
        DType.of(np.dtype(np.complex64))


def test_sizes() -> None:
    assert TensorType(DType.F16, (2, seq)).nbytes == 4 * seq
    assert TensorType(DType.F32, ()).size == 1
    assert TensorType(DType.F32, (3, 5), Panels(4)).nbytes == 2 * 3 * 4 * 4
    assert TensorType(DType.F32, (5,), Padded(8)).nbytes == 32
    assert TensorType(DType.F32, (2, 3)).static_shape == (2, 3)
    with pytest.raises(ValueError, match="symbolic"):
        _ = TensorType(DType.F32, (seq,)).static_shape


matrices = arrays.arrays(
    np.float32, st.tuples(st.integers(0, 9), st.integers(1, 20)), elements=st.integers(-9, 9)
)
vectors = arrays.arrays(np.float32, st.tuples(st.integers(0, 20)), elements=st.integers(-9, 9))


def check(encoding: Encoding, plain: np.ndarray) -> np.ndarray:
    stored = encoding.encode(plain)
    assert stored.nbytes == encoding.nbytes(plain.shape, DType.F32)
    assert stored.flags.c_contiguous
    back = encoding.decode(stored.reshape(-1), plain.shape)
    np.testing.assert_array_equal(back, plain)
    assert parse_encoding(str(encoding)) == encoding
    return stored


@given(matrices, st.integers(1, 9))
def test_panels(plain: np.ndarray, width: int) -> None:
    stored = check(Panels(width), plain)
    rows, columns = plain.shape
    assert stored.shape == (-(-columns // width), rows, width)
    for i in range(rows):
        for j in range(stored.shape[0] * width):
            assert stored[j // width, i, j % width] == (plain[i, j] if j < columns else 0)


@given(matrices, st.integers(1, 9), st.integers(1, 4))
def test_interleaved(plain: np.ndarray, width: int, group: int) -> None:
    stored = check(Interleaved(width, group), plain)
    rows, columns = plain.shape
    assert stored.shape == (-(-columns // width), -(-rows // group), width, group)
    for i in range(stored.shape[1] * group):
        for j in range(stored.shape[0] * width):
            inside = i < rows and j < columns
            assert stored[j // width, i // group, j % width, i % group] == (plain[i, j] if inside else 0)


def test_interleaved_takes_every_element_type() -> None:
    for dtype in (DType.BF16, DType.I8):
        plain = np.arange(15).reshape(3, 5).astype(dtype.numpy)
        stored = Interleaved(4, 2).encode(plain)
        assert stored.dtype == dtype.numpy and stored.nbytes == Interleaved(4, 2).nbytes((3, 5), dtype)
        np.testing.assert_array_equal(Interleaved(4, 2).decode(stored, (3, 5)), plain)


@given(vectors, st.integers(1, 9))
def test_padded(plain: np.ndarray, multiple: int) -> None:
    stored = check(Padded(multiple), plain)
    assert len(stored) % multiple == 0 and len(stored) - len(plain) < multiple
    assert not stored[len(plain) :].any()


@given(arrays.arrays(np.int8, st.tuples(st.integers(0, 5), st.integers(0, 7)), elements=st.integers(-8, 7)))
def test_packed(plain: np.ndarray) -> None:
    for numbers, bits in ((plain, 4), ((plain + 8).astype(np.uint8), 4), (plain // 4, 2)):
        encoding = Packed(bits)
        stored = encoding.encode(numbers)
        assert stored.nbytes == encoding.nbytes(numbers.shape, DType.I8) == -(-numbers.size * bits // 8)
        back = encoding.decode(stored, numbers.shape)
        np.testing.assert_array_equal(back, numbers)
        assert back.dtype == numbers.dtype and parse_encoding(str(encoding)) == encoding
    first = Packed(4).encode(np.asarray([-1, 3, 2], np.int8)).view(np.uint8)
    assert first.tolist() == [0x3F, 0x02]


def test_floats_of_4_bits() -> None:
    """As `ml_dtypes` has them, which is as the specification's table does."""
    codes = np.arange(16, dtype=np.uint8)
    values = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    signed = ((codes ^ 8).astype(np.int8) - 8).astype(np.int8)
    np.testing.assert_array_equal(small_floats.from_codes(signed), 2 * values)
    x = np.random.default_rng(0).uniform(-7, 7, 500).astype(np.float32)
    x = np.concatenate([x, np.arange(-28, 29, dtype=np.float32) / 4])
    wanted = x.astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    np.testing.assert_array_equal(small_floats.nearest(2 * x), 2 * wanted)
    plain = small_floats.nearest(2 * x).reshape(-1, 1)
    for encoding in (SmallFloats(), SmallFloats(16)):
        stored = encoding.encode(plain)
        assert stored.nbytes == encoding.nbytes(plain.shape, DType.I8)
        np.testing.assert_array_equal(encoding.decode(stored, plain.shape), plain)
        assert parse_encoding(str(encoding)) == encoding
    assert SmallFloats().encode(np.asarray([12, -1], np.int8)).view(np.uint8).tolist() == [0x97]
    with pytest.raises(ValueError, match="not all floats of 4 bits"):
        SmallFloats().encode(np.asarray([5], np.int8))


def test_halves() -> None:
    plain = np.asarray([[1.5, 0.25], [-3.0, 0.0]], np.float32)
    stored = Halves().encode(plain)
    assert stored.nbytes == Halves().nbytes((2, 2), DType.F32) == 8
    np.testing.assert_array_equal(Halves().decode(stored, (2, 2)), plain)
    assert parse_encoding("halves") == Halves()


def test_powers() -> None:
    plain = np.asarray([[1.0, 0.125], [2.0**-126, 2.0**100]], np.float32)
    stored = Powers().encode(plain)
    assert stored.nbytes == Powers().nbytes((2, 2), DType.F32) == 4
    np.testing.assert_array_equal(Powers().decode(stored, (2, 2)), plain)
    assert parse_encoding("powers") == Powers()


def test_what_is_only_stored() -> None:
    stored = [d for d in DType if d.is_stored]
    assert [str(d) for d in stored] == [
        "f8e4m3", "f8e5m2", "f8e4m3fnuz", "f8e5m2fnuz", "f8e8m0", "f4e2m1"
    ]  # fmt: skip
    for dtype in stored:
        assert dtype.is_float and dtype.is_narrow and not dtype.is_integer
        assert dtype.bytes == dtype.numpy.itemsize == 1
        assert DType.parse(str(dtype)) is DType.of(dtype.numpy) is dtype
        with pytest.raises(TypeMismatch, match=f"nothing computes with {dtype}"):
            rules.pointwise(TensorType(dtype, (2,)))


def test_substitution_reaches_shapes_and_keeps_encodings() -> None:
    type_ = TensorType(DType.F32, (seq, 4))
    assert type_.substitute({"seq": 3}) == TensorType(DType.F32, (3, 4))
    assert TensorType(DType.F32, (minimum(seq, 9),)).simplify({"seq": (1, 9)}).shape == (seq,)
    assert TensorType(DType.F32, (4, 4), Panels(2)).substitute({"seq": 3}).encoding == Panels(2)
