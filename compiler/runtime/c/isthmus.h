/* isthmus.h - the C interface of a compiled model.
 *
 * One shared library holds one model. Typical use:
 *
 *   isthmus_model *model;  isthmus_session *session;  char error[1024];
 *   isthmus_open("bundle/weights.bin", &model, error, sizeof error);
 *   isthmus_session_new(model, 0, &session, error, sizeof error);
 *   isthmus_shapes(session, 0, inputs, outputs, error, sizeof error);   // fills rank, dims, dtype of outputs
 *   outputs[0].data = malloc(isthmus_bytes(&outputs[0]));
 *   isthmus_run(session, 0, inputs, outputs, error, sizeof error);
 *
 * Every function that can fail returns 0 on success or one of the statuses below, and then writes a
 * zero-terminated text into `error` (may be NULL) that lists ALL problems, one per line.
 *
 * Threads. A model is immutable and may be shared by any number of sessions on any threads. A session
 * runs one request at a time: a second call while one is running fails with ISTHMUS_BUSY. Different
 * sessions run at the same time without affecting each other. Worker threads do not survive fork():
 * create sessions in the process that uses them.
 */
#ifndef ISTHMUS_H
#define ISTHMUS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(ISTHMUS_EXPORT)
#define ISTHMUS_API ISTHMUS_EXPORT
#elif defined(__GNUC__)
#define ISTHMUS_API __attribute__((visibility("default")))
#else
#define ISTHMUS_API
#endif

#define ISTHMUS_MAX_RANK 8

enum isthmus_status {
  ISTHMUS_OK = 0,
  ISTHMUS_BAD_INPUT = 1,  /* the caller's tensors do not fit the model; the text names each */
  ISTHMUS_BAD_MODEL = 2,  /* the weights are missing, short or foreign */
  ISTHMUS_BAD_MACHINE = 3, /* this processor lacks something the code needs */
  ISTHMUS_NO_MEMORY = 4,
  ISTHMUS_BUSY = 5,       /* the session is already running on another thread */
  ISTHMUS_BAD_CALL = 6    /* no such entry, or a NULL where an object is needed */
};

enum isthmus_dtype {
  ISTHMUS_F32 = 1,
  ISTHMUS_F64 = 2,
  ISTHMUS_F16 = 3,
  ISTHMUS_BF16 = 4,
  ISTHMUS_I8 = 5,
  ISTHMUS_I16 = 6,
  ISTHMUS_I32 = 7,
  ISTHMUS_I64 = 8,
  ISTHMUS_U8 = 9,
  ISTHMUS_U16 = 10,
  ISTHMUS_U32 = 11,
  ISTHMUS_U64 = 12,
  ISTHMUS_BOOL = 13 /* one byte, 0 or 1 */
};

/* A dense row-major tensor that belongs to the caller. Data needs only the alignment of its elements. */
typedef struct isthmus_tensor {
  void *data;
  int32_t dtype;
  int32_t rank;
  int64_t dims[ISTHMUS_MAX_RANK];
} isthmus_tensor;

/* What an input or output is. `dims` is text such as "batch, seq, 384". */
typedef struct isthmus_info {
  const char *name;
  const char *dims;
  int32_t dtype;
  int32_t rank;
} isthmus_info;

/* A named dim and the sizes it may take; high is INT64_MAX when there is no upper bound. */
typedef struct isthmus_dim_info {
  const char *name;
  int64_t low, high;
} isthmus_dim_info;

typedef struct isthmus_model isthmus_model;
typedef struct isthmus_session isthmus_session;

/* Checks the processor, then maps the weights read-only. `weights_path` may be NULL when the model has none. */
ISTHMUS_API int isthmus_open(const char *weights_path, isthmus_model **out, char *error, size_t error_size);

/* The same with the code for the chip `target`, where the library carries code for several levels of a family;
 * NULL: the best that this machine can run, as isthmus_open does. isthmus_target_name says which it was. */
ISTHMUS_API int isthmus_open_as(const char *target, const char *weights_path, isthmus_model **out, char *error,
                                size_t error_size);

/* The same as isthmus_open for weights that are in memory already (in flash, say, or fetched by a page): `bytes` of them at
 * `weights`, 64-byte aligned, which must stay there until the model is released. */
ISTHMUS_API int isthmus_open_memory(const void *weights, int64_t bytes, isthmus_model **out, char *error,
                                    size_t error_size);

/* Lets go of the model. Its memory is released when its last session is freed. NULL is allowed. */
ISTHMUS_API void isthmus_close(isthmus_model *model);

/* Creates a session with its own working memory and threads (the calling thread counts as one).
 * threads <= 0: one for each processor this process may use, at most 16; 1: none is started. When all dims are bounded,
 * all working memory is allocated here and isthmus_run never allocates. */
ISTHMUS_API int isthmus_session_new(isthmus_model *model, int32_t threads, isthmus_session **out, char *error,
                                    size_t error_size);

/* Joins the session's threads and releases its memory. NULL is allowed. Not while it is running. */
ISTHMUS_API void isthmus_session_free(isthmus_session *session);

/* How many threads the session has; a request with little to do is run by the calling thread alone. */
ISTHMUS_API int32_t isthmus_threads(const isthmus_session *session);

/* For whoever compares them with the bundle's manifest (docs/bundle-format.md, "Digests"): `pairs` receives two sums for each
 * ISTHMUS_SUM_CHUNK bytes of the weights as they are in memory, the last chunk counting as one: `count` pairs in all,
 * computed by all threads of the session. */
#define ISTHMUS_SUM_CHUNK (1 << 20)
ISTHMUS_API int isthmus_weight_sums(isthmus_session *session, uint64_t *pairs, int64_t count, char *error,
                                    size_t error_size);

/* Checks dtype, rank and dims of `inputs` (data is not read) and fills dtype, rank and dims of `outputs`. */
ISTHMUS_API int isthmus_shapes(isthmus_session *session, int32_t entry, const isthmus_tensor *inputs,
                               isthmus_tensor *outputs, char *error, size_t error_size);

/* Runs the entry point. `outputs` must have the dtype, rank and dims that isthmus_shapes gives, and data that
 * is large enough and overlaps no input. Nothing is written when the return value is not 0. */
ISTHMUS_API int isthmus_run(isthmus_session *session, int32_t entry, const isthmus_tensor *inputs,
                            const isthmus_tensor *outputs, char *error, size_t error_size);

/* Introspection. Texts live as long as the library is loaded. An index out of range gives -1, NULL or
 * ISTHMUS_BAD_CALL. */
ISTHMUS_API const char *isthmus_model_name(const isthmus_model *model);
ISTHMUS_API const char *isthmus_target_name(const isthmus_model *model);
ISTHMUS_API int32_t isthmus_entry_count(const isthmus_model *model);
ISTHMUS_API const char *isthmus_entry_name(const isthmus_model *model, int32_t entry);
ISTHMUS_API int32_t isthmus_input_count(const isthmus_model *model, int32_t entry);
ISTHMUS_API int32_t isthmus_output_count(const isthmus_model *model, int32_t entry);
ISTHMUS_API int isthmus_input(const isthmus_model *model, int32_t entry, int32_t index, isthmus_info *out);
ISTHMUS_API int isthmus_output(const isthmus_model *model, int32_t entry, int32_t index, isthmus_info *out);
ISTHMUS_API int32_t isthmus_dim_count(const isthmus_model *model);
ISTHMUS_API int isthmus_dim(const isthmus_model *model, int32_t index, isthmus_dim_info *out);

/* Bytes of the tensor's data, or -1 if dtype, rank or dims make no sense. */
ISTHMUS_API int64_t isthmus_bytes(const isthmus_tensor *tensor);

#ifdef __cplusplus
}
#endif
#endif
