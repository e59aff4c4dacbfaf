"""Programs that run on this machine for a while: to see what flows through them, or what they answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from isthmus.driver import Options, compile_program, find_target
from isthmus.ir.graph import Graph, Program, Value
from isthmus.ir.types import Array, DType
from isthmus.ops.pointwise import cast
from isthmus.passes.pipeline import LEGALIZE
from isthmus.runtime import load

Run: TypeAlias = Callable[[Mapping[str, Array]], dict[str, Array]]


@contextmanager
def running(program: Program, options: Options) -> Iterator[Run]:
    """`program`, which went through the phase `fuse` at least, compiled for this machine and loaded.

    Seconds of compiling, and then as fast as a bundle: the evaluator takes seconds for each request.
    """
    short = Options(start=LEGALIZE.name, cache=options.cache, verify=False, self_test=False)
    with TemporaryDirectory(prefix="isthmus-") as folder:
        bundle = compile_program(program, find_target("host"), Path(folder), short)
        with load(bundle.path, verify=False) as session:
            yield session.run


def watched(program: Program, values: Sequence[Value]) -> Program:
    """`program` with one graph whose outputs are `values`, by their number, bf16 as f32; constants are left
    out."""
    outputs = tuple((str(number), _readable(value)) for number, value in enumerate(values))
    return replace(program, graphs=(Graph(program.main.name, program.main.inputs, outputs),))


def _readable(value: Value) -> Value:
    """`value` as NumPy has it, which knows no bf16."""
    return cast(value, dtype=DType.F32, loc=value.loc) if value.dtype is DType.BF16 else value
