"""What x86 has for numbers narrower than 32 bits: LLVM functions, tiles, and how to ask for tiles."""

from __future__ import annotations

from isthmus.target import ByteProducts, Tiles, lookup_bytes
from isthmus.targets._x86_expand import EXPAND_BYTES, EXPAND_WORDS
from isthmus.targets._x86_pairs import multiply_bytes

# Tile data has to be asked for, once in a process: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA).
ASK_FOR_TILES = """\
  long denied;
  __asm__ volatile("syscall" : "=a"(denied) : "a"(158L), "D"(0x1023L), "S"(18L) : "rcx", "r11", "memory");
  if (denied) return "the operating system does not permit the tiles of {name}";
"""

# LLVM calls the element type bfloat, which kernels say as i16.
BF16_INSTRUCTIONS = (
    (
        "dot_bf16",
        """\
define linkonce_odr <16 x float> @isthmus_dot_bf16(<16 x float> %c, <16 x i32> %a, <16 x i32> %b)
alwaysinline {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(
    <16 x float> %c, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %r
}
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
""",
    ),
    (
        "round_bf16",
        """\
define linkonce_odr <16 x i16> @isthmus_round_bf16(<16 x float> %a) alwaysinline {
  %r = call <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512(<16 x float> %a)
  %s = bitcast <16 x bfloat> %r to <16 x i16>
  ret <16 x i16> %s
}
declare <16 x bfloat> @llvm.x86.avx512bf16.cvtneps2bf16.512(<16 x float>)
""",
    ),
    (
        "round_two_bf16",
        """\
define linkonce_odr <32 x i16> @isthmus_round_two_bf16(<16 x float> %high, <16 x float> %low) alwaysinline {
  %r = call <32 x bfloat> @llvm.x86.avx512bf16.cvtne2ps2bf16.512(<16 x float> %high, <16 x float> %low)
  %s = bitcast <32 x bfloat> %r to <32 x i16>
  ret <32 x i16> %s
}
declare <32 x bfloat> @llvm.x86.avx512bf16.cvtne2ps2bf16.512(<16 x float>, <16 x float>)
""",
    ),
)


def instructions(flags: tuple[str, ...], lanes: int) -> tuple[tuple[str, str], ...]:
    """What a processor with these flags has for halves and bytes, for vectors of so many floats."""
    widening = _widen_f16(lanes) if "f16c" in flags else ()
    bf16 = BF16_INSTRUCTIONS if "avx512_bf16" in flags else ()
    words = EXPAND_WORDS if "avx512f" in flags else ()
    expanding = (*words, *(EXPAND_BYTES if "avx512_vbmi2" in flags else ()))
    looking = lookup_bytes(f"llvm.x86.{_LOOKUPS[4 * lanes]}", 4 * lanes) if "ssse3" in flags else ()
    pairs = multiply_bytes(4 * lanes) if "ssse3" in flags else ()
    return (*widening, *bf16, *expanding, *looking, *pairs)


def _widen_f16(lanes: int) -> tuple[tuple[str, str], ...]:
    text = f"""\
define linkonce_odr <{lanes} x float> @isthmus_widen_f16(<{lanes} x i16> %a) alwaysinline {{
  %h = bitcast <{lanes} x i16> %a to <{lanes} x half>
  %r = fpext <{lanes} x half> %h to <{lanes} x float>
  ret <{lanes} x float> %r
}}
"""
    return (("widen_f16", text),)


_LOOKUPS = {16: "ssse3.pshuf.b.128", 32: "avx2.pshuf.b", 64: "avx512.pshuf.b.512"}  # by bytes of registers
# What multiplies bytes, best first. Before VNNI they are widened, because vpmaddubsw saturates.
_PAIRS = (("avx512bw", "avx512.pmaddw.d.512", 2), ("avx2", "avx2.pmadd.wd", 2), ("sse2", "sse2.pmadd.wd", 2))
_BYTES = (("avx512_vnni", "avx512.vpdpbusd.512", 4), *_PAIRS)
_PAIRS_OF_FOUR = (4, "llvm.x86.sse2.pmadd.wd")
_NARROWER = {
    "avx512.vpdpbusd.512": ((8, "llvm.x86.avx512.vpdpbusd.256"), (4, "llvm.x86.avx512.vpdpbusd.128")),
    "avx512.pmaddw.d.512": ((8, "llvm.x86.avx2.pmadd.wd"), _PAIRS_OF_FOUR),
    "avx2.pmadd.wd": (_PAIRS_OF_FOUR,),
}


def byte_products(flags: tuple[str, ...]) -> ByteProducts:
    """The best of these."""
    return next(
        ByteProducts(f"llvm.x86.{i}", n, True, narrower=_NARROWER.get(i, ()))
        for flag, i, n in _BYTES
        if flag in flags
    )


def tiles(guard: str) -> Tiles:
    """The tiles of AMX, with the text of the guard that asks for them."""
    return Tiles(
        products=(("bf16", "llvm.x86.tdpbf16ps"), ("u8", "llvm.x86.tdpbusd")),
        configure="llvm.x86.ldtilecfg",
        release="llvm.x86.tilerelease",
        zero="llvm.x86.tilezero",
        load="llvm.x86.tileloadd64",
        store="llvm.x86.tilestored64",
        guard=guard,
    )
