"""Stages and memory: what lives at the same time never shares, and every hazard meets a barrier."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

import isthmus.targets
from isthmus.chips import discover, pick
from isthmus.ir.dims import symbol
from isthmus.ir.graph import NamedDim, graph_input
from isthmus.ir.types import DType, TensorType
from isthmus.kernels.kernel import Declared, Kernel
from isthmus.lowering.memory import plan_memory
from isthmus.lowering.plan import Call, Pitch, Pointer, RowStage, UnitStage
from isthmus.lowering.stages import block_rows, form_stages
from isthmus.lowering.views import Buffer
from isthmus.machine import Machine

TARGET = pick("x86-64-v3", discover(isthmus.targets), Machine.here())
ROWS = symbol("batch") * symbol("seq")
DIMS = (NamedDim("batch"), NamedDim("seq", 1, 512))
VALUE = graph_input("x", TensorType(DType.F32, ()))
KERNEL = Kernel("k", lambda: Declared((), lambda: None))


def buffer(name: str, width: int | None = None, place: str = "arena") -> Buffer:
    return Buffer(name, DType.F32, ROWS * (width or 8), place, width=width)  # type: ignore[arg-type]


def call(reads: list[Buffer], writes: Buffer, rows: bool = False) -> Call:
    args = tuple(Pointer(b, 0, Pitch(b) if rows else None) for b in (*reads, writes))
    return Call(KERNEL, args, tuple(reads), writes, VALUE, ROWS, row_local=rows)


def test_a_chain_over_rows_becomes_one_stage_with_blocks_of_its_own():
    x, a, b, y = buffer("x", 8, "input"), buffer("a", 384), buffer("b", 1536), buffer("y", 384, "output")
    calls = [call([x], a, True), call([a], b, True), call([b], y, True)]
    stages = form_stages(calls, TARGET.caches)
    assert [type(s) for s in stages] == [RowStage]
    memory = plan_memory(stages, DIMS, TARGET)
    assert set(memory.blocks[stages[0]].offsets) == {a, b} and not memory.slots
    line = TARGET.caches.line_bytes // 4
    assert all(p % line == 0 and p // line % 2 == 1 for p in memory.blocks[stages[0]].pitches.values())


def test_a_call_that_needs_nothing_of_a_chain_moves_before_it():
    x, m, a, n, b = buffer("x", 8, "input"), buffer("m"), buffer("a", 8), buffer("n"), buffer("b", 8)
    calls = [call([x], a, True), call([m], n), call([a], b, True), call([b, n], buffer("z"))]
    stages = form_stages(calls, TARGET.caches)
    assert [len(s.calls) for s in stages] == [1, 2, 1]
    assert isinstance(stages[0], UnitStage) and stages[0].call.writes is n


def test_a_buffer_that_another_stage_reads_is_not_kept_in_blocks():
    x, a, b = buffer("x", 8, "input"), buffer("a", 8), buffer("b", 8)
    stages = form_stages([call([x], a, True), call([a], b, True), call([a, b], buffer("z"))], TARGET.caches)
    memory = plan_memory(stages, DIMS, TARGET)
    assert a in memory.slot_of and b in memory.slot_of


def test_blocks_are_smaller_for_wider_chains():
    narrow = block_rows([call([], buffer("a", 64), True)], TARGET.caches)
    wide = block_rows([call([], buffer("a", 1 << 16), True)], TARGET.caches)
    assert narrow > wide > 0
    larger = replace(TARGET.caches, l2_bytes=1 << 30)
    assert block_rows([call([], buffer("a", 1 << 16), True)], larger) == narrow


@given(st.lists(st.tuples(st.lists(st.integers(0, 30), max_size=3), st.booleans()), min_size=1, max_size=25))
def test_buffers_that_live_together_never_share_and_hazards_meet_a_barrier(steps):
    buffers: list[Buffer] = []
    calls = []
    for picks, _ in steps:
        reads = list(dict.fromkeys(buffers[i % len(buffers)] for i in picks)) if buffers else []
        buffers.append(buffer(f"b{len(buffers)}"))
        calls.append(call(reads, buffers[-1]))
    stages = form_stages(calls, TARGET.caches)
    memory = plan_memory(stages, DIMS, TARGET)
    lives = {
        b: [i for i, s in enumerate(stages) for c in s.calls if b in (*c.reads, c.writes)] for b in buffers
    }
    for i, a in enumerate(buffers):
        for b in buffers[i + 1 :]:
            if min(lives[a]) <= max(lives[b]) and min(lives[b]) <= max(lives[a]):
                assert memory.slot_of[a] != memory.slot_of[b]
    for late, stage in enumerate(stages):
        for early in range(late):
            if any(number in memory.barriers for number in range(early + 1, late + 1)):
                continue
            before, after = stages[early].calls[0], stage.calls[0]
            wrote = memory.slot_of[before.writes]
            assert all(memory.slot_of[b] != wrote for b in (*after.reads, after.writes))
            assert memory.slot_of[after.writes] not in {memory.slot_of[b] for b in before.reads}
