"""The generated kernels: pointwise expressions, data movement, gathers and reductions as one loop nest.

    void <symbol>(const T0 *a0, ..., TY *y, const int64_t *extents, const int64_t *strides,
                  int32_t *fault, int32_t site, int64_t begin, int64_t end)

`extents`: one for each loop, then the parameters. `strides`, in elements: for each operand one for each
loop (all of them, the innermost and the reduced included), then an (extent, stride) pair for each index
of its gathers; last one for each loop of the output (of which those of reduced loops are not read).

Units of work are the iterations of all kept loops but an innermost kept one, numbered with the last loop
fastest; the call computes units [begin, end). A gather index outside [-extent, extent) sets `*fault` to
`site` and reads element 0; when the gathered extent itself is 0, nothing is read or written. `y` may be
an operand when both have the same strides and `y` is not reduced.
"""

from __future__ import annotations

from isthmus.kernels.kernel import Declared, Kernel
from isthmus.kernels.kernel import Parameter as CParameter
from isthmus.kernels.loops_generate import Generator
from isthmus.kernels.loops_nest import (
    Apply,
    Fold,
    Gather,
    Index,
    Inner,
    Load,
    Loop,
    Nest,
    Node,
    Operand,
    Parameter,
    Reduced,
    Scalar,
    check,
    listings,
    symbol,
    text,
)
from isthmus.kernels.loops_pointwise import check_op
from isthmus.target import Target

__all__ = [
    "Apply",
    "Fold",
    "Gather",
    "Index",
    "Inner",
    "Load",
    "Loop",
    "Nest",
    "Node",
    "Operand",
    "Parameter",
    "Reduced",
    "Scalar",
    "kernel",
    "symbol",
    "text",
]


def kernel(nest: Nest, target: Target) -> Kernel:
    """The kernel of a nest. Raises ModelError (not-on-target) for an op without code for its element type."""
    check(nest)
    for steps in listings(nest):
        for step in steps:
            if isinstance(step.node, Apply):
                check_op(step.node.op, steps[step.args[0]].dtype)
    name = symbol(nest)
    declare = lambda: Declared(_parameters(nest), lambda: Generator(nest, target, name).generate())  # noqa: E731
    return Kernel(target.symbol(name), declare)


def _parameters(nest: Nest) -> tuple[CParameter, ...]:
    operands = (CParameter(f"a{i}", f"const {a.dtype.c} *") for i, a in enumerate(nest.operands))
    rest = (
        ("y", f"{nest.output.dtype.c} *"),
        ("extents", "const int64_t *"),
        ("strides", "const int64_t *"),
        ("fault", "int32_t *"),
        ("site", "int32_t"),
        ("begin", "int64_t"),
        ("end", "int64_t"),
    )
    return (*operands, *(CParameter(name, ctype) for name, ctype in rest))
