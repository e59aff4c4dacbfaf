"""Attention against NumPy in double precision: layouts, masks, tails, padded rows, NaN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from isthmus.codegen.native import Call
from isthmus.kernels import attention
from isthmus.kernels.kernel import Kernel
from isthmus.target import Target

Compiled = Callable[[Kernel], Call]
GUARD = np.float32(12345.0)
LOWEST = np.finfo(np.float32).min


@dataclass
class Problem:
    """Operands as views [batch, head, position, element] of one buffer each, however it is laid out."""

    batch: int
    heads: int
    queries: int
    keys: int
    width: int
    value_width: int
    group: int = 1
    mask_kind: attention.Mask = "none"
    safe: bool = False
    seed: int = 0
    scale: float = 0.3
    mask: np.ndarray | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        shared = self.heads // self.group
        self.q = self.operand(self.queries, self.heads, self.width)
        self.k = self.operand(self.keys, shared, self.width)
        self.v = self.operand(self.keys, shared, self.value_width)
        self.out = self.operand(self.queries, self.heads, self.value_width)
        base = self.out if self.out.base is None else self.out.base
        base[...] = GUARD
        if self.mask_kind != "none":
            rows = 1 if self.mask_kind == "row" else self.queries
            hidden = self.random.random((self.batch, self.heads, rows, self.keys)) < 0.3
            hidden[..., 0] = False
            self.mask = np.where(hidden, LOWEST, self.random.standard_normal(hidden.shape)).astype(np.float32)

    def operand(self, length: int, heads: int, width: int) -> np.ndarray:
        """[batch, length, heads, width] in memory, with rows further apart, as a product leaves it."""
        room = np.full((self.batch, length, heads * width + 5), GUARD, np.float32)
        room[...] = self.random.standard_normal(room.shape)
        return room[:, :, : heads * width].reshape(self.batch, length, heads, width).transpose(0, 2, 1, 3)

    def run(self, call: Call, target: Target, begin: int = 0, end: int | None = None) -> np.ndarray:
        size = attention.scratch(target, self.width, self.value_width, self.mask_kind)
        floats = size.per_key * (-(-self.keys // size.block) * size.block) + size.constant
        scratch = np.full(floats + 1, np.nan, np.float32)
        mask = () if self.mask is None else (self.mask,)
        strides = [s // 4 for a in (self.q, self.k, self.v) for s in a.strides[:3]]
        if self.mask is not None:
            strides += [s // 4 for s in self.mask.strides[: 2 if self.mask_kind == "row" else 3]]
        strides += [s // 4 for s in self.out.strides[:3]]
        units = self.batch * self.heads if end is None else end
        sizes = (self.heads, self.group, self.queries, self.keys)
        scratch[-1] = GUARD
        call(self.q, self.k, self.v, *mask, self.out, scratch, self.scale, *sizes, *strides, begin, units)
        assert scratch[-1] == GUARD, "wrote beyond its scratch memory"
        return self.out

    def expected(self) -> np.ndarray:
        q = self.q.astype(np.float64)
        k, v = (np.repeat(a, self.group, axis=1).astype(np.float64) for a in (self.k, self.v))
        with np.errstate(all="ignore"):
            scores = q @ k.swapaxes(2, 3) * self.scale
            if self.mask is not None:
                # As float32 does: what a mask of -3.4e38 swallows is gone.
                scores = (scores.astype(np.float32) + self.mask).astype(np.float64)
            highest = scores.max(axis=-1, keepdims=True)
            if self.safe:
                highest[np.isneginf(highest)] = 0
            powers = np.exp(scores - highest)
            total = powers.sum(axis=-1, keepdims=True)
            result: np.ndarray = (powers / total) @ v
            if self.safe:
                result[np.broadcast_to(total == 0, result.shape)] = 0
        return result

    def kernel(self, target: Target) -> Kernel:
        return attention.kernel(target, self.width, self.value_width, self.mask_kind, self.safe)

    def check(self, call: Call, target: Target) -> None:
        np.testing.assert_allclose(self.run(call, target), self.expected(), rtol=2e-5, atol=5e-6)


KINDS = [
    {"width": 32, "value_width": 32, "mask_kind": "row"},
    {"width": 64, "value_width": 64, "mask_kind": "full", "safe": True},
    {"width": 20, "value_width": 12, "mask_kind": "none"},
    {"width": 7, "value_width": 50, "mask_kind": "full"},
]


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def kind(request: pytest.FixtureRequest) -> dict[str, object]:
    chosen: dict[str, object] = request.param
    return chosen


def test_lengths(kind: dict[str, object], target: Target, compiled: Compiled) -> None:
    for queries, keys in (
        (1, 1),
        (5, 16),
        (8, 17),
        (9, 31),
        (16, 32),
        (17, 33),
        (3, 100),
        (33, 50),
        (70, 70),
    ):
        problem = Problem(2, 3, queries, keys, **kind, seed=queries)  # type: ignore[arg-type]
        problem.check(compiled(problem.kernel(target)), target)


def test_grouped_heads_and_ranges(kind: dict[str, object], target: Target, compiled: Compiled) -> None:
    whole = Problem(2, 6, 9, 20, **kind, group=3)  # type: ignore[arg-type]
    call = compiled(whole.kernel(target))
    whole.check(call, target)
    pieces = Problem(2, 6, 9, 20, **kind, group=3)  # type: ignore[arg-type]
    pieces.run(call, target, 4, 7)
    untouched = pieces.out.reshape(-1, 9, pieces.value_width)[[*range(4), *range(7, 12)]]
    assert (untouched == GUARD).all()
    for begin, end in ((0, 4), (4, 7), (7, 12), (12, 12)):
        pieces.run(call, target, begin, end)
    np.testing.assert_array_equal(pieces.out, whole.out)


def test_writes_only_its_rows(kind: dict[str, object], target: Target, compiled: Compiled) -> None:
    problem = Problem(1, 2, 9, 9, **kind)  # type: ignore[arg-type]
    out = np.full((1, 11, 2 * problem.value_width + 3), GUARD, np.float32)
    inner = out[:, 1:10, : 2 * problem.value_width].reshape(1, 9, 2, problem.value_width)
    assert np.shares_memory(inner, out)
    problem.out = inner.transpose(0, 2, 1, 3)
    problem.check(compiled(problem.kernel(target)), target)
    out[:, 1:10, : 2 * problem.value_width] = GUARD
    assert (out == GUARD).all()


def test_rows_hidden_entirely(kind: dict[str, object], target: Target, compiled: Compiled) -> None:
    """-3.4e38 throughout is uniform; -inf throughout is NaN, or 0 where that is asked for."""
    problem = Problem(2, 2, 9, 37, **kind)  # type: ignore[arg-type]
    if problem.mask is None:
        pytest.skip("no mask")
    call = compiled(problem.kernel(target))
    problem.mask[0] = LOWEST
    problem.check(call, target)
    uniform = np.broadcast_to(problem.v[0].mean(axis=1, keepdims=True), problem.out[0].shape)
    np.testing.assert_allclose(problem.out[0], uniform, rtol=1e-4, atol=1e-6)
    problem.mask[1, :, :1] = -np.inf
    problem.check(call, target)
    hidden = problem.out[1, :, 0]
    assert (hidden == 0).all() if problem.safe else np.isnan(hidden).all()


def test_large_scores(kind: dict[str, object], target: Target, compiled: Compiled) -> None:
    problem = Problem(1, 1, 9, 40, **kind, scale=1.0)  # type: ignore[arg-type]
    problem.q *= 1000
    call = compiled(problem.kernel(target))
    got = problem.run(call, target)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, problem.expected(), rtol=1e-3, atol=1e-2)


def test_nan_and_inf(kind: dict[str, object], target: Target, compiled: Compiled) -> None:
    problem = Problem(1, 2, 10, 21, **kind)  # type: ignore[arg-type]
    problem.q[0, 0, 3, 2] = np.nan
    problem.q[0, 0, 5, 1] = np.inf
    problem.v[0, 1, 20, 3] = np.nan
    problem.k[0, 1, 20, 0] = np.inf
    problem.check(compiled(problem.kernel(target)), target)
    assert np.isnan(problem.out[0, 0, 3]).all()
    assert np.isfinite(problem.out[0, 0, [0, 4, 9]]).all()


def test_misaligned(
    kind: dict[str, object],
    target: Target,
    compiled: Compiled,
    misaligned: Callable[[np.ndarray], np.ndarray],
) -> None:
    problem = Problem(1, 2, 9, 40, **kind)  # type: ignore[arg-type]
    for name in ("q", "k", "v", "out"):
        moved = misaligned(np.ascontiguousarray(getattr(problem, name).transpose(0, 2, 1, 3)))
        setattr(problem, name, moved.transpose(0, 2, 1, 3))
    if problem.mask is not None:
        problem.mask = misaligned(problem.mask)
    problem.check(compiled(problem.kernel(target)), target)


def test_no_queries(kind: dict[str, object], target: Target, compiled: Compiled) -> None:
    problem = Problem(1, 2, 0, 5, **kind)  # type: ignore[arg-type]
    problem.run(compiled(problem.kernel(target)), target)


def test_prototype(target: Target) -> None:
    names = [f"{operand}_{axis}" for operand in "qkvmo" for axis in "bhs" if operand + axis != "ms"]
    strides = ", ".join(f"int64_t {name}" for name in names)
    assert attention.kernel(target, 32, 64, "row", True).prototype() == (
        "void attention_f32_d32v64_row_safe(const float *q, const float *k, const float *v, "
        "const float *mask, float *out, float *scratch, float scale, int64_t heads, int64_t group, "
        f"int64_t queries, int64_t keys, {strides}, int64_t begin, int64_t end);"
    )
