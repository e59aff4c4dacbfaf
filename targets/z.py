"""IBM Z, which puts the most significant byte first."""

from __future__ import annotations

from isthmus.systems import LINUX
from isthmus.target import Caches, Target, VectorUnit, qemu_user

_GUARD = """\
#include "machine.h"

/* asm/elf.h of Linux: what AT_HWCAP says of the vector enhancements facility 1. */
static const char *isthmus_machine_check(void) {
  return isthmus_lacks(16, 1ul << 13) ? "this machine is older than z14" : 0;
}
"""

TARGETS = (
    Target(
        name="s390x-z14",
        description="IBM z14 and later",
        arch="s390x",
        features=("vector", "vector-enhancements-1"),
        tvm={"kind": "llvm", "mtriple": "s390x-unknown-linux-gnu", "mcpu": "z14", "vector-width": 128},
        vector=VectorUnit(128, 32, True),
        caches=Caches(l1_bytes=128 << 10, l2_bytes=2 << 20, line_bytes=256),
        toolchain=LINUX.toolchain("s390x", "z10", "linux-gnu.2.17"),
        guard=_GUARD,
        byte_order="big",
        runners=(qemu_user("s390x", "max", "s390x-linux-gnu", "libc6-s390x-cross", "ld64.so.1"),),
    ),
)
