/* isthmus_plan.h - what a generated model.c provides to the runtime, and what it may use.
 *
 * model.c defines ONE symbol, `isthmus_programs`: the model for each level of a chip's family that the library
 * carries, most of them for one only. It and the runtime are always compiled into the same library, so nothing
 * here is a stable binary interface.
 */
#ifndef ISTHMUS_PLAN_H
#define ISTHMUS_PLAN_H

#include "isthmus.h"

#define ISTHMUS_PLAN_ABI 2
#define ISTHMUS_FREE INT64_MAX /* isthmus_dim.high of a dim without an upper bound */

/* isthmus_port.dim_symbol[i]: >= 0 is an index into isthmus_program.dims: the size is that dim, or dim_fixed[i]
 * times it when that is more than 1. Else it is one of these. */
#define ISTHMUS_FIXED (-1)   /* the size is dim_fixed[i] */
#define ISTHMUS_DERIVED (-2) /* an expression of named dims; compared with what input_shape says */

typedef struct isthmus_port {
  const char *name;
  int32_t dtype; /* enum isthmus_dtype */
  int32_t rank;
  const char *dims_text; /* "batch, seq, 384"; "" for a scalar */
  int32_t dim_symbol[ISTHMUS_MAX_RANK];
  int64_t dim_fixed[ISTHMUS_MAX_RANK];
} isthmus_port;

typedef struct isthmus_dim_bounds {
  const char *name;
  int64_t low, high; /* inclusive; high may be ISTHMUS_FREE */
} isthmus_dim_bounds;

typedef struct isthmus_barrier isthmus_barrier;

/* All that a run may touch. Shared by the threads of one run, never written by them. */
typedef struct isthmus_frame {
  const uint8_t *weights;     /* 64-byte aligned (page aligned) */
  uint8_t *arena;             /* 64-byte aligned; contents undefined at the start of a run */
  const void *const *inputs;  /* element aligned only */
  void *const *outputs;       /* element aligned only; NULL is possible when the tensor is empty */
  const int64_t *dims;        /* one per isthmus_program.dims */
  const int64_t *offsets;     /* what isthmus_entry.arrange wrote */
  int32_t threads;
  isthmus_barrier *barrier;   /* NULL with one thread */
  int32_t *fault;             /* 0; a kernel that meets an index out of range stores its site number, 1.. */
} isthmus_frame;

typedef struct isthmus_entry {
  const char *name;
  int32_t input_count, output_count;
  const isthmus_port *inputs, *outputs;
  /* Sizes of input/output number i (rank of that port many). May be given any dims >= 0: use the
   * saturating isthmus_mul/isthmus_add, the runtime rejects what saturated or came out negative.
   * input_shape may be NULL when no input dim is ISTHMUS_DERIVED. */
  void (*input_shape)(const int64_t *dims, int32_t input, int64_t *shape);
  void (*output_shape)(const int64_t *dims, int32_t output, int64_t *shape);
  /* Fills offsets (bytes into the arena, or whatever run() wants to precompute) and returns the arena's
   * size in bytes, ISTHMUS_FREE if it overflowed. Never falls when a dim grows. */
  int32_t offset_count;
  int64_t (*arrange)(const int64_t *dims, int32_t threads, int64_t *offsets);
  /* About how many vectors a run multiplies and adds, reads and writes, in how many kernel calls: a run with little
   * to do is left to one thread. NULL: all threads work. */
  int64_t (*work)(const int64_t *dims);
  int32_t call_count;
  /* Called once by each of frame->threads threads at the same time. Every thread must pass the same
   * sequence of barriers. All outputs are complete when the last thread returns. */
  void (*run)(const isthmus_frame *frame, int32_t thread);
  /* Where an index can be out of range: sites[n - 1] names the place of fault n. */
  int32_t site_count;
  const char *const *sites;
} isthmus_entry;

typedef struct isthmus_program {
  int32_t abi; /* ISTHMUS_PLAN_ABI */
  const char *model, *target;
  const char *(*machine_check)(void); /* NULL if this processor will do, else a message; may be NULL */
  int64_t weights_bytes;              /* exact size of weights.bin; 0: no file */
  int32_t dim_count;
  const isthmus_dim_bounds *dims;
  int32_t entry_count;
  const isthmus_entry *entries;
} isthmus_program;

#if defined(__GNUC__)
#define ISTHMUS_HIDDEN __attribute__((visibility("hidden")))
#else
#define ISTHMUS_HIDDEN
#endif

/* Best first, NULL at the end. They differ in code and weights only: signatures and dims are the same. */
extern ISTHMUS_HIDDEN const isthmus_program *const isthmus_programs[];

/* All threads of the run meet here; what any wrote before, all see after. */
ISTHMUS_HIDDEN void isthmus_barrier_meet(isthmus_barrier *barrier);

static inline void isthmus_barrier_wait(const isthmus_frame *frame) {
  if (frame->threads > 1) isthmus_barrier_meet(frame->barrier);
}

/* Where share number `i` of `count` items begins when cut into `parts` shares that differ by at most one:
 * thread t takes [isthmus_split(count, n, t), isthmus_split(count, n, t + 1)). */
static inline int64_t isthmus_split(int64_t count, int32_t parts, int32_t i) {
  int64_t rest = count % parts;
  return count / parts * i + (i < rest ? i : rest);
}

/* Saturating arithmetic, so that absurd sizes end in an error text and never wrap around to a small one. */
#if defined(__GNUC__) && !defined(ISTHMUS_PLAIN_C)
static inline int64_t isthmus_mul(int64_t a, int64_t b) {
  int64_t result;
  if (!__builtin_mul_overflow(a, b, &result)) return result;
  return (a < 0) == (b < 0) ? INT64_MAX : INT64_MIN;
}

static inline int64_t isthmus_add(int64_t a, int64_t b) {
  int64_t result;
  if (!__builtin_add_overflow(a, b, &result)) return result;
  return a > 0 ? INT64_MAX : INT64_MIN;
}
#else
static inline int64_t isthmus_mul(int64_t a, int64_t b) {
  if (a == 0 || b == 0) return 0;
  const int negative = (a < 0) != (b < 0);
  const uint64_t x = a < 0 ? 0 - (uint64_t)a : (uint64_t)a, y = b < 0 ? 0 - (uint64_t)b : (uint64_t)b;
  if (x > (uint64_t)INT64_MAX / y) return negative ? INT64_MIN : INT64_MAX;
  return negative ? -(int64_t)(x * y) : (int64_t)(x * y);
}

static inline int64_t isthmus_add(int64_t a, int64_t b) {
  if (a > 0 && b > INT64_MAX - a) return INT64_MAX;
  if (a < 0 && b < INT64_MIN - a) return INT64_MIN;
  return a + b;
}
#endif

static inline int64_t isthmus_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t isthmus_min(int64_t a, int64_t b) { return a < b ? a : b; }

/* So many bytes from `start` on; NULL, of an empty tensor, stays. */
static inline const void *isthmus_at(const void *start, int64_t bytes) {
  return start ? (const char *)start + bytes : start;
}

/* The next multiple of 64, the unit of the arena. */
static inline int64_t isthmus_round_up(int64_t bytes) {
  return bytes > INT64_MAX - 63 ? INT64_MAX : (bytes + 63) & ~(int64_t)63;
}

#endif
