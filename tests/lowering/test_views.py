"""Views against NumPy's own strides: whatever a view says of a buffer, NumPy reads the same elements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.ir.read import parse_dim
from isthmus.ir.types import DType
from isthmus.lowering.views import Buffer, View, contiguous, whole
from isthmus.ops import movement

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def buffer(size: int) -> Buffer:
    return Buffer("b", DType.F32, size, "arena")


def read(view: View, data: np.ndarray) -> np.ndarray:
    strides = tuple(int(s) * data.itemsize for s in view.strides)
    return np.lib.stride_tricks.as_strided(data[int(view.offset) :], view.shape, strides)


@given(shapes, st.randoms(use_true_random=False))
def test_transposes_slices_and_reshapes_read_what_numpy_reads(shape, random):
    data = np.arange(np.prod(shape), dtype=np.float32)
    view, array = whole(buffer(data.size), shape), data.reshape(shape)
    for _ in range(3):
        perm = tuple(random.sample(range(array.ndim), array.ndim))
        view, array = view.transposed(perm), array.transpose(perm)
        axis = random.randrange(array.ndim)
        start = random.randrange(array.shape[axis])
        starts = tuple(start if i == axis else 0 for i in range(array.ndim))
        sizes = tuple(n - s for n, s in zip(array.shape, starts, strict=True))
        view = view.sliced(starts, sizes, (1,) * array.ndim)
        array = array[tuple(slice(s, None) for s in starts)]
        target = tuple(random.sample((*array.shape, 1), array.ndim + 1))
        if random.random() < 0.5:
            target = (array.size,)
        reshaped = view.reshaped(target)
        if reshaped is not None:
            view, array = reshaped, array.reshape(target)
        assert np.array_equal(read(view, data), array)


def test_a_negative_step_walks_backwards():
    data = np.arange(6, dtype=np.float32)
    view = whole(buffer(6), (6,)).sliced((5,), (3,), (-2,))
    assert read(view, data).tolist() == [5, 3, 1]


def test_a_broadcast_has_stride_zero():
    view = whole(buffer(3), (3, 1)).broadcast((2, 3, 4))
    assert view.strides == (0, 1, 0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("batch seq 384", "batch seq 12 32"),
        ("batch seq 12 32", "batch seq 384"),
        ("batch seq 8", "batch*seq 8"),
        ("batch*seq 8", "batch seq 8"),
        ("batch 1 seq", "batch seq"),
        ("2 batch 3", "6*batch"),
    ],
)
def test_reshapes_of_symbolic_shapes_need_no_copy(old, new):
    before, after = (tuple(map(parse_dim, text.split())) for text in (old, new))
    view = whole(Buffer("b", DType.F32, 0, "arena"), before).reshaped(after)
    assert view is not None
    assert all(d == 1 or s == w for d, s, w in zip(after, view.strides, contiguous(after), strict=True))


def test_a_transposed_view_cannot_be_flattened():
    assert whole(buffer(6), (2, 3)).transposed((1, 0)).reshaped((6,)) is None


def test_views_without_elements_take_any_shape():
    view = whole(buffer(0), (0, 4, 8)).transposed((1, 0, 2))
    assert view.rows() == (0, 8)


def test_rows_merge_only_when_they_lie_evenly():
    batch, seq = parse_dim("batch"), parse_dim("seq")
    view = whole(buffer(0), (batch, seq, 12))
    assert view.rows() == (batch * seq, 12)
    part = view.sliced((0, 0, 4), (batch, seq, 4), (1, 1, 1))
    assert part.rows() == (batch * seq, 12)
    first = view.sliced((0, 0, 0), (batch, 1, 12), (1, 1, 1)).reshaped((batch, 12))
    assert first is not None and first.rows() == (batch, seq * 12)
    assert view.transposed((0, 2, 1)).rows() is None


@given(
    st.integers(1, 3),
    st.lists(st.tuples(*[st.integers(1, 3)] * 3, st.integers(0, 3)), min_size=1, max_size=2),
)
def test_windows_read_what_the_reference_reads(lead, parts):
    """Windows of a transposed view, along its last axes."""
    sizes, strides, dilations, rest = (tuple(column) for column in zip(*parts, strict=True))
    spans = [(k - 1) * d + 1 + r for k, d, r in zip(sizes, dilations, rest, strict=True)]
    axes = tuple(range(1, 1 + len(parts)))
    shape = (*spans, lead)
    data = np.arange(np.prod(shape), dtype=np.float32)
    perm = (len(parts), *range(len(parts)))
    attrs = {"axes": axes, "sizes": sizes, "strides": strides, "dilations": dilations}
    wanted = movement.windows.reference(data.reshape(shape).transpose(perm), **attrs)
    view = whole(buffer(data.size), shape).transposed(perm).windowed(wanted.shape, axes, strides, dilations)
    np.testing.assert_array_equal(read(view, data), wanted)
