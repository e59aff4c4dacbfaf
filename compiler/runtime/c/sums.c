/* sums.c - sums over the weights at the speed of memory, by additions alone. */
#include "sums.h"

#include <string.h>

enum {
  CHUNK = ISTHMUS_SUM_CHUNK,
  LANES = 8, /* chains of additions; more do not fit the registers of the smallest vectors */
  STEP = 8 * LANES
};

/* Compilers make one load of it, and swap its bytes where the machine is big-endian. */
static inline uint64_t word_at(const uint8_t *b) {
  return (uint64_t)b[0] | (uint64_t)b[1] << 8 | (uint64_t)b[2] << 16 | (uint64_t)b[3] << 24 | (uint64_t)b[4] << 32 |
         (uint64_t)b[5] << 40 | (uint64_t)b[6] << 48 | (uint64_t)b[7] << 56;
}

/* Lane j of `plain` is the sum of its words; `running` sums what `plain` was after each step. */
typedef struct lanes {
  uint64_t plain[LANES], running[LANES];
} lanes;

static inline void add_step(lanes *sums, const uint8_t *bytes) {
  for (int j = 0; j < LANES; j++) {
    sums->plain[j] += word_at(bytes + 8 * j);
    sums->running[j] += sums->plain[j];
  }
}

/* The sum of w[i] and of i * w[i] for i from 1. Of m steps, step k adds its word to `running` m - k times, so that
 * m * plain - running is the sum of k * w, and i is LANES * k + j + 1: no word is ever multiplied. */
static void sum_chunk(const uint8_t *bytes, int64_t size, uint64_t *pair) {
  lanes sums = {{0}, {0}};
  const int64_t whole = size / STEP, rest = size % STEP;
  for (int64_t k = 0; k < whole; k++) add_step(&sums, bytes + k * STEP);
  uint8_t last[STEP] = {0};
  memcpy(last, bytes + whole * STEP, (size_t)rest);
  add_step(&sums, last); /* nothing but zeros where the size is a multiple: they change no sum */
  const uint64_t steps = (uint64_t)whole + 1;
  pair[0] = pair[1] = 0;
  for (int j = 0; j < LANES; j++) {
    pair[0] += sums.plain[j];
    pair[1] += LANES * (steps * sums.plain[j] - sums.running[j]) + (uint64_t)(j + 1) * sums.plain[j];
  }
}

int64_t isthmus_sum_count(int64_t bytes) { return bytes / CHUNK + (bytes % CHUNK != 0); }

void isthmus_sum_chunks(const isthmus_frame *frame, int32_t thread) {
  const int64_t bytes = frame->dims[0], count = isthmus_sum_count(bytes);
  uint64_t *pairs = frame->outputs[0];
  const int64_t end = isthmus_split(count, frame->threads, thread + 1);
  for (int64_t i = isthmus_split(count, frame->threads, thread); i < end; i++)
    sum_chunk(frame->weights + i * CHUNK, isthmus_min(CHUNK, bytes - i * CHUNK), pairs + 2 * i);
}
