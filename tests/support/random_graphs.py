"""Random programs: every op, typed by construction, with symbolic dims, constants, sharing and odd names.

    @given(programs())                  # shrinks
    def test(program): ...

    program = random_program(seed=7, steps=20)
    outputs = evaluate(program.main, random_arrays(program, seed=0))

`FINITE` builders keep numbers tame, so that results can be compared with a kernel's within a tolerance;
`ALL` adds ops that reach infinities, wrap or compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from hypothesis import strategies as st
from random_builders import ALL, DIMS, FINITE, INDEX_LIMIT, Builder, Chooser, Drawn, Seeded

from isthmus.ir.dims import evaluate_dim, symbol
from isthmus.ir.graph import Graph, NamedDim, Program, Value, graph_input, walk
from isthmus.ir.types import Array, DType, TensorType

__all__ = ["ALL", "FINITE", "build_program", "programs", "random_arrays", "random_program"]


def build_program(c: Chooser, steps: int, builders: Sequence[Builder] = ALL) -> Program:
    """A program of about `steps` values, each made by one of `builders` from those before."""
    batch, seq = (symbol(name) for name in DIMS)
    width = c.choice((2, 3, 4, 6))
    pool = [
        graph_input(c.choice(("x", "hidden states", "größe")), TensorType(DType.F32, (batch, seq, width))),
        graph_input("ids", TensorType(DType.I64, (batch, seq))),
    ]
    if c.integer(0, 1):
        pool.append(graph_input("y", TensorType(DType.F32, c.choice(((batch, 1, width), (seq, 5), (4, 6))))))
    inputs = tuple(pool)
    for _ in range(steps):
        made = c.choice(builders)(c, pool)
        if made is not None and made.t.rank <= 5 and _is_small(made):
            pool.append(made)
    # Values without users, so that little is made in vain, and one that may have users.
    used = {arg for value in pool for arg in value.args}
    ends = [v for v in pool if v not in used and v not in inputs][-3:]
    chosen = [*reversed(ends), c.choice(pool)]
    names = ("out", "461", "last hidden state", "extra")
    graph = Graph("main", inputs, tuple(zip(names, chosen, strict=False)))
    dims = (NamedDim(DIMS[0], 1, c.choice((None, 8))), NamedDim(DIMS[1], 1, c.choice((None, 512))))
    return Program(c.choice(("tiny", "a model/1")), (graph,), dims, c.choice(("", "sha256:0f")))


def _is_small(value: Value) -> bool:
    """Chains of outer products and concatenations grow without end."""
    return _elements(value, {"batch": 4, "seq": 4}) <= 1 << 14 and len(list(walk((value,)))) < 300


def _elements(value: Value, sizes: Mapping[str, int]) -> int:
    return evaluate_dim(value.t.size, sizes)


@st.composite
def programs(
    draw: st.DrawFn, max_steps: int = 12, builders: Sequence[Builder] = ALL, min_steps: int = 0
) -> Program:
    """Programs, for hypothesis."""
    return build_program(Drawn(draw), draw(st.integers(min_steps, max_steps)), builders)


def random_program(seed: int, steps: int, builders: Sequence[Builder] = ALL) -> Program:
    """The program of `seed`, always the same."""
    return build_program(Seeded(seed), steps, builders)


def random_arrays(
    program: Program, seed: int, sizes: Mapping[str, int] | None = None, scale: float = 1.0
) -> dict[str, Array]:
    """Inputs for the first graph; `sizes` of named dims, else 1 to 4 each."""
    rng = np.random.default_rng(seed)
    given = {d.name: int(rng.integers(1, 5)) for d in program.dims} | dict(sizes or {})
    arrays: dict[str, Array] = {}
    for value in program.main.inputs:
        shape = tuple(evaluate_dim(d, given) for d in value.shape)
        if value.dtype.is_integer:
            array = rng.integers(0, INDEX_LIMIT, shape)
        else:
            array = rng.standard_normal(shape) * scale
        arrays[value.attr("name")] = np.asarray(array).astype(value.dtype.numpy)
    return arrays
