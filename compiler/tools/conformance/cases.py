"""What a case of the kit is: one value, its inputs, and how it is put together with others."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from isthmus.bundle.selftest import Tolerance
from isthmus.ir.dims import names
from isthmus.ir.graph import Graph, NamedDim, Program, Value, constant, graph_input, walk
from isthmus.ir.read import parse_type
from isthmus.ir.types import Array, DType, TensorType
from isthmus.ops.quantize import limits
from isthmus.tools.conformance.examples import SIZES
from isthmus.tools.samples import magnitude, tolerance_of

# Replaying a request takes no more inputs or outputs than this (programs/replay.c), less one for the sizes.
MOST_PORTS = 60
# Dims are bounded, so that chips without an allocator can lay out memory for them.
LARGEST_DIM = 8
# Relative error of a sum of hundreds of products in f32, in any order.
SUM = 2e-5
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0)


@dataclass(frozen=True, eq=False, slots=True)
class Case:
    """One thing a chip has to compute: `value` from `inputs`, whose names begin with the case's own.

    `relative` is the error allowed, relative to the largest magnitude; None: what its numbers allow.
    """

    group: str
    name: str
    value: Value
    inputs: Mapping[str, Array]
    relative: float | None = None

    def tolerance(self, expected: Array) -> Tolerance:
        """How far a chip's answer may be from `expected`."""
        allowed = tolerance_of(Graph("", (), (("", self.value),)))
        if self.relative is not None:
            allowed = Tolerance(self.relative, self.relative)
        return replace(allowed, absolute=allowed.absolute * max(1.0, magnitude(expected)))


@dataclass(slots=True)
class Maker:
    """Makes the inputs and weights of one case, the same ones everywhere."""

    group: str
    name: str
    arrays: dict[str, Array] = field(default_factory=dict)
    _rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(zlib.crc32(self.name.encode()))

    def floats(self, type_: str, low: float = -2.0, high: float = 2.0, special: bool = False) -> Value:
        """An input of floats between `low` and `high`; with `special` some are infinite, NaN or a zero."""
        found = parse_type(type_)
        array = np.asarray(self._rng.uniform(low, high, _shape(found))).astype(found.dtype.numpy)
        if special and array.size:
            flat = array.reshape(-1)
            places = self._rng.permutation(flat.size)[: len(SPECIAL)]
            flat[places] = np.array(SPECIAL, array.dtype)[: len(places)]
        return self.given(found, array)

    def integers(self, type_: str, low: int | None = None, high: int | None = None) -> Value:
        """An input of integers from `low` to `high`, both included; of all its type has if not given."""
        found = parse_type(type_)
        if found.dtype is DType.BOOL:
            return self.given(found, self._rng.integers(0, 2, _shape(found)).astype(np.bool_))
        least, most = limits(found.dtype)
        bounds = (least if low is None else low, most if high is None else high)
        array = self._rng.integers(*bounds, _shape(found), dtype=found.dtype.numpy, endpoint=True)
        return self.given(found, np.asarray(array))

    def given(self, type_: TensorType, array: Array) -> Value:
        """An input that holds `array`."""
        name = f"{self.name} {len(self.arrays)}"
        self.arrays[name] = array
        return graph_input(name, type_)

    def weight(self, *shape: int, scale: float = 1.0) -> Value:
        """A constant of f32 around zero."""
        array = np.asarray(self._rng.standard_normal(shape) * scale, np.float32)
        return constant(f"{self.name} weight", array)

    def whole_weight(self, *shape: int, dtype: DType = DType.I8) -> Value:
        """A constant of integers of all values."""
        array = self._rng.integers(*limits(dtype), shape, dtype=dtype.numpy, endpoint=True)
        return constant(f"{self.name} weight", np.asarray(array))

    def scales(self, count: int) -> Array:
        """Steps of quantized weights, one a column."""
        return np.asarray(self._rng.uniform(0.001, 0.004, count), np.float32)

    def case(self, value: Value, relative: float | None = None) -> Case:
        """The finished case."""
        return Case(self.group, self.name, value, self.arrays, relative)


def _shape(type_: TensorType) -> tuple[int, ...]:
    return type_.substitute(SIZES).static_shape


def program(cases: Sequence[Case]) -> tuple[Program, dict[str, Array]]:
    """One program that computes every case (outputs by the case's name), and what it is asked."""
    sizes = graph_input("sizes", parse_type(f"bool[{','.join(SIZES)}]"))
    outputs = tuple((case.name, case.value) for case in cases)
    inputs = [v for v in walk(tuple(v for _, v in outputs)) if v.op.name == "input"]
    used = {n for value in walk(tuple(v for _, v in outputs)) for dim in value.shape for n in names(dim)}
    open_dims = tuple(NamedDim(name, 1, LARGEST_DIM) for name in SIZES)
    arrays = {name: array for case in cases for name, array in case.inputs.items()}
    if used or not inputs:
        arrays["sizes"] = np.zeros(tuple(SIZES.values()), np.bool_)
        graph = Graph("main", (*inputs, sizes), outputs)
        return Program("kit", (graph,), open_dims), arrays
    return Program("kit", (Graph("main", tuple(inputs), outputs),), ()), arrays


def batches(cases: Sequence[Case]) -> list[list[Case]]:
    """`cases` in their order, in as few lists as the number of ports allows."""
    found: list[list[Case]] = []
    ports = MOST_PORTS
    for case in cases:
        needed = max(1, len(case.inputs))
        if ports + needed > MOST_PORTS:
            found.append([])
            ports = 0
        found[-1].append(case)
        ports += needed
    return found
