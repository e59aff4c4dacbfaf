"""How long a run takes where it cannot be measured: from a roofline that is stated with every figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from isthmus.matrix.config import Chip
from isthmus.target import Target

# Assumed of a core that nobody says anything about: one vector operation a cycle.
CLOCK_HZ = 2e9
BYTES_PER_S = 10e9


@dataclass(frozen=True, slots=True)
class Roof:
    """Operations a second of all threads, and bytes of memory a second; `basis` says so in words."""

    operations: float
    bytes: float
    basis: str


def roof(target: Target, said: Chip, threads: int) -> Roof:
    """The roofline of a chip: as the configuration says, else assumed from what the target declares."""
    lanes, fused = target.vector.lanes(32), 2 if target.vector.fma else 1
    core = said.gflops * 1e9 if said.gflops is not None else CLOCK_HZ * lanes * fused
    stream = said.gbytes_per_s * 1e9 if said.gbytes_per_s is not None else BYTES_PER_S
    of_core = "as configured" if said.gflops is not None else f"assumed: 2 GHz x {lanes} lanes x {fused}"
    of_memory = "as configured" if said.gbytes_per_s is not None else "assumed"
    cores = f"{threads} thread{'s' if threads > 1 else ''}"
    basis = (
        f"roofline of {core / 1e9:g} GFLOP/s a core ({of_core}), {cores}, "
        f"{stream / 1e9:g} GB/s of memory ({of_memory})"
    )
    return Roof(core * threads, stream, basis)


def seconds(calls: Sequence[Sequence[int]], at: Roof) -> float:
    """For calls of so many multiply-adds and bytes each: every one as slow as its slower limit."""
    return sum(max(2 * adds / at.operations, count / at.bytes) for adds, count in calls)
