"""Inputs to measure with: random, of any size the model takes, and valid as far as examples can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from isthmus.bundle.manifest import Port
from isthmus.ir.dims import as_multiple, evaluate_dim, names
from isthmus.ir.read import parse_dim

Array = npt.NDArray[np.generic]


def dim_names(ports: Sequence[Port]) -> tuple[str, ...]:
    """The named dims of `ports`, in order of appearance."""
    found = [name for port in ports for dim in port.dims for name in sorted(names(parse_dim(str(dim))))]
    return tuple(dict.fromkeys(found))


def sizes_of(ports: Sequence[Port], arrays: Mapping[str, Array]) -> dict[str, int]:
    """The size that `arrays` give to each dim that stands alone, or as a multiple, in a port's shape."""
    return {
        found[0]: size // found[1]
        for port in ports
        for dim, size in zip(port.dims, arrays[port.name].shape, strict=True)
        if (found := as_multiple(parse_dim(str(dim)))) is not None
    }


def random_inputs(
    ports: Sequence[Port],
    sizes: Mapping[str, int],
    examples: Mapping[str, Array],
    rng: np.random.Generator,
) -> dict[str, Array]:
    """One array for each port, at `sizes`, with values between the smallest and largest of its example.

    Integers between 0 and 1 are masks or segment numbers: each row is ones, then zeros, as padding is.
    """
    return {
        port.name: _random(
            tuple(evaluate_dim(parse_dim(str(dim)), sizes) for dim in port.dims), examples[port.name], rng
        )
        for port in ports
    }


def _random(shape: tuple[int, ...], example: Array, rng: np.random.Generator) -> Array:
    if example.size == 0:
        return np.zeros(shape, example.dtype)
    low, high = example.min(), example.max()
    if not np.issubdtype(example.dtype, np.integer) and example.dtype != np.bool_:
        # float64 throughout: the difference of two float16 may overflow.
        values = float(low) + rng.random(shape) * (float(high) - float(low))
        return values.astype(example.dtype)
    if (int(low), int(high)) == (0, 1) and shape and shape[-1] > 0:
        length = rng.integers(1, shape[-1], size=(*shape[:-1], 1), endpoint=True)
        return (np.arange(shape[-1]) < length).astype(example.dtype)
    return rng.integers(int(low), int(high), size=shape, endpoint=True).astype(example.dtype)
