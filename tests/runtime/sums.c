/* The sums of standard input, of as many bytes as the largest test has at most, on one thread: for a machine on
 * which neither Python runs nor a C library is at hand. What it writes are the pairs as this machine stores them. */
#include "sums.h"

enum { EXIT = 1, READ = 3, WRITE = 4 }; /* asm/unistd.h of s390x */

static uint8_t bytes[(3 << 20) + 5];
static uint64_t pairs[2 * 4];

static long call(long number, long file, long place, long size) {
  register long r1 __asm__("r1") = number, r2 __asm__("r2") = file, r3 __asm__("r3") = place, r4 __asm__("r4") = size;
  __asm__ volatile("svc 0" : "+r"(r2) : "r"(r1), "r"(r3), "r"(r4) : "memory", "cc");
  return r2;
}

void _start(void) {
  int64_t size = 0;
  for (long got; (got = call(READ, 0, (long)(bytes + size), (long)sizeof bytes - size)) > 0;) size += got;
  void *const outputs[] = {pairs};
  const isthmus_frame frame = {.weights = bytes, .outputs = outputs, .dims = &size, .threads = 1};
  isthmus_sum_chunks(&frame, 0);
  const long wanted = 16 * isthmus_sum_count(size);
  call(EXIT, call(WRITE, 1, (long)pairs, wanted) != wanted, 0, 0);
}
