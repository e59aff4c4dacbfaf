/* library.c - the few functions of a C library that the runtime uses, where there is none: no heap, no locale. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What model.c sets aside: enough for one session at the upper bounds of its dims. */
extern unsigned char isthmus_memory[];
extern const size_t isthmus_memory_bytes;

#if defined(__GNUC__)
#define WEAK __attribute__((weak)) /* a C library's own, where there is one after all */
#else
#define WEAK
#endif
#if defined(__GNUC__) && !defined(__clang__)
#define PLAIN __attribute__((optimize("no-tree-loop-distribute-patterns"))) /* no call of memcpy inside of memcpy */
#else
#define PLAIN
#endif

/* ---- memory */

static size_t taken;  /* bytes of the array */
static int32_t alive; /* pieces that were not given back */

void *aligned_alloc(size_t alignment, size_t size) {
  const uintptr_t base = (uintptr_t)isthmus_memory;
  const size_t start = (size_t)(((base + taken + alignment - 1) & ~(uintptr_t)(alignment - 1)) - base);
  if (start > isthmus_memory_bytes || size > isthmus_memory_bytes - start) return NULL;
  taken = start + size;
  alive++;
  return isthmus_memory + start;
}

void *calloc(size_t count, size_t size) {
  if (size && count > SIZE_MAX / size) return NULL;
  void *data = aligned_alloc(sizeof(int64_t), count * size);
  return data ? memset(data, 0, count * size) : NULL;
}

/* The array is whole again when the last piece is back. */
void free(void *data) {
  if (data && --alive == 0) taken = 0;
}

WEAK PLAIN void *memcpy(void *restrict to, const void *restrict from, size_t size) {
  for (size_t i = 0; i < size; i++) ((unsigned char *)to)[i] = ((const unsigned char *)from)[i];
  return to;
}

WEAK PLAIN void *memmove(void *to, const void *from, size_t size) {
  unsigned char *a = to;
  const unsigned char *b = from;
  if ((uintptr_t)a <= (uintptr_t)b)
    for (size_t i = 0; i < size; i++) a[i] = b[i];
  else
    for (size_t i = size; i-- > 0;) a[i] = b[i];
  return to;
}

WEAK PLAIN void *memset(void *to, int byte, size_t size) {
  for (size_t i = 0; i < size; i++) ((unsigned char *)to)[i] = (unsigned char)byte;
  return to;
}

/* ---- text */

WEAK PLAIN size_t strlen(const char *text) {
  size_t length = 0;
  while (text[length]) length++;
  return length;
}

WEAK int strcmp(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return (unsigned char)*a - (unsigned char)*b;
}

/* How many characters of `text` in a row are, or are not, in `set`. */
static size_t span(const char *text, const char *set, int wanted) {
  size_t length = 0;
  for (; text[length]; length++) {
    const char *found = set;
    while (*found && *found != text[length]) found++;
    if ((*found != 0) != wanted) break;
  }
  return length;
}

WEAK size_t strspn(const char *text, const char *set) { return span(text, set, 1); }
WEAK size_t strcspn(const char *text, const char *set) { return span(text, set, 0); }

/* Where text goes: what does not fit is counted only. */
typedef struct sink {
  char *to;
  size_t size, length;
} sink;

static void put(sink *out, char character) {
  if (out->length + 1 < out->size) out->to[out->length] = character;
  out->length++;
}

static void put_number(sink *out, long long number) {
  char digits[20];
  int count = 0;
  unsigned long long rest = number < 0 ? -(unsigned long long)number : (unsigned long long)number;
  do digits[count++] = (char)('0' + rest % 10);
  while (rest /= 10);
  if (number < 0) put(out, '-');
  while (count > 0) put(out, digits[--count]);
}

int vsnprintf(char *to, size_t size, const char *format, va_list arguments) {
  sink out = {to, size, 0};
  for (; *format; format++) {
    if (*format != '%') {
      put(&out, *format);
      continue;
    }
    int longs = 0, most = -1;
    format++;
    if (format[0] == '.' && format[1] == '*') most = va_arg(arguments, int), format += 2;
    for (; *format == 'l'; format++) longs++;
    if (*format == 's') {
      const char *text = va_arg(arguments, const char *);
      for (int i = 0; (most < 0 || i < most) && text[i]; i++) put(&out, text[i]);
    } else {
      put_number(&out, longs > 1 ? va_arg(arguments, long long) : longs ? va_arg(arguments, long) : va_arg(arguments, int));
    }
  }
  if (size) to[out.length < size ? out.length : size - 1] = 0;
  return (int)out.length;
}

int snprintf(char *to, size_t size, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int length = vsnprintf(to, size, format, arguments);
  va_end(arguments);
  return length;
}
