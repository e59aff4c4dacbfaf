"""Root mean square normalisation of rows."""

from __future__ import annotations

from functools import partial

from isthmus.kernels.builder import Builder, Expr
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.math import sqrt
from isthmus.kernels.row_results import Result, ResultRows, result_suffix
from isthmus.kernels.rows import by_fours, fetch_rows, reduce_rows
from isthmus.target import Target

SYMBOL = "rms_norm_f32"


def kernel(target: Target, result: Result = "f32") -> Kernel:
    """y = x / sqrt(mean(x^2) + eps) * scale, row by row.

    `void rms_norm_f32[_rounded|_both|_int8|_uint8|_<steps>](x, scale, [y,] [y_rounded,] [scales,] [bytes,]
    [what steps need,] eps, n, ldx, [ldy,] [ldy_rounded,] [lds,] [ldb,] row_begin, row_end)`; rows
    are `ld*` elements apart. y may be x, with the same pitch.
    """
    symbol = SYMBOL + result_suffix(result)
    return Kernel.deferred(target.symbol(symbol), lambda: _kernel(symbol, target, result))


def _kernel(symbol: str, target: Target, kind: Result) -> Kernel:
    k = Builder(symbol, target)
    x, scale, result = k.input("x"), k.input("scale"), ResultRows(k, kind)
    eps, n, ldx = k.scalar("eps"), k.size("n"), k.size("ldx")
    result.distances()
    row_begin, row_end = k.size("row_begin"), k.size("row_end")

    def rows_from(count_inverse: Expr, first: Expr, rows: int) -> None:
        inputs = [x.at((first + i) * ldx, f"x{i}") for i in range(rows)]
        outputs = result.rows(first, rows)
        if rows > 1:
            following = [x.at((first + rows + i) * ldx, "next") for i in range(rows)]
            fetch_rows(k, n, following, [row.y for row in outputs if row.y is not None])

        def square(i: int, j: Expr, lanes: int) -> Expr:
            value = k.let("value", inputs[i].load(j, lanes))
            return value * value

        squares = reduce_rows(k, rows, n, square)
        factors = [k.let(f"factor{i}", 1.0 / sqrt(k, s * count_inverse + eps)) for i, s in enumerate(squares)]

        def normalized(j: Expr, lanes: int) -> list[Expr]:
            gain = k.let("gain", scale.load(j, lanes))
            pairs = zip(inputs, factors, strict=True)
            return [source.load(j, lanes) * k.spread(factor, lanes) * gain for source, factor in pairs]

        result.write(outputs, first, n, normalized)

    def body() -> None:
        count_inverse = k.let("count_inverse", 1.0 / k.cast(n, "float32"))
        result.prepare()
        by_fours(k, row_begin, row_end, partial(rows_from, count_inverse))

    return k.later(body)
