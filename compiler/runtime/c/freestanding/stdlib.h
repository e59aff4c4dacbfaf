/* stdlib.h - what the runtime uses of it, where there is no C library: pieces of one static array. */
#ifndef ISTHMUS_STDLIB_H
#define ISTHMUS_STDLIB_H

#include <stddef.h>

/* Names of our own, so that a library that is there after all keeps its heap to itself. */
#define aligned_alloc isthmus_aligned_alloc
#define calloc isthmus_calloc
#define free isthmus_free

void *aligned_alloc(size_t alignment, size_t size);
void *calloc(size_t count, size_t size);
void free(void *data);

/* Not in the library: programs that run bundles bring them. */
void *malloc(size_t size);
int atoi(const char *text);

#endif
