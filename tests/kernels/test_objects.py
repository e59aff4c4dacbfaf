"""Objects: the same bytes every time, alone or in company, from the cache or not."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

from isthmus.codegen.objects import compile_kernels
from isthmus.kernels import gemm, layer_norm, pack, softmax
from isthmus.target import Target

PROGRAM = """
import hashlib, pickle, sys
from isthmus.codegen.objects import compile_kernels
from isthmus.kernels import layer_norm
target = pickle.load(sys.stdin.buffer)
(code,) = compile_kernels([layer_norm.kernel(target, True)], target, None).values()
print(hashlib.sha256(code).hexdigest(), end="")
"""


def test_cached_and_repaired(target: Target, tmp_path: Path) -> None:
    kernels = [pack.kernel(target)]
    first = compile_kernels(kernels, target, tmp_path)
    assert compile_kernels([pack.kernel(target)], target, None) == first
    (entry,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert compile_kernels(kernels, target, tmp_path) == first
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert compile_kernels(kernels, target, tmp_path) == first
    assert entry.read_bytes() == whole


def test_alone_or_together(target: Target) -> None:
    kernels = [
        softmax.kernel(target),
        pack.kernel(target),
        gemm.kernel(target),
        layer_norm.kernel(target, False),
    ]
    together = compile_kernels([*kernels, pack.kernel(target)], target, None)
    assert list(together) == sorted(kernel.symbol for kernel in kernels)
    for kernel in kernels:
        assert compile_kernels([kernel], target, None) == {kernel.symbol: together[kernel.symbol]}
    assert all(code.startswith(b"\x7fELF") for code in together.values())


def test_no_kernels(target: Target) -> None:
    assert compile_kernels([], target, None) == {}


def test_same_bytes_in_another_process(target: Target) -> None:
    (here,) = compile_kernels([layer_norm.kernel(target, True)], target, None).values()
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    there = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=pickle.dumps(target),
        env=environment,
        check=True,
        capture_output=True,
    )
    assert there.stdout.decode() == hashlib.sha256(here).hexdigest()
