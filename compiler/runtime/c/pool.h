/* pool.h - the threads of one session: all run the same function and meet at barriers. */
#ifndef ISTHMUS_POOL_H
#define ISTHMUS_POOL_H

#include "isthmus_plan.h"

typedef struct isthmus_pool isthmus_pool;

/* threads - 1 workers (threads >= 2); the caller of isthmus_pool_run is the remaining one. NULL on failure. */
isthmus_pool *isthmus_pool_new(int32_t threads);
void isthmus_pool_free(isthmus_pool *pool); /* NULL is allowed */

/* Runs run(frame, t) for t in 0..threads-1 and returns when all have returned. frame->barrier is set here. */
void isthmus_pool_run(isthmus_pool *pool, isthmus_frame *frame, void (*run)(const isthmus_frame *, int32_t));

#endif
