/* inttypes.h - what the runtime uses of it, where there is no C library. */
#ifndef ISTHMUS_INTTYPES_H
#define ISTHMUS_INTTYPES_H

#include <stdint.h>

#if INT64_MAX == __LONG_MAX__
#define PRId64 "ld"
#else
#define PRId64 "lld"
#endif

#endif
