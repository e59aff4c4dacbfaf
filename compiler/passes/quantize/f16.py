"""Matrices stored in f16, and computed with in f32: half of what a product of few rows has to read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from isthmus.ir.graph import Program, Value, weight_of
from isthmus.ir.rewrite import Rule, Watch
from isthmus.ir.types import DType
from isthmus.ops.movement import gather
from isthmus.ops.nn import linear
from isthmus.ops.pointwise import cast
from isthmus.passes.constants import name_of, weight_from
from isthmus.passes.steps import mapped
from isthmus.target import Target

_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True)
class HalveMatrices:
    """Constant matrices of linears, and tables that rows are gathered from, are rounded to f16.

    A matrix with a number beyond what f16 holds stays as it is.
    """

    @property
    def name(self) -> str:
        return "halve-matrices"

    @property
    def rules(self) -> Sequence[Rule]:
        return ()

    def __call__(self, program: Program, target: Target, watch: Watch) -> Program:
        return program.map_graphs(lambda graph: mapped(graph, _halved, watch, self.name))


def _halved(node: Value, new: Value) -> Value | None:
    if node.op is linear and node.dtype is DType.F32 and _fits(node.args[1]):
        return replace(new, args=(new.args[0], _half(node.args[1]), *new.args[2:]))
    if node.op is gather and _fits(node.args[0]):
        rows = gather(_half(node.args[0]), *new.args[1:], loc=node.loc, **dict(node.attrs))
        return cast(rows, dtype=DType.F32, loc=node.loc)
    return None


def _fits(matrix: Value) -> bool:
    """Is it a plain matrix of f32, no number of which becomes infinite?"""
    weight = weight_of(matrix)
    if weight is None or matrix.t.encoding is not None or (matrix.dtype, matrix.t.rank) != (DType.F32, 2):
        return False
    numbers = weight.read()
    # Infinities and NaN stay what they are.
    return not bool((np.abs(numbers[np.isfinite(numbers)]) > _LARGEST).any())


def _half(matrix: Value) -> Value:
    return weight_from(cast(matrix, dtype=DType.F16, loc=matrix.loc), name_of(matrix))
