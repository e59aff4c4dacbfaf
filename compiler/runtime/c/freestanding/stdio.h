/* stdio.h - what the runtime uses of it, where there is no C library. */
#ifndef ISTHMUS_STDIO_H
#define ISTHMUS_STDIO_H

#include <stdarg.h>
#include <stddef.h>

#define snprintf isthmus_snprintf
#define vsnprintf isthmus_vsnprintf

/* Of the conversions: %s, %.*s, and %d with l or ll. */
int snprintf(char *to, size_t size, const char *format, ...);
int vsnprintf(char *to, size_t size, const char *format, va_list arguments);

/* Not in the library: programs that run bundles bring them. */
typedef struct isthmus_file FILE;
extern FILE *const isthmus_stderr;
#define stderr isthmus_stderr
FILE *fopen(const char *path, const char *mode);
size_t fread(void *to, size_t size, size_t count, FILE *file);
size_t fwrite(const void *from, size_t size, size_t count, FILE *file);
int fclose(FILE *file);
int fprintf(FILE *file, const char *format, ...);

#endif
