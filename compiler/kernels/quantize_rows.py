"""Rows of floats as bytes, and the scale at which each row fills them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import TypeAlias

from isthmus.errors import CompilerBug
from isthmus.kernels.builder import Builder, Expr
from isthmus.kernels.byte_rows import LIMITS, ORDINARY, largest_of_rows, scales_of
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.math import ROUND, ROUND_BITS, quotient
from isthmus.kernels.rows import by_fours
from isthmus.kernels.tir import tirx
from isthmus.target import Target

# Row, value and lanes, to the quotient of the value and the scale of the row.
Divide: TypeAlias = Callable[[int, Expr, int], Expr]


def scale_kernel(target: Target) -> Kernel:
    """y[i] = max |x[i, :]| / 127, and 1 where that is 0; NaN for a row that holds one.

    `void row_scale_f32(x, y, n, ldx, ldy, row_begin, row_end)`; rows are `ld*` elements apart.
    """
    return Kernel.deferred(target.symbol("row_scale_f32"), lambda: _scale_kernel(target))


def _scale_kernel(target: Target) -> Kernel:
    k = Builder("row_scale_f32", target)
    x, y, n = k.input("x"), k.output("y"), k.size("n")
    ldx, ldy = k.size("ldx"), k.size("ldy")
    row_begin, row_end = k.size("row_begin"), k.size("row_end")

    def rows_from(first: Expr, rows: int) -> None:
        inputs = [x.at((first + i) * ldx, f"x{i}") for i in range(rows)]
        largest = largest_of_rows(k, rows, n, lambda i, j, lanes: inputs[i].load(j, lanes))
        for i, scale in enumerate(scales_of(k, largest)):
            y.store((first + i) * ldy, scale)

    def body() -> None:
        by_fours(k, row_begin, row_end, rows_from)

    return k.later(body)


def kernel(target: Target, dtype: str) -> Kernel:
    """y = saturate(round(x / scale) + zero), row by row; `dtype` (`int8` or `uint8`) is that of y and zero.

    `void quantize_rows_<dtype>(x, scale, zero, y, n, ldx, lds, ldy, row_begin, row_end)`; rows and scales are
    `ld*` elements apart (`lds` is 0 for one scale), zero is one number. Halves go to the even neighbour, NaN
    to the least number.
    """
    if dtype not in LIMITS:
        raise CompilerBug(f"quantize_rows has no {dtype}; it has {', '.join(LIMITS)}")
    symbol = f"quantize_rows_{dtype}"
    return Kernel.deferred(target.symbol(symbol), lambda: _kernel(symbol, target, dtype))


def _kernel(symbol: str, target: Target, dtype: str) -> Kernel:
    k = Builder(symbol, target)
    x, scale, zero, y = k.input("x"), k.input("scale"), k.input("zero", dtype), k.output("y", dtype)
    n, ldx, lds, ldy = k.size("n"), k.size("ldx"), k.size("lds"), k.size("ldy")
    row_begin, row_end = k.size("row_begin"), k.size("row_end")

    def rows_from(point: Expr, bounds: Sequence[Expr], first: Expr, rows: int) -> None:
        inputs = [x.at((first + i) * ldx, f"x{i}") for i in range(rows)]
        outputs = [y.at((first + i) * ldy, f"y{i}") for i in range(rows)]
        steps = [k.let(f"scale{i}", scale.load((first + i) * lds)) for i in range(rows)]
        # What is beyond them saturates; not the other way round: a comparison with NaN is false.
        ends = [[k.let("end", bound * step) for bound in bounds] for step in steps]

        def element(j: Expr, lanes: int, divide: Divide) -> None:
            for i, (source, output) in enumerate(zip(inputs, outputs, strict=True)):
                low, high = (k.spread(end, lanes) for end in ends[i])
                within = k.let("above", tirx.max(source.load(j, lanes), low))
                within = k.let("within", tirx.min(within, high))
                whole = k.bits(divide(i, within, lanes) + ROUND, "int32")
                output.store(j, k.cast(whole + k.spread(point, lanes), dtype))

        def exactly(i: int, value: Expr, lanes: int) -> Expr:
            return k.rounded("exact", value / k.spread(steps[i], lanes))

        if not target.vector.fma or target.vector.relaxed:
            k.vectorized("j", n, partial(element, divide=exactly))
            return
        inverses = [k.let("inverse", 1.0 / step) for step in steps]

        def quickly(i: int, value: Expr, lanes: int) -> Expr:
            return quotient(k, value, k.spread(steps[i], lanes), k.spread(inverses[i], lanes))

        ordinary = reduce(tirx.And, [tirx.And(s > ORDINARY[0], s < ORDINARY[1]) for s in steps])
        with k.when(ordinary):
            k.vectorized("j", n, partial(element, divide=quickly))
        with k.otherwise():
            k.vectorized("j", n, partial(element, divide=exactly))

    def body() -> None:
        place = k.let("place", k.cast(zero.load(0), "int32"))
        bounds = [k.let("bound", k.cast(bound - place, "float32")) for bound in LIMITS[dtype]]
        by_fours(k, row_begin, row_end, partial(rows_from, k.let("point", place - ROUND_BITS), bounds))

    return k.later(body)
