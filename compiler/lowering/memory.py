"""Where buffers live: block space inside a row chain, or slots of the arena shared by lifetimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import or_

from isthmus.ir.dims import Dim, names, substitute
from isthmus.ir.graph import NamedDim
from isthmus.ir.types import DType
from isthmus.lowering.plan import BlockSpace, Call, Memory, Pitch, Pointer, RowStage, Slot, Stage
from isthmus.lowering.views import Buffer
from isthmus.target import Target

# Sizes at which buffers are compared when dims are free: any values will do, these are ordinary.
ORDINARY = 128


def plan_memory(stages: Sequence[Stage], dims: Sequence[NamedDim], target: Target) -> Memory:
    """Give every arena buffer a slot or a place in its chain's block space.

    Buffers whose lifetimes (in stages, inclusive) overlap never share a slot. Slots are found by greedy
    colouring, largest first: each buffer gets the first that is free in all its stages.
    """
    lives = _lifetimes(stages)
    inner: dict[int, list[Buffer]] = {}  # by stage: what lives in it alone
    for buffer, (first, last) in lives.items():
        if first == last:
            inner.setdefault(first, []).append(buffer)
    blocks: dict[Stage, BlockSpace] = {
        s: _block_space(s, inner.get(i, []), target) for i, s in enumerate(stages) if isinstance(s, RowStage)
    }
    inside = {b for block in blocks.values() for b in block.offsets}
    slots, slot_of = _colour({b: live for b, live in lives.items() if b not in inside}, dims)
    return Memory(slots, slot_of, blocks, _barriers(stages, slot_of))


def _lifetimes(stages: Sequence[Stage]) -> dict[Buffer, tuple[int, int]]:
    """First and last stage that touches each arena buffer."""
    lives: dict[Buffer, tuple[int, int]] = {}
    for i, stage in enumerate(stages):
        for call in stage.calls:
            for buffer in _touched(call):
                if buffer.place == "arena":
                    lives[buffer] = (lives.get(buffer, (i, i))[0], i)
    return lives


def _touched(call: Call) -> tuple[Buffer, ...]:
    return (*call.reads, *call.written)


def _block_space(stage: RowStage, inner: Sequence[Buffer], target: Target) -> BlockSpace:
    """The buffers that only this chain touches, row by row, packed by the calls they are alive in.

    Offsets are in floats, whatever the buffers hold.
    """
    local = [b for b in inner if _is_row_local(stage, b)]
    spans = {b: _span(stage.calls, b) for b in local}
    pitches = {b: _pitch(b, target) for b in local}
    # A pitch is a number of whole lines, and so of whole floats.
    floats = {b: pitches[b] * b.dtype.bytes // DType.F32.bytes for b in local}
    offsets: dict[Buffer, int] = {}
    for buffer in sorted(local, key=lambda b: (-floats[b], spans[b])):
        rivals = [o for o in offsets if spans[o][0] <= spans[buffer][1] and spans[buffer][0] <= spans[o][1]]
        offsets[buffer] = _first_gap([(offsets[o], floats[o]) for o in rivals], floats[buffer])
    return BlockSpace(offsets, pitches, max((offsets[b] + floats[b] for b in local), default=0))


def _is_row_local(stage: RowStage, buffer: Buffer) -> bool:
    if buffer.width is None:
        return False
    pointers = [a for c in stage.calls for a in c.args if isinstance(a, Pointer) and a.buffer is buffer]
    return all(isinstance(p.pitch, Pitch) for p in pointers)


def _span(calls: Sequence[Call], buffer: Buffer) -> tuple[int, int]:
    uses = [i for i, c in enumerate(calls) if buffer in _touched(c)]
    return uses[0], uses[-1]


def _first_gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    place = 0
    for start, length in sorted(taken):
        if place + size <= start:
            return place
        place = max(place, start + length)
    return place


def _pitch(buffer: Buffer, target: Target) -> int:
    """An odd number of cache lines, so that one column of neighbouring rows falls into different sets."""
    assert buffer.width is not None
    line = target.caches.line_bytes // buffer.dtype.bytes
    lines = -(-buffer.width // line)
    return (lines | 1) * line


def _colour(
    lives: Mapping[Buffer, tuple[int, int]], dims: Sequence[NamedDim]
) -> tuple[tuple[Slot, ...], dict[Buffer, int]]:
    buffers = list(lives)
    typical = {d.name: ORDINARY if d.high is None else min(d.high, ORDINARY) for d in dims}
    order = sorted(buffers, key=lambda b: (-_typical_bytes(b, typical), lives[b], b.name))
    colours: dict[Buffer, int] = {}
    taken = [0] * (
        1 + max((last for _, last in lives.values()), default=0)
    )  # by stage: a bit for each colour
    for buffer in order:
        stages = range(lives[buffer][0], lives[buffer][1] + 1)
        used = reduce(or_, (taken[stage] for stage in stages))
        colour = (~used & (used + 1)).bit_length() - 1  # the lowest that nobody has
        colours[buffer] = colour
        for stage in stages:
            taken[stage] |= 1 << colour
    members: dict[int, list[Buffer]] = {}
    for buffer in buffers:
        members.setdefault(colours[buffer], []).append(buffer)
    numbers = {colour: i for i, colour in enumerate(sorted(members))}
    slots = tuple(Slot(tuple(members[colour])) for colour in sorted(members))
    return slots, {b: numbers[colours[b]] for b in buffers}


def _typical_bytes(buffer: Buffer, typical: Mapping[str, int]) -> int:
    known: dict[str, Dim] = {name: typical.get(name, ORDINARY) for name in names(buffer.size)}
    size = substitute(buffer.size, known)
    assert isinstance(size, int)
    return size * buffer.dtype.bytes


def _barriers(stages: Sequence[Stage], slot_of: Mapping[Buffer, int]) -> frozenset[int]:
    """Stages that must wait for the ones before: they read what was written since the last barrier, or write
    what was read or written since."""
    needed: set[int] = set()
    read: set[object] = set()
    written: set[object] = set()
    for i, stage in enumerate(stages):
        reads = {slot_of.get(b, b) for c in stage.calls for b in c.reads if b.place != "weight"}
        writes = {slot_of.get(b, b) for c in stage.calls for b in c.written}
        if isinstance(stage, RowStage) or reads & written or writes & (read | written):
            # Block space is shared by all chains, and cut differently by each.
            needed.add(i)
            read, written = set(), set()
        read |= reads
        written |= writes
    return frozenset(needed - {0})
