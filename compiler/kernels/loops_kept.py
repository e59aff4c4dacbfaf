"""The kernel that finds the rows that are kept.

    void kept_rows(const int64_t *count, int64_t *y, int64_t rows, int64_t begin, int64_t end)

`count` is a running count. Where it goes up, at place p in [begin, end), y[count[p] - 1] = p; a count that
is not in [1, rows] writes nothing. Calls over different ranges may run at the same time.
"""

from __future__ import annotations

from isthmus.kernels.builder import Builder
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.loops_math import hold
from isthmus.kernels.tir import tirx
from isthmus.target import Target


def kept_rows(target: Target) -> Kernel:
    """See above."""
    return Kernel.deferred(target.symbol("kept_rows"), lambda: _kept_rows(target))


def _kept_rows(target: Target) -> Kernel:
    k = Builder("kept_rows", target)
    count, y = k.input("count", "int64"), k.output("y", "int64")
    rows, begin, end = k.size("rows"), k.size("begin"), k.size("end")
    before = k.register("before", 1, 0, "int64")
    with k.when(begin > 0):
        before.set(count.load(begin - 1))
    with k.loop("p", begin, end) as p:
        now = hold(k, "now", count.load(p))
        with k.when(tirx.And(now > before.value, tirx.And(now > 0, now <= rows))):
            y.store(now - 1, p)
        before.set(now)
    return k.finish()
