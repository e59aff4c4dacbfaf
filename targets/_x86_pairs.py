"""What x86 has to multiply bytes and add two neighbours in 16 bits: an LLVM function."""

from __future__ import annotations

_MULTIPLIES = {16: "ssse3.pmadd.ub.sw.128", 32: "avx2.pmadd.ub.sw", 64: "avx512.pmaddubs.w.512"}


def multiply_bytes(count: int) -> tuple[tuple[str, str], ...]:
    """For registers of `count` bytes."""
    intrinsic = f"llvm.x86.{_MULTIPLIES[count]}"
    text = f"""\
define linkonce_odr <{count // 2} x i16> @isthmus_multiply_bytes(<{count} x i8> %a, <{count} x i8> %b)
alwaysinline {{
  %r = call <{count // 2} x i16> @{intrinsic}(<{count} x i8> %a, <{count} x i8> %b)
  ret <{count // 2} x i16> %r
}}
declare <{count // 2} x i16> @{intrinsic}(<{count} x i8>, <{count} x i8>)
"""
    return (("multiply_bytes", text),)
