"""64-bit x86 on Linux, in the levels of the System V psABI (x86-64 psABI supplement, section 3.1.1)."""

from __future__ import annotations

from isthmus.target import Caches, Target, Toolchain, VectorUnit

_V2_FLAGS = ("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3")
_V3_FLAGS = (*_V2_FLAGS, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave")
_V4_FLAGS = (*_V3_FLAGS, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")

# Bits of CPUID leaf 1 ecx, leaf 7 ebx, and the state components XGETBV must report as enabled.
_GUARD = """\
#include <cpuid.h>

static const char *isthmus_machine_check(void) {{
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & {leaf1:#x}u) != {leaf1:#x}u)
    return "this machine lacks instructions of {name}";
  const unsigned long long state = {state:#x}ull;
  if (state) {{
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if (((((unsigned long long)high << 32) | low) & state) != state)
      return "the operating system does not enable the vector registers of {name}";
  }}
  const unsigned leaf7 = {leaf7:#x}u;
  if (leaf7 && (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & leaf7) != leaf7))
    return "this machine lacks instructions of {name}";
  return 0;
}}
"""

# SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT; then FMA, MOVBE, OSXSAVE, AVX, F16C.
_LEAF1_V2 = 1 << 0 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23
_LEAF1_V3 = _LEAF1_V2 | 1 << 12 | 1 << 22 | 1 << 27 | 1 << 28 | 1 << 29
# BMI1, AVX2, BMI2; then AVX512F, DQ, CD, BW, VL.
_LEAF7_V3 = 1 << 3 | 1 << 5 | 1 << 8
_LEAF7_V4 = _LEAF7_V3 | 1 << 16 | 1 << 17 | 1 << 28 | 1 << 30 | 1 << 31
_STATE_V3 = 0x6  # SSE and AVX
_STATE_V4 = 0xE6  # and opmask, upper halves of zmm0-15, zmm16-31


def _level(
    level: int,
    description: str,
    vector: VectorUnit,
    flags: tuple[str, ...],
    leaf1: int,
    leaf7: int,
    state: int,
) -> Target:
    name = f"x86-64-v{level}"
    return Target(
        name=name,
        description=description,
        tvm={"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": name},
        vector=vector,
        # Sizes every core of the level's first servers has; a larger cache loses nothing.
        caches=Caches(l1_bytes=32 << 10, l2_bytes=(1 << 20) if level == 4 else 256 << 10),
        # glibc 2.17 is the floor of manylinux2014.
        toolchain=Toolchain("x86_64-linux-gnu.2.17", "x86_64", "libmodel.so"),
        arch="x86_64",
        os="linux",
        cpu_flags=flags,
        guard=_GUARD.format(name=name, leaf1=leaf1, leaf7=leaf7, state=state),
    )


TARGETS = (
    _level(2, "SSE4.2: any x86-64 since 2009", VectorUnit(128, 16, False), _V2_FLAGS, _LEAF1_V2, 0, 0),
    _level(
        3,
        "AVX2 and FMA: Haswell, Zen and later",
        VectorUnit(256, 16, True),
        _V3_FLAGS,
        _LEAF1_V3,
        _LEAF7_V3,
        _STATE_V3,
    ),
    _level(
        4,
        "AVX-512: Skylake-SP, Zen 4 and later",
        VectorUnit(512, 32, True),
        _V4_FLAGS,
        _LEAF1_V3,
        _LEAF7_V4,
        _STATE_V4,
    ),
)
