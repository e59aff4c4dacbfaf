"""Layer normalisation of rows, after adding a residual where one is given."""

from __future__ import annotations

from functools import partial

from isthmus.errors import CompilerBug
from isthmus.kernels.builder import Builder, Expr, Memory
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.math import sqrt
from isthmus.kernels.row_results import Result, ResultRows, result_suffix
from isthmus.kernels.rows import by_fours, fetch_rows, reduce_rows
from isthmus.target import Target


def kernel(target: Target, residual: bool, result: Result = "f32") -> Kernel:
    """y = (s - mean(s)) / sqrt(mean((s - mean(s))^2) + eps) * scale + bias with s = x + residual, row by row.

    `void layer_norm_f32[_res][_rounded|_both|_int8|_uint8|_<steps>](x, [residual,] scale, bias, [y,]
    [y_rounded,] [scales,] [bytes,] [what steps need,] eps, n, ldx, [ldr,] [ldy,] [ldy_rounded,] [lds,] [ldb,]
    row_begin, row_end)`; rows are `ld*` elements apart. y may be x, or residual, with the same pitch. The
    mean comes first, then the variance of what is left (one pass for both would cancel).
    """
    if residual and result == "rounded":
        raise CompilerBug("the sums with a residual are kept in a y of f32")
    symbol = f"layer_norm_f32{'_res' if residual else ''}{result_suffix(result)}"
    return Kernel.deferred(target.symbol(symbol), lambda: _kernel(symbol, target, residual, result))


def _kernel(symbol: str, target: Target, residual: bool, kind: Result) -> Kernel:
    k = Builder(symbol, target)
    x = k.input("x")
    added = k.input("residual") if residual else None
    scale, bias, result = k.input("scale"), k.input("bias"), ResultRows(k, kind)
    eps, n = k.scalar("eps"), k.size("n")
    ldx = k.size("ldx")
    ldr = k.size("ldr") if residual else None
    result.distances()
    row_begin, row_end = k.size("row_begin"), k.size("row_end")

    def rows_from(count_inverse: Expr, first: Expr, rows: int) -> None:
        inputs = [x.at((first + i) * ldx, f"x{i}") for i in range(rows)]
        extras = [added.at((first + i) * ldr, f"r{i}") for i in range(rows)] if added is not None else []
        outputs = result.rows(first, rows)
        if rows > 1:
            following = [x.at((first + rows + i) * ldx, "next") for i in range(rows)]
            if added is not None:
                following += [added.at((first + rows + i) * ldr, "next_added") for i in range(rows)]
            fetch_rows(k, n, following, [row.y for row in outputs if row.y is not None])

        def total(i: int, j: Expr, lanes: int) -> Expr:
            if not extras:
                return inputs[i].load(j, lanes)
            value = k.let("sum", inputs[i].load(j, lanes) + extras[i].load(j, lanes))
            sources[i].store(j, value)
            return value

        # With a residual the sums are kept in y, where the later passes find them.
        sources = [row.y for row in outputs if row.y is not None] if extras else inputs
        sums = reduce_rows(k, rows, n, total)
        means = [k.let(f"mean{i}", s * count_inverse) for i, s in enumerate(sums)]

        def deviation(i: int, j: Expr, lanes: int) -> Expr:
            centred = k.let("centred", sources[i].load(j, lanes) - k.spread(means[i], lanes))
            return centred * centred

        squares = reduce_rows(k, rows, n, deviation)
        factors = [k.let(f"factor{i}", 1.0 / sqrt(k, s * count_inverse + eps)) for i, s in enumerate(squares)]
        result.write(outputs, first, n, partial(_normalized, k, sources, means, factors, scale, bias))

    def body() -> None:
        count_inverse = k.let("count_inverse", 1.0 / k.cast(n, "float32"))
        result.prepare()
        by_fours(k, row_begin, row_end, partial(rows_from, count_inverse))

    return k.later(body)


def _normalized(
    k: Builder,
    sources: list[Memory],
    means: list[Expr],
    factors: list[Expr],
    scale: Memory,
    bias: Memory,
    j: Expr,
    lanes: int,
) -> list[Expr]:
    gain = k.let("gain", scale.load(j, lanes))
    shift = k.let("shift", bias.load(j, lanes))
    return [
        (source.load(j, lanes) - k.spread(mean, lanes)) * k.spread(factor, lanes) * gain + shift
        for source, mean, factor in zip(sources, means, factors, strict=True)
    ]
