"""What a chip can say about itself. No chip is named here; see `targets/`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import ModuleType

from isthmus.errors import Code, CompilerBug, ModelError, Problem, nearest
from isthmus.machine import Machine


@dataclass(frozen=True, slots=True)
class VectorUnit:
    """The vector registers: their width in bits, their number, and whether a*b+c is one instruction."""

    bits: int
    registers: int
    fma: bool

    def lanes(self, element_bits: int = 32) -> int:
        """Elements of `element_bits` bits that one register holds."""
        return self.bits // element_bits


def gemm_tile(vector: VectorUnit) -> tuple[int, int]:
    """Rows and vectors of the register tile of a matrix product.

    rows * vectors accumulators, one row of weights and one broadcast must fit the registers; the tile is as
    near to a square as that allows, which needs the fewest loads per multiplication.
    """
    return (8, 3) if vector.registers >= 32 else (6, 2)


def panel_width(vector: VectorUnit) -> int:
    """Columns of a panel of packed f32 weights."""
    return gemm_tile(vector)[1] * vector.lanes(32)


@dataclass(frozen=True, slots=True)
class Caches:
    """Data caches of one core, in bytes."""

    l1_bytes: int
    l2_bytes: int
    line_bytes: int = 64


@dataclass(frozen=True, slots=True)
class Toolchain:
    """How the C parts are compiled and linked: arguments of `zig cc`.

    `zig_cpu` is the baseline of the chip's family, not the chip itself: the library must be able to say
    "this machine lacks X" on a machine that lacks X.
    """

    zig_target: str
    zig_cpu: str
    library: str


@dataclass(frozen=True, slots=True)
class Target:
    """One chip, as data. Kernels, passes and the plan ask for what it has, never for its name.

    `tvm` is the dictionary TVM's target parser takes. `cpu_flags` are the flags (spelt as Linux spells
    them) a machine must have to run the code. `guard` is C source of
    `static const char *isthmus_machine_check(void)`, which returns NULL or why this machine will not do.
    """

    name: str
    description: str
    tvm: Mapping[str, object]
    vector: VectorUnit
    caches: Caches
    toolchain: Toolchain
    arch: str
    os: str
    cpu_flags: tuple[str, ...]
    guard: str = field(repr=False)

    def missing_on(self, machine: Machine) -> tuple[str, ...]:
        """What `machine` lacks to run this target's code; empty when it can."""
        lacking = [
            f"{what} {wanted}"
            for what, wanted, has in (("arch", self.arch, machine.arch), ("os", self.os, machine.os))
            if wanted != has
        ]
        return (*lacking, *(flag for flag in self.cpu_flags if flag not in machine.cpu_flags))


def discover(package: ModuleType) -> dict[str, Target]:
    """Targets of every public module of `package` and of installed plug-ins, by name, least capable first.

    A module (or an entry point of the group `isthmus.targets`) declares `TARGETS`, a tuple of `Target`
    ordered from least to most capable. Two of one name are an error.
    """
    modules = [
        importlib.import_module(f"{package.__name__}.{info.name}")
        for info in pkgutil.iter_modules(package.__path__)
        if not info.name.startswith("_")
    ]
    modules += [point.load() for point in sorted(entry_points(group="isthmus.targets"), key=lambda p: p.name)]
    found: dict[str, Target] = {}
    for module in modules:
        for target in module.TARGETS:
            if target.name in found:
                raise CompilerBug(f"two targets are called {target.name!r}; one is in {module.__name__}")
            found[target.name] = target
    return found


def pick(name: str, known: Mapping[str, Target], machine: Machine) -> Target:
    """The target called `name`; `host` is the most capable known target that `machine` can run.

    Raises `ModelError` (unknown-target) for a name nobody declares, or when no target fits the machine.
    """
    if name in known:
        return known[name]
    if name != "host":
        raise ModelError(
            Problem(
                Code.UNKNOWN_TARGET, f"no target called {name!r}", "--target", nearest(name, [*known, "host"])
            )
        )
    fitting = [target for target in known.values() if not target.missing_on(machine)]
    if not fitting:
        raise ModelError(
            Problem(
                Code.UNKNOWN_TARGET,
                f"no known target runs on this machine ({machine.arch}, {machine.os})",
                "--target host",
                f"name the chip to compile for: {', '.join(known)}",
            )
        )
    return fitting[-1]
