/* os_posix.c - the operating system, for Linux and other POSIX systems. */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* affinity, MADV_HUGEPAGE */
#endif

#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if defined(ISTHMUS_ANDROID)
/* Android's libc gives the address of errno under another name than the headers we compile with. */
int *__errno(void);
int *__errno_location(void);
int *__errno_location(void) { return __errno(); }
#endif

#if defined(__linux__)

/* Is a lower-numbered hyperthread of the same core also in the mask? Reads a list such as "0-1" or "0,64". */
static int has_earlier_sibling(int cpu, const cpu_set_t *mask) {
  char path[96];
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
  FILE *file = fopen(path, "re");
  if (!file) return 0;
  int first, last, found = 0;
  while (!found && fscanf(file, "%d", &first) == 1) {
    last = first;
    int separator = fgetc(file);
    if (separator == '-') {
      if (fscanf(file, "%d", &last) != 1) break;
      separator = fgetc(file);
    }
    for (int i = first; i <= last && i < cpu && !found; i++) found = i >= 0 && i < CPU_SETSIZE && CPU_ISSET(i, mask);
    if (separator != ',') break;
  }
  fclose(file);
  return found;
}

/* A container's share of processor time, in whole processors; 0 when there is no limit. */
static int32_t quota(void) {
  long long share, period;
  FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
  if (!file) return 0;
  int fields = fscanf(file, "%lld %lld", &share, &period); /* "max 100000" has no number first */
  fclose(file);
  if (fields != 2 || share <= 0 || period <= 0) return 0;
  long long whole = (share + period - 1) / period;
  return whole < 1 << 20 ? (int32_t)whole : 0;
}

int32_t isthmus_os_cores(int32_t cap) {
  cpu_set_t mask;
  int32_t cores = 0, limit = quota();
  if (limit > 0 && limit < cap) cap = limit;
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) { /* more processors than the mask has bits */
    cores = isthmus_os_processors();
    return cores < cap ? cores : cap;
  }
  for (int cpu = 0; cpu < CPU_SETSIZE && cores < cap; cpu++)
    if (CPU_ISSET(cpu, &mask) && !has_earlier_sibling(cpu, &mask)) cores++;
  return cores > 0 ? cores : 1;
}

int32_t isthmus_os_processors(void) {
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) return CPU_COUNT(&mask);
  long count = sysconf(_SC_NPROCESSORS_ONLN);
  return count > 0 ? (int32_t)count : 1;
}

#else

int32_t isthmus_os_processors(void) {
  long count = sysconf(_SC_NPROCESSORS_ONLN);
  return count > 0 ? (int32_t)count : 1;
}

int32_t isthmus_os_cores(int32_t cap) {
  int32_t cores = isthmus_os_processors();
  return cores < cap ? cores : cap;
}

#endif

uint64_t isthmus_os_nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void isthmus_os_yield(void) { sched_yield(); }

#if defined(__linux__)
int32_t isthmus_os_processor(void) { return sched_getcpu(); }

void isthmus_os_move_away(const int32_t *taken, int32_t count) {
  cpu_set_t allowed, free;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  free = allowed;
  for (int32_t i = 0; i < count; i++)
    if (taken[i] >= 0 && taken[i] < CPU_SETSIZE) CPU_CLR(taken[i], &free);
  if (CPU_COUNT(&free) == 0) return;
  /* The first call moves, since the caller may not stay where it is; the second takes nothing back. */
  if (sched_setaffinity(0, sizeof free, &free) == 0) sched_setaffinity(0, sizeof allowed, &allowed);
}
#else
int32_t isthmus_os_processor(void) { return -1; }

void isthmus_os_move_away(const int32_t *taken, int32_t count) { (void)taken, (void)count; }
#endif

const uint8_t *isthmus_os_map_file(const char *path, int64_t bytes, char *problem, size_t problem_size) {
  struct stat status;
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0 || fstat(file, &status) != 0) {
    snprintf(problem, problem_size, "cannot read the weights '%s': %s", path, strerror(errno));
    if (file >= 0) close(file);
    return NULL;
  }
  void *data = MAP_FAILED;
  if (!S_ISREG(status.st_mode)) {
    snprintf(problem, problem_size, "the weights '%s' are not a regular file", path);
  } else if (status.st_size != bytes) {
    snprintf(problem, problem_size, "the weights '%s' have %lld bytes, expected %lld", path,
             (long long)status.st_size, (long long)bytes);
  } else {
    data = mmap(NULL, (size_t)bytes, PROT_READ, MAP_SHARED, file, 0);
    if (data == MAP_FAILED) snprintf(problem, problem_size, "cannot map the weights '%s': %s", path, strerror(errno));
  }
  close(file);
  return data == MAP_FAILED ? NULL : data;
}

void isthmus_os_unmap_file(const uint8_t *data, int64_t bytes) {
  if (data) munmap((void *)(uintptr_t)data, (size_t)bytes);
}

enum { HUGE = 2 << 20 };

/* The mapping is one huge page longer than asked for, so that it can begin at a huge page. */
static size_t mapped_size(int64_t bytes) {
  size_t whole = ((size_t)bytes + 4095) & ~(size_t)4095;
  return bytes < 2 * HUGE ? whole : ((size_t)bytes + HUGE - 1) & ~(size_t)(HUGE - 1);
}

uint8_t *isthmus_os_pages(int64_t bytes) {
  if (bytes > INT64_MAX / 2 || (uint64_t)bytes > SIZE_MAX / 2) return NULL;
  const size_t size = mapped_size(bytes), spare = bytes < 2 * HUGE ? 0 : HUGE;
  uint8_t *data = mmap(NULL, size + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return NULL;
  if (!spare) return data;
  const size_t head = (size_t)(-(uintptr_t)data & (HUGE - 1)), tail = spare - head;
  if (head) munmap(data, head);
  data += head;
  if (tail) munmap(data + size, tail);
#if defined(MADV_HUGEPAGE)
  madvise(data, size, MADV_HUGEPAGE); /* advice: it may be refused */
#endif
  return data;
}

void isthmus_os_release_pages(uint8_t *data, int64_t bytes) {
  if (data) munmap(data, mapped_size(bytes));
}

int isthmus_os_start(isthmus_os_thread *thread, isthmus_os_body body, void *argument) {
  sigset_t all, before;
  sigfillset(&all);
  /* Signals belong to the application's own threads; a new thread inherits the mask. */
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int status = pthread_create(thread, NULL, body, argument);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return status;
}

void isthmus_os_join(isthmus_os_thread thread) { pthread_join(thread, NULL); }

int isthmus_os_bed_make(isthmus_os_bed *bed) {
  if (pthread_mutex_init(&bed->mutex, NULL) != 0) return 1;
  if (pthread_cond_init(&bed->changed, NULL) == 0) return 0;
  pthread_mutex_destroy(&bed->mutex);
  return 1;
}

void isthmus_os_bed_free(isthmus_os_bed *bed) {
  pthread_cond_destroy(&bed->changed);
  pthread_mutex_destroy(&bed->mutex);
}

void isthmus_os_lock(isthmus_os_bed *bed) { pthread_mutex_lock(&bed->mutex); }
void isthmus_os_unlock(isthmus_os_bed *bed) { pthread_mutex_unlock(&bed->mutex); }
void isthmus_os_sleep(isthmus_os_bed *bed) { pthread_cond_wait(&bed->changed, &bed->mutex); }
void isthmus_os_wake_all(isthmus_os_bed *bed) { pthread_cond_broadcast(&bed->changed); }
