"""64-bit LoongArch: with scalar floats only, with vectors of 128 bits (LSX) and of 256 bits (LASX).

The C library is musl: its programs run anywhere without a system's own libraries.
"""

from __future__ import annotations

from isthmus.systems import MUSL
from isthmus.target import Caches, Runner, Target, VectorUnit, own_jump_tables

_GUARD = """\
#include "machine.h"

/* asm/hwcap.h of Linux: LSX and LASX. */
static const char *isthmus_machine_check(void) {
  return isthmus_lacks(16, BITSul) ? "this machine lacks the vectors of NAME" : 0;
}
"""
_LSX, _LASX = 1 << 4, 1 << 5


def _chip(name: str, description: str, vector: VectorUnit, flags: tuple[str, ...], hwcap: int) -> Target:
    attributes = [f"{'+' if flag in flags else '-'}{flag}" for flag in ("lsx", "lasx")]
    return Target(
        name=name,
        description=description,
        arch="loongarch64",
        features=("la64", *flags),
        tvm={
            "kind": "llvm",
            **own_jump_tables(5),
            "mtriple": f"loongarch64-{MUSL.llvm}",
            "mabi": "lp64d",
            "mattr": ["+d", *attributes],
            "vector-width": max(vector.bits, 128),
        },
        vector=vector,
        caches=Caches(l1_bytes=64 << 10, l2_bytes=256 << 10),
        toolchain=MUSL.toolchain("loongarch64", "generic_la64+d-lsx-lasx"),
        cpu_flags=flags,
        guard=_GUARD.replace("BITS", hex(hwcap)).replace("NAME", name),
        runners=(_runner(flags),),
    )


def _runner(flags: tuple[str, ...]) -> Runner:
    """The emulator has had the vectors since version 10, with which it learnt the name max."""
    if not flags:
        return Runner("qemu-loongarch64", ("qemu-loongarch64",), "qemu-user")
    return Runner(
        "qemu-loongarch64",
        ("qemu-loongarch64", "-cpu", "max"),
        "qemu-user 10 or later (Debian 12: from backports)",
        version=10,
    )


_128, _256 = VectorUnit(128, 32, True), VectorUnit(256, 32, True)

TARGETS = (
    _chip("loongarch64", "LoongArch without vectors", VectorUnit(32, 32, True), (), 0),
    _chip("loongarch64-lsx", "vectors of 128 bits: 3A5000 and later", _128, ("lsx",), _LSX),
    _chip("loongarch64-lasx", "vectors of 256 bits: 3A5000 and later", _256, ("lsx", "lasx"), _LSX | _LASX),
)
