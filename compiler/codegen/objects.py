"""From kernels to objects through TVM's LLVM code generator, or as C through the C compiler; with a cache.

TIR written with `kernels.builder` is already what code generation takes (flat buffers, explicit vectors,
int64 indices), so only the lowering of intrinsics runs before it. No packed calling convention is added:
the function comes out as a plain C symbol.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from isthmus.codegen import toolchain
from isthmus.codegen.cache import load, store
from isthmus.codegen.kernel_c import kernel_c
from isthmus.codegen.lower import lower_intrinsics
from isthmus.errors import CompilerBug
from isthmus.kernels.kernel import Kernel
from isthmus.kernels.tir import tvm
from isthmus.machine import processors
from isthmus.target import Target

# Part of the cache key: raise it when this file changes what it makes of the same TIR.
FORMAT = 1


def compile_kernels(kernels: Sequence[Kernel], target: Target, cache: Path | None) -> dict[str, bytes]:
    """Object files by symbol, in symbol order; the same kernels give the same bytes in every process.

    `cache` is a directory (made when missing) of objects of earlier calls; several processes may share
    it. A damaged entry is not used but replaced. Kernels that share a symbol must be the same code.
    """
    by_symbol = {kernel.symbol: kernel for kernel in kernels}
    chosen = [by_symbol[symbol] for symbol in sorted(by_symbol)]
    for kernel in chosen:
        # Python writes TIR on one thread; code generation releases the interpreter lock, and so runs on all.
        _ = kernel.func
    with ThreadPoolExecutor(max_workers=processors()) as pool:
        objects = list(pool.map(lambda kernel: _compile_cached(kernel, target, cache), chosen))
    return {kernel.symbol: code for kernel, code in zip(chosen, objects, strict=True)}


def _compile_cached(kernel: Kernel, target: Target, cache: Path | None) -> bytes:
    if cache is None:
        return _compile(kernel, target)
    key = _key(kernel, target)
    stored = load(cache, key)
    if stored is not None:
        return stored
    compiled = _compile(kernel, target)
    store(cache, key, compiled)
    return compiled


def _key(kernel: Kernel, target: Target) -> str:
    if target.kernels == "c":
        return toolchain.kernel_key(kernel_c(kernel), target.toolchain)
    parts = (str(FORMAT), tvm.__version__, repr(sorted(target.tvm.items())), kernel.func.script())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _compile(kernel: Kernel, target: Target) -> bytes:
    if target.kernels == "c":
        return toolchain.kernel_object(kernel_c(kernel), target.toolchain)
    with tempfile.TemporaryDirectory(prefix="isthmus-") as scratch:
        path = Path(scratch) / "kernel.o"
        _generate(kernel, target).write_to_file(str(path))
        compiled = path.read_bytes()
    if not compiled:
        raise CompilerBug(f"TVM wrote an empty object for {kernel.symbol}")
    return compiled


def assembly(kernel: Kernel, target: Target) -> str:
    """The assembly text of a kernel, to read and to test."""
    return str(_generate(kernel, target).inspect_source("asm"))


def _generate(kernel: Kernel, target: Target) -> Any:
    tvm_target = tvm.target.Target(dict(target.tvm))
    module = lower_intrinsics(kernel.symbol, kernel.func, tvm_target)
    return tvm.target.codegen.build_module(module, tvm_target)
