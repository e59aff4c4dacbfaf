/* pool.c - thread pool and barrier, both made of one thing: a gate, a counter that threads wait to see change.
 *
 * Waiting spins first (stages of a model are tens of microseconds apart), then also yields the processor (another
 * thread of ours may need it), then sleeps (the application may be doing something else altogether). When there are
 * more threads than processors it yields from the start.
 */
#include "pool.h"

#include <stdatomic.h>

#include "os.h"

enum {
  SPINS_PER_LOOK = 32,   /* pauses between looks at the clock */
  SPIN_ALONE_NS = 20000, /* before the first yield */
  SPIN_NS = 150000,      /* before sleeping: longer than a caller needs between two runs, too short to matter */
  LINE = 128             /* two cache lines: processors fetch them in pairs */
};

typedef struct gate {
  _Alignas(LINE) atomic_uint value;
  _Alignas(LINE) atomic_uint sleepers;
  isthmus_os_bed bed;
} gate;

struct isthmus_barrier {
  gate phase;
  _Alignas(LINE) atomic_int arrived;
  int32_t threads;
  int crowded; /* more threads than processors */
};

typedef struct worker {
  isthmus_pool *pool;
  int32_t number;
  isthmus_os_thread thread;
  _Alignas(LINE) atomic_int processor; /* where it began its last run */
} worker;

struct isthmus_pool {
  isthmus_barrier barrier;
  gate work; /* opened once for each run, and once to stop */
  /* Written before `work` is opened, read after. */
  const isthmus_frame *frame;
  void (*run)(const isthmus_frame *, int32_t);
  int stopping;
  int32_t workers;
  atomic_int processor; /* where the caller began this run */
  worker worker[];
};

/* Adds one to the counter and wakes whoever waits for that. */
static void gate_open(gate *g) {
  /* Sequentially consistent, as is the sleeper's order (count itself, then look): at least one of the two sees
   * the other, so no wake-up is lost. */
  atomic_fetch_add(&g->value, 1);
  if (atomic_load(&g->sleepers) == 0) return;
  isthmus_os_lock(&g->bed);
  isthmus_os_wake_all(&g->bed);
  isthmus_os_unlock(&g->bed);
}

static void gate_sleep(gate *g, unsigned seen) {
  isthmus_os_lock(&g->bed);
  atomic_fetch_add(&g->sleepers, 1);
  while (atomic_load(&g->value) == seen) isthmus_os_sleep(&g->bed);
  atomic_fetch_sub(&g->sleepers, 1);
  isthmus_os_unlock(&g->bed);
}

/* Returns once the counter is no longer `seen`. */
static void gate_wait(gate *g, unsigned seen, int crowded) {
  const uint64_t start = isthmus_os_nanoseconds();
  for (;;) {
    for (int i = 0; i < SPINS_PER_LOOK; i++) {
      if (atomic_load_explicit(&g->value, memory_order_acquire) != seen) return;
      isthmus_os_pause();
    }
    const uint64_t waited = isthmus_os_nanoseconds() - start;
    if (waited > SPIN_NS) break;
    if (crowded || waited > SPIN_ALONE_NS) isthmus_os_yield();
  }
  gate_sleep(g, seen);
}

static int gate_make(gate *g) {
  atomic_init(&g->value, 0);
  atomic_init(&g->sleepers, 0);
  return isthmus_os_bed_make(&g->bed);
}

void isthmus_barrier_meet(isthmus_barrier *barrier) {
  /* Read before arriving: the phase cannot change until this thread has arrived. */
  const unsigned phase = atomic_load_explicit(&barrier->phase.value, memory_order_relaxed);
  if (atomic_fetch_add_explicit(&barrier->arrived, 1, memory_order_acq_rel) + 1 < barrier->threads) {
    gate_wait(&barrier->phase, phase, barrier->crowded);
    return;
  }
  /* The last one. Nobody arrives at the next barrier before the gate opens, so this store races with nothing. */
  atomic_store_explicit(&barrier->arrived, 0, memory_order_relaxed);
  gate_open(&barrier->phase);
}

/* Two of our threads on one processor take turns, and all others wait for both: some schedulers leave them there
 * for many runs. Who finds itself where an earlier thread is, moves. */
static void spread_out(worker *self) {
  enum { MOST = 64 };
  int32_t taken[MOST], count = 0;
  isthmus_pool *pool = self->pool;
  const int32_t here = isthmus_os_processor();
  atomic_store_explicit(&self->processor, here, memory_order_relaxed);
  taken[count++] = atomic_load_explicit(&pool->processor, memory_order_relaxed);
  for (int32_t i = 0; i + 1 < self->number && count < MOST; i++)
    taken[count++] = atomic_load_explicit(&pool->worker[i].processor, memory_order_relaxed);
  for (int32_t i = 0; i < count; i++) {
    if (taken[i] != here || here < 0) continue;
    isthmus_os_move_away(taken, count);
    atomic_store_explicit(&self->processor, isthmus_os_processor(), memory_order_relaxed);
    return;
  }
}

static ISTHMUS_OS_BODY work(void *argument) {
  worker *self = argument;
  isthmus_pool *pool = self->pool;
  for (unsigned seen = 0;; seen++) {
    gate_wait(&pool->work, seen, pool->barrier.crowded);
    if (pool->stopping) return 0;
    if (!pool->barrier.crowded) spread_out(self);
    pool->run(pool->frame, self->number);
    isthmus_barrier_meet(&pool->barrier); /* keeps `seen` in step: no run begins before all left the last one */
  }
}

static int64_t bytes_of(int32_t threads) {
  return (int64_t)(sizeof(isthmus_pool) + (size_t)(threads - 1) * sizeof(worker));
}

static void release(isthmus_pool *pool) {
  isthmus_os_release_pages((uint8_t *)(void *)pool, bytes_of(pool->barrier.threads));
}

isthmus_pool *isthmus_pool_new(int32_t threads) {
  isthmus_pool *pool = (isthmus_pool *)(void *)isthmus_os_pages(bytes_of(threads));
  if (!pool) return NULL;
  pool->barrier.threads = threads;
  pool->barrier.crowded = threads > isthmus_os_processors();
  atomic_init(&pool->barrier.arrived, 0);
  if (gate_make(&pool->barrier.phase) != 0) {
    release(pool);
    return NULL;
  }
  if (gate_make(&pool->work) != 0) {
    isthmus_os_bed_free(&pool->barrier.phase.bed);
    release(pool);
    return NULL;
  }
  for (; pool->workers < threads - 1; pool->workers++) {
    worker *next = &pool->worker[pool->workers];
    next->pool = pool;
    next->number = pool->workers + 1;
    atomic_init(&next->processor, -1);
    if (isthmus_os_start(&next->thread, work, next) != 0) {
      isthmus_pool_free(pool);
      return NULL;
    }
  }
  return pool;
}

void isthmus_pool_free(isthmus_pool *pool) {
  if (!pool) return;
  pool->stopping = 1;
  gate_open(&pool->work);
  for (int32_t i = 0; i < pool->workers; i++) isthmus_os_join(pool->worker[i].thread);
  isthmus_os_bed_free(&pool->work.bed);
  isthmus_os_bed_free(&pool->barrier.phase.bed);
  release(pool);
}

void isthmus_pool_run(isthmus_pool *pool, isthmus_frame *frame, void (*run)(const isthmus_frame *, int32_t)) {
  frame->barrier = &pool->barrier;
  pool->frame = frame;
  pool->run = run;
  atomic_store_explicit(&pool->processor, isthmus_os_processor(), memory_order_relaxed);
  gate_open(&pool->work);
  run(frame, 0);
  isthmus_barrier_meet(&pool->barrier);
}
