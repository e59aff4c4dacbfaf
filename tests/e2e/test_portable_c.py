"""Bundles whose kernels are C: they answer, any C compiler builds them, a board with no system runs them."""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from layer_models import layer_model, save
from runners import need_runner
from strict_c import WARNINGS, C

import isthmus.targets
from isthmus.bundle import selftest
from isthmus.bundle.reader import open_bundle
from isthmus.chips import discover
from isthmus.codegen.cache import cache_dir
from isthmus.codegen.native import load as load_kernels
from isthmus.driver import Bundle, Options, compile_model, find_target
from isthmus.errors import ModelError
from isthmus.kernels import attention, gemm, layer_norm, pack, rms_norm, softmax
from isthmus.kernels.kernel import Kernel
from isthmus.systems import ARCHIVE
from isthmus.target import Target
from isthmus.targets.x86_64 import TARGETS as X86
from isthmus.tools.emulator import emulated

ROOT = Path(__file__).resolve().parents[2]
CACHE = cache_dir({"ISTHMUS_CACHE": str(ROOT / "build/cache")})
BOUNDS: dict[str, tuple[int, int | None]] = {"batch": (1, 3), "seq": (1, 16)}
ZOO = ("bert-legacy-op17", "vit-legacy-op17", "gpt2-dynamo-op18", "t5-encoder-legacy-op17")
BOARDS = [target for target in discover(isthmus.targets).values() if target.toolchain.system.freestanding]


def compiled(model: Path, target: Target, folder: Path, **dims: tuple[int, int | None]) -> Bundle:
    return compile_model(model, target.name, folder, Options(dims=dims, cache=CACHE))


# A chip like C's, with kernels from LLVM: no contraction either, so not one bit may differ.
SCALAR = replace(X86[0], vector=C.vector)


def _families(target: Target) -> list[Kernel]:
    return [
        gemm.kernel(target),
        gemm.kernel(target, "gelu", residual=True),
        layer_norm.kernel(target, True),
        rms_norm.kernel(target),
        softmax.kernel(target),
        pack.kernel(target),
        attention.kernel(target, 16, 8, "full", True),
    ]


def _arguments(kernel: Kernel) -> list[np.ndarray | int | float]:
    """Anything that keeps within 4096 elements: the same for both."""
    random = np.random.default_rng(3)
    sizes = itertools.chain((7, 9), itertools.repeat(40))
    values: list[np.ndarray | int | float] = []
    for parameter in kernel.parameters:
        if parameter.ctype.endswith("*"):
            values.append(random.standard_normal(4096).astype(np.float32))
        elif parameter.ctype == "float":
            values.append(0.25)
        else:
            begin, end = parameter.name.endswith("begin"), parameter.name.endswith("end")
            values.append(0 if begin else 4 if end else next(sizes))
    return values


def test_the_same_bits_as_llvm(tmp_path: Path) -> None:
    """Every family without fused multiply-add, from the two code generators."""
    if SCALAR.missing_on(isthmus.machine.Machine.here()):
        pytest.skip("not run: the other code generator's chip is not this machine")
    (tmp_path / "c").mkdir()
    (tmp_path / "llvm").mkdir()
    as_c = load_kernels(_families(C), C, tmp_path / "c")
    as_llvm = load_kernels(_families(SCALAR), SCALAR, tmp_path / "llvm")
    assert as_c.keys() == as_llvm.keys()
    for kernel in _families(C):
        ours, theirs = _arguments(kernel), _arguments(kernel)
        before = _arguments(kernel)
        as_c[kernel.symbol](*ours)
        as_llvm[kernel.symbol](*theirs)
        changed = False
        for a, b, c in zip(ours, theirs, before, strict=True):
            if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and isinstance(c, np.ndarray):
                np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32), kernel.symbol)
                changed |= bool((a != c).any())
        assert changed, f"{kernel.symbol} wrote nothing"


def test_a_dim_without_bound_is_refused(tmp_path: Path) -> None:
    model = save(layer_model(), tmp_path)
    with pytest.raises(ModelError) as caught:
        compiled(model, BOARDS[0], tmp_path, seq=(1, 8))
    (problem,) = caught.value.problems
    assert problem.code.name == "BAD_DIM" and "'batch'" in problem.message
    assert "--dim batch=1..HIGH" in problem.hint
    assert not list(tmp_path.glob("*@*"))


def _compilers() -> Sequence[tuple[str, ...]]:
    """The machine's own compiler, if there is one, and zig's."""
    own = shutil.which("cc")
    return (*([(own,)] if own else []), (sys.executable, "-m", "ziglang", "cc"))


@pytest.mark.parametrize("compiler", _compilers(), ids=lambda command: Path(command[-1]).name)
def test_any_compiler_builds_it(compiler: tuple[str, ...], tmp_path: Path) -> None:
    """The folder src and nothing else: a library that answers as the bundle's own, without a warning."""
    bundle = compiled(save(layer_model(), tmp_path), C, tmp_path)
    src = shutil.copytree(bundle.path / "src", tmp_path / "src")
    sources = sorted(path.name for path in src.glob("*.c"))
    command = [*compiler, "-std=c11", "-O2", *WARNINGS, "-ffp-contract=off", "-fPIC", "-shared", "-pthread"]
    subprocess.run([*command, *sources, "-o", "model.so"], cwd=src, check=True)
    library = ctypes.CDLL(str(src / "model.so"))
    model = ctypes.c_void_p()
    weights = os.fsencode(bundle.path / "weights.bin")
    assert library.isthmus_open(weights, ctypes.byref(model), None, ctypes.c_size_t(0)) == 0
    library.isthmus_model_name.restype = ctypes.c_char_p
    assert library.isthmus_model_name(model) == b"layer"
    library.isthmus_close(model)


def test_the_makefile_builds_the_archive(tmp_path: Path) -> None:
    bundle = compiled(save(layer_model(), tmp_path), C, tmp_path)
    src = shutil.copytree(bundle.path / "src", tmp_path / "src")
    compiler = " ".join(_compilers()[0])
    subprocess.run(["make", f"CC={compiler}", "CFLAGS=-O1"], cwd=src, check=True, capture_output=True)
    assert (src / ARCHIVE).read_bytes().startswith(b"!<arch>\n")


def test_the_example_of_the_documentation_compiles(tmp_path: Path) -> None:
    (text,) = re.findall(r"```c\n(.*?)```", (ROOT / "docs/microcontrollers.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "example.c").write_text(text)
    include = ROOT / "compiler" / "runtime" / "c"
    command = [*_compilers()[0], "-std=c11", *WARNINGS, "-fsyntax-only", f"-I{include}", "example.c"]
    subprocess.run(command, cwd=tmp_path, check=True)


def test_the_same_bytes(tmp_path: Path) -> None:
    model = save(layer_model(), tmp_path)
    for target in (C, BOARDS[0]):
        one = compiled(model, target, tmp_path / "one", **BOUNDS)
        two = compile_model(model, target.name, tmp_path / "two", Options(dims=BOUNDS, cache=None))
        assert one.manifest == two.manifest


def _replay(bundle: Bundle, target: Target) -> None:
    """Every stored case under the chip's emulator."""
    opened = open_bundle(bundle.path, thorough=True)
    cases = selftest.load(opened)
    assert cases
    with emulated(opened, target, CACHE, None) as emulator:
        for case in cases:
            assert not list(selftest.differences(case, emulator.run(case.inputs)))


@pytest.mark.parametrize("target", BOARDS, ids=lambda target: target.name)
def test_a_board_answers(target: Target, tmp_path: Path) -> None:
    need_runner(target)
    bundle = compiled(save(layer_model(), tmp_path), target, tmp_path, **BOUNDS)
    archive = (bundle.path / "lib" / ARCHIVE).read_bytes()
    for name in (b"malloc", b"pthread_create", b"mmap", b"printf", b"sqrtf"):
        assert b"\0" + name + b"\0" not in archive, name
    _replay(bundle, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", BOARDS, ids=lambda target: target.name)
def test_a_board_runs_bert(target: Target, zoo: Path, tmp_path: Path) -> None:
    need_runner(target)
    _replay(compiled(zoo / ZOO[0] / "model.onnx", target, tmp_path, **BOUNDS), target)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_the_zoo_as_c(name: str, zoo: Path, tmp_path: Path) -> None:
    """Compiled, which replays the self-test; and built by another compiler without a warning."""
    bundle = compiled(zoo / name / "model.onnx", find_target("c"), tmp_path)
    sources = sorted(str(path) for path in (bundle.path / "src").glob("*.c"))
    flags = ("-std=c11", "-O1", *WARNINGS, "-fsyntax-only")
    subprocess.run([*_compilers()[0], *flags, *sources], check=True)
