"""The kernel that finds the first elements of each line in order, by a heap of those found so far.

    void top_<dtype>_{largest,smallest}(const T *x, int64_t *y, int64_t size, int64_t count, int64_t inner,
        int64_t x_outer, int64_t x_axis, int64_t x_inner, int64_t y_outer, int64_t y_axis, int64_t y_inner,
        int64_t begin, int64_t end)

A line of x has `size` elements, a line of y the positions of `count` <= size of them; units and strides are
as in `loops_scan`. y is the heap while the line is read: its root is the last in order of those found, and
an element that comes before it takes its place. That is size * log(count) steps at most, and about `size`
where few elements are taken. Sorting the heap brings its positions in order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from isthmus.ir.types import DType
from isthmus.kernels.builder import Builder, Expr, Memory
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.loops_math import hold
from isthmus.kernels.loops_pointwise import decode, memory_type, value_type
from isthmus.kernels.loops_scan import lines
from isthmus.kernels.tir import tirx
from isthmus.target import Target


def top(dtype: DType, target: Target, *, descending: bool) -> Kernel:
    """The positions of the greatest or least elements of a line, in order; equals stay in order, NaN is
    greatest."""
    name = f"top_{dtype}_{'largest' if descending else 'smallest'}"
    return Kernel.deferred(target.symbol(name), lambda: _top(name, dtype, target, descending))


def _top(name: str, dtype: DType, target: Target, descending: bool) -> Kernel:
    k = Builder(name, target)
    x, y = k.input("x", memory_type(dtype)), k.output("y", "int64")
    size, count, inner = k.size("size"), k.size("count"), k.size("inner")
    x_strides = (k.size("x_outer"), k.size("x_axis"), k.size("x_inner"))
    y_strides = (k.size("y_outer"), k.size("y_axis"), k.size("y_inner"))
    with lines(k, inner) as (outer, place):
        x_line = k.let("x_line", outer * x_strides[0] + place * x_strides[2])
        y_line = k.let("y_line", outer * y_strides[0] + place * y_strides[2])

        def number(position: Expr) -> Expr:
            stored = k.let("stored", x.load(x_line + position * x_strides[1]))
            return hold(k, "number", decode(k, stored, dtype))

        def before(a: Expr, b: Expr) -> Expr:
            one, other = number(a), number(b)
            ahead = _ahead(k, one, other, is_float=dtype.is_float, descending=descending)
            return tirx.Or(ahead, tirx.And(_same(k, one, other, is_float=dtype.is_float), a < b))

        heap = _Heap(k, y, y_line, y_strides[1], before)
        with k.when(count > 0):
            with k.loop("i", 0, count) as i:
                heap.set(i, i)
            with k.loop("turn", 0, k.divide(count, 2)) as turn:
                heap.sink(k.let("start", k.divide(count, 2) - 1 - turn), count)
            worst = k.register("worst", 1, number(heap.get(0)), value_type(dtype))
            # Whatever is found by now stands before element i: a tie changes nothing.
            with (
                k.loop("i", count, size) as i,
                k.when(_ahead(k, number(i), worst.value, is_float=dtype.is_float, descending=descending)),
            ):
                heap.set(0, i)
                heap.sink(0, count)
                worst.set(number(heap.get(0)))
            with k.loop("done", 1, count) as done:
                left = k.let("left", count - done)
                root = hold(k, "root", heap.get(0))
                heap.set(0, heap.get(left))
                heap.set(left, root)
                heap.sink(0, left)
    return k.finish()


@dataclass(frozen=True, slots=True)
class _Heap:
    """Positions in memory, each in order after the two at twice its place."""

    k: Builder
    memory: Memory
    line: Expr
    stride: Expr
    before: Callable[[Expr, Expr], Expr]

    def get(self, place: Expr) -> Expr:
        return hold(self.k, "position", self.memory.load(self.line + place * self.stride))

    def set(self, place: Expr, position: Expr) -> None:
        self.memory.store(self.line + place * self.stride, position)

    def sink(self, start: Expr, end: Expr) -> None:
        """Move what is at `start` down, until nothing below it, up to `end`, comes after it."""
        k = self.k
        moving = self.get(start)
        hole = k.register("hole", 1, start, "int64")
        child = k.register("child", 1, 2 * hole.value + 1, "int64")
        with k.repeat(child.value < end):
            with k.when(child.value + 1 < end):
                below = hold(k, "below", self.before(self.get(child.value), self.get(child.value + 1)))
                with k.when(below):
                    child.set(child.value + 1)
            last = self.get(child.value)
            sinks = hold(k, "sinks", self.before(moving, last))
            with k.when(sinks):
                self.set(hole.value, last)
                hole.set(child.value)
                child.set(2 * child.value + 1)
            with k.otherwise():
                child.set(end)
        self.set(hole.value, moving)


def _ahead(k: Builder, one: Expr, other: Expr, *, is_float: bool, descending: bool) -> Expr:
    """Whether `one` comes before `other` whatever their places; NaN is greatest."""
    ahead = one > other if descending else one < other
    if not is_float:
        return ahead
    greater, less = (one, other) if descending else (other, one)
    return tirx.Or(ahead, tirx.And(k.is_nan(greater), tirx.Not(k.is_nan(less))))


def _same(k: Builder, one: Expr, other: Expr, *, is_float: bool) -> Expr:
    equal = tirx.EQ(one, other)
    return tirx.Or(equal, tirx.And(k.is_nan(one), k.is_nan(other))) if is_float else equal
