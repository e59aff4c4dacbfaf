"""Ragged attention against that of each sequence alone, bit by bit; and the rows that are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from isthmus.codegen.native import Call
from isthmus.kernels import attention, attention_bytes, loops_kept
from isthmus.kernels.kernel import Kernel
from isthmus.target import Target

Compiled = Callable[[Kernel], Call]
GUARD = np.float32(12345.0)
HEADS, GROUP = 4, 2
LENGTHS = ([1], [3, 0, 17], [70, 2, 9, 40], [530, 16])
KINDS = [
    (32, 32, "row", False, ""),
    (20, 12, "none", False, ""),
    (16, 16, "row", True, ""),
    (20, 12, "row", False, "bf16"),
    (20, 12, "row", False, "i8"),
    (48, 20, "row", False, "mixed"),
    (80, 80, "none", True, "mixed"),
]


@pytest.mark.parametrize(("width", "value_width", "mask", "causal", "narrow"), KINDS)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_each_sequence_is_computed_as_if_it_were_alone(
    width: int,
    value_width: int,
    mask: attention.Mask,
    causal: bool,
    narrow: str,
    lengths: list[int],
    target: Target,
    compiled: Compiled,
) -> None:
    if narrow == "i8" and not attention_bytes.multiplies_bytes(target):
        pytest.skip("nothing multiplies words of four bytes here")
    if narrow in ("mixed", "bf16") and target.instruction("dot_bf16") is None:
        pytest.skip("nothing multiplies bf16 here")
    rng = np.random.default_rng(sum(lengths))
    ends = np.cumsum(lengths)
    rows, longest = int(ends[-1]), max(lengths)
    shared = HEADS // GROUP
    q, k, v = (
        rng.standard_normal((rows, n, w), np.float32)
        for n, w in ((HEADS, width), (shared, width), (shared, value_width))
    )
    bias = np.where(rng.random(rows) < 0.2, np.float32(-1e4), rng.standard_normal(rows, np.float32))
    given = [bias] if mask == "row" else []
    out, alone = (np.full((rows + 1, HEADS, value_width), GUARD, np.float32) for _ in range(2))
    if narrow == "mixed":
        q, k, v, out, alone = (a.astype(ml_dtypes.bfloat16).view(np.uint16) for a in (q, k, v, out, alone))
    guard = out[rows, 0, 0]
    form: dict[str, Any] = {"mixed": True} if narrow == "mixed" else {"rounds": narrow}
    size = attention.scratch(target, width, value_width, mask, **form)
    floats = size.per_key * (-(-longest // size.block) * size.block) + size.constant
    scratch = np.full(floats + 1, np.nan, np.float32)
    scratch[-1] = GUARD
    ragged = compiled(attention.kernel(target, width, value_width, mask, False, causal, True, **form))
    sides = ((width, HEADS), (width, shared), (value_width, shared), (value_width, HEADS))
    strides = [stride for w, n in sides for stride in (w, n * w)]
    # In two calls, as two threads make them.
    units, half = HEADS * len(lengths), HEADS * len(lengths) // 2 + 1
    for begin, end in ((0, half), (half, units)):
        ragged(q, k, v, ends, *given, out, scratch, 0.3, HEADS, GROUP, longest, 1, *strides, begin, end)
    dense = compiled(attention.kernel(target, width, value_width, mask, False, causal, **form))
    for start, end in zip(ends - lengths, ends, strict=True):
        own = slice(start, end)
        steps = [s for pair in zip([0] * 4, strides[::2], strides[1::2], strict=True) for s in pair]
        masked = [0, 0] if given else []
        dense(
            q[own], k[own], v[own], *(m[own] for m in given), alone[start:], scratch, 0.3, HEADS, GROUP,
            int(end - start), int(end - start), *steps[:9], *masked, *steps[9:], 0, HEADS,
        )  # fmt: skip
    np.testing.assert_array_equal(out, alone)
    assert (out[rows] == guard).all()
    assert scratch[-1] == GUARD


def test_kept_rows(target: Target, compiled: Compiled) -> None:
    call = compiled(loops_kept.kept_rows(target))
    kept = np.array([0, 1, 1, 0, 0, 1, 1, 0, 1], bool)
    count = np.cumsum(kept)
    found = np.full(6, -7)
    for begin, end in ((5, 9), (0, 5)):
        call(count, found, 5, begin, end)
    assert found.tolist() == [1, 2, 5, 6, 8, -7]
    # Counts that are none are not written beyond the memory there is for them.
    found[:] = -7
    call(np.array([-3, 900, 2, 1 << 40, 0]), found, 5, 0, 5)
    assert (found == -7).all()
