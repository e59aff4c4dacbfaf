"""What a kernel is to the rest of the compiler: a C symbol, its parameters and the TIR behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import tvm


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a kernel, as C sees it: `Parameter("x", "const float *")`."""

    name: str
    ctype: str

    def __str__(self) -> str:
        return f"{self.ctype}{self.name}" if self.ctype.endswith("*") else f"{self.ctype} {self.name}"


@dataclass(frozen=True, eq=False)
class Kernel:
    """A plain C function `void symbol(parameters)`; `func` (a TIR PrimFunc) is built when first asked for.

    The symbol names family and parameters, and so is the same in every process: two kernels of one
    symbol and one target are the same code.
    """

    symbol: str
    parameters: tuple[Parameter, ...]
    build: Callable[[], tvm.tirx.PrimFunc] = field(repr=False)

    @cached_property
    def func(self) -> tvm.tirx.PrimFunc:
        """The body, with the C symbol as its `global_symbol`."""
        return self.build()

    def prototype(self) -> str:
        """The C declaration: `void gemm_f32(const float *x, ..., int64_t panel_end);`."""
        return f"void {self.symbol}({', '.join(map(str, self.parameters))});"
