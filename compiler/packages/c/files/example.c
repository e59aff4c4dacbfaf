/* Runs the model once on zeros, with every free dim at its smallest, and prints what came out.
 *
 *   example WEIGHTS      (weights.bin of the bundle, or "-" for a model without)
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <isthmus.h>

static char error[4096];

static int fail(void) {
  fprintf(stderr, "%s\n", error);
  return 1;
}

/* The size of dim `index` of "batch, seq, 384": a number, or the smallest that the named dim takes. */
static int64_t size_of(const isthmus_model *model, const char *dims, int32_t index) {
  isthmus_dim_info dim;
  for (int32_t i = 0; i < index; i++) dims += strcspn(dims, ",") + 1;
  dims += strspn(dims, " ");
  for (int32_t i = 0; isthmus_dim(model, i, &dim) == ISTHMUS_OK; i++)
    if (strlen(dim.name) == strcspn(dims, ",") && !strncmp(dim.name, dims, strlen(dim.name)))
      return dim.low > 0 ? dim.low : 1;
  return strtoll(dims, NULL, 10);
}

int main(int argc, char **argv) {
  isthmus_tensor inputs[64], outputs[64];
  isthmus_model *model;
  isthmus_session *session;
  isthmus_info info;
  if (argc < 2) return fprintf(stderr, "usage: example WEIGHTS\n"), 1;
  if (isthmus_open(strcmp(argv[1], "-") ? argv[1] : NULL, &model, error, sizeof error)) return fail();
  if (isthmus_session_new(model, 0, &session, error, sizeof error)) return fail();
  for (int32_t i = 0; i < 64 && isthmus_input(model, 0, i, &info) == ISTHMUS_OK; i++) {
    inputs[i] = (isthmus_tensor){.dtype = info.dtype, .rank = info.rank};
    for (int32_t axis = 0; axis < info.rank; axis++) inputs[i].dims[axis] = size_of(model, info.dims, axis);
    inputs[i].data = calloc(1, (size_t)isthmus_bytes(&inputs[i]) + 1);
  }
  if (isthmus_shapes(session, 0, inputs, outputs, error, sizeof error)) return fail();
  for (int32_t i = 0; i < 64 && i < isthmus_output_count(model, 0); i++)
    outputs[i].data = malloc((size_t)isthmus_bytes(&outputs[i]) + 1);
  if (isthmus_run(session, 0, inputs, outputs, error, sizeof error)) return fail();
  for (int32_t i = 0; i < 64 && isthmus_output(model, 0, i, &info) == ISTHMUS_OK; i++) {
    printf("%s [", info.name);
    for (int32_t axis = 0; axis < outputs[i].rank; axis++) printf("%s%" PRId64, axis ? ", " : "", outputs[i].dims[axis]);
    printf("]");
    if (info.dtype == ISTHMUS_F32 && isthmus_bytes(&outputs[i]) > 0) printf(" %.6g", *(float *)outputs[i].data);
    printf("\n");
  }
  isthmus_session_free(session);
  isthmus_close(model);
  return 0;
}
