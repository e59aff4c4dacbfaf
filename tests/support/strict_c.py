"""The C target as tests use it: where nothing may be undefined, nor odd enough for a warning."""

from __future__ import annotations

from dataclasses import replace

from isthmus.machine import Machine
from isthmus.target import Target
from isthmus.targets import c

WARNINGS = ("-Wall", "-Wextra", "-pedantic", "-Werror")
# What is undefined ends the process. Unoptimized: a trap behind each operation makes optimizing a kernel take
# ten times as long, and code of another kind; as it is shipped the conformance kit runs it, on the chip `c`.
TRAPS = ("-O0", "-fsanitize=undefined,float-cast-overflow", "-fsanitize-trap=all")

(C,) = (target for target in c.TARGETS if not target.missing_on(Machine.here()))


def with_flags(target: Target, *flags: str) -> Target:
    """`target` with further arguments for its C compiler."""
    toolchain = target.toolchain
    system = replace(toolchain.system, compile=(*toolchain.system.compile, *flags))
    return replace(target, toolchain=replace(toolchain, system=system))


CHECKED_C = with_flags(C, *WARNINGS, *TRAPS)
