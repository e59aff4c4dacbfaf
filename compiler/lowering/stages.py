"""From a list of calls to stages: which calls form a row chain, and what can run before it."""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.ir.sparse import Blocks
from isthmus.lowering.plan import BatchStage, Call, Pitch, Pointer, RowStage, Stage, UnitStage
from isthmus.lowering.views import Buffer
from isthmus.target import Caches

# Rows a thread takes through a chain at a time: enough to use each weight panel often once it is in the
# cache, few enough that what a product reads of the rows stays there.
FEWEST_ROWS, MOST_ROWS, ROW_STEP = 64, 160, 32
# Where products with sparse matrices are among the calls: whole tiles of theirs, on every chip.
SPARSE_ROWS = 128


def form_stages(calls: Sequence[Call], caches: Caches) -> tuple[Stage, ...]:
    """Group `calls` into stages, in an order that respects what each reads.

    A call that is not part of a row chain is moved before the chain that is being built when it needs
    nothing from it, so that it does not cut the chain in two.
    """
    done: list[list[Call]] = []
    for group in _together(calls):
        open_chain = done[-1] if done and done[-1][0].row_local else None
        if open_chain is None:
            done.append(group)
        elif _extends(open_chain, group):
            open_chain.extend(group)
        elif not group[0].row_local and not _depends(group, open_chain):
            done.insert(len(done) - 1, group)
        else:
            done.append(group)
    return tuple(_stage(group, caches) for group in done)


def _together(calls: Sequence[Call]) -> list[list[Call]]:
    """Calls of one batched value form one stage: they pass each other memory of the thread."""
    groups: list[list[Call]] = []
    for call in calls:
        last = groups[-1][-1] if groups else None
        if last is not None and call.batch and last.batch and last.value is call.value:
            groups[-1].append(call)
        else:
            groups.append([call])
    return groups


def _written(calls: Sequence[Call]) -> set[Buffer]:
    return {buffer for call in calls for buffer in call.written}


def _depends(group: Sequence[Call], chain: Sequence[Call]) -> bool:
    """Whether a call of `group` reads what the chain writes, or writes to the same place."""
    made = _written(chain)
    return any(made & {*call.reads, *call.written} for call in group)


def _extends(chain: Sequence[Call], group: Sequence[Call]) -> bool:
    """Whether row i of the one call in `group` needs only rows i of what the chain has made."""
    (call, *others) = group
    if others or not call.row_local or call.units != chain[0].units:
        return False
    made = _written(chain)
    pointers = (a for a in call.args if isinstance(a, Pointer) and a.buffer in made)
    return all(isinstance(p.pitch, Pitch) and p.pitch.buffer is p.buffer for p in pointers)


def _stage(calls: Sequence[Call], caches: Caches) -> Stage:
    if calls[0].row_local:
        return RowStage(tuple(calls), calls[0].units, block_rows(calls, caches))
    if calls[0].batch:
        return BatchStage(tuple(calls), calls[0].batch)
    return UnitStage(calls[0])


def block_rows(calls: Sequence[Call], caches: Caches) -> int:
    """As many rows as fit into twice the second-level cache with the widest thing the chain keeps of a row:
    products read long rows in chunks, so that less than half of them is needed at a time."""
    if any(isinstance(arg.t.encoding, Blocks) for call in calls for arg in call.value.args):
        return SPARSE_ROWS
    width = max((b.width or 0 for b in _written(calls)), default=0)
    fitting = 2 * caches.l2_bytes // max(4 * width, 1)
    return max(FEWEST_ROWS, min(MOST_ROWS, fitting // ROW_STEP * ROW_STEP))
