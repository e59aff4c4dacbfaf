/* kernel.h - what kernels printed as C rest on: bits of floats, rounding, conversions that are defined for every value.
 *
 * Nothing is asked of a C library. Floats are IEEE 754, computed in their own precision and without contraction:
 * build with -std=c11 -ffp-contract=off, never with -ffast-math.
 */
#ifndef ISTHMUS_KERNEL_H
#define ISTHMUS_KERNEL_H

#include <float.h>
#include <stdint.h>

#if FLT_EVAL_METHOD != 0
#error "floats must be computed in their own precision; on x86 with -msse2 -mfpmath=sse"
#endif
#if defined(__FAST_MATH__)
#error "these kernels need IEEE arithmetic: build them without -ffast-math"
#endif
/* GCC does not know the pragma, and contracts nothing in a mode such as -std=c11. */
#if defined(__clang__) || !defined(__GNUC__)
#pragma STDC FP_CONTRACT OFF
#endif

static inline uint32_t f32_to_bits(float x) {
  const union { float number; uint32_t bits; } both = {.number = x};
  return both.bits;
}

static inline float f32_from_bits(uint32_t x) {
  const union { uint32_t bits; float number; } both = {.bits = x};
  return both.number;
}

static inline uint64_t f64_to_bits(double x) {
  const union { double number; uint64_t bits; } both = {.number = x};
  return both.bits;
}

static inline double f64_from_bits(uint64_t x) {
  const union { uint64_t bits; double number; } both = {.bits = x};
  return both.number;
}

#define F32_INFINITY f32_from_bits(UINT32_C(0x7f800000))
#define F32_NAN f32_from_bits(UINT32_C(0x7fc00000))
#define F64_INFINITY f64_from_bits(UINT64_C(0x7ff0000000000000))
#define F64_NAN f64_from_bits(UINT64_C(0x7ff8000000000000))

/* The second where a comparison with NaN is false. */
#define ISTHMUS_MIN_MAX(name, type) \
  static inline type name##_min(type a, type b) { return a < b ? a : b; } \
  static inline type name##_max(type a, type b) { return a > b ? a : b; }
ISTHMUS_MIN_MAX(f32, float)
ISTHMUS_MIN_MAX(f64, double)
ISTHMUS_MIN_MAX(i8, int8_t)
ISTHMUS_MIN_MAX(i16, int16_t)
ISTHMUS_MIN_MAX(i32, int32_t)
ISTHMUS_MIN_MAX(i64, int64_t)
ISTHMUS_MIN_MAX(u8, uint8_t)
ISTHMUS_MIN_MAX(u16, uint16_t)
ISTHMUS_MIN_MAX(u32, uint32_t)
ISTHMUS_MIN_MAX(u64, uint64_t)
#undef ISTHMUS_MIN_MAX

/* Truncation towards zero. What does not fit, NaN too, gives the least number. */
static inline int32_t i32_from_float(double x) {
  return x > -2147483649.0 && x < 2147483648.0 ? (int32_t)x : INT32_MIN;
}

static inline int64_t i64_from_float(double x) {
  return x >= -0x1p63 && x < 0x1p63 ? (int64_t)x : INT64_MIN;
}

static inline uint64_t u64_from_float(double x) {
  return x >= 0x1p63 && x < 0x1p64 ? (uint64_t)x : (uint64_t)i64_from_float(x);
}

/* Where the builtin is surely one instruction, and no call of a function that sets errno. */
#if defined(__NO_MATH_ERRNO__) && !defined(ISTHMUS_OWN_SQRT)
#if defined(__SSE2__) || defined(__aarch64__) || (defined(__ARM_FP) && (__ARM_FP & 4))
#define ISTHMUS_SQRT_F32
#endif
#if defined(__SSE2__) || defined(__aarch64__) || (defined(__ARM_FP) && (__ARM_FP & 8))
#define ISTHMUS_SQRT_F64
#endif
#endif

static inline float f32_abs(float x) { return f32_from_bits(f32_to_bits(x) & UINT32_C(0x7fffffff)); }

/* |x| with the sign of `sign`. */
static inline float f32_signed(float x, float sign) {
  return f32_from_bits((f32_to_bits(x) & UINT32_C(0x7fffffff)) | (f32_to_bits(sign) & ~UINT32_C(0x7fffffff)));
}

/* From 0x1p23f on every number is whole; NaN and infinities stay as they are. */
static inline float f32_trunc(float x) {
  return f32_abs(x) < 0x1p23f ? f32_signed((float)(int32_t)x, x) : x;
}

static inline float f32_floor(float x) {
  const float whole = f32_trunc(x);
  return whole > x ? whole - 1 : whole;
}

static inline float f32_ceil(float x) {
  const float whole = f32_trunc(x);
  return whole < x ? f32_signed(whole + 1, x) : whole;
}

/* To the nearest whole number, the even one of two: at 0x1p23f the adder rounds so. */
static inline float f32_rint(float x) {
  if (!(f32_abs(x) < 0x1p23f)) return x;
  const float sum = f32_abs(x) + 0x1p23f;
  return f32_signed(sum - 0x1p23f, x);
}

/* Correctly rounded. Without an instruction for it, bit by bit: two bits of the number for one of its root. */
static inline float f32_sqrt(float x) {
#if defined(ISTHMUS_SQRT_F32)
  return __builtin_sqrtf(x);
#else
  const uint32_t bits = f32_to_bits(x);
  if (!(x > 0) || bits == UINT32_C(0x7f800000)) return x < 0 ? f32_from_bits(UINT32_C(0x7fc00000)) : x;
  int32_t exponent = (int32_t)(bits >> 23) - 150;
  uint32_t mantissa = bits & UINT32_C(0x7fffff);
  if (bits >> 23) mantissa |= (UINT32_C(1) << 23);
  else exponent++;
  for (; !(mantissa & (UINT32_C(1) << 23)); exponent--) mantissa <<= 1;
  /* x = mantissa * 2^exponent with an even exponent, and the mantissa's 13 pairs of bits begin with one. */
  mantissa <<= 1, exponent--;
  if (exponent & 1) mantissa <<= 1, exponent--;
  uint32_t rest = 0, root = 0;
  for (int pair = 12; pair >= -12; pair--) {
    rest = rest << 2 | (pair >= 0 ? mantissa >> 2 * pair & 3 : 0);
    const uint32_t trial = root << 2 | 1;
    root <<= 1;
    if (rest >= trial) rest -= trial, root |= 1;
  }
  /* One bit more than the result has; it is never a tie. */
  root = (root + 1) >> 1;
  return f32_from_bits(((uint32_t)(exponent / 2 + (23 + 127 - 11)) << 23) + (root - (UINT32_C(1) << 23)));
#endif
}

static inline double f64_abs(double x) { return f64_from_bits(f64_to_bits(x) & UINT64_C(0x7fffffffffffffff)); }

/* |x| with the sign of `sign`. */
static inline double f64_signed(double x, double sign) {
  return f64_from_bits((f64_to_bits(x) & UINT64_C(0x7fffffffffffffff)) | (f64_to_bits(sign) & ~UINT64_C(0x7fffffffffffffff)));
}

/* From 0x1p52 on every number is whole; NaN and infinities stay as they are. */
static inline double f64_trunc(double x) {
  return f64_abs(x) < 0x1p52 ? f64_signed((double)(int64_t)x, x) : x;
}

static inline double f64_floor(double x) {
  const double whole = f64_trunc(x);
  return whole > x ? whole - 1 : whole;
}

static inline double f64_ceil(double x) {
  const double whole = f64_trunc(x);
  return whole < x ? f64_signed(whole + 1, x) : whole;
}

/* To the nearest whole number, the even one of two: at 0x1p52 the adder rounds so. */
static inline double f64_rint(double x) {
  if (!(f64_abs(x) < 0x1p52)) return x;
  const double sum = f64_abs(x) + 0x1p52;
  return f64_signed(sum - 0x1p52, x);
}

/* Correctly rounded. Without an instruction for it, bit by bit: two bits of the number for one of its root. */
static inline double f64_sqrt(double x) {
#if defined(ISTHMUS_SQRT_F64)
  return __builtin_sqrt(x);
#else
  const uint64_t bits = f64_to_bits(x);
  if (!(x > 0) || bits == UINT64_C(0x7ff0000000000000)) return x < 0 ? f64_from_bits(UINT64_C(0x7ff8000000000000)) : x;
  int64_t exponent = (int64_t)(bits >> 52) - 1075;
  uint64_t mantissa = bits & UINT64_C(0xfffffffffffff);
  if (bits >> 52) mantissa |= (UINT64_C(1) << 52);
  else exponent++;
  for (; !(mantissa & (UINT64_C(1) << 52)); exponent--) mantissa <<= 1;
  /* x = mantissa * 2^exponent with an even exponent, and the mantissa's 27 pairs of bits begin with one. */
  if (exponent & 1) mantissa <<= 1, exponent--;
  uint64_t rest = 0, root = 0;
  for (int pair = 26; pair >= -27; pair--) {
    rest = rest << 2 | (pair >= 0 ? mantissa >> 2 * pair & 3 : 0);
    const uint64_t trial = root << 2 | 1;
    root <<= 1;
    if (rest >= trial) rest -= trial, root |= 1;
  }
  /* One bit more than the result has; it is never a tie. */
  root = (root + 1) >> 1;
  return f64_from_bits(((uint64_t)(exponent / 2 + (52 + 1023 - 26)) << 52) + (root - (UINT64_C(1) << 52)));
#endif
}

#endif
