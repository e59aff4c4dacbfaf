/* Many runs of plan_example.c on many threads, every result checked.
 * Arguments: weights file, runs. With the further argument "sleep", pauses between runs so that workers park. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "isthmus.h"

enum { MOST_BATCH = 3, MOST_SEQ = 67, SESSIONS = 3 };

typedef struct job {
  isthmus_model *model;
  int threads, runs, pause, failures;
} job;

static void fill(isthmus_tensor *t, void *data, int32_t dtype, int32_t rank, int64_t a, int64_t b) {
  *t = (isthmus_tensor){.data = data, .dtype = dtype, .rank = rank, .dims = {a, b}};
}

static int run_once(isthmus_session *session, int round) {
  static const float bias[3] = {1, 0, 0};
  float x[MOST_BATCH * MOST_SEQ], y[MOST_BATCH * MOST_SEQ], z[MOST_BATCH];
  int64_t mask[MOST_BATCH * MOST_SEQ] = {0};
  char error[512];
  const int64_t batch = 1 + round % MOST_BATCH, seq = 1 + round * 7 % MOST_SEQ;
  for (int64_t i = 0; i < batch * seq; i++) x[i] = (float)((i * 31 + round) % 101);
  isthmus_tensor inputs[3], outputs[2];
  fill(&inputs[0], x, ISTHMUS_F32, 2, batch, seq);
  fill(&inputs[1], mask, ISTHMUS_I64, 2, batch, seq);
  fill(&inputs[2], (void *)(uintptr_t)bias, ISTHMUS_F32, 1, 3, 0);
  memset(y, 0, sizeof y);
  if (isthmus_shapes(session, 0, inputs, outputs, error, sizeof error) != 0) return 1;
  outputs[0].data = y;
  outputs[1].data = z;
  if (isthmus_run(session, 0, inputs, outputs, error, sizeof error) != 0) return 1;
  for (int64_t row = 0; row < batch; row++) {
    float sum = 0;
    for (int64_t i = row * seq; i < (row + 1) * seq; i++) {
      if (y[i] != 2 * x[i] + 1) return 1;
      sum += y[i];
    }
    if (z[row] != sum) return 1;
  }
  return 0;
}

static void *work(void *argument) {
  job *self = argument;
  isthmus_session *session;
  char error[512];
  if (isthmus_session_new(self->model, self->threads, &session, error, sizeof error) != 0) {
    fprintf(stderr, "%s\n", error);
    self->failures = 1;
    return NULL;
  }
  for (int i = 0; i < self->runs; i++) {
    self->failures += run_once(session, i);
    if (self->pause && i % 8 == 0) nanosleep(&(struct timespec){.tv_nsec = 400000}, NULL);
  }
  isthmus_session_free(session);
  return NULL;
}

int main(int count, char **arguments) {
  isthmus_model *model;
  char error[512];
  int failures = 0;
  const int runs = count > 2 ? atoi(arguments[2]) : 100, pause = count > 3;
  if (isthmus_open(arguments[1], &model, error, sizeof error) != 0) return fprintf(stderr, "%s\n", error), 1;
  /* One session, each number of threads. */
  for (int threads = 1; threads <= 8; threads++) {
    job alone = {model, threads, runs, pause, 0};
    work(&alone);
    failures += alone.failures;
  }
  /* Several sessions at once; the model is closed while they run. */
  job jobs[SESSIONS];
  pthread_t thread[SESSIONS];
  for (int i = 0; i < SESSIONS; i++) {
    jobs[i] = (job){model, 1 + i, runs, pause, 0};
    pthread_create(&thread[i], NULL, work, &jobs[i]);
  }
  for (int i = 0; i < SESSIONS; i++) {
    pthread_join(thread[i], NULL);
    failures += jobs[i].failures;
  }
  isthmus_close(model);
  printf("%d failures\n", failures);
  return failures != 0;
}
