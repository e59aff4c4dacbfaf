/* string.h - what the runtime uses of it, where there is no C library. */
#ifndef ISTHMUS_STRING_H
#define ISTHMUS_STRING_H

#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int byte, size_t size);
size_t strlen(const char *text);
int strcmp(const char *a, const char *b);
size_t strspn(const char *text, const char *set);
size_t strcspn(const char *text, const char *set);

#endif
