/* machine.h - what generated code asks of the machine before anything else runs. */
#ifndef ISTHMUS_MACHINE_H
#define ISTHMUS_MACHINE_H

#if defined(__linux__)
#include <sys/auxv.h>

/* Whether the kernel's auxiliary vector lacks any of `bits` in its entry `type` (AT_HWCAP is 16, AT_HWCAP2 26). */
static inline int isthmus_lacks(unsigned long type, unsigned long bits) { return (getauxval(type) & bits) != bits; }
#else
/* Systems that do not say what the processor has are trusted to be installed on one that has it. */
static inline int isthmus_lacks(unsigned long type, unsigned long bits) { return (void)type, (void)bits, 0; }
#endif

#endif
