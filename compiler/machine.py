"""The machine a bundle is about to run on: what a bundle's requirements are compared with."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_ARCH_SPELLINGS = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}


@dataclass(frozen=True, slots=True)
class Machine:
    """Architecture and system in lower case (`x86_64`, `linux`), and flags as /proc/cpuinfo spells them."""

    arch: str
    os: str
    cpu_flags: frozenset[str] = frozenset()
    byte_order: str = sys.byteorder

    @classmethod
    def here(cls, cpuinfo: Path = _CPUINFO) -> Machine:
        """The machine this process runs on; no flags are known where there is no `cpuinfo` file."""
        arch = platform.machine().lower()
        try:
            text = cpuinfo.read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        return cls(_ARCH_SPELLINGS.get(arch, arch), _system(), parse_cpu_flags(text))


def _system() -> str:
    """`linux` stands for glibc; another C library of Linux is told apart by what it is not."""
    name = platform.system().lower()
    return "linux-musl" if name == "linux" and not platform.libc_ver()[0] else name


def parse_cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Flags that every processor listed in the text of /proc/cpuinfo has.

    The line is called `flags` on x86, `Features` on Arm and LoongArch, `isa` on RISC-V.
    """
    lines = [line.partition(":") for line in cpuinfo.splitlines()]
    sets = [
        # RISC-V joins its extensions with underscores; on x86 they are part of names (sse4_1).
        frozenset((value.replace("_", " ") if key.strip() == "isa" else value).split())
        for key, _, value in lines
        if key.strip() in ("flags", "Features", "isa")
    ]
    return frozenset.intersection(*sets) if sets else frozenset()


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
