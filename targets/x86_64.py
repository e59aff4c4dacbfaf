"""64-bit x86: the levels of the psABI (x86-64 psABI supplement, section 3.1.1), and what came after."""

from __future__ import annotations

from dataclasses import replace

from isthmus.systems import LINUX, MACOS, MUSL, WINDOWS, System
from isthmus.target import Caches, Runner, Target, VectorUnit
from isthmus.targets import _x86_narrow as narrow

_V1 = ("cx8", "fxsr", "sse", "sse2")
_V2 = (*_V1, "cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3")
_V3 = (*_V2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave")
_V4 = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
_VNNI = (*_V4, "avx512_vnni")
_ICELAKE = (*_VNNI, "avx512_vbmi2")
_BF16 = (*_VNNI, "avx512_bf16")
_VBMI2 = (*_BF16, "avx512_vbmi2")
_AMX = (*_VBMI2, "amx_tile", "amx_int8", "amx_bf16")

# Where CPUID says what Linux calls so: (leaf, subleaf, register of eax ebx ecx edx) and the bits. Flags that
# come with others of their level are not asked for again.
_CPUID = {
    (1, 0, 2): {"pni": 0, "ssse3": 9, "fma": 12, "cx16": 13, "sse4_1": 19, "sse4_2": 20, "movbe": 22,
                "popcnt": 23, "xsave": 27, "avx": 28, "f16c": 29},
    (7, 0, 1): {
        "bmi1": 3, "avx2": 5, "bmi2": 8, "avx512f": 16, "avx512dq": 17, "avx512cd": 28, "avx512bw": 30,
        "avx512vl": 31,
    },
    (7, 0, 2): {"avx512_vbmi2": 6, "avx512_vnni": 11}, (7, 1, 0): {"avx512_bf16": 5},
    (7, 0, 3): {"amx_bf16": 22, "amx_tile": 24, "amx_int8": 25},
}  # fmt: skip
# What XGETBV must report as enabled: SSE and AVX; all of AVX-512; tiles.
_STATES = {"avx": 0x6, "avx512f": 0xE0, "amx_tile": 0x60000}

_GUARD = """\
#include <cpuid.h>

static const char *isthmus_machine_check(void) {{
  static const unsigned needed[][4] = {{{needed}}};
  for (unsigned i = 0; i < sizeof needed / sizeof *needed; i++) {{
    unsigned r[4] = {{0, 0, 0, 0}};
    if (needed[i][0] && (!__get_cpuid_count(needed[i][0], needed[i][1], &r[0], &r[1], &r[2], &r[3]) ||
        (r[needed[i][2]] & needed[i][3]) != needed[i][3]))
      return "this machine lacks instructions of {name}";
  }}
  unsigned state = {state:#x}u, low = 0, high = 0;
  if (state) __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & state) != state) return "the operating system does not enable the registers of {name}";
{ask}  return 0;
}}
"""


def _guard(name: str, flags: tuple[str, ...], ask: str = "") -> str:
    masks = {place: sum(1 << bits[flag] for flag in flags if flag in bits) for place, bits in _CPUID.items()}
    needed = ", ".join(f"{{{a}, {b}, {c}, {mask:#x}u}}" for (a, b, c), mask in masks.items() if mask)
    state = sum(bits for flag, bits in _STATES.items() if flag in flags)
    return _GUARD.format(name=name, needed=needed or "{0}", state=state, ask=ask.format(name=name))


_WINE = Runner("wine", ("wine",), "wine, wine64")
_QEMU = Runner("qemu-x86_64", ("qemu-x86_64", "-cpu", "max"), "qemu-user")  # up to AVX2
_RUNNERS = {("windows", 3): (_WINE,), **{(s.name, n): (_QEMU,) for s in (LINUX, MUSL) for n in (1, 2, 3)}}
# What is told of a chip.
_TOLD = ("sse2", "sse4_2", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_vbmi2", "amx_tile")


def _level(
    name: str, text: str, level: int, vector: VectorUnit, flags: tuple[str, ...], system: System = LINUX
) -> Target:
    return Target(
        name=name,
        description=text,
        arch="x86_64",
        features=tuple(flag for flag in _TOLD if flag in flags),
        tvm={
            "kind": "llvm",
            "mtriple": f"x86_64-{system.llvm}",
            "mcpu": "x86-64" if level == 1 else f"x86-64-v{level}",
            "mattr": [
                f"+{flag.replace('512_', '512').replace('_', '-')}" for flag in flags if flag not in _V4
            ],
        },
        vector=vector,
        # What the level's first servers have; a larger cache loses nothing.
        caches=Caches(l1_bytes=32 << 10, l2_bytes=(1 << 20) if level == 4 else 256 << 10),
        toolchain=system.toolchain("x86_64", "x86_64"),
        cpu_flags=flags,
        guard=_guard(name, flags),
        runners=_RUNNERS.get((system.name, level), ()),
        byte_products=narrow.byte_products(flags),
        instructions=narrow.instructions(flags, vector.lanes(32)),
        tiles=narrow.tiles(_guard(name, flags, narrow.ASK_FOR_TILES)) if "amx_tile" in flags else None,
    )


_SSE, _AVX, _AVX512 = VectorUnit(128, 16, False), VectorUnit(256, 16, True), VectorUnit(512, 32, True)
_LEVELS = (
    _level("x86-64-v1", "SSE2: every x86-64", 1, _SSE, _V1),
    _level("x86-64-v2", "SSE4.2: any x86-64 since 2009", 2, _SSE, _V2),
    _level("x86-64-v3", "AVX2 and FMA: Haswell, Zen and later", 3, _AVX, _V3),
    _level("x86-64-v4", "AVX-512: Skylake-SP, Zen 4 and later", 4, _AVX512, _V4),
    _level("x86-64-v4-vnni", "int8 dot products: Cascade Lake, Zen 4 and later", 4, _AVX512, _VNNI),
    _level("x86-64-v4-icelake", "bytes put in places: Ice Lake, Rocket Lake", 4, _AVX512, _ICELAKE),
    _level("x86-64-v4-bf16", "bf16 dot products: Cooper Lake, Zen 4 and later", 4, _AVX512, _BF16),
    _level("x86-64-v4-vbmi2", "bf16, bytes put in places: Zen 4 and later", 4, _AVX512, _VBMI2),
    _level("x86-64-amx", "matrix tiles: Sapphire Rapids and later", 4, _AVX512, _AMX),
)
_FAT = replace(
    _LEVELS[0],
    name="x86-64",
    description="every x86-64: code for levels 1 to 4, the best one chosen when a bundle is opened",
    levels=tuple(replace(level, suffix=f"_v{4 - i}") for i, level in enumerate(reversed(_LEVELS[:4]))),
)
_ELSEWHERE = (
    _level(f"x86-64-v3-{name.lower()}", f"x86-64-v3 with {name}", 3, _AVX, _V3, system)
    for name, system in (("musl", MUSL), ("Windows", WINDOWS), ("macOS", MACOS))
)
TARGETS = (*_ELSEWHERE, _FAT, *_LEVELS)  # the last that fits a machine is its host
