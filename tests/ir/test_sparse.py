"""Encodings of matrices with zeros: what is stored is the matrix, and as many bytes as the type says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.ir.read import parse_type
from isthmus.ir.sparse import HALVED, NM, Blocks, GroupPanels, MaskedPanels
from isthmus.ir.types import DType, Encoding, TensorType
from isthmus.ir.weights import Weight


def matrix(depth: int, columns: int, density: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    kept = random.random((depth, columns)) < density
    return np.where(kept, random.standard_normal((depth, columns)), 0).astype(np.float32)


def check(encoding: Encoding, plain: np.ndarray) -> np.ndarray:
    type_ = TensorType(DType.of(plain.dtype), plain.shape, encoding)
    assert parse_type(str(type_)) == type_
    stored = Weight.of("w", plain).encoded(encoding).stored()
    assert stored.nbytes == type_.nbytes
    assert stored.dtype == plain.dtype, "bytes are swapped for other chips by the size of elements"
    np.testing.assert_array_equal(encoding.decode(stored, plain.shape), plain)
    return stored


@given(
    st.integers(1, 40),
    st.integers(1, 20),
    st.sampled_from([0, 0.05, 0.3, 1]),
    st.sampled_from([(1, 1), (1, 4), (4, 1), (4, 4), (2, 3)]),
    st.integers(1, 5),
    st.integers(0, 99),
)
def test_blocks(
    depth: int, columns: int, density: float, block: tuple[int, int], window: int, seed: int
) -> None:
    plain = matrix(depth, columns, density, seed)
    for masked in (False, True):
        check(Blocks.of(plain, window * block[1], *block, masked), plain)


@given(
    st.integers(1, 40),
    st.integers(1, 20),
    st.sampled_from([0, 0.05, 0.3, 1]),
    st.sampled_from([(1, 4), (4, 4), (2, 8)]),
    st.integers(1, 5),
    st.integers(0, 99),
)
def test_blocks_of_bytes(
    depth: int, columns: int, density: float, block: tuple[int, int], window: int, seed: int
) -> None:
    plain = (matrix(depth, columns, density, seed) * 50).astype(np.int8)
    encoding = Blocks.of(plain, window * block[1], *block, masked=bool(seed % 2))
    stored = Weight.of("w", plain).encoded(encoding).stored()
    assert stored.nbytes == TensorType(DType.I8, plain.shape, encoding).nbytes
    assert stored.dtype == np.int8, "bytes are not swapped for other chips"
    np.testing.assert_array_equal(encoding.decode(stored, plain.shape), plain)


def test_the_bytes_of_a_block_are_words_along_the_inputs() -> None:
    plain = np.zeros((8, 2), np.int8)
    plain[4:, 1] = 1, 2, 3, 4
    plain[5, 0] = 9
    stored = Blocks.of(plain, 8, 2, 4).encode(plain)
    # Where the list begins and ends, places 1 and 2 (none), words of both columns, a block of zeros.
    assert stored.tolist() == [
        *[0, 0, 0, 0], *[1, 0, 0, 0], *[1, 0, 2, 0], *[0, 9, 0, 0], *[1, 2, 3, 4], *[0] * 8, *[0] * 64,
    ]  # fmt: skip


def test_what_a_number_takes() -> None:
    """6 bytes, and 4 for each column and window, with little padding."""
    plain = matrix(384, 384, 0.1, 0)
    numbers = np.count_nonzero(plain)
    stored = check(Blocks.of(plain, 192), plain)
    assert 6 * numbers < stored.nbytes < 6 * numbers + 2 * 384 * (4 + 6) + 4
    assert stored.nbytes <= 0.2 * plain.nbytes


def test_odd_lists_end_with_a_place_beyond_the_window() -> None:
    """What padding is multiplied by must be zero, not a number of x that may be infinite."""
    plain = np.zeros((8, 1), np.float32)
    plain[[1, 5, 7], 0] = 1, 2, 3
    stored = check(Blocks.of(plain, 8), plain).view(np.uint32)
    np.testing.assert_array_equal(stored[[0, 1]], [0, 2])
    assert stored[2] == 1 | 5 << 16
    assert stored[3] == 7 | 8 << 16
    np.testing.assert_array_equal(stored[4:8].view(np.float32), [1, 2, 3, 0])


def test_a_count_that_is_not_the_matrix() -> None:
    with pytest.raises(ValueError, match="the matrix has 1 pairs"):
        Blocks(1, 1, 4, 2).encode(np.eye(4, 1, dtype=np.float32))
    with pytest.raises(ValueError, match="stores elements of 32 bits"):
        Blocks(1, 1, 4, 2).nbytes((4, 4), DType.F16)
    with pytest.raises(ValueError, match="cannot store int8"):
        Blocks(1, 2, 4, 1).encode(np.eye(4, 1, dtype=np.int8))


@pytest.mark.parametrize(("kept", "group"), [(2, 4), (1, 4), (4, 8), (1, 2), (8, 32), (3, 5)])
def test_groups(kept: int, group: int) -> None:
    random = np.random.default_rng(kept)
    for depth, columns in ((group, 1), (4 * group, 7), (4 * group - 1, 9)):
        plain = random.standard_normal((-(-depth // group) * group, columns)).astype(np.float32)
        order = np.argsort(random.random((plain.shape[0] // group, group, columns)), axis=1)
        plain[order.reshape(plain.shape) >= kept] = 0
        check(NM(kept, group), plain[:depth])
    check(NM(kept, group), np.zeros((group, 3), np.float32))


def test_two_of_four_takes_half_and_a_sixteenth() -> None:
    plain = np.zeros((64, 32), np.float32)
    plain[::4] = plain[3::4] = 1
    assert check(NM(2, 4), plain).nbytes == plain.nbytes // 2 + plain.nbytes // 32
    assert NM(2, 4).nbytes((64, 32), DType.I8) == 0.625 * 64 * 32


def test_groups_that_hold_more() -> None:
    with pytest.raises(ValueError, match="more than 2 numbers"):
        NM(2, 4).encode(np.ones((4, 1), np.float32))


@pytest.mark.parametrize(("width", "lanes"), [(48, 16), (8, 4), (2, 2)])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (4, 48), (7, 49), (64, 100), (131, 7)])
def test_masked_panels_hold_two_of_four(width: int, lanes: int, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape[0] + width)
    plain = halves(rng, *shape)
    stored = check(MaskedPanels(width, lanes), plain)
    columns = -(-shape[1] // width) * width
    assert stored.nbytes == 0.625 * 4 * -(-shape[0] // 4) * columns
    # Every mask has half of its bits, whatever the matrix holds.
    masks = stored.view(np.uint8).reshape(-1, lanes * 4 * 5 // 8)[:, : lanes // 2]
    assert (np.unpackbits(masks, axis=1).sum(axis=1) == 2 * lanes).all()
    check(MaskedPanels(width, lanes), np.zeros(shape, np.int8))


def test_masked_panels_byte_by_byte() -> None:
    """One panel of two columns: the mask of both, then the bytes of either."""
    plain = np.array([[0, 5], [7, 0], [0, 0], [-1, 6]], np.int8)
    assert MaskedPanels(2, 2).encode(plain).view(np.uint8).tolist() == [[0b1001_1010, 7, 255, 5, 6]]
    lacking = np.array([[0, 0], [0, 0], [9, 0], [0, 0]], np.int8)
    assert MaskedPanels(2, 2).encode(lacking).tolist() == [[0b0011_0101, 0, 9, 0, 0]]


def test_masked_panels_refuse_more_and_wider() -> None:
    with pytest.raises(ValueError, match="more than 2"):
        MaskedPanels(2, 2).encode(np.ones((3, 1), np.int8))
    with pytest.raises(ValueError, match="stores bytes"):
        MaskedPanels(2, 2).nbytes((4, 4), DType.F32)


def halves(rng: np.random.Generator, depth: int, columns: int) -> np.ndarray:
    """Bytes of which at most two of four neighbours in a column are not zero, often fewer."""
    order = np.argsort(rng.random((-(-depth // 4), 4, columns)), axis=1)
    kept = (order < rng.integers(0, 3, (1, 1, columns))).reshape(-1, columns)[:depth]
    return np.where(kept, rng.integers(-128, 128, (depth, columns)), 0).astype(np.int8)


@pytest.mark.parametrize("width", [48, 8, 3, 2])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (8, 48), (7, 49), (64, 100), (131, 7)])
@pytest.mark.parametrize(("kept", "group"), HALVED)
@pytest.mark.parametrize("dtype", [np.float32, DType.BF16.numpy, np.int8])
def test_group_panels_hold_half(
    dtype: np.dtype[np.generic], kept: int, group: int, shape: tuple[int, int], width: int
) -> None:
    rng = np.random.default_rng(shape[0] + width)
    whole = rng.integers(-9, 10, (-(-shape[0] // group), group, shape[1]))
    whole[np.argsort(rng.random(whole.shape), axis=1) >= rng.integers(0, kept + 1, whole[:, :1].shape)] = 0
    plain = whole.reshape(-1, shape[1])[: shape[0]].astype(dtype)
    stored = check(GroupPanels(kept, group, width), plain)
    size, parts = plain.itemsize, -(-shape[0] // 8) * -(-shape[1] // width)
    assert stored.nbytes == parts * (-(-width // 4) * 4 + 4 * size * width)
    # Half of the bits of every column are set, whatever the matrix holds.
    bits = stored.reshape(-1).view(np.uint8).reshape(parts, -1)[:, :width]
    assert (np.unpackbits(bits[..., None], axis=2).sum(axis=2) == 4).all()
    check(GroupPanels(kept, group, width), np.zeros(shape, dtype))


@pytest.mark.parametrize(("dtype", "share"), [(DType.F32, 17 / 32), (DType.BF16, 9 / 16), (DType.I8, 5 / 8)])
def test_what_half_of_a_matrix_takes(dtype: DType, share: float) -> None:
    for kept, group in HALVED:
        assert GroupPanels(kept, group, 48).nbytes((384, 1536), dtype) == share * 384 * 1536 * dtype.bytes


def test_group_panels_byte_by_byte() -> None:
    """One panel of two columns: the bits of both, then what is stored of either, word by word."""
    plain = np.array([[0, 5], [7, 0], [0, 0], [-1, 6], [1, 0], [0, 0], [0, 0], [0, 8]], np.int8)
    expected = [0b0011_1010, 0b1001_1001, 0, 0, 7, 255, 1, 0, 5, 6, 0, 8]
    assert GroupPanels(2, 4, 2).encode(plain).view(np.uint8).tolist() == expected
    floats = GroupPanels(4, 8, 2).encode(plain.astype(np.float32))
    assert floats.view(np.uint8)[:4].tolist() == [0b0001_1011, 0b1000_1011, 0, 0]
    assert floats[1:].tolist() == [0, 5, 7, 0, -1, 6, 1, 8]


def test_group_panels_refuse_more_and_others() -> None:
    with pytest.raises(ValueError, match="more than 2"):
        GroupPanels(2, 4, 2).encode(np.ones((3, 1), np.int8))
    for kept, group, dtype in ((2, 8, DType.F32), (1, 2, DType.F32), (2, 4, DType.F64)):
        with pytest.raises(ValueError, match="stores half"):
            GroupPanels(kept, group, 2).nbytes((4, 4), dtype)
