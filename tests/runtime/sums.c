/* The sums of a file as its bytes are mapped, on one thread: for a machine on which no Python runs. */
#include <stdio.h>
#include <stdlib.h>

#include "sums.h"

static uint8_t bytes[(3 << 20) + 5];
static uint64_t pairs[2 * 4];

int main(int count, char **words) {
  FILE *file = count > 1 ? fopen(words[1], "rb") : NULL;
  if (!file) return 1;
  const int64_t size = (int64_t)fread(bytes, 1, sizeof bytes, file);
  void *const outputs[] = {pairs};
  const isthmus_frame frame = {.weights = bytes, .outputs = outputs, .dims = &size, .threads = 1};
  isthmus_sum_chunks(&frame, 0);
  for (int64_t i = 0; i < 2 * isthmus_sum_count(size); i++) printf("%llu\n", (unsigned long long)pairs[i]);
  return fclose(file);
}
