"""Kernels as Python functions, on the machine that compiled them: to test and to time kernels one by one."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from isthmus.codegen.objects import compile_kernels
from isthmus.codegen.toolchain import compiler
from isthmus.errors import CompilerBug
from isthmus.kernels.kernel import Kernel, Parameter
from isthmus.target import Target

C_TYPES = {
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
}

Call = Callable[..., None]


def load(
    kernels: Sequence[Kernel], target: Target, folder: Path, cache: Path | None = None
) -> dict[str, Call]:
    """Compile, link into one shared object in `folder` (which must be new), load; functions by symbol.

    A function takes the kernel's parameters in order: an array (or an address) for a pointer, numbers
    for the rest. `cache` is that of `compile_kernels`.
    """
    objects = compile_kernels(kernels, target, cache)
    paths = []
    for symbol, code in objects.items():
        paths.append(folder / f"{symbol}.o")
        paths[-1].write_bytes(code)
    if target.tiles is not None and any(kernel.tiles for kernel in kernels):
        paths.append(folder / "tiles.c")
        asked = "const char *isthmus_tiles(void) { return isthmus_machine_check(); }\n"
        paths[-1].write_text(target.tiles.guard + asked)
    shared = folder / "kernels.so"
    # Without libraries: what kernels call of them, this process has. A tenth of the time with them.
    command = [*compiler(), "cc", "-shared", "-nostdlib", "-o", str(shared), *map(str, paths)]
    linked = subprocess.run(command, capture_output=True, text=True, check=False)
    if linked.returncode:
        raise CompilerBug(f"kernels do not link:\n{linked.stderr}")
    library = ctypes.CDLL(str(shared))
    if paths[-1].suffix == ".c":
        library.isthmus_tiles.restype = ctypes.c_char_p
        if (refusal := library.isthmus_tiles()) is not None:
            raise CompilerBug(refusal.decode())
    return {kernel.symbol: _function(library, kernel) for kernel in kernels}


def _argument_type(parameter: Parameter) -> type[ctypes.c_void_p] | type[ctypes.c_double]:
    return ctypes.c_void_p if parameter.ctype.endswith("*") else C_TYPES[parameter.ctype]  # type: ignore[return-value]


def _function(library: ctypes.CDLL, kernel: Kernel) -> Call:
    function = getattr(library, kernel.symbol)
    function.restype = None
    function.argtypes = [_argument_type(parameter) for parameter in kernel.parameters]

    def call(*arguments: np.ndarray | int | float) -> None:
        if len(arguments) != len(kernel.parameters):
            raise CompilerBug(f"{kernel.symbol} takes {len(kernel.parameters)} arguments")
        function(*(a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments))

    return call
