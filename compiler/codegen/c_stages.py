"""Stages as C statements. See `lowering.plan` for what each kind of stage means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from isthmus.codegen import c_text, timing
from isthmus.codegen.weights_file import WeightsLayout
from isthmus.errors import CompilerBug
from isthmus.ir.dims import Dim, Shape, product, symbol
from isthmus.lowering.plan import (
    Arg,
    BatchStage,
    Call,
    Counted,
    Fault,
    Number,
    Pitch,
    Plan,
    Pointer,
    Real,
    RowStage,
    Scratch,
    Sizes,
    Stage,
    UnitStage,
)
from isthmus.lowering.views import Buffer
from isthmus.target import Target

# With fewer rows than this for each thread, threads share out columns instead: a thread that works alone
# on a few rows reads all weights for little.
ROWS_PER_THREAD = 48

DimText = Callable[[Dim], str]


class StageWriter:
    """Writes the body of the run function."""

    def __init__(
        self,
        plan: Plan,
        target: Target,
        layout: WeightsLayout,
        dim: DimText,
        names: c_text.Names,
        timed: bool = False,
    ) -> None:
        self.plan = plan
        self.target = target
        self.layout = layout
        self.dim = dim
        self.names = names
        self.timed = {call: number for number, call in enumerate(plan.calls())} if timed else {}
        self.parameters = {kernel.symbol: kernel.parameters for kernel in plan.functions()}
        self.names_of: dict[Buffer, str] = {}
        self.block: Stage | None = None  # the row stage being written

    def text(self) -> str:
        declarations = "".join(self._declarations())
        stages = "".join(self._stage(i, stage) for i, stage in enumerate(self.plan.stages))
        return declarations + stages

    # Buffers

    def _declarations(self) -> Iterator[str]:
        """One pointer for each buffer that lives outside the blocks of row stages."""
        memory = self.plan.memory
        slots = len(memory.slots)
        if any(call.scratch for call in self.plan.calls()):
            place = f"f->arena + f->offsets[{slots + 1}] + thread * f->offsets[{slots + 2}]"
            yield f"  float *const scratch = (float *)({place});\n"
        else:
            yield "  (void)thread;\n"
        for buffer in self._buffers():
            name = self.names_of[buffer] = self.names.take(buffer.name)
            c = buffer.dtype.c
            if buffer.place == "input":
                yield f"  const {c} *const {name} = f->inputs[{buffer.index}];\n"
            elif buffer.place == "output":
                yield f"  {c} *const {name} = f->outputs[{buffer.index}];\n"
            elif buffer.place == "weight":
                offset = self.layout.offset(self.plan.weights[buffer.index])
                yield f"  const {c} *const {name} = (const {c} *)(f->weights + INT64_C({offset}));\n"
            elif buffer in memory.slot_of:
                yield f"  {c} *const {name} = ({c} *)(f->arena + f->offsets[{memory.slot_of[buffer]}]);\n"

    def _buffers(self) -> list[Buffer]:
        found: dict[Buffer, None] = {}
        for call in self.plan.calls():
            for arg in call.args:
                if isinstance(arg, Pointer):
                    found[arg.buffer] = None
        return list(found)

    # Arguments

    def _args(self, call: Call, batch: Shape = ()) -> list[str]:
        texts = [self._arg(arg, batch) for arg in call.args]
        parameters = self.parameters[call.kernel.symbol]
        for i, arg in enumerate(call.args):
            # Scratch is memory of floats, to C; what of it a kernel takes for something else is cast.
            if isinstance(arg, Scratch) and (kind := parameters[i].ctype) != "float *":
                texts[i] = f"({kind})({texts[i]})"
        return texts

    def _arg(self, arg: Arg, batch: Shape) -> str:
        match arg:
            case Pointer():
                return self._pointer(arg, batch)
            case Pitch(buffer=buffer):
                return str(self.plan.memory.pitch(buffer))
            case Number(dim=value):
                return self.dim(value)
            case Real(value=number):
                return real(number)
            case Sizes(dims=dims):
                return f"(const int64_t[]){{{', '.join(map(self.dim, dims)) or '0'}}}"
            case Scratch(offset=offset):
                return "scratch" if offset == 0 else f"scratch + {self.dim(offset)}"
            case Fault():
                return "f->fault"
        raise CompilerBug(f"cannot write argument {arg}")

    def _pointer(self, arg: Pointer, batch: Shape) -> str:
        text = self.names_of[arg.buffer]
        if arg.offset != 0:
            text += f" + {self.dim(arg.offset)}"
        if isinstance(self.block, RowStage) and arg.pitch is not None and not self._in_block(arg.buffer):
            pitch = (
                str(self.plan.memory.pitch(arg.pitch.buffer))
                if isinstance(arg.pitch, Pitch)
                else self.dim(arg.pitch)
            )
            text += f" + row * {pitch}"
        for axis, stride in enumerate(arg.batch[: len(batch)]):
            if stride != 0:
                text += f" + i{axis} * {self.dim(stride)}"
        return text

    def _in_block(self, buffer: Buffer) -> bool:
        return self.block is not None and buffer in self.plan.memory.blocks[self.block].offsets

    def _call(self, call: Call, arguments: Iterable[str]) -> str:
        text = f"{call.kernel.symbol}({', '.join(arguments)})"
        return timing.timed(self.timed[call], text) if self.timed else text

    def _describe(self, call: Call) -> str:
        loc = f"  {c_text.comment(call.value.loc)}" if call.value.loc else ""
        return f"/* {call.value.op.name} : {c_text.comment(str(call.value.t))}{loc} */"

    # Stages

    def _stage(self, number: int, stage: Stage) -> str:
        wait = "  isthmus_barrier_wait(f);\n" if number in self.plan.memory.barriers else ""
        wait += "".join(self._count(call.counts) for call in stage.calls if call.counts is not None)
        if isinstance(stage, RowStage):
            return f"\n{wait}{self._rows(stage)}"
        if isinstance(stage, BatchStage):
            return f"\n{wait}{self._batch(stage)}"
        return f"\n{wait}{self._units(stage)}"

    def _count(self, counted: Counted) -> str:
        """The size of a dim, read from where it was counted; all threads read the same."""
        most, found = self.dim(counted.most), f"*({self._pointer(counted.at, ())})"
        name = self.dim(symbol(counted.name))
        return f"  const int64_t {name} = isthmus_max(0, isthmus_min({found}, {most}));\n"

    def _units(self, stage: UnitStage) -> str:
        call = stage.call
        text = self._call(call, [*self._args(call), "begin", "end"])
        return (
            f"  {self._describe(call)}\n  {{\n"
            f"    const int64_t units = {self.dim(call.units)};\n"
            "    const int64_t begin = isthmus_split(units, f->threads, thread);\n"
            "    const int64_t end = isthmus_split(units, f->threads, thread + 1);\n"
            f"    if (begin < end) {text};\n  }}\n"
        )

    def _rows(self, stage: RowStage) -> str:
        space = self.plan.memory.blocks[stage]
        offset = len(self.plan.memory.slots)
        self.block = stage
        lines = [
            f"  {{ /* {len(stage.calls)} calls over rows */",
            f"    const int64_t rows = {self.dim(stage.rows)};",
            f"    const int wide = f->threads == 1 || rows >= {ROWS_PER_THREAD} * (int64_t)f->threads;",
            "    const int64_t first = wide ? isthmus_split(rows, f->threads, thread) : 0;",
            "    const int64_t last = wide ? isthmus_split(rows, f->threads, thread + 1) : rows;",
            f"    const int64_t blocks = wide ? (last - first + {stage.block - 1}) / {stage.block} : 1;",
        ]
        if space.offsets:
            share = f"(wide ? thread * INT64_C({stage.block * space.row_elements}) : 0)"
            lines += [
                f"    const int64_t capacity = wide ? {stage.block} : rows;",
                f"    float *const block = (float *)(f->arena + f->offsets[{offset}]) + {share};",
            ]
            for buffer, place in space.offsets.items():
                name = self.names_of[buffer] = self.names_of.get(buffer) or self.names.take(buffer.name)
                c = buffer.dtype.c
                start = f"block + {place} * capacity"
                lines.append(f"    {c} *const {name} = {start if c == 'float' else f'({c} *)({start})'};")
        lines += [
            "    for (int64_t b = 0; b < blocks; b++) {",
            "      const int64_t row = first + (last - first) * b / blocks;",
            "      const int64_t count = first + (last - first) * (b + 1) / blocks - row;",
        ]
        if any(call.panels is None for call in stage.calls):
            lines += [
                "      const int64_t from = wide ? 0 : isthmus_split(count, f->threads, thread);",
                "      const int64_t to = wide ? count : isthmus_split(count, f->threads, thread + 1);",
            ]
        for i, call in enumerate(stage.calls):
            if i:
                lines.append("      if (!wide) isthmus_barrier_wait(f);")
            lines.append(f"      {self._describe(call)}")
            lines.append(f"      {self._call(call, [*self._args(call), *self._row_range(call)])};")
        self.block = None
        return "\n".join([*lines, "    }", "  }"]) + "\n"

    def _row_range(self, call: Call) -> list[str]:
        if call.panels is None:
            return ["from", "to"]
        panels = self.dim(call.panels)
        return [
            "0",
            "count",
            f"wide ? 0 : isthmus_split({panels}, f->threads, thread)",
            f"wide ? {panels} : isthmus_split({panels}, f->threads, thread + 1)",
        ]

    def _batch(self, stage: BatchStage) -> str:
        lines = [
            f"  {self._describe(stage.calls[0])}",
            "  {",
            f"    const int64_t items = {self.dim(product(stage.extents))};",
            "    const int64_t end = isthmus_split(items, f->threads, thread + 1);",
            "    for (int64_t item = isthmus_split(items, f->threads, thread); item < end; item++) {",
        ]
        rest = "item"
        for axis in reversed(range(len(stage.extents))):
            extent = self.dim(stage.extents[axis])
            index = f"({rest}) % ({extent})" if axis else rest
            lines.append(f"      const int64_t i{axis} = {index}; (void)i{axis};")
            rest = f"({rest}) / ({extent})"
        for call in stage.calls:
            ranges = ["0", self.dim(call.units)]
            if call.panels is not None:
                ranges += ["0", self.dim(call.panels)]
            lines.append(f"      {self._call(call, [*self._args(call, stage.extents), *ranges])};")
        return "\n".join([*lines, "    }", "  }"]) + "\n"


def real(number: float) -> str:
    """A float literal, exact: hexadecimal."""
    if number != number or number in (float("inf"), float("-inf")):
        raise CompilerBug(f"{number} as a kernel argument")
    return f"{float(number).hex()}f"
