"""The bundle as a prefix for C and C++: CMake and pkg-config find it, and the examples run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# Optimized, as otherwise zig looks for undefined behaviour, with a library that it builds for half a minute.
ZIG = [sys.executable, "-m", "ziglang"]
WARNINGS = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
CPP = ["-std=c++17", "-O1", *WARNINGS]


def run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_examples_without_a_build_system(
    bundle: Path, tmp_path: Path, answer_to_zeros: np.ndarray
) -> None:
    include = f"-I{bundle / 'include'}"
    static, program = bundle / "lib" / "libmodel.a", tmp_path / "example"
    c = ["-std=c11", *WARNINGS, include, bundle / "c" / "example.c", static, "-pthread"]
    run(*ZIG, "cc", "-O1", *c, "-o", program)
    said = run(program, bundle / "weights.bin").split()
    assert said[:4] == ["y", "[1,", "1,", "16]"]
    assert float(said[4]) == pytest.approx(float(answer_to_zeros.flat[0]), rel=1e-4)
    run(*ZIG, "c++", *CPP, include, "-c", bundle / "c" / "example.cpp", "-o", tmp_path / "example.o")


@pytest.mark.slow  # the first time, zig builds a standard library: a minute
def test_the_example_in_cpp_without_a_build_system(bundle: Path, tmp_path: Path) -> None:
    files = [f"-I{bundle / 'include'}", bundle / "c" / "example.cpp", bundle / "lib" / "libmodel.so"]
    run(*ZIG, "c++", *CPP, *files, "-o", tmp_path / "example")
    assert "in  x [batch, seq, 16]" in run(tmp_path / "example", bundle / "weights.bin")


@pytest.mark.slow
def test_cmake_finds_it(bundle: Path, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("not run: cmake is not installed")
    run("cmake", "-S", bundle / "c", "-B", tmp_path)
    run("cmake", "--build", tmp_path)
    assert run(tmp_path / "example", bundle / "weights.bin").startswith("y [1, 1, 16]")
    assert "a-layer" in run(tmp_path / "example_cpp", bundle / "weights.bin").replace(" ", "-")


def test_pkg_config_names_the_files(bundle: Path) -> None:
    text = (bundle / "lib" / "pkgconfig" / "a_layer.pc").read_text()
    assert "${pcfiledir}/../.." in text and "Libs: ${prefix}/lib/libmodel.so" in text
