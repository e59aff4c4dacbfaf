"""Attention against NumPy in double precision: layouts, masks, tails, padded rows, NaN."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from runners import quick

from isthmus.codegen.native import Call, load
from isthmus.kernels import attention
from isthmus.kernels.kernel import Kernel
from isthmus.machine import Machine
from isthmus.target import Target, VectorUnit
from isthmus.targets.x86_64 import TARGETS

Compiled = Callable[[Kernel], Call]
GUARD = np.float32(12345.0)
LOWEST = np.finfo(np.float32).min
LEVELS = [t for t in TARGETS if not t.missing_on(Machine.here())]


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
    causal: bool = False
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
            if self.causal:
                seen = np.tri(self.queries, self.keys, self.keys - self.queries, dtype=bool)
                scores = np.where(seen, scores, -np.inf)
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
        return attention.kernel(target, self.width, self.value_width, self.mask_kind, self.safe, self.causal)

    def check(self, call: Call, target: Target) -> None:
        np.testing.assert_allclose(self.run(call, target), self.expected(), rtol=2e-5, atol=5e-6)


KINDS = [
    {"width": 32, "value_width": 32, "mask_kind": "row"},
    {"width": 64, "value_width": 64, "mask_kind": "full", "safe": True},
    {"width": 20, "value_width": 12, "mask_kind": "none"},
    {"width": 7, "value_width": 50, "mask_kind": "full"},
    {"width": 16, "value_width": 16, "mask_kind": "none", "causal": True},
    {"width": 24, "value_width": 80, "mask_kind": "row", "causal": True, "safe": True},
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


def test_many_keys(kind: dict[str, object], target: Target, compiled: Compiled) -> None:
    """More keys than there are scores at a time, and more queries than share them; and few queries."""
    for queries, keys in ((1, 1100), (3, 515), (4, 1030), (70, 513), (150, 1025), (600, 600)):
        problem = Problem(1, 2, queries, keys, **kind, seed=keys)  # type: ignore[arg-type]
        problem.check(compiled(problem.kernel(target)), target)


def test_scores_that_rise_and_fall(kind: dict[str, object], target: Target, compiled: Compiled) -> None:
    """What was summed relative to a lower score is scaled when a higher one comes; -inf first, too."""
    for factor in (-40.0, 40.0):
        problem = Problem(1, 1, 20, 1300, **kind, scale=1.0)  # type: ignore[arg-type]
        problem.q[...] = np.abs(problem.q) * factor / problem.width
        problem.k[...] = np.linspace(-1, 1, problem.keys, dtype=np.float32)[:, None]
        if problem.mask is not None:
            problem.mask[..., 1:900] = -np.inf
        problem.check(compiled(problem.kernel(target)), target)


def test_bits_do_not_depend_on_the_range(kind: dict[str, object], target: Target, compiled: Compiled) -> None:
    """Threads take ranges of heads: the bits of a head are those of the whole."""
    for queries in (2, 70):
        whole = Problem(2, 4, queries, 530, **kind, group=2)  # type: ignore[arg-type]
        call = compiled(whole.kernel(target))
        whole.run(call, target)
        pieces = Problem(2, 4, queries, 530, **kind, group=2)  # type: ignore[arg-type]
        for unit in range(8):
            pieces.run(call, target, unit, unit + 1)
        np.testing.assert_array_equal(pieces.out, whole.out)


def test_queries_before_the_first_key(target: Target, compiled: Compiled) -> None:
    """Causal with more queries than keys: the first ones see nothing."""
    for queries, keys in ((3, 2), (30, 7), (40, 33)):
        for safe in (False, True):
            problem = Problem(1, 2, queries, keys, 16, 16, causal=True, safe=safe)
            problem.check(compiled(problem.kernel(target)), target)
            unseen = problem.out[:, :, : queries - keys]
            assert (unseen == 0).all() if safe else np.isnan(unseen).all()


def test_keys_that_nobody_sees_are_not_read(target: Target, compiled: Compiled) -> None:
    problem = Problem(1, 1, 40, 40, 16, 16, causal=True)
    problem.v[:, :, 39] = np.nan
    problem.run(compiled(problem.kernel(target)), target)
    assert np.isfinite(problem.out[:, :, :32]).all()
    assert np.isnan(problem.out[:, :, 39]).all()


@pytest.mark.parametrize(
    "vector", [VectorUnit(32, 16, False), VectorUnit(128, 16, False)], ids=lambda v: v.bits
)
def test_narrow_vectors(vector: VectorUnit, kind: dict[str, object], tmp_path: Path) -> None:
    """A chip of one lane, or of four without fused multiply-add, as code for the machine at hand."""
    narrow = replace(quick(LEVELS[0]), vector=vector)
    problems = [Problem(1, 2, n, m, **kind) for n, m in ((1, 9), (9, 9), (20, 530))]  # type: ignore[arg-type]
    kernel = problems[0].kernel(narrow)
    call = load([kernel], narrow, tmp_path)[kernel.symbol]
    for problem in problems:
        problem.check(call, narrow)


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
    if not problem.causal:
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
    key = 0 if problem.causal else 20  # one that all see: others need not be read
    problem.v[0, 1, key, 3] = np.nan
    problem.k[0, 1, key, 0] = np.inf
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
