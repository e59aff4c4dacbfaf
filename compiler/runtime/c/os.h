/* os.h - all that the runtime asks of an operating system. os_posix.c answers, or os_single.c (with
 * -DISTHMUS_SINGLE) where there are neither threads nor files; another system gets a file of its own. */
#ifndef ISTHMUS_OS_H
#define ISTHMUS_OS_H

#include <stddef.h>
#include <stdint.h>

/* A thread, what it runs, and somewhere to sleep until told to look again. */
#if defined(ISTHMUS_SINGLE)
#define ISTHMUS_OS_BODY void *
typedef int isthmus_os_thread;
typedef struct isthmus_os_bed {
  char unused;
} isthmus_os_bed;
#elif defined(_WIN32)
#include <windows.h>

#define ISTHMUS_OS_BODY DWORD WINAPI
typedef HANDLE isthmus_os_thread;
typedef struct isthmus_os_bed {
  SRWLOCK lock;
  CONDITION_VARIABLE changed;
} isthmus_os_bed;
#else
#include <pthread.h>

#define ISTHMUS_OS_BODY void *
typedef pthread_t isthmus_os_thread;
typedef struct isthmus_os_bed {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
} isthmus_os_bed;
#endif
typedef ISTHMUS_OS_BODY isthmus_os_body(void *);

/* Physical cores this process may use, by affinity and by its control group's quota; at least 1, at most `cap`. */
int32_t isthmus_os_cores(int32_t cap);

/* Logical processors this process may use; at least 1. */
int32_t isthmus_os_processors(void);

uint64_t isthmus_os_nanoseconds(void); /* monotonic */
void isthmus_os_yield(void);           /* lets another thread have this processor */

/* The processor the caller is running on; -1 if that cannot be known. */
int32_t isthmus_os_processor(void);
/* Moves the caller to a processor that is not among `taken` (if it may use another), and leaves it free to be
 * moved again. */
void isthmus_os_move_away(const int32_t *taken, int32_t count);

/* Maps a regular file of exactly `bytes` (> 0) bytes read-only. NULL on failure; then the text says why. */
const uint8_t *isthmus_os_map_file(const char *path, int64_t bytes, char *problem, size_t problem_size);
void isthmus_os_unmap_file(const uint8_t *data, int64_t bytes);

/* Zeroed pages (bytes > 0), on huge pages where that pays. NULL when there are none. */
uint8_t *isthmus_os_pages(int64_t bytes);
void isthmus_os_release_pages(uint8_t *data, int64_t bytes);

/* Starts a thread that receives no signals. 0 on success. */
int isthmus_os_start(isthmus_os_thread *thread, isthmus_os_body body, void *argument);
void isthmus_os_join(isthmus_os_thread thread);

int isthmus_os_bed_make(isthmus_os_bed *bed); /* 0 on success */
void isthmus_os_bed_free(isthmus_os_bed *bed);
void isthmus_os_lock(isthmus_os_bed *bed);
void isthmus_os_unlock(isthmus_os_bed *bed);
void isthmus_os_sleep(isthmus_os_bed *bed); /* locked before and after, not in between; may return for no reason */
void isthmus_os_wake_all(isthmus_os_bed *bed);

/* One spin of a busy-waiting loop. */
static inline void isthmus_os_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ volatile("yield");
#endif
}

#endif
