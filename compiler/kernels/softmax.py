"""Softmax of rows."""

from __future__ import annotations

import math

from isthmus.kernels.builder import Builder, Expr
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.math import exp_negative
from isthmus.kernels.rows import by_fours, reduce_rows
from isthmus.kernels.tir import tirx
from isthmus.target import Target

SYMBOL = "softmax_f32"


def kernel(target: Target) -> Kernel:
    """y = e^(x - max x) / sum e^(x - max x), row by row; NaN for a row that is all -inf or has a NaN.

    `void softmax_f32(x, y, n, ldx, ldy, row_begin, row_end)`; rows are `ld*` elements apart; y may be x with
    the same pitch.
    """
    return Kernel.deferred(target.symbol(SYMBOL), lambda: _kernel(target))


def _kernel(target: Target) -> Kernel:
    k = Builder(SYMBOL, target)
    x, y, n = k.input("x"), k.output("y"), k.size("n")
    ldx, ldy = k.size("ldx"), k.size("ldy")
    row_begin, row_end = k.size("row_begin"), k.size("row_end")

    def rows_from(first: Expr, rows: int) -> None:
        inputs = [x.at((first + i) * ldx, f"x{i}") for i in range(rows)]
        outputs = [y.at((first + i) * ldy, f"y{i}") for i in range(rows)]
        # A NaN may be lost here: it comes back when it is subtracted.
        maxima = reduce_rows(k, rows, n, lambda i, j, lanes: inputs[i].load(j, lanes), tirx.max, -math.inf)

        def power(i: int, j: Expr, lanes: int) -> Expr:
            value = exp_negative(k, inputs[i].load(j, lanes) - k.spread(maxima[i], lanes))
            outputs[i].store(j, value)
            return value

        sums = reduce_rows(k, rows, n, power)
        inverses = [k.let(f"inverse{i}", 1.0 / total) for i, total in enumerate(sums)]

        def scale(j: Expr, lanes: int) -> None:
            for output, inverse in zip(outputs, inverses, strict=True):
                output.store(j, output.load(j, lanes) * k.spread(inverse, lanes))

        k.vectorized("j", n, scale)

    return k.later(lambda: by_fours(k, row_begin, row_end, rows_from))
