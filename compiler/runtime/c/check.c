/* check.c - do the caller's tensors fit the entry point? Every problem is reported, not only the first. */
#include "check.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { TEXT = 64 }; /* room for the text of one dim; a longer one is cut */

static const struct {
  const char *name;
  int32_t bytes;
} DTYPES[] = {
    [ISTHMUS_F32] = {"float32", 4}, [ISTHMUS_F64] = {"float64", 8},   [ISTHMUS_F16] = {"float16", 2},
    [ISTHMUS_BF16] = {"bfloat16", 2}, [ISTHMUS_I8] = {"int8", 1},     [ISTHMUS_I16] = {"int16", 2},
    [ISTHMUS_I32] = {"int32", 4},   [ISTHMUS_I64] = {"int64", 8},     [ISTHMUS_U8] = {"uint8", 1},
    [ISTHMUS_U16] = {"uint16", 2},  [ISTHMUS_U32] = {"uint32", 4},    [ISTHMUS_U64] = {"uint64", 8},
    [ISTHMUS_BOOL] = {"bool", 1},
};

static int known_dtype(int32_t dtype) { return dtype >= ISTHMUS_F32 && dtype <= ISTHMUS_BOOL; }

static const char *dtype_name(int32_t dtype) { return known_dtype(dtype) ? DTYPES[dtype].name : "no known dtype"; }

int64_t isthmus_bytes(const isthmus_tensor *tensor) {
  if (!tensor || !known_dtype(tensor->dtype) || tensor->rank < 0 || tensor->rank > ISTHMUS_MAX_RANK) return -1;
  int64_t bytes = DTYPES[tensor->dtype].bytes;
  int empty = 0;
  for (int32_t i = 0; i < tensor->rank; i++) {
    if (tensor->dims[i] < 0) return -1;
    /* An empty tensor has no bytes however large its other dims are, so it must not count as an overflow. */
    if (tensor->dims[i] == 0) empty = 1;
    else bytes = isthmus_mul(bytes, tensor->dims[i]);
  }
  if (empty) return 0;
  return bytes == INT64_MAX ? -1 : bytes;
}

isthmus_report isthmus_report_new(char *text, size_t size) {
  if (text && size > 0) text[0] = 0;
  return (isthmus_report){.text = text, .size = text ? size : 0};
}

void isthmus_report_add(isthmus_report *report, const char *format, ...) {
  const char *separator = report->problems++ ? "\n" : "";
  if (report->used + 1 >= report->size) return;
  char *end = report->text + report->used;
  size_t room = report->size - report->used;
  int written = snprintf(end, room, "%s", separator);
  if (written >= 0 && (size_t)written < room) {
    va_list arguments;
    va_start(arguments, format);
    int more = vsnprintf(end + written, room - (size_t)written, format, arguments);
    va_end(arguments);
    if (more > 0) written += more;
  }
  report->used += (size_t)written < room ? (size_t)written : room - 1;
}

/* The text of dim `index` of "batch, 2*seq + 1, 384". */
static const char *dim_text(const isthmus_port *port, int32_t index, char text[TEXT]) {
  const char *begin = port->dims_text ? port->dims_text : "";
  for (int32_t i = 0; i < index && *begin; i++) {
    begin += strcspn(begin, ",");
    begin += strspn(begin, ", ");
  }
  snprintf(text, TEXT, "%.*s", (int)strcspn(begin, ","), begin);
  return text;
}

/* The first input that gave the named dim its size. */
static const char *who_bound(const isthmus_entry *entry, int32_t symbol) {
  for (int32_t i = 0; i < entry->input_count; i++)
    for (int32_t axis = 0; axis < entry->inputs[i].rank; axis++)
      if (entry->inputs[i].dim_symbol[axis] == symbol) return entry->inputs[i].name;
  return "?";
}

static void bind_named(const isthmus_program *program, const isthmus_entry *entry, const isthmus_port *port,
                       int32_t axis, int64_t whole, int64_t *dims, isthmus_report *report) {
  const int32_t symbol = port->dim_symbol[axis];
  const isthmus_dim_bounds *dim = &program->dims[symbol];
  const int64_t factor = port->dim_fixed[axis] > 1 ? port->dim_fixed[axis] : 1;
  const int64_t size = whole / factor;
  char text[TEXT];
  dim_text(port, axis, text);
  if (whole % factor) {
    isthmus_report_add(report, "input '%s': dim %d (%s) is %" PRId64 ", expected a multiple of %" PRId64, port->name,
                       (int)axis, text, whole, factor);
    return;
  }
  if (dims[symbol] >= 0) {
    if (dims[symbol] == size) return;
    isthmus_report_add(report, "input '%s': dim %d (%s) is %" PRId64 ", but '%s' says %s = %" PRId64, port->name,
                       (int)axis, text, whole, who_bound(entry, symbol), dim->name, dims[symbol]);
    return;
  }
  dims[symbol] = size;
  if (size >= dim->low && size <= dim->high) return;
  if (dim->high == ISTHMUS_FREE)
    isthmus_report_add(report, "input '%s': dim %d (%s) is %" PRId64 ", expected at least %" PRId64, port->name,
                       (int)axis, text, whole, factor * dim->low);
  else
    isthmus_report_add(report, "input '%s': dim %d (%s) is %" PRId64 ", expected %" PRId64 " to %" PRId64,
                       port->name, (int)axis, text, whole, factor * dim->low, factor * dim->high);
}

static void bind_input(const isthmus_program *program, const isthmus_entry *entry, const isthmus_port *port,
                       const isthmus_tensor *input, int64_t *dims, isthmus_report *report) {
  if (input->dtype != port->dtype)
    isthmus_report_add(report, "input '%s': dtype is %s, expected %s", port->name, dtype_name(input->dtype),
                       dtype_name(port->dtype));
  if (input->rank != port->rank) {
    isthmus_report_add(report, "input '%s': rank is %d, expected %d: [%s]", port->name, (int)input->rank,
                       (int)port->rank, port->dims_text);
    return;
  }
  for (int32_t axis = 0; axis < port->rank; axis++) {
    const int64_t size = input->dims[axis];
    if (size < 0)
      isthmus_report_add(report, "input '%s': dim %d is %" PRId64 ", which is no size", port->name, (int)axis, size);
    else if (port->dim_symbol[axis] >= 0)
      bind_named(program, entry, port, axis, size, dims, report);
    else if (port->dim_symbol[axis] == ISTHMUS_FIXED && size != port->dim_fixed[axis])
      isthmus_report_add(report, "input '%s': dim %d is %" PRId64 ", expected %" PRId64, port->name, (int)axis, size,
                         port->dim_fixed[axis]);
  }
}

/* Dims that are expressions of named ones, once all names have sizes. */
static void check_derived(const isthmus_entry *entry, const isthmus_tensor *inputs, const int64_t *dims,
                          isthmus_report *report) {
  for (int32_t i = 0; i < entry->input_count; i++) {
    const isthmus_port *port = &entry->inputs[i];
    int64_t shape[ISTHMUS_MAX_RANK] = {0};
    char text[TEXT];
    if (entry->input_shape) entry->input_shape(dims, i, shape);
    for (int32_t axis = 0; axis < port->rank; axis++) {
      if (port->dim_symbol[axis] != ISTHMUS_DERIVED || inputs[i].dims[axis] == shape[axis]) continue;
      isthmus_report_add(report, "input '%s': dim %d (%s) is %" PRId64 ", expected %" PRId64, port->name, (int)axis,
                         dim_text(port, axis, text), inputs[i].dims[axis], shape[axis]);
    }
  }
}

void isthmus_bind(const isthmus_program *program, const isthmus_entry *entry, const isthmus_tensor *inputs,
                  int64_t *dims, isthmus_report *report) {
  const int32_t before = report->problems;
  for (int32_t i = 0; i < program->dim_count; i++) dims[i] = -1;
  for (int32_t i = 0; i < entry->input_count; i++)
    bind_input(program, entry, &entry->inputs[i], &inputs[i], dims, report);
  /* Dims that only other entry points use. */
  for (int32_t i = 0; i < program->dim_count; i++)
    if (dims[i] < 0) dims[i] = program->dims[i].low;
  if (report->problems > before) return;
  check_derived(entry, inputs, dims, report);
  for (int32_t i = 0; i < entry->input_count; i++)
    if (isthmus_bytes(&inputs[i]) < 0)
      isthmus_report_add(report, "input '%s': its dims are more than memory can hold", entry->inputs[i].name);
}

void isthmus_dims_used(const isthmus_entry *entry, int32_t dim_count, uint8_t *used) {
  memset(used, 0, (size_t)dim_count);
  for (int32_t i = 0; i < entry->input_count; i++)
    for (int32_t axis = 0; axis < entry->inputs[i].rank; axis++)
      if (entry->inputs[i].dim_symbol[axis] >= 0) used[entry->inputs[i].dim_symbol[axis]] = 1;
}

void isthmus_output_shape(const isthmus_entry *entry, int32_t index, const int64_t *dims, isthmus_tensor *output,
                          isthmus_report *report) {
  const isthmus_port *port = &entry->outputs[index];
  output->dtype = port->dtype;
  output->rank = port->rank;
  memset(output->dims, 0, sizeof output->dims);
  entry->output_shape(dims, index, output->dims);
  if (isthmus_bytes(output) < 0)
    isthmus_report_add(report, "output '%s': for these inputs its dims are more than memory can hold", port->name);
}

static void check_output(const isthmus_entry *entry, int32_t index, const int64_t *dims, const isthmus_tensor *given,
                         isthmus_report *report) {
  const isthmus_port *port = &entry->outputs[index];
  isthmus_tensor wanted;
  isthmus_output_shape(entry, index, dims, &wanted, report);
  if (given->dtype != wanted.dtype)
    isthmus_report_add(report, "output '%s': dtype is %s, expected %s", port->name, dtype_name(given->dtype),
                       dtype_name(wanted.dtype));
  if (given->rank != wanted.rank) {
    isthmus_report_add(report, "output '%s': rank is %d, expected %d: [%s]", port->name, (int)given->rank,
                       (int)wanted.rank, port->dims_text);
    return;
  }
  for (int32_t axis = 0; axis < wanted.rank; axis++)
    if (given->dims[axis] != wanted.dims[axis])
      isthmus_report_add(report, "output '%s': dim %d is %" PRId64 ", expected %" PRId64, port->name, (int)axis,
                         given->dims[axis], wanted.dims[axis]);
  if (!given->data && isthmus_bytes(&wanted) > 0) isthmus_report_add(report, "output '%s': data is NULL", port->name);
}

void isthmus_check_data(const isthmus_entry *entry, const int64_t *dims, const isthmus_tensor *inputs,
                        const isthmus_tensor *outputs, isthmus_report *report) {
  for (int32_t i = 0; i < entry->input_count; i++)
    if (!inputs[i].data && isthmus_bytes(&inputs[i]) > 0)
      isthmus_report_add(report, "input '%s': data is NULL", entry->inputs[i].name);
  for (int32_t i = 0; i < entry->output_count; i++) check_output(entry, i, dims, &outputs[i], report);
}
