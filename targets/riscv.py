"""64-bit RISC-V: with scalar floats only, and with vectors of at least 128 or 256 bits."""

from __future__ import annotations

from isthmus.systems import LINUX
from isthmus.target import (
    NO_CHECK,
    ByteProducts,
    Caches,
    Target,
    VectorUnit,
    own_jump_tables,
    qemu_user,
)

_GUARD = """\
#include "machine.h"

static const char *isthmus_machine_check(void) {
  if (isthmus_lacks(16, 1ul << ('v' - 'a'))) return "this machine lacks the vector extension";
  unsigned long bytes = 0;
  __asm__ volatile(".option push\\n.option arch, +v\\ncsrr %0, vlenb\\n.option pop" : "=r"(bytes));
  if (bytes < BYTESul) return "the vector registers of this machine are shorter than BITS bits";
  return 0;
}
"""
_BASE = ("+m", "+a", "+f", "+d", "+c")


def _chip(name: str, description: str, vector: VectorUnit, vlen: int = 0) -> Target:
    cpu = f"rv64,v=true,vlen={vlen},vext_spec=v1.0" if vlen else "rv64"
    return Target(
        name=name,
        description=description,
        arch="riscv64",
        features=("rv64gc", "rvv1.0", f"zvl{vlen}b") if vlen else ("rv64gc",),
        tvm={
            "kind": "llvm",
            **own_jump_tables(5),
            "mtriple": "riscv64-unknown-linux-gnu",
            "mcpu": "generic-rv64",
            "mabi": "lp64d",
            "mattr": [*_BASE, "+v", f"+zvl{vlen}b"] if vlen else [*_BASE],
        },
        vector=vector,
        caches=Caches(l1_bytes=32 << 10, l2_bytes=256 << 10),
        # glibc has known the architecture since 2.27.
        toolchain=LINUX.toolchain("riscv64", "baseline_rv64", "linux-gnu.2.27"),
        runners=(
            qemu_user(
                "riscv64", cpu, "riscv64-linux-gnu", "libc6-riscv64-cross", "ld-linux-riscv64-lp64d.so.1"
            ),
        ),
        byte_products=ByteProducts("", 1, False) if vlen else None,
        guard=_GUARD.replace("BYTES", str(vlen // 8)).replace("BITS", str(vlen)) if vlen else NO_CHECK,
    )


TARGETS = (
    _chip("riscv64", "RV64GC: any 64-bit RISC-V that runs Linux", VectorUnit(32, 32, True)),
    _chip("riscv64-rvv128", "vectors of 128 bits or more (RVV 1.0)", VectorUnit(128, 32, True, group=4), 128),
    _chip("riscv64-rvv256", "vectors of 256 bits or more (RVV 1.0)", VectorUnit(256, 32, True, group=4), 256),
)
