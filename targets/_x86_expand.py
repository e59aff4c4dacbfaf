"""What AVX-512 has to put bytes and words in places: LLVM functions."""

from __future__ import annotations

# The bytes of a half of a register put where a mask has ones, zeros elsewhere.
EXPAND_BYTES = (
    (
        "expand_bytes",
        """\
define linkonce_odr <64 x i8> @isthmus_expand_bytes(<32 x i8> %a, i64 %mask) alwaysinline {
  %w = shufflevector <32 x i8> %a, <32 x i8> poison, <64 x i32> <
    i32 0, i32 1, i32 2, i32 3, i32 4, i32 5, i32 6, i32 7, i32 8, i32 9, i32 10, i32 11, i32 12, i32 13,
    i32 14, i32 15, i32 16, i32 17, i32 18, i32 19, i32 20, i32 21, i32 22, i32 23, i32 24, i32 25, i32 26,
    i32 27, i32 28, i32 29, i32 30, i32 31, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison,
    i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison,
    i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison,
    i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison, i32 poison,
    i32 poison, i32 poison, i32 poison>
  %m = bitcast i64 %mask to <64 x i1>
  %r = call <64 x i8> @llvm.x86.avx512.mask.expand.v64i8(
    <64 x i8> %w, <64 x i8> zeroinitializer, <64 x i1> %m)
  ret <64 x i8> %r
}
declare <64 x i8> @llvm.x86.avx512.mask.expand.v64i8(<64 x i8>, <64 x i8>, <64 x i1>)
""",
    ),
)


# Words put where a mask has ones, zeros elsewhere; and of two vectors the first where it has ones. Zeros come
# from a register, or on some chips the instruction waits for what its own register had held before.
EXPAND_WORDS = (
    (
        "expand_words",
        """\
define linkonce_odr <16 x i32> @isthmus_expand_words(<16 x i32> %a, i16 %mask) alwaysinline {
  %m = bitcast i16 %mask to <16 x i1>
  %z = call <16 x float> @llvm.arithmetic.fence.v16f32(<16 x float> zeroinitializer)
  %f = bitcast <16 x i32> %a to <16 x float>
  %g = call <16 x float> @llvm.x86.avx512.mask.expand.v16f32(<16 x float> %f, <16 x float> %z, <16 x i1> %m)
  %r = bitcast <16 x float> %g to <16 x i32>
  ret <16 x i32> %r
}
declare <16 x float> @llvm.arithmetic.fence.v16f32(<16 x float>)
declare <16 x float> @llvm.x86.avx512.mask.expand.v16f32(<16 x float>, <16 x float>, <16 x i1>)
""",
    ),
    (
        "choose_words",
        """\
define linkonce_odr <16 x float> @isthmus_choose_words(<16 x float> %a, <16 x float> %b, i16 %mask)
alwaysinline {
  %m = bitcast i16 %mask to <16 x i1>
  %r = select <16 x i1> %m, <16 x float> %a, <16 x float> %b
  ret <16 x float> %r
}
""",
    ),
)
