/* held.c - makes a process believe that its processor has AVX2 and no more: for engines that cannot be told.
 *
 * Linux on x86-64. Where the processor can be made to fault on cpuid (arch_prctl(2), ARCH_SET_CPUID), the handler of
 * that signal runs the instruction and clears the bits that say AVX-512, AVX-VNNI, AVX10 or AMX. Where it cannot, as in
 * most virtual machines, held.py puts two bytes that are no instruction in the place of every cpuid in copies of the
 * engines' libraries, and the same handler answers. Whoever asked before keeps what it knows, so this has to be called
 * before an engine is loaded.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { SET_CPUID = 0x1012, FORBIDDEN = 0, ALLOWED = 1 };
enum { LEAF_FEATURES = 7, LEAF_STATE = 0xd };
enum { ESCAPE = 0x0f, CPUID = 0xa2, MARK = 0x04 }; /* 0f a2, and what held.py writes: 0f 04 */

/* Intel, Software Developer's Manual, volume 2, CPUID: bits that say AVX-512 or AMX. */
static const uint32_t NOT_EBX =
    1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31;
static const uint32_t NOT_ECX = 1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14;
static const uint32_t NOT_EDX = 1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25;
/* And those that say AVX-VNNI, AVX-IFMA, AVX-NE-CONVERT or AVX10. */
static const uint32_t NOT_EAX1 = 1u << 4 | 1u << 5 | 1u << 21 | 1u << 22 | 1u << 23;
static const uint32_t NOT_EDX1 = 1u << 4 | 1u << 5 | 1u << 8 | 1u << 10 | 1u << 19;
static const uint32_t NOT_STATE = 7u << 5 | 3u << 17;

static int faults; /* cpuid does, by itself */

static long set_cpuid(long mode) { return syscall(SYS_arch_prctl, SET_CPUID, mode); }

static void on_fault(int number, siginfo_t *info, void *context) {
  ucontext_t *at = context;
  greg_t *registers = at->uc_mcontext.gregs;
  const uint8_t *code = (const uint8_t *)registers[REG_RIP];
  (void)info;
  if (code[0] != ESCAPE || code[1] != (number == SIGILL ? MARK : CPUID)) { /* a real fault: let it happen */
    signal(number, SIG_DFL);
    return;
  }
  const uint32_t leaf = (uint32_t)registers[REG_RAX], sub = (uint32_t)registers[REG_RCX];
  uint32_t a, b, c, d;
  if (faults) set_cpuid(ALLOWED);
  __cpuid_count(leaf, sub, a, b, c, d);
  if (faults) set_cpuid(FORBIDDEN);
  if (leaf == LEAF_FEATURES && sub == 0) b &= ~NOT_EBX, c &= ~NOT_ECX, d &= ~NOT_EDX;
  if (leaf == LEAF_FEATURES && sub == 1) a &= ~NOT_EAX1, d &= ~NOT_EDX1;
  if (leaf == LEAF_STATE && sub == 0) a &= ~NOT_STATE;
  registers[REG_RAX] = a, registers[REG_RBX] = b, registers[REG_RCX] = c, registers[REG_RDX] = d;
  registers[REG_RIP] += 2;
}

static int handle(int number) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  return sigaction(number, &action, NULL);
}

/* 0: cpuid is answered here from now on; 1: only what held.py writes in its place is; 2: neither. */
int hold(void) {
  if (handle(SIGSEGV) != 0 || handle(SIGILL) != 0) return 2;
  faults = set_cpuid(FORBIDDEN) == 0;
  return faults ? 0 : 1;
}
