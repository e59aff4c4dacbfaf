/* replay.c - run one request of a bundle from files, where nothing but C runs: emulators, boards, test benches.
 *
 *   replay WEIGHTS REQUEST ANSWER [THREADS]
 *
 * WEIGHTS is weights.bin, or "-" for a model without. REQUEST holds an int32 entry, then each input in order:
 * int32 rank, int32 zero, int64 dims, data. ANSWER gets each output in the same form. All in the byte order of
 * the chip. Exit status: 0 done, 1 what went wrong is on the standard error.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "isthmus.h"

enum { MOST_PORTS = 64, TEXT = 2048 };

static char error[TEXT];

static int fail(const char *what) {
  fprintf(stderr, "replay: %s: %s\n", what, error);
  return 1;
}

static int read_tensor(FILE *file, int32_t dtype, isthmus_tensor *tensor) {
  int32_t head[2];
  memset(tensor, 0, sizeof *tensor);
  if (fread(head, sizeof head, 1, file) != 1 || head[0] < 0 || head[0] > ISTHMUS_MAX_RANK) return 0;
  tensor->dtype = dtype;
  tensor->rank = head[0];
  if (fread(tensor->dims, sizeof tensor->dims[0], (size_t)head[0], file) != (size_t)head[0]) return 0;
  const int64_t bytes = isthmus_bytes(tensor);
  if (bytes < 0) return 0;
  tensor->data = malloc((size_t)bytes + 1);
  return tensor->data && fread(tensor->data, 1, (size_t)bytes, file) == (size_t)bytes;
}

static int write_tensor(FILE *file, const isthmus_tensor *tensor) {
  const int32_t head[2] = {tensor->rank, 0};
  const size_t bytes = (size_t)isthmus_bytes(tensor), rank = (size_t)tensor->rank;
  return fwrite(head, sizeof head, 1, file) == 1 && fwrite(tensor->dims, sizeof tensor->dims[0], rank, file) == rank &&
         fwrite(tensor->data, 1, bytes, file) == bytes;
}

static int read_request(const char *path, const isthmus_model *model, int32_t *entry, isthmus_tensor *inputs) {
  FILE *file = fopen(path, "rb");
  int good = file && fread(entry, sizeof *entry, 1, file) == 1;
  for (int32_t i = 0; good && i < isthmus_input_count(model, *entry); i++) {
    isthmus_info info;
    good = i < MOST_PORTS && isthmus_input(model, *entry, i, &info) == ISTHMUS_OK &&
           read_tensor(file, info.dtype, &inputs[i]);
  }
  if (file) fclose(file);
  return good;
}

static int write_answer(const char *path, int32_t count, const isthmus_tensor *outputs) {
  FILE *file = fopen(path, "wb");
  int good = file != NULL;
  for (int32_t i = 0; good && i < count; i++) good = write_tensor(file, &outputs[i]);
  return (file ? fclose(file) == 0 : 0) && good;
}

#if defined(ISTHMUS_IMAGE)
/* Where the weights are part of the program. */
extern const unsigned char isthmus_weights[], isthmus_weights_end[];

static int open_weights(const char *path, isthmus_model **model) {
  return (void)path, isthmus_open_memory(isthmus_weights, isthmus_weights_end - isthmus_weights, model, error, TEXT);
}
#elif defined(ISTHMUS_SINGLE)
/* Where the runtime has no files, the program reads them. */
static int open_weights(const char *path, isthmus_model **model) {
  FILE *file = path ? fopen(path, "rb") : NULL;
  const long bytes = file && fseek(file, 0, SEEK_END) == 0 ? ftell(file) : 0;
  const size_t size = bytes > 0 ? ((size_t)bytes + 63) / 64 * 64 : 64;
  void *weights = aligned_alloc(64, size);
  if (file) {
    rewind(file);
    if (weights && fread(weights, 1, size, file) != (size_t)bytes) weights = NULL;
    fclose(file);
  }
  return isthmus_open_memory(weights, bytes, model, error, TEXT);
}
#else
static int open_weights(const char *path, isthmus_model **model) { return isthmus_open(path, model, error, TEXT); }
#endif

int main(int argc, char **argv) {
  static isthmus_tensor inputs[MOST_PORTS], outputs[MOST_PORTS];
  isthmus_model *model;
  isthmus_session *session;
  int32_t entry;
  if (argc < 4) {
    fprintf(stderr, "usage: replay WEIGHTS REQUEST ANSWER [THREADS]\n");
    return 1;
  }
  const char *weights = strcmp(argv[1], "-") ? argv[1] : NULL;
  if (open_weights(weights, &model)) return fail("the bundle does not open");
  if (isthmus_session_new(model, argc > 4 ? atoi(argv[4]) : 1, &session, error, TEXT)) return fail("no session");
  if (!read_request(argv[2], model, &entry, inputs)) return fail("the request cannot be read");
  const int32_t count = isthmus_output_count(model, entry);
  if (count > MOST_PORTS || isthmus_shapes(session, entry, inputs, outputs, error, TEXT)) return fail("shapes");
  for (int32_t i = 0; i < count; i++)
    if (!(outputs[i].data = malloc((size_t)isthmus_bytes(&outputs[i]) + 1))) return fail("out of memory");
  if (isthmus_run(session, entry, inputs, outputs, error, TEXT)) return fail("the run failed");
  if (!write_answer(argv[3], count, outputs)) return fail("the answer cannot be written");
  isthmus_session_free(session);
  isthmus_close(model);
  return 0;
}
