"""Numbers as bytes at steps that are known when compiling: by whatever makes the numbers, or alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from isthmus.errors import CompilerBug
from isthmus.kernels.builder import Builder, Expr
from isthmus.kernels.byte_rows import LIMITS
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.math import ROUND, ROUND_BITS, quotient
from isthmus.kernels.rows import by_fours
from isthmus.kernels.tir import tirx
from isthmus.target import Target

# Rounded as they are, each column by a factor of its own first, or all over one scale.
Way: TypeAlias = Literal["whole", "times", "over"]


@dataclass(frozen=True, slots=True)
class Steps:
    """Bytes of `dtype` (`int8` or `uint8`): saturate(round(..) + zero), of x, x * factors or x / scale."""

    dtype: str
    way: Way

    def __post_init__(self) -> None:
        if self.dtype not in LIMITS:
            raise CompilerBug(f"no bytes of {self.dtype}; there are {', '.join(LIMITS)}")

    @property
    def suffix(self) -> str:
        """What names of kernels end with."""
        return f"_{self.dtype}_{self.way}"


class ByteSteps:
    """The parameters of a kernel that makes bytes: `[factors,] [step,] zero`, and how it does.

    factors are f32 for each column; step, the scale, within `byte_rows.ORDINARY`, and zero are numbers.
    Halves go to the even neighbour, NaN to the least number.
    """

    def __init__(self, k: Builder, steps: Steps) -> None:
        self.k, self.steps = k, steps
        self.factors = k.input("factors") if steps.way == "times" else None
        self.scale = k.scalar("step") if steps.way == "over" else None
        self.zero = k.size("zero")

    def prepare(self) -> None:
        """What is the same for all numbers, computed once."""
        k = self.k
        place = k.let("place", k.cast(self.zero, "int32"))
        self.point = k.let("point", place - ROUND_BITS)
        # What is beyond these saturates.
        self.ends = [k.let("bound", k.cast(bound - place, "float32")) for bound in LIMITS[self.steps.dtype]]
        if self.scale is not None:
            self.ends = [k.let("end", bound * self.scale) for bound in self.ends]
            self.inverse = k.let("inverse", 1.0 / self.scale)

    def bytes(self, value: Expr, column: Expr, lanes: int) -> Expr:
        """The bytes of `lanes` neighbours from `column` on."""
        k = self.k
        if self.factors is not None:
            value = k.rounded("scaled", value * self.factors.load(column, lanes))
        low, high = (k.spread(end, lanes) for end in self.ends)
        # Not the other way round: a comparison with NaN is false.
        above = k.let("above", tirx.max(value, low))
        whole = k.bits(self._quotient(k.let("within", tirx.min(above, high)), lanes) + ROUND, "int32")
        return k.cast(whole + k.spread(self.point, lanes), self.steps.dtype)

    def _quotient(self, value: Expr, lanes: int) -> Expr:
        k = self.k
        if self.scale is None:
            return value
        scale = k.spread(self.scale, lanes)
        if not k.target.vector.fma or k.target.vector.relaxed:
            return k.rounded("exact", value / scale)
        return quotient(k, value, scale, k.spread(self.inverse, lanes))


def kernel(target: Target, steps: Steps) -> Kernel:
    """y = the bytes of x, row by row.

    `void step_rows_<dtype>_<way>(x, y, [factors,] [step,] zero, n, ldx, ldy, row_begin, row_end)`; rows are
    `ld*` elements apart.
    """
    symbol = f"step_rows{steps.suffix}"
    return Kernel.deferred(target.symbol(symbol), lambda: _kernel(symbol, target, steps))


def _kernel(symbol: str, target: Target, steps: Steps) -> Kernel:
    k = Builder(symbol, target)
    x, y = k.input("x"), k.output("y", steps.dtype)
    made = ByteSteps(k, steps)
    n, ldx, ldy = k.size("n"), k.size("ldx"), k.size("ldy")
    row_begin, row_end = k.size("row_begin"), k.size("row_end")

    def rows_from(first: Expr, rows: int) -> None:
        inputs = [x.at((first + i) * ldx, f"x{i}") for i in range(rows)]
        outputs = [y.at((first + i) * ldy, f"y{i}") for i in range(rows)]

        def element(j: Expr, lanes: int) -> None:
            for source, output in zip(inputs, outputs, strict=True):
                output.store(j, made.bytes(source.load(j, lanes), j, lanes))

        k.vectorized("j", n, element)

    def body() -> None:
        made.prepare()
        by_fours(k, row_begin, row_end, rows_from)

    return k.later(body)
