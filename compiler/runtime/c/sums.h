/* sums.h - sums over the weights, by which damage is found (docs/bundle-format.md, "Digests"). */
#ifndef ISTHMUS_SUMS_H
#define ISTHMUS_SUMS_H

#include "isthmus_plan.h"

/* How many pairs there are for this many bytes. */
int64_t isthmus_sum_count(int64_t bytes);

/* A run whose output 0 is isthmus_sum_count(bytes) pairs of uint64_t for frame->weights, of which frame->dims[0] says the
 * bytes; each thread computes its share. */
void isthmus_sum_chunks(const isthmus_frame *frame, int32_t thread);

#endif
