"""Objects: the same bytes every time, alone or in company, from the cache or not."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import models
import onnx
import pytest
from runners import KNOWN, most_capable

from isthmus.codegen import objects
from isthmus.codegen.objects import compile_kernels
from isthmus.driver import Options, prepare
from isthmus.kernels import gemm, layer_norm, pack, softmax
from isthmus.kernels.kernel import Declared, Kernel
from isthmus.target import Target
from isthmus.tools.conformance.cases import batches, program
from isthmus.tools.conformance.kit import all_cases

PROGRAM = """
import hashlib, pickle, sys
from isthmus.codegen.objects import compile_kernels
from isthmus.kernels import layer_norm
target = pickle.load(sys.stdin.buffer)
(code,) = compile_kernels([layer_norm.kernel(target, True)], target, None).values()
print(hashlib.sha256(code).hexdigest(), end="")
"""

AGAIN = """
import sys
import isthmus
isthmus.compile("m.onnx", target="host", out="dist", dims={"batch": 1})
print("tvm" in sys.modules, end="")
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


def test_a_model_compiles_again_without_tvm(tmp_path: Path) -> None:
    onnx.save(models.bert(layers=1, hidden=32, heads=2, inner=64, vocabulary=20), tmp_path / "m.onnx")
    environment = {**os.environ, "ISTHMUS_CACHE": str(tmp_path / "cache")}
    said = [
        subprocess.run(
            [sys.executable, "-c", AGAIN], cwd=tmp_path, env=environment, check=True, capture_output=True
        ).stdout
        for _ in range(2)
    ]
    assert said == [b"True", b"False"]


SWITCHES = """
import hashlib, sys
from concurrent.futures import ThreadPoolExecutor
from isthmus.chips import find
from isthmus.codegen.objects import compile_kernels
from isthmus.kernels import attention, softmax
from isthmus.machine import Machine
import isthmus.targets
def code(name):
    chip = find(name, isthmus.targets, Machine.here())
    last = name == names[-1]
    kernel = attention.kernel(chip, 32, 32, "row", False) if last else softmax.kernel(chip)
    (made,) = compile_kernels([kernel], chip, None).values()
    return hashlib.sha256(made).hexdigest()
threads, *names = sys.argv[1:]
with ThreadPoolExecutor(int(threads)) as pool:
    print(list(pool.map(code, names))[-1], end="")
"""


def test_code_does_not_depend_on_what_was_compiled_before_or_beside() -> None:
    """Backends of LLVM set options of the process: how many cases make a table of jumps."""
    arches = {t.arch: t.name for t in KNOWN.values() if t.kernels == "llvm"}
    (best,) = most_capable(lambda target: None)
    alone, later, beside = (
        subprocess.run(
            [sys.executable, "-c", SWITCHES, threads, *others, best.name], check=True, capture_output=True
        ).stdout
        for threads, others in (("1", ()), ("1", arches.values()), ("8", arches.values()))
    )
    assert len(arches) >= 8 and alone == later == beside


def test_a_kept_kernel_is_not_written_again(level: Target, tmp_path: Path) -> None:
    made = compile_kernels([softmax.kernel(level)], level, tmp_path)

    def refuse() -> Declared:
        raise AssertionError("it was there")

    (symbol,) = made
    kept = Kernel(symbol, refuse)
    assert compile_kernels([kept], level, tmp_path) == made
    assert kept.prototype() == softmax.kernel(level).prototype()
    wider = replace(level, caches=replace(level.caches, l1_bytes=2 * level.caches.l1_bytes))
    with pytest.raises(AssertionError, match="it was there"):
        compile_kernels([Kernel(symbol, refuse)], wider, tmp_path)


def test_kept_kernels_do_not_wait_for_what_others_compile(level: Target, tmp_path: Path) -> None:
    kernels = [softmax.kernel(level)]
    made = compile_kernels(kernels, level, tmp_path)
    with ThreadPoolExecutor(1) as pool, objects._GENERATING:
        assert pool.submit(compile_kernels, kernels, level, tmp_path).result(timeout=60) == made


@pytest.mark.slow
def test_a_symbol_says_all_there_is_to_a_kernel() -> None:
    """The programs of the kit: what has one symbol has one text, as the cache relies on."""
    (best,) = most_capable(lambda target: None)
    known: dict[str, Kernel] = {}
    again = 0
    for part in batches(all_cases()):
        whole, _ = program(part)
        for kernel in prepare(whole, best, Options(verify=False)).plan.kernels():
            other = known.setdefault(kernel.symbol, kernel)
            if other is not kernel and not kernel.own:
                assert kernel.func.script() == other.func.script(), kernel.symbol
                again += 1
    assert again > 100
