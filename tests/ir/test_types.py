"""Types and encodings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from isthmus.ir.dims import minimum, symbol
from isthmus.ir.types import DType, Encoding, Padded, Panels, TensorType, parse_encoding, parse_type

seq = symbol("seq")
dtypes = st.sampled_from(list(DType))
dims = st.integers(0, 9) | st.sampled_from([seq, 2 * seq + 1, minimum(seq, 512), seq // 2])
encodings = st.none() | st.integers(1, 64).map(Panels) | st.integers(1, 64).map(Padded)
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


@given(vectors, st.integers(1, 9))
def test_padded(plain: np.ndarray, multiple: int) -> None:
    stored = check(Padded(multiple), plain)
    assert len(stored) % multiple == 0 and len(stored) - len(plain) < multiple
    assert not stored[len(plain) :].any()


def test_substitution_reaches_shapes_and_keeps_encodings() -> None:
    type_ = TensorType(DType.F32, (seq, 4))
    assert type_.substitute({"seq": 3}) == TensorType(DType.F32, (3, 4))
    assert TensorType(DType.F32, (minimum(seq, 9),)).simplify({"seq": (1, 9)}).shape == (seq,)
    assert TensorType(DType.F32, (4, 4), Panels(2)).substitute({"seq": 3}).encoding == Panels(2)
