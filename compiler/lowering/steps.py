"""Where bytes at constant steps come from: rows, and what whoever makes these has to know to make bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from isthmus.ir.graph import Graph, Value, use_counts, weight_of
from isthmus.ir.rewrite import splat
from isthmus.ir.types import DType
from isthmus.kernels.byte_rows import ORDINARY
from isthmus.kernels.byte_steps import Steps
from isthmus.lowering.plan import Arg, Number, Pointer, Real
from isthmus.lowering.views import View
from isthmus.ops.integer import quantize_rows
from isthmus.ops.pointwise import mul
from isthmus.passes.constants import array_of


@dataclass(frozen=True, slots=True)
class Stepped:
    """`value`, the bytes of `rows`."""

    value: Value
    rows: Value
    steps: Steps
    zero: int
    scale: float = 1.0
    factors: Value | None = None

    @property
    def step(self) -> float:
        """The least difference between two rows' numbers that bytes show."""
        if self.factors is None:
            return self.scale
        most = float(np.max(np.abs(array_of(self.factors)), initial=0))
        return 1 / most if most > 0 else float("inf")

    def args(self, place: Callable[[Value], View]) -> list[Arg]:
        """What kernels are told; `place` says where a constant lies."""
        views = [] if self.factors is None else [place(self.factors)]
        scale = [Real(self.scale)] if self.steps.way == "over" else []
        return [*(Pointer(v.buffer, v.offset) for v in views), *scale, Number(self.zero)]


def stepped_values(graph: Graph) -> Iterator[Stepped]:
    """All bytes of `graph` that are made at constant steps."""
    uses = use_counts(graph)
    for value in graph.nodes():
        if value.op is quantize_rows and (found := _stepped(value, uses)) is not None:
            yield found


def _stepped(value: Value, uses: Mapping[Value, int]) -> Stepped | None:
    x, scale, zero = value.args
    step, point = splat(scale), splat(zero)
    if scale.shape or step is None or point is None:
        return None
    dtype = value.dtype.numpy.name
    if step != 1.0:
        usual = ORDINARY[0] < step < ORDINARY[1]
        return Stepped(value, x, Steps(dtype, "over"), int(point), step) if usual else None
    if x.op is mul and uses[x] == 1:
        for rows, factors in (x.args, x.args[::-1]):
            if rows.shape == x.shape and _is_vector(factors, x):
                return Stepped(value, rows, Steps(dtype, "times"), int(point), factors=factors)
    return Stepped(value, x, Steps(dtype, "whole"), int(point))


def _is_vector(factors: Value, x: Value) -> bool:
    """Whether they are constants, one for each column of `x`."""
    weight = weight_of(factors)
    plain = weight is not None and weight.type.encoding is None and factors.dtype is DType.F32
    return plain and factors.shape == x.shape[-1:]
