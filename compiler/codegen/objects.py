"""From kernels to ELF objects through TVM's LLVM code generator, with a cache keyed by content.

TIR written with `kernels.builder` is already what code generation takes (flat buffers, explicit vectors,
int64 indices), so only the lowering of intrinsics runs before it. No packed calling convention is added:
the function comes out as a plain C symbol.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import tvm
from tvm import tirx
from tvm.target import codegen

from isthmus.errors import CompilerBug
from isthmus.kernels.kernel import Kernel
from isthmus.target import Target

# Part of the cache key: raise it when this file changes what it makes of the same TIR.
FORMAT = 1
DIGEST_BYTES = 32


def compile_kernels(kernels: Sequence[Kernel], target: Target, cache: Path | None) -> dict[str, bytes]:
    """Object files by symbol, in symbol order; the same kernels give the same bytes in every process.

    `cache` is a directory (made when missing) of objects of earlier calls; several processes may share
    it. A damaged entry is not used but replaced. Kernels that share a symbol must be the same code.
    """
    objects: dict[str, bytes] = {}
    for kernel in sorted(kernels, key=lambda k: k.symbol):
        if kernel.symbol not in objects:
            objects[kernel.symbol] = _compile_cached(kernel, target, cache)
    return objects


def _compile_cached(kernel: Kernel, target: Target, cache: Path | None) -> bytes:
    if cache is None:
        return _compile(kernel, target)
    entry = cache / f"{_key(kernel, target)}.o"
    stored = _read(entry)
    if stored is not None:
        return stored
    compiled = _compile(kernel, target)
    _write(entry, compiled)
    return compiled


def _key(kernel: Kernel, target: Target) -> str:
    parts = (str(FORMAT), tvm.__version__, repr(sorted(target.tvm.items())), kernel.func.script())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _compile(kernel: Kernel, target: Target) -> bytes:
    tvm_target = tvm.target.Target(dict(target.tvm))
    module = tvm.IRModule({kernel.symbol: kernel.func})
    module = tirx.transform.BindTarget(tvm_target)(module)
    module = tirx.transform.LowerIntrin()(module)
    with tempfile.TemporaryDirectory(prefix="isthmus-") as scratch:
        path = Path(scratch) / "kernel.o"
        codegen.build_module(module, tvm_target).write_to_file(str(path))
        compiled = path.read_bytes()
    if not compiled:
        raise CompilerBug(f"TVM wrote an empty object for {kernel.symbol}")
    return compiled


def assembly(kernel: Kernel, target: Target) -> str:
    """The assembly text of a kernel, to read and to test."""
    tvm_target = tvm.target.Target(dict(target.tvm))
    module = tirx.transform.BindTarget(tvm_target)(tvm.IRModule({kernel.symbol: kernel.func}))
    module = tirx.transform.LowerIntrin()(module)
    return str(codegen.build_module(module, tvm_target).inspect_source("asm"))


def _read(entry: Path) -> bytes | None:
    """The object in a cache file (digest, then object), or None when there is none that is whole."""
    try:
        raw = entry.read_bytes()
    except OSError:
        return None
    digest, stored = raw[:DIGEST_BYTES], raw[DIGEST_BYTES:]
    return stored if stored and hashlib.sha256(stored).digest() == digest else None


def _write(entry: Path, compiled: bytes) -> None:
    """Write beside, then rename: another process sees the whole entry or none."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=entry.parent, prefix=".kernel-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(compiled).digest() + compiled)
        os.replace(scratch, entry)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
