"""Elementary functions whose result is rounded to bf16 (2e-3 relative): fewer terms, errors well below
that."""

from __future__ import annotations

from collections.abc import Mapping

from isthmus.kernels.builder import Builder, Expr
from isthmus.kernels.math import (
    ACTIVATIONS,
    LOG2_E,
    ROUND,
    Function,
    OddSaturating,
    polynomial,
    power_of_two,
)
from isthmus.kernels.tir import tirx

# 2^f on [-1/2, 1/2], 1.1e-4 relative; exact at 0.
EXP2 = (1.0, 0.6932829022407532, 0.24221095442771912, 0.05500892922282219)

# As GELU and GELU_TANH in `math`, to 1.9e-4 of gelu(x) and 1.7e-4 of gelu_tanh(x).
GELU = OddSaturating(
    3.9,
    (
        0.7030672430992126,
        -0.33465883135795593,
        0.21587719023227692,
        -0.13343742489814758,
        0.08644834160804749,
        -0.059108614921569824,
        0.02181210368871689,
    ),
)
GELU_TANH = OddSaturating(
    3.9,
    (
        0.7033071517944336,
        -0.3348219692707062,
        0.21529509127140045,
        -0.1331184059381485,
        0.08660615980625153,
        -0.05806973576545715,
        0.020801730453968048,
    ),
)


def exp_negative(k: Builder, x: Expr) -> Expr:
    """e^x for x <= 0: 1.1e-4 relative, exact at 0, 0 below -87.68."""
    x = k.let("x", tirx.max(k.constant(-88.0, x), x))  # a NaN stays
    shifted = k.let("shifted", x * LOG2_E + (ROUND + 127.0))
    whole = k.let("whole", shifted - (ROUND + 127.0))
    fraction = k.let("fraction", x * LOG2_E - whole)
    return k.let("exp", polynomial(k, fraction, EXP2) * power_of_two(k, k.bits(shifted, "uint32")))


def gelu(k: Builder, x: Expr) -> Expr:
    """x (1 + erf(x / sqrt 2)) / 2: 2e-4 absolute, and exactly 0 or x beyond +-3.9."""
    x = k.let("x", x)
    return k.let("gelu", x * (GELU(k, x) + 0.5))


def gelu_tanh(k: Builder, x: Expr) -> Expr:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2: 2e-4 absolute, and exactly 0 or x beyond +-3.9."""
    x = k.let("x", x)
    return k.let("gelu_tanh", x * (GELU_TANH(k, x) + 0.5))


# What a product applies to a result that it rounds.
ROUNDED_ACTIVATIONS: Mapping[str, Function] = {**ACTIVATIONS, "gelu": gelu, "gelu_tanh": gelu_tanh}
