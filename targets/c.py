"""Portable C: for the machine at hand, whatever it is, and for microcontrollers."""

from __future__ import annotations

import sys

from isthmus.machine import Machine
from isthmus.systems import LINUX, NONE, SYSTEMS
from isthmus.target import Caches, Runner, Target, VectorUnit

_HERE = Machine.here()
# Where the C compiler spells an architecture in another way than Linux, and where C libraries are newer.
_ARCH = {"armv7l": "arm", "ppc64le": "powerpc64le"}
_ABI = {"armv7l": "linux-gnueabihf.2.17", "riscv64": "linux-gnu.2.27", "loongarch64": "linux-gnu.2.36"}
_SYSTEM = SYSTEMS.get(_HERE.os, LINUX)

# Code and weights, then everything that is written; an emulator puts both where they belong.
_SCRIPT = """\
MEMORY {{
  code (rx) : ORIGIN = {code:#x}, LENGTH = {code_size:#x}
  ram (rwx) : ORIGIN = {ram:#x}, LENGTH = {ram_size:#x}
}}
SECTIONS {{
  .text : {{ KEEP(*(.vectors)) *(.text .text.*) *(.rodata .rodata.*) }} > code
  .ARM.exidx : {{ *(.ARM.exidx*) }} > code
  .data : {{ *(.data .data.*) }} > ram
  .bss (NOLOAD) : {{ isthmus_bss = .; *(.bss .bss.*) *(COMMON) isthmus_bss_end = .; }} > ram
  isthmus_heap = ALIGN(64);
  isthmus_stack = ORIGIN(ram) + LENGTH(ram);
}}
"""


def _board(
    name: str, description: str, features: tuple[str, ...], cpu: str, machine: str, **memory: int
) -> Target:
    return Target(
        name=name,
        description=description,
        arch="thumb",
        features=features,
        tvm={"kind": "llvm", "mtriple": f"thumb-{NONE.llvm}", "mcpu": name},
        vector=VectorUnit(32, 16, False),
        caches=Caches(l1_bytes=16 << 10, l2_bytes=64 << 10, line_bytes=32),
        toolchain=NONE.toolchain("thumb", cpu),
        runners=(Runner(
            "qemu-system-arm",
            (
                "qemu-system-arm", "-M", machine, "-nographic", "-monitor", "none", "-serial", "none",
                "-semihosting-config", "enable=on,target=native", "-kernel",
            ),
            "qemu-system-arm",
            script=_SCRIPT.format(**memory),
        ),),
        kernels="c",
    )  # fmt: skip


TARGETS = (
    Target(
        name="c",
        description="C source for any 32- or 64-bit machine, and a library for the machine that compiled it",
        arch=_HERE.arch,
        features=("c11",),
        tvm={"kind": "llvm"},
        vector=VectorUnit(32, 16, False),
        caches=Caches(l1_bytes=32 << 10, l2_bytes=256 << 10),
        toolchain=_SYSTEM.toolchain(
            _ARCH.get(_HERE.arch, _HERE.arch), "baseline", _ABI.get(_HERE.arch) if _SYSTEM is LINUX else None
        ),
        byte_order="little" if sys.byteorder == "little" else "big",
        kernels="c",
    ),
    _board(
        "cortex-m7", "Cortex-M7 with floats, without a system: C source and an archive", ("armv7e-m", "fpv5"),
        "cortex_m7+fp_armv8d16", "mps2-an500", code=0, code_size=4 << 20, ram=0x20000000, ram_size=4 << 20,
    ),
    _board(
        "cortex-m55", "Cortex-M55 with floats, without a system: C source and an archive",
        ("armv8.1-m", "fpv5"), "cortex_m55+fp_armv8d16-mve_fp-mve", "mps3-an547",
        code=0x10000000, code_size=512 << 10, ram=0x30000000, ram_size=512 << 10,
    ),
)  # fmt: skip
