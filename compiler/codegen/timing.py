"""Times of kernel calls, for `isthmus bench --profile`: what a timed model.c has besides the plan.

Nothing of this is in a bundle: model.c is written with it only when asked, for a library that is thrown away.
"""

from __future__ import annotations

# The C runtime accepts as many threads (THREAD_LIMIT).
THREADS = 256
# Of the table: the runtime exports what begins with isthmus_.
SYMBOL = "isthmus_times"

_TEXT = """\
#include "os.h"

/* Nanoseconds and number of calls, by thread and call. */
__attribute__((visibility("default"))) uint64_t {symbol}[{threads}][{calls}][2];

#define ISTHMUS_TIMED(number, call) \\
  do {{ \\
    const uint64_t timed_from = isthmus_os_nanoseconds(); \\
    call; \\
    {symbol}[thread][number][0] += isthmus_os_nanoseconds() - timed_from; \\
    {symbol}[thread][number][1] += 1; \\
  }} while (0)
"""


def declarations(calls: int) -> str:
    """C before the plan: the table of `calls` kernel calls, and the macro around each."""
    return _TEXT.format(symbol=SYMBOL, threads=THREADS, calls=max(calls, 1))


def timed(number: int, call: str) -> str:
    """Kernel call `number` of the plan, as a statement without its semicolon."""
    return f"ISTHMUS_TIMED({number}, {call})"
