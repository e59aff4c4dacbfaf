"""Sums of pairs of products of bytes on Arm, for `Target.instructions`: one instruction each, not two."""

from __future__ import annotations

ADD_PAIRS = """\
define linkonce_odr <4 x i32> @isthmus_add_pairs(<4 x i32> %sums, <8 x i16> %products) alwaysinline {
  %pairs = call <4 x i32> @llvm.aarch64.neon.saddlp.v4i32.v8i16(<8 x i16> %products)
  %r = add <4 x i32> %sums, %pairs
  ret <4 x i32> %r
}
declare <4 x i32> @llvm.aarch64.neon.saddlp.v4i32.v8i16(<8 x i16>)
"""
ADD_PAIRS_32 = """\
define linkonce_odr <4 x i32> @isthmus_add_pairs(<4 x i32> %sums, <8 x i16> %products) alwaysinline {
  %r = call <4 x i32> @llvm.arm.neon.vpadals.v4i32.v8i16(<4 x i32> %sums, <8 x i16> %products)
  ret <4 x i32> %r
}
declare <4 x i32> @llvm.arm.neon.vpadals.v4i32.v8i16(<4 x i32>, <8 x i16>)
"""
