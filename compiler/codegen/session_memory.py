"""How much memory a session takes: its arena at given sizes, and all it allocates where there is no heap."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.errors import CompilerBug
from isthmus.ir.dims import evaluate_dim
from isthmus.lowering.plan import Plan, RowStage

# The arena is cut at multiples of it (isthmus_round_up in c/isthmus_plan.h).
_LINE = 64
# The model and the session themselves (c/runtime.c), and what each allocation may lose to alignment.
_OBJECTS = 1024
_WORD = 8  # of a size, an offset or a pointer, at most


def static_bytes(plan: Plan) -> int:
    """Bytes of the array that `c/freestanding/library.c` cuts into pieces; all dims must be bounded."""
    sizes: dict[str, int] = {}
    for dim in plan.dims:
        if dim.high is None:
            raise CompilerBug(f"memory for a dim without an upper bound: {dim.name}")
        sizes[dim.name] = dim.high
    ports = len(plan.inputs) + len(plan.outputs)
    offsets = len(plan.memory.slots) + 3
    words = len(plan.dims) + offsets + ports + 4
    return _OBJECTS + words * _WORD + len(plan.dims) + arena_bytes(plan, sizes, threads=1)


def arena_bytes(plan: Plan, sizes: Mapping[str, int], threads: int) -> int:
    """Bytes of working memory of a session: what the generated `arrange` returns."""
    total = 0
    for slot in plan.memory.slots:
        total += _rounded(max(evaluate_dim(b.size, sizes) * b.dtype.bytes for b in slot.buffers))
    blocks = plan.memory.blocks
    rows = [4 * s.block * blocks[s].row_elements for s in plan.stages if isinstance(s, RowStage)]
    parts = [part for call in plan.calls() for part in call.scratch]
    scratch = [4 * evaluate_dim(part.offset + part.floats, sizes) for part in parts]
    return total + threads * (_rounded(max(rows, default=0)) + _rounded(max(scratch, default=0)))


def _rounded(size: int) -> int:
    return -(-size // _LINE) * _LINE
