/* os_single.c - one thread, no files, memory from malloc: pages in a browser, boards without a system.
 *
 * Nothing is asked of the C library but aligned_alloc, free and memset. Weights come by isthmus_open_memory.
 */
#include "os.h"

#include <stdlib.h>
#include <string.h>

enum { LINE = 64 }; /* what the arena is aligned to */

int32_t isthmus_os_cores(int32_t cap) { return (void)cap, 1; }
int32_t isthmus_os_processors(void) { return 1; }
int32_t isthmus_os_processor(void) { return -1; }
void isthmus_os_move_away(const int32_t *taken, int32_t count) { (void)taken, (void)count; }
uint64_t isthmus_os_nanoseconds(void) { return 0; }
void isthmus_os_yield(void) {}

const uint8_t *isthmus_os_map_file(const char *path, int64_t bytes, char *problem, size_t problem_size) {
  static const char text[] = "there are no files here: give the weights to isthmus_open_memory";
  (void)path, (void)bytes;
  for (size_t i = 0; i < problem_size; i++) problem[i] = i + 1 < problem_size && i < sizeof text ? text[i] : 0;
  return NULL;
}

void isthmus_os_unmap_file(const uint8_t *data, int64_t bytes) { (void)data, (void)bytes; }

uint8_t *isthmus_os_pages(int64_t bytes) {
  if ((uint64_t)bytes > SIZE_MAX / 2) return NULL;
  const size_t size = ((size_t)bytes + LINE - 1) & ~(size_t)(LINE - 1);
  uint8_t *data = aligned_alloc(LINE, size);
  if (data) memset(data, 0, size);
  return data;
}

void isthmus_os_release_pages(uint8_t *data, int64_t bytes) {
  (void)bytes;
  free(data);
}

int isthmus_os_start(isthmus_os_thread *thread, isthmus_os_body body, void *argument) {
  (void)thread, (void)body, (void)argument;
  return 1; /* there is no second thread */
}

void isthmus_os_join(isthmus_os_thread thread) { (void)thread; }

int isthmus_os_bed_make(isthmus_os_bed *bed) { return (void)bed, 0; }
void isthmus_os_bed_free(isthmus_os_bed *bed) { (void)bed; }
void isthmus_os_lock(isthmus_os_bed *bed) { (void)bed; }
void isthmus_os_unlock(isthmus_os_bed *bed) { (void)bed; }
void isthmus_os_sleep(isthmus_os_bed *bed) { (void)bed; }
void isthmus_os_wake_all(isthmus_os_bed *bed) { (void)bed; }
