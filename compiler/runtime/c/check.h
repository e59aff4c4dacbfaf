/* check.h - do the caller's tensors fit the entry point? */
#ifndef ISTHMUS_CHECK_H
#define ISTHMUS_CHECK_H

#include "isthmus_plan.h"

/* Problems found so far, as text: one per line, cut off where the caller's buffer ends. */
typedef struct isthmus_report {
  char *text;
  size_t size, used;
  int32_t problems;
} isthmus_report;

isthmus_report isthmus_report_new(char *text, size_t size);

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
void isthmus_report_add(isthmus_report *report, const char *format, ...);

/* Checks dtype, rank and dims of all inputs and binds the named dims (one per isthmus_program.dims). */
void isthmus_bind(const isthmus_program *program, const isthmus_entry *entry, const isthmus_tensor *inputs,
                  int64_t *dims, isthmus_report *report);

/* Which named dims the entry's inputs mention: used[i] is set to 0 or 1. */
void isthmus_dims_used(const isthmus_entry *entry, int32_t dim_count, uint8_t *used);

/* Fills dtype, rank and dims of output `index` for these dims. */
void isthmus_output_shape(const isthmus_entry *entry, int32_t index, const int64_t *dims, isthmus_tensor *output,
                          isthmus_report *report);

/* Checks that the tensors have data, and the outputs the dtype, rank and dims they must have. */
void isthmus_check_data(const isthmus_entry *entry, const int64_t *dims, const isthmus_tensor *inputs,
                        const isthmus_tensor *outputs, isthmus_report *report);

#endif
