"""The matrices of a model: what zeros they have, how they are stored, and what that is expected to gain."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isthmus.ir.graph import Program, Value
from isthmus.ir.sparse import Blocks, GroupPanels, MaskedPanels
from isthmus.ir.weights import Weight
from isthmus.passes.quantize.layers import products
from isthmus.passes.sparsify.choose import ChooseSparse, matrix_of
from isthmus.passes.sparsify.costs import (
    GROUP_OF,
    Form,
    candidates,
    dense_slots,
    slots,
    step_of,
)
from isthmus.passes.sparsify.decisions import Decision, mark
from isthmus.passes.sparsify.patterns import FEWEST_ZEROS, pattern_of
from isthmus.target import Target

DENSE = "dense"
BY_COST = ChooseSparse()
# Encodings of matrices without their zeros.
SPARSE = Blocks | GroupPanels | MaskedPanels
_STORED = re.compile(rf"dense$|csr\(|nm\(({'|'.join(GROUP_OF)}),|block\((\d+)x(\d+),")


@dataclass(frozen=True, slots=True)
class Layer:
    """One product with a matrix [K, N], known by `matrix` (`decisions.mark`), at `rows` rows.

    `stored` is `dense` or the encoding; bytes are those stored, and those of the dense matrix; `predicted` is
    the speed over dense of what is stored, or the best of what was not, by declared costs; `measured` that of
    the best, as it was measured, where it was.
    """

    node: str
    shape: tuple[int, int]
    density: float
    pattern: str
    stored: str
    bytes: int
    dense_bytes: int
    predicted: float | None
    matrix: str
    rows: int
    measured: float | None = None

    @property
    def decision(self) -> str:
        """For people."""
        if self.predicted is None:
            return "dense: hardly any zeros"
        gain = f"{self.predicted:.2f}x" if self.measured is None else f"{self.measured:.2f}x measured"
        if self.stored == "dense":
            return f"dense wins: without zeros {gain}"
        name = self.stored.partition("(")[0]
        return f"{name}: {gain} expected" if self.measured is None else f"{name}: {gain}"


def layers(program: Program, target: Target, choose: ChooseSparse = BY_COST) -> tuple[Layer, ...]:
    """The products with known matrices of a program after all passes, in order; `choose` decided."""
    found = []
    for name, node in products(program.main).items():
        weight = matrix_of(node)
        if weight is not None:
            found.append(_layer(name, node, weight, program, target, choose))
    return tuple(found)


def _layer(
    name: str, node: Value, weight: Weight, program: Program, target: Target, choose: ChooseSparse
) -> Layer:
    stored, (depth, columns) = weight.type.encoding, weight.type.static_shape
    pattern, rows = pattern_of(weight), choose.sizes.rows(node.shape[:-1], program)
    recorded = None if choose.record is None else choose.record.of.get(name)
    rows = rows if recorded is None else recorded.rows
    step = step_of(weight.type.dtype, target)
    predicted: float | None = None
    if step is not None and isinstance(stored, SPARSE):
        dense = dense_slots((depth, columns), rows, target.vector, step)
        predicted = dense / slots(stored, (depth, columns), rows, target.vector, step)
    elif step is not None:
        predicted = max((c.gain for c in candidates(pattern, rows, target.vector, step)), default=None)
    size = weight.type.nbytes
    assert isinstance(size, int)
    return Layer(
        name,
        (depth, columns),
        pattern.density,
        str(pattern),
        str(stored) if isinstance(stored, SPARSE) else DENSE,
        size,
        depth * columns * weight.type.dtype.bytes,
        predicted,
        mark(weight),
        rows,
        None if recorded is None else recorded.measured,
    )


def with_zeros(found: Sequence[Layer]) -> tuple[Layer, ...]:
    """Those that have more than a few."""
    return tuple(layer for layer in found if 1 - layer.density >= FEWEST_ZEROS)


def as_json(layer: Layer) -> dict[str, str | int | float | list[int] | None]:
    """A layer for programs; rounded, so that it is the same everywhere."""
    return {
        "node": layer.node,
        "shape": list(layer.shape),
        "density": round(layer.density, 4),
        "pattern": layer.pattern,
        "stored": layer.stored,
        "bytes": layer.bytes,
        "dense_bytes": layer.dense_bytes,
        "predicted_gain": None if layer.predicted is None else round(layer.predicted, 2),
        "measured_gain": layer.measured,
        "decided_by": "declared cost" if layer.measured is None else "measurement",
        "matrix": layer.matrix,
        "rows": layer.rows,
        "decision": layer.decision,
    }


def decision_of(plain: Mapping[str, Any]) -> Decision:
    """What `as_json` says was decided. Raises ValueError, KeyError or TypeError for anything else."""
    stored = str(plain["stored"])
    found = _STORED.match(stored)
    if found is None:
        raise ValueError(f"{stored!r} is no way to store a matrix")
    form: Form | None = (int(found[2] or 1), int(found[3] or 1))
    if found[1] or stored == DENSE:
        form = next((half for half in GROUP_OF if half == found[1]), None)
    gain = plain["measured_gain"]
    return Decision(str(plain["matrix"]), form, int(plain["rows"]), None if gain is None else float(gain))
