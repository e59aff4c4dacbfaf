"""Arm: the 64-bit architecture in the steps that matter to a Transformer, and 32-bit NEON."""

from __future__ import annotations

from dataclasses import replace

from isthmus.systems import ANDROID, LINUX, MACOS, MUSL, System
from isthmus.target import ByteProducts, Caches, Target, VectorUnit, lookup_bytes, qemu_user
from isthmus.targets._arm_pairs import ADD_PAIRS, ADD_PAIRS_32

# asm/hwcap.h of Linux: what AT_HWCAP (16) and AT_HWCAP2 (26) say.
_GUARD = """\
#include "machine.h"

static const char *isthmus_machine_check(void) {{
  if (isthmus_lacks(16, {hwcap:#x}ul) || isthmus_lacks(26, {hwcap2:#x}ul)) return "this machine lacks {what}";
  return 0;
}}
"""
_FPHP, _ASIMDHP, _ASIMDDP, _SVE = 1 << 9, 1 << 10, 1 << 20, 1 << 22
_SVE2, _I8MM, _BF16 = 1 << 1, 1 << 13, 1 << 14


# Least capable first.
_BYTE_PRODUCTS = {
    "dotprod": ByteProducts("llvm.aarch64.neon.sdot", 4, False),
    "i8mm": ByteProducts("llvm.aarch64.neon.smmla", 8, False, "llvm.aarch64.neon.sdot"),
}


def _a64(
    name: str,
    description: str,
    flags: tuple[str, ...] = (),
    features: tuple[str, ...] = (),
    attributes: tuple[str, ...] = (),
    hwcap: int = 0,
    hwcap2: int = 0,
    cpu: str = "generic",
    system: System = LINUX,
) -> Target:
    return Target(
        name=name,
        description=description,
        arch="aarch64",
        features=("neon", *features),
        tvm={
            "kind": "llvm",
            "mtriple": f"aarch64-{system.llvm}",
            "mcpu": cpu,
            "mattr": ["+neon", *attributes],
        },
        vector=VectorUnit(128, 32, True),
        caches=Caches(l1_bytes=32 << 10, l2_bytes=256 << 10),
        toolchain=system.toolchain("aarch64", "generic"),
        cpu_flags=("asimd", *flags),
        guard=_GUARD.format(hwcap=hwcap, hwcap2=hwcap2, what=f"instructions of {name}"),
        runners=(
            qemu_user("aarch64", "max", "aarch64-linux-gnu", "libc6-arm64-cross", "ld-linux-aarch64.so.1"),
        ),
        byte_products=next((p for f, p in reversed(_BYTE_PRODUCTS.items()) if f in features), None),
        instructions=(*lookup_bytes("llvm.aarch64.neon.tbl1.v16i8", 16), ("add_pairs", ADD_PAIRS)),
    )


# What every Apple processor since the M1 has; no Mac lacks it, so no flag is asked for.
_APPLE = replace(
    _a64("apple-m1", "Apple M1 and later", features=("dotprod", "fp16"), cpu="apple-m1", system=MACOS),
    caches=Caches(l1_bytes=128 << 10, l2_bytes=4 << 20, line_bytes=128),
    toolchain=MACOS.toolchain("aarch64", "apple_m1"),
    cpu_flags=(),
    runners=(),
)
_ANDROID = replace(_a64("armv8-android", "Armv8.0 with Android 7 and later", system=ANDROID), runners=())
_DOT = ("asimddp", "asimdhp", "fphp")
_DOT_BITS = _FPHP | _ASIMDHP | _ASIMDDP

TARGETS = (
    Target(
        name="armv7-neon",
        description="32-bit Arm with NEON and VFPv4: Cortex-A7, A15 and later",
        arch="armv7l",
        features=("neon", "vfpv4"),
        tvm={
            "kind": "llvm",
            "mtriple": "armv7-unknown-linux-gnueabihf",
            "mcpu": "cortex-a15",
            "mattr": ["+neon", "+vfp4"],
        },
        vector=VectorUnit(128, 16, True, flushes=True),
        caches=Caches(l1_bytes=32 << 10, l2_bytes=256 << 10),
        toolchain=LINUX.toolchain("arm", "cortex_a15", "linux-gnueabihf.2.17"),
        cpu_flags=("neon", "vfpv4"),
        guard=_GUARD.format(hwcap=1 << 12 | 1 << 16, hwcap2=0, what="NEON or VFPv4"),
        runners=(qemu_user("arm", "max", "arm-linux-gnueabihf", "libc6-armhf-cross", "ld-linux-armhf.so.3"),),
        instructions=(("add_pairs", ADD_PAIRS_32),),
    ),
    _APPLE,
    _ANDROID,
    _a64("armv8-neon-musl", "armv8-neon with musl", system=MUSL),
    _a64("armv8-neon", "Armv8.0: any 64-bit Arm"),
    _a64(
        "armv8.2-dotprod", "int8 dot products and f16: Cortex-A55, A76, Neoverse N1 and later",
        _DOT, ("dotprod", "fp16"), ("+dotprod", "+fullfp16"), _DOT_BITS,
    ),
    _a64(
        "armv8.6-i8mm", "int8 and bf16 matrix products: Neoverse V1, Cortex-X2 and later",
        (*_DOT, "bf16", "i8mm"), ("dotprod", "fp16", "i8mm", "bf16"),
        ("+dotprod", "+fullfp16", "+i8mm", "+bf16"), _DOT_BITS, _I8MM | _BF16,
    ),
    _a64(
        "armv9-sve2", "SVE2 at any vector length: Neoverse V2, Cortex-A710 and later",
        (*_DOT, "bf16", "i8mm", "sve", "sve2"), ("dotprod", "fp16", "i8mm", "bf16", "sve2"),
        ("+dotprod", "+fullfp16", "+i8mm", "+bf16", "+sve", "+sve2"), _DOT_BITS | _SVE, _SVE2 | _I8MM | _BF16,
    ),
)  # fmt: skip
