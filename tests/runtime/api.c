/* Calls of the C interface that no Python caller makes, and what the runtime allocates when.
 * Compiled with -Dcalloc=counted_calloc and so on. Prints one line for each expectation that fails. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "isthmus.h"

static int allocations, failures;

#undef calloc
#undef aligned_alloc
#undef mmap
void *calloc(size_t count, size_t size);
void *aligned_alloc(size_t alignment, size_t size);
void *mmap(void *where, size_t size, int protection, int flags, int file, off_t offset);

void *counted_calloc(size_t count, size_t size) { return allocations++, calloc(count, size); }
void *counted_aligned_alloc(size_t alignment, size_t size) { return allocations++, aligned_alloc(alignment, size); }
void *counted_mmap(void *where, size_t size, int protection, int flags, int file, off_t offset) {
  return allocations++, mmap(where, size, protection, flags, file, offset);
}

#define EXPECT(what) \
  do { \
    if (!(what)) failures++, printf("line %d: %s (error: %s)\n", __LINE__, #what, error); \
  } while (0)

static char error[4096];
static float x[1 << 16], y[1 << 16], z[8], bias[3] = {1};
static int64_t mask[1 << 16];
static isthmus_tensor inputs[3], outputs[2];

static void request(int64_t batch, int64_t seq) {
  inputs[0] = (isthmus_tensor){x, ISTHMUS_F32, 2, {batch, seq}};
  inputs[1] = (isthmus_tensor){mask, ISTHMUS_I64, 2, {batch, seq}};
  inputs[2] = (isthmus_tensor){bias, ISTHMUS_F32, 1, {3}};
  outputs[0] = (isthmus_tensor){y, ISTHMUS_F32, 2, {batch, seq}};
  outputs[1] = (isthmus_tensor){z, ISTHMUS_F32, 1, {batch}};
}

static int run(isthmus_session *session) {
  memset(error, '?', sizeof error);
  return isthmus_run(session, 0, inputs, outputs, error, sizeof error);
}

static void misuse(isthmus_model *model, isthmus_session *session) {
  isthmus_info info;
  EXPECT(isthmus_open(NULL, &model, error, sizeof error) == ISTHMUS_BAD_CALL);
  EXPECT(isthmus_open("w", NULL, error, sizeof error) == ISTHMUS_BAD_CALL);
  EXPECT(isthmus_session_new(NULL, 1, &session, error, sizeof error) == ISTHMUS_BAD_CALL);
  request(1, 1);
  EXPECT(isthmus_run(NULL, 0, inputs, outputs, error, sizeof error) == ISTHMUS_BAD_CALL);
  EXPECT(isthmus_input(NULL, 0, 0, &info) == ISTHMUS_BAD_CALL);
  EXPECT(isthmus_entry_count(NULL) == -1 && isthmus_threads(NULL) == 0);
  isthmus_close(NULL);
  isthmus_session_free(NULL);
}

static void wrong_calls(isthmus_model *model, isthmus_session *session) {
  isthmus_info info;
  isthmus_dim_info dim;
  request(2, 3);
  EXPECT(isthmus_run(session, 2, inputs, outputs, error, sizeof error) == ISTHMUS_BAD_CALL);
  EXPECT(isthmus_run(session, -1, inputs, outputs, error, sizeof error) == ISTHMUS_BAD_CALL);
  EXPECT(isthmus_run(session, 0, NULL, outputs, error, sizeof error) == ISTHMUS_BAD_CALL);
  EXPECT(isthmus_input(model, 0, 3, &info) == ISTHMUS_BAD_CALL);
  EXPECT(isthmus_output(model, 0, 1, &info) == ISTHMUS_OK && !strcmp(info.name, "z") && info.rank == 1);
  EXPECT(isthmus_dim(model, 1, &dim) == ISTHMUS_OK && !strcmp(dim.name, "seq") && dim.low == 1);
  EXPECT(isthmus_dim(model, 2, &dim) == ISTHMUS_BAD_CALL);
  EXPECT(!strcmp(isthmus_model_name(model), "example") && !strcmp(isthmus_entry_name(model, 1), "check"));
  EXPECT(isthmus_entry_name(model, 2) == NULL);

  /* Outputs that would be written past their end. */
  outputs[0].dims[1] = 2;
  outputs[1].rank = 2;
  EXPECT(run(session) == ISTHMUS_BAD_INPUT);
  EXPECT(!strcmp(error, "output 'y': dim 1 is 2, expected 3\noutput 'z': rank is 2, expected 1: [batch]"));
  request(2, 3);
  outputs[0].data = inputs[1].data = NULL;
  EXPECT(run(session) == ISTHMUS_BAD_INPUT);
  EXPECT(!strcmp(error, "input 'mask': data is NULL\noutput 'y': data is NULL"));
  request(2, 3);
  outputs[0].dtype = 99;
  EXPECT(run(session) == ISTHMUS_BAD_INPUT);
  EXPECT(!strcmp(error, "output 'y': dtype is no known dtype, expected float32"));

  /* Sizes that overflow, sizes that are none. */
  request((int64_t)1 << 40, (int64_t)1 << 40);
  EXPECT(run(session) == ISTHMUS_BAD_INPUT);
  EXPECT(strstr(error, "input 'x': its dims are more than memory can hold") != NULL);
  request(-1, 3);
  EXPECT(run(session) == ISTHMUS_BAD_INPUT && strstr(error, "dim 0 is -1, which is no size") != NULL);
  request(1, (int64_t)1 << 50);
  EXPECT(run(session) == ISTHMUS_NO_MEMORY && strstr(error, "cannot allocate") != NULL);
  inputs[0].rank = INT32_MAX;
  EXPECT(run(session) == ISTHMUS_BAD_INPUT);

  /* Texts are cut, never overrun; no text at all is fine. */
  request(-1, -1);
  for (size_t size = 0; size < 40; size++) {
    char small[48];
    memset(small, '?', sizeof small);
    EXPECT(isthmus_run(session, 0, inputs, outputs, small, size) == ISTHMUS_BAD_INPUT);
    EXPECT(small[size] == '?' && (size == 0 || strlen(small) == size - 1));
  }
  EXPECT(isthmus_run(session, 0, inputs, outputs, NULL, 100) == ISTHMUS_BAD_INPUT);
  request(2, 3);
  EXPECT(run(session) == ISTHMUS_OK && error[0] == 0);
}

static void sums(isthmus_session *session) {
  uint64_t pairs[2] = {1, 1};
  EXPECT(isthmus_weight_sums(NULL, pairs, 1, error, sizeof error) == ISTHMUS_BAD_CALL);
  EXPECT(isthmus_weight_sums(session, NULL, 1, error, sizeof error) == ISTHMUS_BAD_CALL);
  EXPECT(isthmus_weight_sums(session, pairs, 2, error, sizeof error) == ISTHMUS_BAD_CALL);
  EXPECT(strstr(error, "another number of chunks") != NULL && pairs[0] == 1);
  EXPECT(isthmus_weight_sums(session, pairs, 1, error, sizeof error) == ISTHMUS_OK && error[0] == 0);
  EXPECT(pairs[0] == 0 && pairs[1] == 0); /* the weights are zeros */
}

static void sizes(void) {
  isthmus_tensor t = {NULL, ISTHMUS_F32, 2, {3, 5}};
  EXPECT(isthmus_bytes(&t) == 60);
  t.dims[0] = 0, t.dims[1] = INT64_MAX;
  EXPECT(isthmus_bytes(&t) == 0);
  t.dims[0] = 2;
  EXPECT(isthmus_bytes(&t) == -1);
  t.rank = 0, t.dtype = ISTHMUS_I64;
  EXPECT(isthmus_bytes(&t) == 8);
  t.rank = 9;
  EXPECT(isthmus_bytes(&t) == -1);
  t.rank = -1;
  EXPECT(isthmus_bytes(&t) == -1 && isthmus_bytes(NULL) == -1);
}

/* bounded: HIGH_SEQ is given. Otherwise the arena grows, but not at each step. */
static void allocates(isthmus_session *session, int bounded) {
  const int before = allocations;
  for (int64_t seq = 1; seq <= 8000; seq++) {
    request(1, seq);
    EXPECT(run(session) == ISTHMUS_OK);
  }
  const int grown = allocations - before;
  EXPECT(bounded ? grown == 0 : grown >= 1 && grown <= 20);
  for (int64_t seq = 8000; seq > 0; seq -= 7) {
    request(1, seq);
    EXPECT(run(session) == ISTHMUS_OK);
  }
  EXPECT(allocations - before == grown);
}

/* Weights in memory, and the choice of a level. */
static void other_ways_to_open(const char *path) {
  static _Alignas(64) uint8_t weights[64 + 1];
  isthmus_model *model = NULL;
  FILE *file = fopen(path, "rb");
  EXPECT(file && fread(weights, 1, 64, file) == 64);
  if (file) fclose(file);
  EXPECT(isthmus_open_memory(weights, 63, &model, error, sizeof error) == ISTHMUS_BAD_MODEL && !model);
  EXPECT(isthmus_open_memory(NULL, 64, &model, error, sizeof error) == ISTHMUS_BAD_CALL && !model);
  EXPECT(isthmus_open_memory(weights + 1, 64, &model, error, sizeof error) == ISTHMUS_BAD_CALL && !model);
  EXPECT(isthmus_open_memory(weights, 64, &model, error, sizeof error) == ISTHMUS_OK);
  isthmus_close(model);
  EXPECT(isthmus_open_as("other", path, &model, error, sizeof error) == ISTHMUS_BAD_CALL && strstr(error, "any"));
  EXPECT(isthmus_open_as("any", path, &model, error, sizeof error) == ISTHMUS_OK);
  EXPECT(strcmp(isthmus_target_name(model), "any") == 0);
  isthmus_close(model);
}

int main(int count, char **arguments) {
  isthmus_model *model = NULL;
  isthmus_session *session = NULL;
  const int bounded = count > 2;
  misuse(model, session);
  sizes();
  other_ways_to_open(arguments[1]);
  EXPECT(isthmus_open(arguments[1], &model, error, sizeof error) == ISTHMUS_OK);
  EXPECT(isthmus_session_new(model, 2, &session, error, sizeof error) == ISTHMUS_OK);
  sums(session);
  if (!bounded) wrong_calls(model, session);
  isthmus_session_free(session);
  EXPECT(isthmus_session_new(model, 2, &session, error, sizeof error) == ISTHMUS_OK);
  isthmus_close(model); /* the session keeps it */
  allocates(session, bounded);
  isthmus_session_free(session);
  printf("%d failures\n", failures);
  return failures != 0;
}
