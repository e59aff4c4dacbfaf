"""64-bit little-endian POWER."""

from __future__ import annotations

from isthmus.systems import LINUX
from isthmus.target import Caches, Target, VectorUnit, own_jump_tables, qemu_user

_GUARD = """\
#include "machine.h"

/* asm/cputable.h of Linux: what AT_HWCAP2 says of ISA 3.0. */
static const char *isthmus_machine_check(void) {
  return isthmus_lacks(26, 0x00800000ul) ? "this machine is older than POWER9" : 0;
}
"""

TARGETS = (
    Target(
        name="ppc64le-power9",
        description="POWER9 and later",
        arch="ppc64le",
        features=("vsx", "isa3.0"),
        tvm={
            "kind": "llvm",
            **own_jump_tables(64),
            "mtriple": "powerpc64le-unknown-linux-gnu",
            "mcpu": "pwr9",
            "vector-width": 128,
        },
        vector=VectorUnit(128, 64, True),
        caches=Caches(l1_bytes=32 << 10, l2_bytes=256 << 10, line_bytes=128),
        # Before 2.32 printf took another long double than the headers say.
        toolchain=LINUX.toolchain("powerpc64le", "ppc64le", "linux-gnu.2.32"),
        guard=_GUARD,
        runners=(
            qemu_user("ppc64le", "power9", "powerpc64le-linux-gnu", "libc6-ppc64el-cross", "ld64.so.2"),
        ),
    ),
)
