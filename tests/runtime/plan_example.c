/* A hand-written model.c. y = 2*x + 1 over [batch, seq], in two stages with a barrier and transposed work in
 * between, so that a broken barrier or a wrong arena gives wrong numbers. z = sum of y over seq, plus weights[0].
 *
 * `check` is a second entry: its input `doubled` has the derived dim 2*seq.
 * Macros choose variants: LOW_SEQ, HIGH_SEQ (bounds), STAGES (rounds through the barrier), REFUSE (machine check),
 * WEIGHTS_BYTES. */
#include "isthmus_plan.h"

#ifndef WEIGHTS_BYTES
#define WEIGHTS_BYTES 64
#endif
#ifndef LOW_SEQ
#define LOW_SEQ 1
#endif
#ifndef HIGH_SEQ
#define HIGH_SEQ ISTHMUS_FREE
#endif
#ifndef HIGH_BATCH
#define HIGH_BATCH ISTHMUS_FREE
#endif
#ifndef STAGES
#define STAGES 2
#endif
#ifndef SCALE
#define SCALE 2.0f
#endif

enum { BATCH, SEQ, DIMS };

static const isthmus_dim_bounds DIM[DIMS] = {{"batch", 1, HIGH_BATCH}, {"seq", LOW_SEQ, HIGH_SEQ}};

static const isthmus_port INPUTS[] = {
    {.name = "x", .dtype = ISTHMUS_F32, .rank = 2, .dims_text = "batch, seq", .dim_symbol = {BATCH, SEQ}},
    {.name = "mask", .dtype = ISTHMUS_I64, .rank = 2, .dims_text = "batch, seq", .dim_symbol = {BATCH, SEQ}},
    {.name = "bias", .dtype = ISTHMUS_F32, .rank = 1, .dims_text = "3", .dim_symbol = {ISTHMUS_FIXED}, .dim_fixed = {3}},
};
static const isthmus_port OUTPUTS[] = {
    {.name = "y", .dtype = ISTHMUS_F32, .rank = 2, .dims_text = "batch, seq", .dim_symbol = {BATCH, SEQ}},
    {.name = "z", .dtype = ISTHMUS_F32, .rank = 1, .dims_text = "batch", .dim_symbol = {BATCH}},
};
static const isthmus_port CHECK_INPUTS[] = {
    {.name = "x", .dtype = ISTHMUS_F32, .rank = 1, .dims_text = "seq", .dim_symbol = {SEQ}},
    {.name = "doubled", .dtype = ISTHMUS_F32, .rank = 1, .dims_text = "2*seq", .dim_symbol = {ISTHMUS_DERIVED}},
};
static const isthmus_port CHECK_OUTPUTS[] = {
    {.name = "sum", .dtype = ISTHMUS_F32, .rank = 0, .dims_text = ""},
};

static void output_shape(const int64_t *dims, int32_t output, int64_t *shape) {
  shape[0] = dims[BATCH];
  if (output == 0) shape[1] = dims[SEQ];
}

/* Two buffers of batch*seq floats: stages alternate between them. */
static int64_t arrange(const int64_t *dims, int32_t threads, int64_t *offsets) {
  (void)threads;
  int64_t bytes = isthmus_round_up(isthmus_mul(4, isthmus_mul(dims[BATCH], dims[SEQ])));
  offsets[0] = 0;
  offsets[1] = bytes;
  return isthmus_add(bytes, bytes);
}

/* Stage s moves every element one place to the left (cyclically) and the last stage moves it home again, so each
 * thread reads what another one wrote. */
static void run(const isthmus_frame *frame, int32_t thread) {
  const float *x = frame->inputs[0];
  const float *bias = frame->inputs[2], *weights = (const float *)frame->weights;
  float *y = frame->outputs[0], *z = frame->outputs[1];
  const int64_t batch = frame->dims[BATCH], seq = frame->dims[SEQ], count = batch * seq;
  const int64_t begin = isthmus_split(count, frame->threads, thread);
  const int64_t end = isthmus_split(count, frame->threads, thread + 1);
  for (int stage = 0; stage < STAGES; stage++) {
    float *to = (float *)(frame->arena + frame->offsets[stage & 1]);
    const float *from = stage ? (const float *)(frame->arena + frame->offsets[(stage & 1) ^ 1]) : x;
    for (int64_t i = begin; i < end; i++) {
      const float value = from[(i + 1) % count];
      to[i] = stage ? value : SCALE * value;
    }
    isthmus_barrier_wait(frame);
  }
  const float *last = (const float *)(frame->arena + frame->offsets[(STAGES - 1) & 1]);
  for (int64_t i = begin; i < end; i++) y[(i + STAGES) % count] = last[i] + bias[0];
  isthmus_barrier_wait(frame);
  const int64_t first_row = isthmus_split(batch, frame->threads, thread);
  const int64_t last_row = isthmus_split(batch, frame->threads, thread + 1);
  for (int64_t row = first_row; row < last_row; row++) {
    float sum = weights[0];
    for (int64_t i = 0; i < seq; i++) sum += y[row * seq + i];
    z[row] = sum;
  }
}

static void check_input_shape(const int64_t *dims, int32_t input, int64_t *shape) {
  shape[0] = input == 0 ? dims[SEQ] : isthmus_mul(2, dims[SEQ]);
}

static void check_output_shape(const int64_t *dims, int32_t output, int64_t *shape) {
  (void)dims, (void)output, (void)shape;
}

static int64_t check_arrange(const int64_t *dims, int32_t threads, int64_t *offsets) {
  (void)dims, (void)threads, (void)offsets;
  return 0;
}

static void check_run(const isthmus_frame *frame, int32_t thread) {
  if (thread != 0) return;
  const float *x = frame->inputs[0], *doubled = frame->inputs[1];
  float sum = 0;
  for (int64_t i = 0; i < frame->dims[SEQ]; i++) sum += x[i] + doubled[i] + doubled[i + frame->dims[SEQ]];
  *(float *)frame->outputs[0] = sum;
}

static const isthmus_entry ENTRIES[] = {
    {.name = "main", .input_count = 3, .output_count = 2, .inputs = INPUTS, .outputs = OUTPUTS,
     .output_shape = output_shape, .offset_count = 2, .arrange = arrange, .run = run},
    {.name = "check", .input_count = 2, .output_count = 1, .inputs = CHECK_INPUTS, .outputs = CHECK_OUTPUTS,
     .input_shape = check_input_shape, .output_shape = check_output_shape, .arrange = check_arrange,
     .run = check_run},
};

#ifdef REFUSE
static const char *machine_check(void) { return "this machine lacks imagination"; }
#else
static const char *machine_check(void) { return 0; }
#endif

static const isthmus_program PROGRAM = {
    .abi = ISTHMUS_PLAN_ABI, .model = "example", .target = "any", .machine_check = machine_check,
    .weights_bytes = WEIGHTS_BYTES, .dim_count = DIMS, .dims = DIM,
    .entry_count = sizeof ENTRIES / sizeof *ENTRIES, .entries = ENTRIES,
};

const isthmus_program *const isthmus_programs[] = {&PROGRAM, NULL};
