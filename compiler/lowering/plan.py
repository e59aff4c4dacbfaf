"""The plan: an ordered list of kernel calls in stages, over buffers. Only the sizes of named dims are open.

A stage is what threads do between two barriers:
- `UnitStage`: one call, its units split over the threads.
- `RowStage`: a chain of calls in which row i of each result depends on row i of its arguments only. Each
  thread takes a range of rows through the whole chain, a block at a time, so that what passes between the
  calls stays in its cache. With few rows the columns are split instead, with a barrier after each call.
- `BatchStage`: calls repeated for each item of a batch, the items split over the threads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from isthmus.ir.dims import Dim, Shape
from isthmus.ir.graph import NamedDim, Value
from isthmus.ir.weights import Weight
from isthmus.kernels.kernel import Kernel
from isthmus.lowering.views import Buffer


@dataclass(frozen=True, slots=True)
class Pointer:
    """An address: `offset` elements into `buffer`. `pitch` is the distance between rows that the call assumes
    (row stages advance by it); `batch` the strides of a batch stage's items."""

    buffer: Buffer
    offset: Dim = 0
    pitch: Dim | Pitch | None = None
    batch: Shape = ()


@dataclass(frozen=True, slots=True)
class Pitch:
    """The distance between the rows of `buffer`, once it is known where the buffer lives."""

    buffer: Buffer


@dataclass(frozen=True, slots=True)
class Number:
    """An int64 argument."""

    dim: Dim


@dataclass(frozen=True, slots=True)
class Real:
    """A float argument."""

    value: float


@dataclass(frozen=True, slots=True)
class Sizes:
    """An array of int64, passed by address."""

    dims: Shape


@dataclass(frozen=True, slots=True)
class Scratch:
    """Memory of the calling thread: `floats` elements, `offset` elements into it."""

    floats: Dim
    offset: Dim = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """Where a kernel reports an index out of range; `site` is 1.. and 0 for kernels that cannot."""

    site: int


@dataclass(frozen=True, slots=True)
class Counted:
    """A dim whose size a run finds out: the i64 element at `at`, or `most` if that is less."""

    name: str
    at: Pointer
    most: Dim


Arg = Pointer | Pitch | Number | Real | Sizes | Scratch | Fault


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One kernel call, without its range parameters, which the stage adds.

    `units` is how far the range goes: rows in a row stage. `panels` is the second range of a GEMM. `counts`
    is the dim that can be read, and used, from here on: all it comes from was written in an earlier stage.
    `copies` is what it writes besides: the same in bf16, or as bytes and their scales.
    """

    kernel: Kernel
    args: tuple[Arg, ...]
    reads: tuple[Buffer, ...]
    writes: Buffer | None
    value: Value  # what it computes, for comments and reports
    units: Dim
    panels: Dim | None = None
    row_local: bool = False
    batch: Shape = ()
    counts: Counted | None = None
    copies: tuple[Buffer, ...] = ()

    @property
    def written(self) -> tuple[Buffer, ...]:
        return (*(() if self.writes is None else (self.writes,)), *self.copies)

    @property
    def scratch(self) -> tuple[Scratch, ...]:
        return tuple(a for a in self.args if isinstance(a, Scratch))


@dataclass(frozen=True, slots=True, eq=False)
class UnitStage:
    call: Call

    @property
    def calls(self) -> tuple[Call, ...]:
        return (self.call,)


@dataclass(frozen=True, slots=True, eq=False)
class RowStage:
    """`block` is the number of rows a thread takes through the chain at a time."""

    calls: tuple[Call, ...]
    rows: Dim
    block: int


@dataclass(frozen=True, slots=True, eq=False)
class BatchStage:
    calls: tuple[Call, ...]
    extents: Shape


Stage = UnitStage | RowStage | BatchStage


@dataclass(frozen=True, slots=True)
class Slot:
    """A part of the arena that several buffers use one after the other; as large as its largest."""

    buffers: tuple[Buffer, ...]


@dataclass(frozen=True, slots=True)
class BlockSpace:
    """What a row stage keeps of each row in a block of its own: offsets of buffers in floats, pitches in
    their elements."""

    offsets: dict[Buffer, int]
    pitches: dict[Buffer, int]
    row_elements: int


@dataclass(frozen=True, slots=True)
class Memory:
    """Where arena buffers lie: in a slot, or in the block space of the one row stage that uses them."""

    slots: tuple[Slot, ...]
    slot_of: dict[Buffer, int]
    blocks: dict[Stage, BlockSpace]
    barriers: frozenset[int] = field(default=frozenset())  # stages that must be preceded by a barrier

    def pitch(self, buffer: Buffer) -> int:
        """Elements between two rows of a row buffer."""
        for block in self.blocks.values():
            if buffer in block.pitches:
                return block.pitches[buffer]
        assert buffer.width is not None
        return buffer.width


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as the caller sees it."""

    name: str
    value: Value


@dataclass(frozen=True, slots=True)
class Parts:
    """A batch that may be computed a few items at a time: `dim` is how many there are, `rows` are those of
    one item in each chain of rows, and `block` is how many of them a thread takes at a time."""

    dim: str
    rows: Shape
    block: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One entry point, ready to be written as C."""

    name: str
    dims: tuple[NamedDim, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    weights: tuple[Weight, ...]
    stages: tuple[Stage, ...]
    memory: Memory
    sites: tuple[str, ...]
    parts: Parts | None = None

    def calls(self) -> tuple[Call, ...]:
        return tuple(call for stage in self.stages for call in stage.calls)

    def counted(self) -> tuple[Counted, ...]:
        """The dims that a run counts, in its order."""
        return tuple(call.counts for call in self.calls() if call.counts is not None)

    def kernels(self) -> tuple[Kernel, ...]:
        """Every kernel that we make once, by symbol."""
        return tuple(kernel for kernel in self.functions() if not kernel.own)

    def functions(self) -> tuple[Kernel, ...]:
        """Every function that is called once, by symbol: the kernels, and the routines of the target."""
        by_symbol = {call.kernel.symbol: call.kernel for call in self.calls()}
        return tuple(by_symbol[s] for s in sorted(by_symbol))
