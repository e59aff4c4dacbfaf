"""What a kernel is to the rest of the compiler: a C symbol, its parameters and the TIR behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from isthmus.errors import CompilerBug


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a kernel, as C sees it: `Parameter("x", "const float *")`."""

    name: str
    ctype: str

    def __str__(self) -> str:
        return f"{self.ctype}{self.name}" if self.ctype.endswith("*") else f"{self.ctype} {self.name}"


@dataclass(frozen=True, slots=True)
class Declared:
    """The parameters of a kernel, and what builds its body: a TIR PrimFunc with the symbol as its name."""

    parameters: tuple[Parameter, ...]
    build: Callable[[], Any] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Kernel:
    """A plain C function `void symbol(parameters)`. Parameters and body are there when first asked for.

    The symbol names family and parameters, and so is the same in every process: two kernels of one
    symbol and one target are the same code. `own`: the target brings the function, as C text. `tiles`: it
    uses the target's tiles.
    """

    symbol: str
    declare: Callable[[], Declared] = field(repr=False)
    own: bool = False
    tiles: bool = False

    @classmethod
    def deferred(cls, symbol: str, make: Callable[[], Kernel], tiles: bool = False) -> Kernel:
        """The kernel that `make` makes, which is called `symbol`. Until it is needed, TVM is not either."""
        return cls(symbol, lambda: make().declared, tiles=tiles)

    @classmethod
    def of_chip(cls, symbol: str, parameters: tuple[Parameter, ...]) -> Kernel:
        """A function that the target brings: its C text comes with the target."""

        def no_body() -> Any:
            raise CompilerBug(f"{symbol} is the target's own: it has no TIR")

        return cls(symbol, lambda: Declared(parameters, no_body), own=True)

    @cached_property
    def declared(self) -> Declared:
        return self.declare()

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        return self.declared.parameters

    def know(self, parameters: tuple[Parameter, ...]) -> None:
        """Its parameters from who kept them, so that nothing has to be declared for them."""
        self.__dict__["parameters"] = parameters

    @cached_property
    def func(self) -> Any:
        """The body, with the C symbol as its `global_symbol`."""
        return self.declared.build()

    def prototype(self) -> str:
        """The C declaration: `void gemm_f32(const float *x, ..., int64_t panel_end);`."""
        return f"void {self.symbol}({', '.join(map(str, self.parameters))});"
