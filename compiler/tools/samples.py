"""Inputs for a program nobody has run yet: random, valid, and the same on every machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from isthmus.bundle import selftest
from isthmus.errors import InputError
from isthmus.ir.dims import evaluate_dim
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Graph, NamedDim, Program, Trait, Value
from isthmus.ir.types import Array, DType
from isthmus.ops.quantize import quantize

# What picks whole rows of a table, along its attribute `axis`.
PICKS = ("gather", "gather_elements")
# Sizes for the named dims of each sample, the first dim first; small, odd, and different from each other.
SIZES = ((2, 19, 5, 7, 11, 13), (1, 4, 3, 2, 6, 8))
SMALL, LARGE = 2, 24
# What a self-test allows, coarsest type first: a few roundings of it, and what f32 kernels may differ by.
TOLERANCES = {DType.BF16: 4e-2, DType.F16: 5e-3, DType.F32: 1e-4}
# One rounding in f32 may put a quantized number on the other side of a step, and later layers with it:
# a quantized T5 decoder on random inputs differed by 0.11 of its largest logit in 5 of 1.2 M.
# As a whole, outputs stay much closer: the distribution is in docs/decisions.md.
QUANTIZED = selftest.Tolerance(0.25, 0.25, norm=0.2)
BF16 = DType.BF16.numpy


def sample_sizes(dims: Sequence[NamedDim], wanted: Sequence[int]) -> dict[str, int]:
    """A size within bounds for each named dim."""
    return {
        dim.name: max(dim.low, min(wanted[i % len(wanted)], dim.high if dim.high is not None else 1 << 30))
        for i, dim in enumerate(dims)
    }


def index_limits(graph: Graph) -> dict[str, int]:
    """For each input that picks rows of a table: how many rows the smallest such table has."""
    limits: dict[str, int] = {}
    for value in graph.nodes():
        if value.op.name not in PICKS:
            continue
        rows = value.args[0].shape[value.attr("axis")]
        source = _source(value.args[1])
        if source is not None and isinstance(rows, int):
            limits[source] = min(rows, limits.get(source, rows))
    return limits


def _source(value: Value) -> str | None:
    """The input whose elements `value` holds, moved or cast."""
    while value.args and (Trait.MOVEMENT in value.op.traits or value.op.name == "cast"):
        value = value.args[0]
    return value.attr("name") if value.op.name == "input" else None


def sample_inputs(graph: Graph, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, Array]:
    """An array for each input. Integers that pick rows stay below the number of rows; other integers and
    booleans are masks: each row is ones, then zeros, as padding is."""
    limits = index_limits(graph)
    return {v.attr("name"): _sample(v, limits, sizes, rng) for v in graph.inputs}


def _sample(
    value: Value, limits: Mapping[str, int], sizes: Mapping[str, int], rng: np.random.Generator
) -> Array:
    shape = tuple(evaluate_dim(d, sizes) for d in value.shape)
    dtype = value.dtype.numpy
    if value.dtype.is_float:
        return rng.standard_normal(shape).astype(dtype)
    limit = limits.get(value.attr("name"))
    if limit is not None and limit > 2:
        return rng.integers(0, limit, shape).astype(dtype)
    if not shape:
        return np.ones(shape, dtype)
    length = rng.integers(1, max(shape[-1], 1), (*shape[:-1], 1), endpoint=True)
    return (np.arange(shape[-1]) < length).astype(dtype)


def selftest_cases(program: Program) -> tuple[selftest.Case, ...]:
    """Random requests and what the NumPy evaluator answers for the program as it was imported.

    Sizes that the program does not take (a mask shorter than what it masks) are passed over; a program
    that takes none of those tried has no case.
    """
    cases: list[selftest.Case] = []
    close = tolerance_of(program.main)
    for number, sizes in enumerate(_candidates(program.dims)):
        inputs = sample_inputs(program.main, sizes, np.random.default_rng(number))
        try:
            outputs = evaluate(program.main, inputs)
        except (IndexError, ValueError, InputError):
            continue
        largest = max((magnitude(a) for a in outputs.values()), default=1.0)
        tolerance = replace(close, absolute=close.absolute * max(1.0, largest))
        stored = {name: storable(array) for name, array in inputs.items()}
        expected = {n: a.astype(np.float32) if a.dtype == BF16 else a for n, a in outputs.items()}
        cases.append(selftest.Case(program.main.name, stored, expected, tolerance))
        if len(cases) == len(SIZES):
            break
    return tuple(cases)


def _candidates(dims: Sequence[NamedDim]) -> Iterator[dict[str, int]]:
    """Sizes to try: the usual ones, then all small but one, since dims may depend on each other."""
    for wanted in SIZES:
        yield sample_sizes(dims, wanted)
    for large in range(len(dims)):
        yield sample_sizes(dims, [LARGE if i == large else SMALL for i in range(len(dims))])
    if dims:
        yield sample_sizes(dims, (1,))


def tolerance_of(graph: Graph) -> selftest.Tolerance:
    """What outputs may differ by (`absolute` for values up to 1), by the coarsest numbers in `graph`."""
    if any(node.op is quantize for node in graph.nodes()):
        return QUANTIZED
    found = {node.dtype for node in graph.nodes()}
    close = next(t for dtype, t in TOLERANCES.items() if dtype in found or dtype is DType.F32)
    return selftest.Tolerance(close, close)


def storable(array: Array) -> Array:
    """`array`, with bf16 as its bits, which is how it travels."""
    return array.view(np.uint16) if array.dtype == BF16 else array


def magnitude(array: selftest.Array) -> float:
    """The largest finite magnitude; 0 for what are no floats."""
    if array.dtype.kind != "f":
        return 0.0
    finite = np.abs(array[np.isfinite(array)])
    return float(finite.max(initial=0.0))
