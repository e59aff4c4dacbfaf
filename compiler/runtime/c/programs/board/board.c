/* board.c - what replay.c needs on a machine without a system: a start, a heap, and files by semihosting, which the
 * emulator (or a debugger) answers. For M-profile Arm: the vectors and the call are written for that.
 *
 * The linker script says where memory ends: isthmus_bss .. isthmus_bss_end, isthmus_heap .. isthmus_stack.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SYS_OPEN = 1, SYS_CLOSE = 2, SYS_WRITE0 = 4, SYS_WRITE = 5, SYS_READ = 6, SYS_EXIT_EXTENDED = 0x20 };
enum { READ_BINARY = 1, WRITE_BINARY = 5, APPLICATION_EXIT = 0x20026, STACK = 64 << 10, TEXT = 4096 };

int main(int argc, char **argv);

extern unsigned char isthmus_bss[], isthmus_bss_end[], isthmus_heap[], isthmus_stack[];

static int ask(int what, const void *block) {
  register int number __asm__("r0") = what;
  register const void *argument __asm__("r1") = block;
  __asm__ volatile("bkpt 0xab" : "+r"(number) : "r"(argument) : "memory");
  return number;
}

static _Noreturn void finish(int status) {
  const int block[2] = {APPLICATION_EXIT, status};
  ask(SYS_EXIT_EXTENDED, block);
  for (;;) {}
}

static void fault(void) {
  ask(SYS_WRITE0, "replay: the processor reports a fault\n");
  finish(2);
}

static void reset(void) {
  /* CPACR: the floating-point unit (and vectors, where there are some) is off until asked for. */
  *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20;
  __asm__ volatile("dsb\n isb");
  memset(isthmus_bss, 0, (size_t)(isthmus_bss_end - isthmus_bss));
  static char *arguments[] = {"replay", "-", "request.bin", "answer.bin", 0};
  finish(main(4, arguments));
}

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {
    isthmus_stack,        (const void *)reset, (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault, (const void *)fault, (const void *)fault};

/* ---- the heap: nothing is given back */

void *malloc(size_t size) {
  static size_t used;
  const size_t start = used, room = (size_t)(isthmus_stack - isthmus_heap);
  size = (size + 15) & ~(size_t)15;
  if (room < STACK || size > room - STACK - start) return NULL;
  used += size;
  return isthmus_heap + start;
}

int atoi(const char *text) {
  int number = 0;
  for (; *text >= '0' && *text <= '9'; text++) number = 10 * number + (*text - '0');
  return number;
}

/* ---- files: a handle of the other side, and 1 because NULL is no file */

FILE *const isthmus_stderr = NULL;

FILE *fopen(const char *path, const char *mode) {
  const uintptr_t block[3] = {(uintptr_t)path, mode[0] == 'r' ? READ_BINARY : WRITE_BINARY, strlen(path)};
  const int handle = ask(SYS_OPEN, block);
  return handle < 0 ? NULL : (FILE *)(uintptr_t)(handle + 1);
}

/* The other side says how many bytes it left out. */
static size_t move(int what, const void *data, size_t size, size_t count, FILE *file) {
  const uintptr_t block[3] = {(uintptr_t)file - 1, (uintptr_t)data, size * count};
  const int left = size * count ? ask(what, block) : 0;
  return left == 0 ? count : 0;
}

size_t fread(void *to, size_t size, size_t count, FILE *file) { return move(SYS_READ, to, size, count, file); }

size_t fwrite(const void *from, size_t size, size_t count, FILE *file) {
  return move(SYS_WRITE, from, size, count, file);
}

int fclose(FILE *file) {
  const uintptr_t block[1] = {(uintptr_t)file - 1};
  return ask(SYS_CLOSE, block);
}

/* To the standard error, whatever `file` says. */
int fprintf(FILE *file, const char *format, ...) {
  static char text[TEXT];
  va_list arguments;
  (void)file;
  va_start(arguments, format);
  const int length = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  ask(SYS_WRITE0, text);
  return length;
}
