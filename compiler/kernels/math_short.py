"""Elementary functions whose result is rounded, to bf16 (2e-3 relative) or to bytes (in rows that reach 1,
4e-3 absolute): fewer terms, errors well below that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from isthmus.errors import CompilerBug
from isthmus.kernels.builder import Builder, Expr
from isthmus.kernels.math import (
    ACTIVATIONS,
    LOG2_E,
    ROUND,
    Function,
    absolute,
    polynomial,
    power_of_two,
)
from isthmus.kernels.tir import tirx

# 2^f on [-1/2, 1/2], 1.1e-4 relative; exact at 0.
EXP2 = (1.0, 0.6932829022407532, 0.24221095442771912, 0.05500892922282219)


@dataclass(frozen=True, slots=True)
class Rectified:
    """max(x, 0) - t P(limit - t) for t = min(|x|, limit): as far below the ramp on both sides of 0.

    P has no constant term: beyond the limit the result is the ramp itself. NaN stays.
    """

    limit: float
    coefficients: Sequence[float]

    def __call__(self, k: Builder, x: Expr) -> Expr:
        x = k.let("x", x)
        t = k.let("t", tirx.min(k.constant(self.limit, x), absolute(k, x)))
        left = k.let("left", self.limit - t)
        short = k.let("short", polynomial(k, left, self.coefficients) * left)
        return k.let("rectified", tirx.max(k.constant(0.0, x), x) - t * short)


# x (1 + erf(x / sqrt 2)) / 2: 1.8e-4 absolute, 4e-3 relative for |x| < 0.1.
GELU = Rectified(
    3.95,
    (
        0.0015693145105615258,
        -0.007380204740911722,
        0.015464036725461483,
        -0.01286575198173523,
        0.005512003321200609,
        -0.0006614417652599514,
    ),
)
# x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2: 1.6e-4 absolute, 4e-3 relative for |x| < 0.1.
GELU_TANH = Rectified(
    3.9,
    (
        0.0011879238300025463,
        -0.005898409988731146,
        0.013265454210340977,
        -0.01137384120374918,
        0.005231177434325218,
        -0.0006508938386105001,
    ),
)


def exp_negative(k: Builder, x: Expr) -> Expr:
    """e^x for x <= 0: 1.1e-4 relative, exact at 0, 0 below -87.68."""
    x = k.let("x", tirx.max(k.constant(-88.0, x), x))  # a NaN stays
    shifted = k.let("shifted", x * LOG2_E + (ROUND + 127.0))
    whole = k.let("whole", shifted - (ROUND + 127.0))
    fraction = k.let("fraction", x * LOG2_E - whole)
    return k.let("exp", polynomial(k, fraction, EXP2) * power_of_two(k, k.bits(shifted, "uint32")))


# What a product applies to a result that it, or the only op that reads it, rounds.
SHORT: Mapping[str, Function] = {"gelu": GELU, "gelu_tanh": GELU_TANH}


def activation_of(name: str | None, rounded: bool = False, short: bool = False) -> Function | None:
    """What a product applies at its end. `rounded`: by fewer terms, where there is such a form; `short`: only
    what has one. Raises `CompilerBug` for names that have none of these."""
    known = SHORT if short else {**ACTIVATIONS, **SHORT} if rounded else ACTIVATIONS
    if name is None:
        return None
    if name not in known:
        raise CompilerBug(f"no activation {name!r}; there is {', '.join(known)}")
    return known[name]
