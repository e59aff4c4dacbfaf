"""Rows of floats as bytes, each at the scale at which it fills them: alone, and where the rows are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from isthmus.kernels.builder import Builder, Expr, Memory
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.math import ROUND, ROUND_BITS, magnitude_bits
from isthmus.kernels.rows import by_fours, reduce_rows
from isthmus.kernels.tir import tirx
from isthmus.target import Target

LIMITS = {"int8": (-128, 127), "uint8": (0, 255)}
# The zero points with which a row at its own scale fits: no quotient is beyond 127.
MIDDLE = {"int8": 0, "uint8": 128}
# Scales at which quotients may be computed in several steps: nothing that matters leaves the normal numbers.
ORDINARY = (2.0**-60, 2.0**60)
# Six roundings: inverse, factor, product and the quotient itself are off by less, taken together.
DOUBT = 6 * 2.0**-24


def kernel(target: Target, dtype: str) -> Kernel:
    """Rows as bytes, each at its own scale: what `quantize_rows.scale_kernel` gives, and, with these scales
    and MIDDLE for zero, `quantize_rows.kernel`.

    `void byte_rows_<dtype>(x, scales, bytes, n, ldx, lds, ldb, row_begin, row_end)`; rows and scales are
    `ld*` elements apart.
    """
    symbol = f"byte_rows_{dtype}"
    return Kernel.deferred(target.symbol(symbol), lambda: _kernel(symbol, target, dtype))


def _kernel(symbol: str, target: Target, dtype: str) -> Kernel:
    k = Builder(symbol, target)
    x, result = k.input("x"), ByteRows(k, dtype)
    n, ldx = k.size("n"), k.size("ldx")
    result.distances()
    row_begin, row_end = k.size("row_begin"), k.size("row_end")

    def rows_from(first: Expr, rows: int) -> None:
        inputs = [x.at((first + i) * ldx, f"x{i}") for i in range(rows)]
        largest = largest_of_rows(k, rows, n, lambda i, j, lanes: inputs[i].load(j, lanes))
        result.write(inputs, largest, first, n)

    return k.later(lambda: by_fours(k, row_begin, row_end, rows_from))


def largest_of_rows(k: Builder, rows: int, n: Expr, element: Callable[[int, Expr, int], Expr]) -> list[Expr]:
    """The largest |element(row, j, lanes)| of each row, as its bits, with NaN above everything; `element` may
    store as it goes."""

    def magnitude(i: int, j: Expr, lanes: int) -> Expr:
        return magnitude_bits(k, element(i, j, lanes))

    return reduce_rows(k, rows, n, magnitude, tirx.max, 0, "int32")


def scales_of(k: Builder, largest: Sequence[Expr]) -> list[Expr]:
    """The scales of rows by the bits of their largest magnitudes."""
    scales = [k.let("scale", k.bits(bits, "float32") / 127.0) for bits in largest]
    return [k.let("scale", k.select(k.equal(scale, 0.0), 1.0, scale)) for scale in scales]


class ByteRows:
    """Rows as bytes at their own scales: the parameters of a kernel that writes them, and how it does."""

    def __init__(self, k: Builder, dtype: str) -> None:
        self.k, self.dtype = k, dtype
        self.scales, self.bytes = k.output("scales"), k.output("bytes", dtype)

    def distances(self) -> None:
        """The parameters that say how far scales and rows of bytes lie apart: `lds`, `ldb`."""
        self.lds, self.ldb = self.k.size("lds"), self.k.size("ldb")

    def write(self, sources: Sequence[Memory], largest: Sequence[Expr], first: Expr, n: Expr) -> None:
        """`sources`, rows from `first` on, of which `largest_of_rows` is known, to the bit as they should be.

        Products with an inverse a little too large and one a little too small enclose the quotient. Where
        both are rounded to the same integer, so is the quotient; a row in which they are not is divided.
        """
        k = self.k
        scales = scales_of(k, largest)
        outputs = [self.bytes.at((first + i) * self.ldb, f"b{i}") for i in range(len(sources))]
        for i, scale in enumerate(scales):
            self.scales.store((first + i) * self.lds, scale)
        inverses = [k.let("inverse", 1.0 / scale) for scale in scales]
        above = [k.let("above", inverse * (1.0 + DOUBT)) for inverse in inverses]
        below = [k.let("below", inverse * (1.0 - DOUBT)) for inverse in inverses]
        shift = ROUND + MIDDLE[self.dtype]

        def differing(i: int, j: Expr, lanes: int) -> Expr:
            value = k.let("value", sources[i].load(j, lanes))
            ends = [value * k.spread(inverse, lanes) + shift for inverse in (above[i], below[i])]
            high, low = (k.let("whole", k.bits(end, "int32")) for end in ends)
            outputs[i].store(j, k.cast(high - k.constant(ROUND_BITS, high), self.dtype))
            return tirx.bitwise_xor(high, low)

        differ = reduce_rows(k, len(sources), n, differing, tirx.bitwise_or, 0, "int32")
        for source, output, scale, bits in zip(sources, outputs, scales, differ, strict=True):
            usual = tirx.And(scale > ORDINARY[0], scale < ORDINARY[1])
            with k.when(tirx.Not(tirx.And(usual, k.equal(bits, 0)))):
                self._divide(source, output, scale, n)

    def _divide(self, source: Memory, output: Memory, scale: Expr, n: Expr) -> None:
        k, point = self.k, MIDDLE[self.dtype]
        ends = [k.let("end", float(bound - point) * scale) for bound in LIMITS[self.dtype]]

        def element(j: Expr, lanes: int) -> None:
            low, high = (k.spread(end, lanes) for end in ends)
            within = k.let("within", tirx.min(tirx.max(source.load(j, lanes), low), high))
            exact = k.rounded("exact", within / k.spread(scale, lanes))
            whole = k.bits(exact + ROUND, "int32")
            output.store(j, k.cast(whole + k.constant(point - ROUND_BITS, whole), self.dtype))

        k.vectorized("j", n, element)
