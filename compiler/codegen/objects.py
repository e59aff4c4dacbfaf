"""From kernels to objects through TVM's LLVM code generator, or as C through the C compiler; with a cache.

TIR written with `kernels.builder` is already what code generation takes (flat buffers, explicit vectors,
int64 indices), so only the lowering of intrinsics runs before it. No packed calling convention is added:
the function comes out as a plain C symbol.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from isthmus.codegen import toolchain
from isthmus.codegen.cache import digest_of, load, store
from isthmus.codegen.kernel_c import kernel_c
from isthmus.codegen.lower import lower_intrinsics
from isthmus.errors import CompilerBug
from isthmus.kernels.kernel import Kernel, Parameter
from isthmus.kernels.tir import tvm
from isthmus.machine import processors
from isthmus.target import Target

# Part of every key: raise it when what is kept looks different.
FORMAT = "parameters, object"
# Options of LLVM are the process's, and some chips set them: calls of several threads take turns.
_GENERATING = threading.Lock()
# What writes kernels, under the package: a cached object is that of these sources.
_WRITERS = ("target.py", *(f"{folder}/**/*.py" for folder in ("ir", "ops", "kernels", "lowering", "codegen")))


def compile_kernels(kernels: Sequence[Kernel], target: Target, cache: Path | None) -> dict[str, bytes]:
    """Object files by symbol, in symbol order; the same kernels give the same bytes in every process.

    `cache` is a directory (made when missing) of objects of earlier calls; several processes may share
    it. A damaged entry is not used but replaced. Kernels that share a symbol must be the same code.
    """
    by_symbol = {kernel.symbol: kernel for kernel in kernels}
    # Of a kernel that is C, the key takes its text: made once.
    keys = {symbol: _key(kernel, target) if cache else "" for symbol, kernel in by_symbol.items()}
    objects = {symbol: _known(kernel, cache, keys[symbol]) for symbol, kernel in by_symbol.items()}
    missing = [by_symbol[symbol] for symbol in sorted(objects) if objects[symbol] is None]
    compiled = _compile_all(missing, target, cache, keys)
    return {symbol: objects[symbol] or compiled[symbol] for symbol in sorted(objects)}


def _compile_all(
    kernels: Sequence[Kernel], target: Target, cache: Path | None, keys: Mapping[str, str]
) -> dict[str, bytes]:
    """Objects by symbol, kept under their keys."""
    if not kernels:
        return {}  # without waiting for what other threads compile
    for kernel in kernels:
        # Python writes TIR on one thread; code generation releases the interpreter lock, and so runs on all.
        _ = kernel.func
    # A chip that sets options of LLVM has LLVM to itself.
    threads = 1 if "cl-opt" in target.tvm else processors()
    with _GENERATING, ThreadPoolExecutor(max_workers=threads) as pool:
        made = pool.map(lambda kernel: _compile_kept(kernel, target, cache, keys[kernel.symbol]), kernels)
        return dict(zip((kernel.symbol for kernel in kernels), made, strict=True))


def _known(kernel: Kernel, cache: Path | None, key: str) -> bytes | None:
    """The object that was kept, if one was. Then the kernel knows its parameters as well, which the plan's C
    declares: TVM, which takes half a second to load, is not needed."""
    kept = load(cache, key)
    if kept is None:
        return None
    head, compiled = kept.split(b"\n", 1)
    kernel.know(tuple(Parameter(name, ctype) for name, ctype in json.loads(head)))
    return compiled


def _compile_kept(kernel: Kernel, target: Target, cache: Path | None, key: str) -> bytes:
    compiled = _compile(kernel, target)
    head = json.dumps([(parameter.name, parameter.ctype) for parameter in kernel.parameters])
    store(cache, key, head.encode() + b"\n" + compiled)
    return compiled


def _key(kernel: Kernel, target: Target) -> str:
    """What the object depends on, known without writing the kernel: its symbol, which names the family and
    all parameters, what the chip declares, and our own sources. Writing kernels to compare their text took
    four fifths of the time of compiling a small model again."""
    parts: tuple[str, ...]
    if target.kernels == "c":
        parts = (FORMAT, toolchain.kernel_key(kernel_c(kernel), target.toolchain))
    else:
        chip = (sorted(target.tvm.items()), target.kernel_traits, target.caches)
        parts = (FORMAT, _writers(), repr(chip), kernel.symbol)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@functools.cache
def _writers() -> str:
    """TVM's version, and the digest of the sources that write kernels and make objects of them."""
    root = Path(__file__).resolve().parents[1]
    files = (path for name in _WRITERS for path in root.glob(name))
    digest = digest_of((path.relative_to(root).as_posix(), path) for path in files)
    return f"{metadata.version('apache-tvm')} {digest}"


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
    with _GENERATING:
        return str(_generate(kernel, target).inspect_source("asm"))


def _generate(kernel: Kernel, target: Target) -> Any:
    tvm_target = tvm.target.Target(dict(target.tvm))
    module = lower_intrinsics(kernel.symbol, kernel.func, tvm_target)
    return tvm.target.codegen.build_module(module, tvm_target)
