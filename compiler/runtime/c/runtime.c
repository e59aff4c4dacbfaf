/* runtime.c - models, sessions and runs: the functions of isthmus.h over the tables of isthmus_plan.h. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "isthmus_plan.h"
#include "os.h"
#include "pool.h"
#include "sums.h"

enum { MOST_THREADS = 16, THREAD_LIMIT = 256 }; /* chosen unasked; accepted when asked */

static const char RUNNING[] = "session is already running; use one session for each thread";

struct isthmus_model {
  const isthmus_program *program;
  const uint8_t *weights; /* NULL if the model has none */
  int mapped;             /* the weights are a file that was mapped here, not the caller's memory */
  atomic_int users;       /* the opener and each session */
};

struct isthmus_session {
  isthmus_model *model;
  isthmus_pool *pool; /* NULL with one thread */
  int32_t threads;
  atomic_flag running;
  uint8_t *arena; /* NULL while capacity is 0 */
  int64_t capacity;
  /* Scratch of one run, sized for the largest entry. */
  int64_t *dims, *offsets;
  const void **inputs;
  void **outputs;
};

static int fail(int status, char *error, size_t error_size, const char *text) {
  isthmus_report report = isthmus_report_new(error, error_size);
  isthmus_report_add(&report, "%s", text);
  return status;
}

/* ---- models */

static const char *lacking(const isthmus_program *program) {
  return program->machine_check ? program->machine_check() : NULL;
}

/* The best program this machine can run, or the one for the chip `target`. NULL: the status and text say why. */
static const isthmus_program *choose(const char *target, int *status, char *error, size_t error_size) {
  isthmus_report report = isthmus_report_new(error, error_size);
  const char *why = NULL;
  for (const isthmus_program *const *each = isthmus_programs; *each; each++) {
    if (target && strcmp(target, (*each)->target)) continue;
    why = lacking(*each);
    if (!why) return *each;
  }
  *status = why ? ISTHMUS_BAD_MACHINE : ISTHMUS_BAD_CALL;
  if (why) isthmus_report_add(&report, "%s", why);
  else isthmus_report_add(&report, "this model has no code for '%s'; it has it for:", target);
  for (const isthmus_program *const *each = isthmus_programs; !why && *each; each++)
    isthmus_report_add(&report, "  %s", (*each)->target);
  return NULL;
}

/* A model without weights yet; what all ways of opening have in common. */
static int open_model(const char *target, isthmus_model **out, char *error, size_t error_size) {
  int status = ISTHMUS_OK;
  isthmus_report_new(error, error_size);
  if (!out) return fail(ISTHMUS_BAD_CALL, error, error_size, "isthmus_open: out is NULL");
  *out = NULL;
  const isthmus_program *program = choose(target, &status, error, error_size);
  if (!program) return status;
  if (program->abi != ISTHMUS_PLAN_ABI)
    return fail(ISTHMUS_BAD_MODEL, error, error_size, "the generated code and the runtime are of different versions");
  *out = calloc(1, sizeof **out);
  if (!*out) return fail(ISTHMUS_NO_MEMORY, error, error_size, "out of memory");
  (*out)->program = program;
  atomic_init(&(*out)->users, 1);
  return ISTHMUS_OK;
}

static int open_failed(isthmus_model **out, int status, char *error, size_t error_size, const char *text) {
  free(*out);
  *out = NULL;
  return fail(status, error, error_size, text);
}

int isthmus_open_as(const char *target, const char *weights_path, isthmus_model **out, char *error,
                    size_t error_size) {
  char problem[512];
  const int status = open_model(target, out, error, error_size);
  if (status != ISTHMUS_OK || (*out)->program->weights_bytes == 0) return status;
  if (!weights_path) return open_failed(out, ISTHMUS_BAD_CALL, error, error_size, "isthmus_open: weights_path is NULL");
  (*out)->weights = isthmus_os_map_file(weights_path, (*out)->program->weights_bytes, problem, sizeof problem);
  if (!(*out)->weights) return open_failed(out, ISTHMUS_BAD_MODEL, error, error_size, problem);
  (*out)->mapped = 1;
  return ISTHMUS_OK;
}

int isthmus_open(const char *weights_path, isthmus_model **out, char *error, size_t error_size) {
  return isthmus_open_as(NULL, weights_path, out, error, error_size);
}

int isthmus_open_memory(const void *weights, int64_t bytes, isthmus_model **out, char *error, size_t error_size) {
  const int status = open_model(NULL, out, error, error_size);
  if (status != ISTHMUS_OK || (*out)->program->weights_bytes == 0) return status;
  if (!weights) return open_failed(out, ISTHMUS_BAD_CALL, error, error_size, "isthmus_open_memory: weights is NULL");
  if (bytes != (*out)->program->weights_bytes)
    return open_failed(out, ISTHMUS_BAD_MODEL, error, error_size, "the weights have another size than the model's");
  if ((uintptr_t)weights % 64)
    return open_failed(out, ISTHMUS_BAD_CALL, error, error_size, "the weights are not aligned to 64 bytes");
  (*out)->weights = weights;
  return ISTHMUS_OK;
}

void isthmus_close(isthmus_model *model) {
  if (!model || atomic_fetch_sub(&model->users, 1) > 1) return;
  if (model->mapped) isthmus_os_unmap_file(model->weights, model->program->weights_bytes);
  free(model);
}

/* ---- sessions */

static int64_t clamp(int64_t value) { return value > 0 ? value : 1; } /* calloc(0) may give NULL */

static int make_scratch(isthmus_session *session) {
  const isthmus_program *program = session->model->program;
  int64_t inputs = 1, outputs = 1, offsets = 1;
  for (int32_t i = 0; i < program->entry_count; i++) {
    inputs = isthmus_max(inputs, program->entries[i].input_count);
    outputs = isthmus_max(outputs, program->entries[i].output_count);
    offsets = isthmus_max(offsets, program->entries[i].offset_count);
  }
  session->dims = calloc((size_t)clamp(program->dim_count), sizeof *session->dims);
  session->offsets = calloc((size_t)offsets, sizeof *session->offsets);
  session->inputs = calloc((size_t)inputs, sizeof *session->inputs);
  session->outputs = calloc((size_t)outputs, sizeof *session->outputs);
  return session->dims && session->offsets && session->inputs && session->outputs;
}

/* Makes the arena at least `bytes` long. Its contents are lost: no run relies on an earlier one's. */
static int reserve(isthmus_session *session, int64_t bytes, int64_t spare) {
  if (bytes <= session->capacity) return 1;
  isthmus_os_release_pages(session->arena, session->capacity);
  session->arena = NULL;
  session->capacity = 0;
  int64_t size = isthmus_max(bytes, spare);
  session->arena = isthmus_os_pages(size);
  if (!session->arena && size > bytes) session->arena = isthmus_os_pages(size = bytes);
  if (session->arena) session->capacity = size;
  return session->arena != NULL;
}

/* Bytes entry needs at the upper bounds of its dims; -1 if one of them has none. */
static int64_t bytes_at_bounds(const isthmus_session *session, const isthmus_entry *entry, uint8_t *used) {
  const isthmus_program *program = session->model->program;
  isthmus_dims_used(entry, program->dim_count, used);
  for (int32_t i = 0; i < program->dim_count; i++) {
    const isthmus_dim_bounds *dim = &program->dims[i];
    if (used[i] && dim->high == ISTHMUS_FREE) return -1;
    session->dims[i] = used[i] ? dim->high : dim->low;
  }
  return entry->arrange(session->dims, session->threads, session->offsets);
}

static int reserve_bounded(isthmus_session *session, char *error, size_t error_size) {
  const isthmus_program *program = session->model->program;
  isthmus_report report = isthmus_report_new(error, error_size);
  uint8_t *used = calloc((size_t)clamp(program->dim_count), 1);
  if (!used) return fail(ISTHMUS_NO_MEMORY, error, error_size, "out of memory");
  for (int32_t i = 0; i < program->entry_count; i++) {
    const int64_t bytes = bytes_at_bounds(session, &program->entries[i], used);
    if (bytes == ISTHMUS_FREE || (bytes > 0 && !reserve(session, bytes, 0)))
      isthmus_report_add(&report,
                         "entry '%s' needs %" PRId64 " bytes of working memory at the upper bounds of its dims, "
                         "which this machine cannot give; compile with smaller bounds",
                         program->entries[i].name, bytes);
  }
  free(used);
  return report.problems ? ISTHMUS_NO_MEMORY : ISTHMUS_OK;
}

int isthmus_session_new(isthmus_model *model, int32_t threads, isthmus_session **out, char *error,
                        size_t error_size) {
  isthmus_report_new(error, error_size);
  if (!model || !out) return fail(ISTHMUS_BAD_CALL, error, error_size, "isthmus_session_new: model or out is NULL");
  *out = NULL;
  if (threads > THREAD_LIMIT) return fail(ISTHMUS_BAD_CALL, error, error_size, "at most 256 threads can be asked for");
  isthmus_session *session = calloc(1, sizeof *session);
  if (!session) return fail(ISTHMUS_NO_MEMORY, error, error_size, "out of memory");
  atomic_flag_clear(&session->running);
  atomic_fetch_add(&model->users, 1);
  session->model = model;
  session->threads = threads > 0 ? threads : isthmus_os_cores(MOST_THREADS);
  int status = ISTHMUS_OK;
  if (!make_scratch(session)) status = fail(ISTHMUS_NO_MEMORY, error, error_size, "out of memory");
  if (status == ISTHMUS_OK) status = reserve_bounded(session, error, error_size);
  if (status == ISTHMUS_OK && session->threads > 1) {
    session->pool = isthmus_pool_new(session->threads);
    if (!session->pool) status = fail(ISTHMUS_NO_MEMORY, error, error_size, "cannot create the worker threads");
  }
  if (status != ISTHMUS_OK) {
    isthmus_session_free(session);
    return status;
  }
  *out = session;
  return ISTHMUS_OK;
}

void isthmus_session_free(isthmus_session *session) {
  if (!session) return;
  isthmus_pool_free(session->pool);
  isthmus_os_release_pages(session->arena, session->capacity);
  free(session->dims);
  free(session->offsets);
  free(session->inputs);
  free(session->outputs);
  isthmus_close(session->model);
  free(session);
}

int32_t isthmus_threads(const isthmus_session *session) { return session ? session->threads : 0; }

static void run_on_all(const isthmus_session *session, isthmus_frame *frame,
                       void (*run)(const isthmus_frame *, int32_t)) {
  if (frame->threads > 1)
    isthmus_pool_run(session->pool, frame, run);
  else
    run(frame, 0);
}

int isthmus_weight_sums(isthmus_session *session, uint64_t *pairs, int64_t count, char *error, size_t error_size) {
  isthmus_report_new(error, error_size);
  if (!session || !pairs) return fail(ISTHMUS_BAD_CALL, error, error_size, "isthmus_weight_sums: session or pairs is NULL");
  const int64_t bytes = session->model->program->weights_bytes;
  if (count != isthmus_sum_count(bytes))
    return fail(ISTHMUS_BAD_CALL, error, error_size, "the weights have another number of chunks");
  if (atomic_flag_test_and_set(&session->running)) return fail(ISTHMUS_BUSY, error, error_size, RUNNING);
  void *const outputs[] = {pairs};
  isthmus_frame frame = {
      .weights = session->model->weights, .outputs = outputs, .dims = &bytes, .threads = session->threads};
  run_on_all(session, &frame, isthmus_sum_chunks);
  atomic_flag_clear(&session->running);
  return ISTHMUS_OK;
}

/* ---- runs */

static int entry_exists(const isthmus_model *model, int32_t entry) {
  return model && entry >= 0 && entry < model->program->entry_count;
}

/* What isthmus_shapes and isthmus_run have in common; on ISTHMUS_OK the caller must clear session->running. */
static int begin(isthmus_session *session, int32_t entry, const isthmus_tensor *inputs, const isthmus_tensor *outputs,
                 char *error, size_t error_size) {
  isthmus_report report = isthmus_report_new(error, error_size);
  if (!session) return fail(ISTHMUS_BAD_CALL, error, error_size, "session is NULL");
  if (!entry_exists(session->model, entry)) return fail(ISTHMUS_BAD_CALL, error, error_size, "there is no such entry point");
  const isthmus_entry *what = &session->model->program->entries[entry];
  if ((what->input_count && !inputs) || (what->output_count && !outputs))
    return fail(ISTHMUS_BAD_CALL, error, error_size, "inputs or outputs is NULL");
  if (atomic_flag_test_and_set(&session->running)) return fail(ISTHMUS_BUSY, error, error_size, RUNNING);
  isthmus_bind(session->model->program, what, inputs, session->dims, &report);
  if (report.problems == 0) return ISTHMUS_OK;
  atomic_flag_clear(&session->running);
  return ISTHMUS_BAD_INPUT;
}

int isthmus_shapes(isthmus_session *session, int32_t entry, const isthmus_tensor *inputs, isthmus_tensor *outputs,
                   char *error, size_t error_size) {
  int status = begin(session, entry, inputs, outputs, error, error_size);
  if (status != ISTHMUS_OK) return status;
  isthmus_report report = isthmus_report_new(error, error_size);
  const isthmus_entry *what = &session->model->program->entries[entry];
  for (int32_t i = 0; i < what->output_count; i++)
    isthmus_output_shape(what, i, session->dims, &outputs[i], &report);
  atomic_flag_clear(&session->running);
  return report.problems ? ISTHMUS_BAD_INPUT : ISTHMUS_OK;
}

/* How many threads a run of these dims is worth: all, or the caller's alone. In vectors of work, see isthmus_entry:
 * to wake a thread that sleeps takes as long as a few hundred thousand, to meet at a barrier as long as a thousand. */
static int32_t threads_for(const isthmus_session *session, const isthmus_entry *entry) {
  enum { WAKE = 200000, MEET = 2000 };
#if defined(ISTHMUS_POISON)
  (void)entry; /* tests want to see all threads */
  return session->threads;
#else
  const int little = entry->work && entry->work(session->dims) < WAKE + (int64_t)MEET * entry->call_count;
  return little ? 1 : session->threads;
#endif
}

/* The arena for the dims at hand. It grows by at least half, so that slowly growing inputs rarely reallocate. */
static int arrange(isthmus_session *session, const isthmus_entry *entry, int32_t threads, isthmus_report *report) {
  const int64_t bytes = entry->arrange(session->dims, threads, session->offsets);
  if (bytes < 0 || bytes == ISTHMUS_FREE) {
    isthmus_report_add(report, "for inputs of this size the working memory cannot be addressed");
    return ISTHMUS_NO_MEMORY;
  }
  if (reserve(session, bytes, isthmus_add(session->capacity, session->capacity / 2))) return ISTHMUS_OK;
  isthmus_report_add(report, "cannot allocate %" PRId64 " bytes of working memory for inputs of this size", bytes);
  return ISTHMUS_NO_MEMORY;
}

/* Returns 0, or the number of the site where an index was out of range. */
static int32_t execute(isthmus_session *session, const isthmus_entry *entry, int32_t threads) {
  int32_t fault = 0;
  isthmus_frame frame = {.weights = session->model->weights,
                         .arena = session->arena,
                         .inputs = session->inputs,
                         .outputs = session->outputs,
                         .dims = session->dims,
                         .offsets = session->offsets,
                         .threads = threads,
                         .fault = &fault};
#if defined(ISTHMUS_POISON)
  /* For tests: 0xFFFFFFFF is a NaN, so whoever reads what this run has not written is found out. */
  if (session->arena) memset(session->arena, 0xFF, (size_t)session->capacity);
#endif
  run_on_all(session, &frame, entry->run);
  return fault;
}

int isthmus_run(isthmus_session *session, int32_t entry, const isthmus_tensor *inputs, const isthmus_tensor *outputs,
                char *error, size_t error_size) {
  int status = begin(session, entry, inputs, outputs, error, error_size);
  if (status != ISTHMUS_OK) return status;
  isthmus_report report = isthmus_report_new(error, error_size);
  const isthmus_entry *what = &session->model->program->entries[entry];
  isthmus_check_data(what, session->dims, inputs, outputs, &report);
  const int32_t threads = threads_for(session, what);
  status = report.problems ? ISTHMUS_BAD_INPUT : arrange(session, what, threads, &report);
  if (status == ISTHMUS_OK) {
    for (int32_t i = 0; i < what->input_count; i++) session->inputs[i] = inputs[i].data;
    for (int32_t i = 0; i < what->output_count; i++) session->outputs[i] = outputs[i].data;
    const int32_t fault = execute(session, what, threads);
    if (fault > 0 && fault <= what->site_count) {
      isthmus_report_add(&report, "an index is out of range in %s; the outputs are not valid", what->sites[fault - 1]);
      status = ISTHMUS_BAD_INPUT;
    }
  }
  atomic_flag_clear(&session->running);
  return status;
}

/* ---- introspection */

const char *isthmus_model_name(const isthmus_model *model) { return model ? model->program->model : NULL; }

const char *isthmus_target_name(const isthmus_model *model) { return model ? model->program->target : NULL; }

int32_t isthmus_entry_count(const isthmus_model *model) { return model ? model->program->entry_count : -1; }

const char *isthmus_entry_name(const isthmus_model *model, int32_t entry) {
  return entry_exists(model, entry) ? model->program->entries[entry].name : NULL;
}

int32_t isthmus_input_count(const isthmus_model *model, int32_t entry) {
  return entry_exists(model, entry) ? model->program->entries[entry].input_count : -1;
}

int32_t isthmus_output_count(const isthmus_model *model, int32_t entry) {
  return entry_exists(model, entry) ? model->program->entries[entry].output_count : -1;
}

static int describe(const isthmus_port *ports, int32_t count, int32_t index, isthmus_info *out) {
  if (index < 0 || index >= count || !out) return ISTHMUS_BAD_CALL;
  const isthmus_port *port = &ports[index];
  *out = (isthmus_info){.name = port->name, .dims = port->dims_text, .dtype = port->dtype, .rank = port->rank};
  return ISTHMUS_OK;
}

int isthmus_input(const isthmus_model *model, int32_t entry, int32_t index, isthmus_info *out) {
  if (!entry_exists(model, entry)) return ISTHMUS_BAD_CALL;
  return describe(model->program->entries[entry].inputs, model->program->entries[entry].input_count, index, out);
}

int isthmus_output(const isthmus_model *model, int32_t entry, int32_t index, isthmus_info *out) {
  if (!entry_exists(model, entry)) return ISTHMUS_BAD_CALL;
  return describe(model->program->entries[entry].outputs, model->program->entries[entry].output_count, index, out);
}

int32_t isthmus_dim_count(const isthmus_model *model) { return model ? model->program->dim_count : -1; }

int isthmus_dim(const isthmus_model *model, int32_t index, isthmus_dim_info *out) {
  if (!model || index < 0 || index >= model->program->dim_count || !out) return ISTHMUS_BAD_CALL;
  const isthmus_dim_bounds *dim = &model->program->dims[index];
  *out = (isthmus_dim_info){.name = dim->name, .low = dim->low, .high = dim->high};
  return ISTHMUS_OK;
}
