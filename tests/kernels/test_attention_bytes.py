"""Attention on f32 that is rounded to bytes: against its meaning in bytes, and in f32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from attention_request import SIZES, AttentionRequest
from byte_operands import CHIPS
from runners import CACHE, quick

from isthmus.codegen.native import Call, load
from isthmus.kernels import attention as kernels
from isthmus.kernels import attention_bytes
from isthmus.kernels.attention_shape import FEW_QUERIES, Mask
from isthmus.target import Target

F32 = np.dtype(np.float32)
BYTES = tuple(chip for chip in CHIPS if attention_bytes.multiplies_bytes(chip))
Run = Callable[..., np.ndarray]


@pytest.fixture(scope="module", params=BYTES, ids=lambda chip: chip.name)
def chip(request: pytest.FixtureRequest) -> Target:
    return quick(request.param)


@pytest.fixture(scope="module")
def run(chip: Target, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The kernel's answer to a request; each kernel is compiled once."""
    calls: dict[str, Call] = {}

    def answer(request: AttentionRequest, cut: int = 0) -> np.ndarray:
        asked = (chip, *request.widths, request.kind)
        kernel = kernels.kernel(*asked, request.safe, request.causal, rounds="i8")
        if kernel.symbol not in calls:
            calls[kernel.symbol] = load([kernel], chip, tmp_path_factory.mktemp("bytes"), CACHE)[
                kernel.symbol
            ]
        scratch = kernels.scratch(*asked, rounds="i8")
        return request.run(calls[kernel.symbol], scratch, np.float32, cut)

    return answer


def in_bytes(a: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The integers that stand for `a` [batch, length, heads, width], and their scales."""
    scale = np.abs(a).max(axes, keepdims=True) / np.float32(127)
    scale = np.where(scale == 0, np.float32(1), scale)
    return np.rint(a / scale), scale


def expected(request: AttentionRequest, powers: int) -> np.ndarray:
    """What the kernel computes, on arrays of [batch, heads, ..]."""
    _, _, group, queries, keys = request.sizes
    (q, q_scale), (k, k_scale) = (in_bytes(a, (3,)) for a in (request.q, request.k))
    v, v_scale = in_bytes(request.v, (1, 3))
    q, q_scale = (a.transpose(0, 2, 1, 3) for a in (q, q_scale))
    k, k_scale, v, v_scale = (np.repeat(a.transpose(0, 2, 1, 3), group, 1) for a in (k, k_scale, v, v_scale))
    scores = (q @ k.swapaxes(2, 3)) * k_scale.swapaxes(2, 3) * (q_scale * request.scale)
    if request.mask is not None:
        scores = scores + request.mask
    if request.causal:
        scores = np.where(np.tri(queries, keys, keys - queries, dtype=bool), scores, -np.inf)
    with np.errstate(all="ignore"):
        level = scores.max(-1, keepdims=True)
        raised = np.rint(np.exp(scores - level) * powers)
        found = (raised @ v) * v_scale / raised.sum(-1, keepdims=True)
    return np.where(np.isnan(found) & request.safe, 0, found).transpose(0, 2, 1, 3)


def cases() -> Iterator[tuple[tuple[int, int], Mask, bool, bool]]:
    kinds: tuple[Mask, ...] = ("none", "row", "full")
    for kind in kinds:
        for causal in (False, True):
            yield (32, 32), kind, causal, causal
    for widths in ((64, 64), (8, 8), (33, 17), (128, 80), (1, 3)):
        yield widths, "row", True, True
    for widths in ((20, 20), (48, 48)):
        yield widths, "row", False, True


@pytest.mark.parametrize(("widths", "kind", "safe", "causal"), tuple(cases()))
def test_attention(
    widths: tuple[int, int], kind: Mask, safe: bool, causal: bool, run: Run, chip: Target
) -> None:
    assert chip.byte_products is not None
    powers = attention_bytes.POWERS[chip.byte_products.unsigned]
    for sizes in SIZES:
        request = AttentionRequest(widths, kind, sizes, safe, causal, F32)
        got, exact = run(request), request.expected()
        assert np.array_equal(np.isnan(got), np.isnan(exact))
        few = sizes[3] <= FEW_QUERIES
        want = exact if few else expected(request, powers)
        # A power in a hundred falls to the other side of a half; beyond a chunk all are relative to another.
        bound = 1e-5 if few else (1 if sizes[4] <= 512 else 2) * 2.0 / powers
        np.testing.assert_allclose(got, want, atol=bound, rtol=0)
        if not few:
            assert np.nanmean(np.abs(got - want)) < bound / 16
            assert np.nanmean((got - exact) ** 2) < 1e-3 * np.nanmean(exact**2) + 1e-7


@pytest.mark.parametrize("queries", [1, 5])
def test_a_row_that_is_masked_out_is_uniform_or_nan(queries: int, run: Run) -> None:
    for safe, hidden in ((False, -3.4e38), (False, -np.inf), (True, -np.inf)):
        request = AttentionRequest((32, 32), "row", (1, 1, 1, queries, 9), safe, False, F32)
        assert request.mask is not None
        request.mask[...] = hidden
        np.testing.assert_allclose(run(request), request.expected(), atol=2e-2)


def test_zeros_have_no_scale_and_nan_is_not_lost(run: Run) -> None:
    request = AttentionRequest((32, 32), "none", (1, 2, 1, 6, 40), False, False, F32)
    request.q[...] = 0
    np.testing.assert_allclose(run(request), request.expected(), atol=1e-2)
    request.v[:, :, 0] = 0
    assert (run(request)[:, :, 0] == 0).all()
    request.k[0, 3, 1, 5] = np.nan
    got = run(request)
    assert np.isnan(got[:, :, 1]).all() and not np.isnan(got[:, :, 0]).any()


@pytest.mark.parametrize("queries", [1, 3, 21])
def test_ranges_of_heads_give_the_same_bits(queries: int, run: Run) -> None:
    request = AttentionRequest((48, 48), "row", (3, 4, 2, queries, 70), False, True, F32)
    whole = run(request)
    for cut in (1, 2, 7):
        np.testing.assert_array_equal(run(request, cut), whole)
