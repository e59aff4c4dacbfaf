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

enum { MOST_THREADS = 16, THREAD_LIMIT = 256 }; /* chosen unasked; accepted when asked */

struct isthmus_model {
  const uint8_t *weights; /* NULL if the model has none */
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

static const isthmus_program *const PROGRAM = &isthmus_generated;

static int fail(int status, char *error, size_t error_size, const char *text) {
  isthmus_report report = isthmus_report_new(error, error_size);
  isthmus_report_add(&report, "%s", text);
  return status;
}

/* ---- models */

int isthmus_open(const char *weights_path, isthmus_model **out, char *error, size_t error_size) {
  char problem[512];
  isthmus_report_new(error, error_size);
  if (!out) return fail(ISTHMUS_BAD_CALL, error, error_size, "isthmus_open: out is NULL");
  *out = NULL;
  const char *machine = PROGRAM->machine_check ? PROGRAM->machine_check() : NULL;
  if (machine) return fail(ISTHMUS_BAD_MACHINE, error, error_size, machine);
  if (PROGRAM->abi != ISTHMUS_PLAN_ABI)
    return fail(ISTHMUS_BAD_MODEL, error, error_size, "the generated code and the runtime are of different versions");
  if (PROGRAM->weights_bytes > 0 && !weights_path)
    return fail(ISTHMUS_BAD_CALL, error, error_size, "isthmus_open: weights_path is NULL");
  isthmus_model *model = calloc(1, sizeof *model);
  if (!model) return fail(ISTHMUS_NO_MEMORY, error, error_size, "out of memory");
  atomic_init(&model->users, 1);
  if (PROGRAM->weights_bytes > 0) {
    model->weights = isthmus_os_map_file(weights_path, PROGRAM->weights_bytes, problem, sizeof problem);
    if (!model->weights) {
      free(model);
      return fail(ISTHMUS_BAD_MODEL, error, error_size, problem);
    }
  }
  *out = model;
  return ISTHMUS_OK;
}

void isthmus_close(isthmus_model *model) {
  if (!model || atomic_fetch_sub(&model->users, 1) > 1) return;
  isthmus_os_unmap_file(model->weights, PROGRAM->weights_bytes);
  free(model);
}

/* ---- sessions */

static int64_t clamp(int64_t value) { return value > 0 ? value : 1; } /* calloc(0) may give NULL */

static int make_scratch(isthmus_session *session) {
  int64_t inputs = 1, outputs = 1, offsets = 1;
  for (int32_t i = 0; i < PROGRAM->entry_count; i++) {
    inputs = isthmus_max(inputs, PROGRAM->entries[i].input_count);
    outputs = isthmus_max(outputs, PROGRAM->entries[i].output_count);
    offsets = isthmus_max(offsets, PROGRAM->entries[i].offset_count);
  }
  session->dims = calloc((size_t)clamp(PROGRAM->dim_count), sizeof *session->dims);
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
  isthmus_dims_used(entry, PROGRAM->dim_count, used);
  for (int32_t i = 0; i < PROGRAM->dim_count; i++) {
    const isthmus_dim_bounds *dim = &PROGRAM->dims[i];
    if (used[i] && dim->high == ISTHMUS_FREE) return -1;
    session->dims[i] = used[i] ? dim->high : dim->low;
  }
  return entry->arrange(session->dims, session->threads, session->offsets);
}

static int reserve_bounded(isthmus_session *session, char *error, size_t error_size) {
  isthmus_report report = isthmus_report_new(error, error_size);
  uint8_t *used = calloc((size_t)clamp(PROGRAM->dim_count), 1);
  if (!used) return fail(ISTHMUS_NO_MEMORY, error, error_size, "out of memory");
  for (int32_t i = 0; i < PROGRAM->entry_count; i++) {
    const int64_t bytes = bytes_at_bounds(session, &PROGRAM->entries[i], used);
    if (bytes == ISTHMUS_FREE || (bytes > 0 && !reserve(session, bytes, 0)))
      isthmus_report_add(&report,
                         "entry '%s' needs %" PRId64 " bytes of working memory at the upper bounds of its dims, "
                         "which this machine cannot give; compile with smaller bounds",
                         PROGRAM->entries[i].name, bytes);
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

/* ---- runs */

static int entry_exists(int32_t entry) { return entry >= 0 && entry < PROGRAM->entry_count; }

/* What isthmus_shapes and isthmus_run have in common; on ISTHMUS_OK the caller must clear session->running. */
static int begin(isthmus_session *session, int32_t entry, const isthmus_tensor *inputs, const isthmus_tensor *outputs,
                 char *error, size_t error_size) {
  isthmus_report report = isthmus_report_new(error, error_size);
  if (!session) return fail(ISTHMUS_BAD_CALL, error, error_size, "session is NULL");
  if (!entry_exists(entry)) return fail(ISTHMUS_BAD_CALL, error, error_size, "there is no such entry point");
  const isthmus_entry *what = &PROGRAM->entries[entry];
  if ((what->input_count && !inputs) || (what->output_count && !outputs))
    return fail(ISTHMUS_BAD_CALL, error, error_size, "inputs or outputs is NULL");
  if (atomic_flag_test_and_set(&session->running))
    return fail(ISTHMUS_BUSY, error, error_size, "session is already running; use one session for each thread");
  isthmus_bind(what, inputs, session->dims, &report);
  if (report.problems == 0) return ISTHMUS_OK;
  atomic_flag_clear(&session->running);
  return ISTHMUS_BAD_INPUT;
}

int isthmus_shapes(isthmus_session *session, int32_t entry, const isthmus_tensor *inputs, isthmus_tensor *outputs,
                   char *error, size_t error_size) {
  int status = begin(session, entry, inputs, outputs, error, error_size);
  if (status != ISTHMUS_OK) return status;
  isthmus_report report = isthmus_report_new(error, error_size);
  const isthmus_entry *what = &PROGRAM->entries[entry];
  for (int32_t i = 0; i < what->output_count; i++)
    isthmus_output_shape(what, i, session->dims, &outputs[i], &report);
  atomic_flag_clear(&session->running);
  return report.problems ? ISTHMUS_BAD_INPUT : ISTHMUS_OK;
}

/* The arena for the dims at hand. It grows by at least half, so that slowly growing inputs rarely reallocate. */
static int arrange(isthmus_session *session, const isthmus_entry *entry, isthmus_report *report) {
  const int64_t bytes = entry->arrange(session->dims, session->threads, session->offsets);
  if (bytes < 0 || bytes == ISTHMUS_FREE) {
    isthmus_report_add(report, "for inputs of this size the working memory cannot be addressed");
    return ISTHMUS_NO_MEMORY;
  }
  if (reserve(session, bytes, isthmus_add(session->capacity, session->capacity / 2))) return ISTHMUS_OK;
  isthmus_report_add(report, "cannot allocate %" PRId64 " bytes of working memory for inputs of this size", bytes);
  return ISTHMUS_NO_MEMORY;
}

/* Returns 0, or the number of the site where an index was out of range. */
static int32_t execute(isthmus_session *session, const isthmus_entry *entry) {
  int32_t fault = 0;
  isthmus_frame frame = {.weights = session->model->weights,
                         .arena = session->arena,
                         .inputs = session->inputs,
                         .outputs = session->outputs,
                         .dims = session->dims,
                         .offsets = session->offsets,
                         .threads = session->threads,
                         .fault = &fault};
#if defined(ISTHMUS_POISON)
  /* For tests: 0xFFFFFFFF is a NaN, so whoever reads what this run has not written is found out. */
  if (session->arena) memset(session->arena, 0xFF, (size_t)session->capacity);
#endif
  if (session->pool)
    isthmus_pool_run(session->pool, &frame, entry->run);
  else
    entry->run(&frame, 0);
  return fault;
}

int isthmus_run(isthmus_session *session, int32_t entry, const isthmus_tensor *inputs, const isthmus_tensor *outputs,
                char *error, size_t error_size) {
  int status = begin(session, entry, inputs, outputs, error, error_size);
  if (status != ISTHMUS_OK) return status;
  isthmus_report report = isthmus_report_new(error, error_size);
  const isthmus_entry *what = &PROGRAM->entries[entry];
  isthmus_check_data(what, session->dims, inputs, outputs, &report);
  status = report.problems ? ISTHMUS_BAD_INPUT : arrange(session, what, &report);
  if (status == ISTHMUS_OK) {
    for (int32_t i = 0; i < what->input_count; i++) session->inputs[i] = inputs[i].data;
    for (int32_t i = 0; i < what->output_count; i++) session->outputs[i] = outputs[i].data;
    const int32_t fault = execute(session, what);
    if (fault > 0 && fault <= what->site_count) {
      isthmus_report_add(&report, "an index is out of range in %s; the outputs are not valid", what->sites[fault - 1]);
      status = ISTHMUS_BAD_INPUT;
    }
  }
  atomic_flag_clear(&session->running);
  return status;
}

/* ---- introspection */

const char *isthmus_model_name(const isthmus_model *model) { return model ? PROGRAM->model : NULL; }

const char *isthmus_target_name(const isthmus_model *model) { return model ? PROGRAM->target : NULL; }

int32_t isthmus_entry_count(const isthmus_model *model) { return model ? PROGRAM->entry_count : -1; }

const char *isthmus_entry_name(const isthmus_model *model, int32_t entry) {
  return model && entry_exists(entry) ? PROGRAM->entries[entry].name : NULL;
}

int32_t isthmus_input_count(const isthmus_model *model, int32_t entry) {
  return model && entry_exists(entry) ? PROGRAM->entries[entry].input_count : -1;
}

int32_t isthmus_output_count(const isthmus_model *model, int32_t entry) {
  return model && entry_exists(entry) ? PROGRAM->entries[entry].output_count : -1;
}

static int describe(const isthmus_port *ports, int32_t count, int32_t index, isthmus_info *out) {
  if (index < 0 || index >= count || !out) return ISTHMUS_BAD_CALL;
  const isthmus_port *port = &ports[index];
  *out = (isthmus_info){.name = port->name, .dims = port->dims_text, .dtype = port->dtype, .rank = port->rank};
  return ISTHMUS_OK;
}

int isthmus_input(const isthmus_model *model, int32_t entry, int32_t index, isthmus_info *out) {
  if (!model || !entry_exists(entry)) return ISTHMUS_BAD_CALL;
  return describe(PROGRAM->entries[entry].inputs, PROGRAM->entries[entry].input_count, index, out);
}

int isthmus_output(const isthmus_model *model, int32_t entry, int32_t index, isthmus_info *out) {
  if (!model || !entry_exists(entry)) return ISTHMUS_BAD_CALL;
  return describe(PROGRAM->entries[entry].outputs, PROGRAM->entries[entry].output_count, index, out);
}

int32_t isthmus_dim_count(const isthmus_model *model) { return model ? PROGRAM->dim_count : -1; }

int isthmus_dim(const isthmus_model *model, int32_t index, isthmus_dim_info *out) {
  if (!model || index < 0 || index >= PROGRAM->dim_count || !out) return ISTHMUS_BAD_CALL;
  const isthmus_dim_bounds *dim = &PROGRAM->dims[index];
  *out = (isthmus_dim_info){.name = dim->name, .low = dim->low, .high = dim->high};
  return ISTHMUS_OK;
}
