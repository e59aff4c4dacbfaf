"""The C runtime by itself: threads and barriers, under the sanitizers too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isthmus.codegen import toolchain
from isthmus.systems import LINUX

HERE = Path(__file__).resolve().parent
# What is undefined ends the process: to say what it was takes a library that zig builds for most of a minute.
TRAPS = ("-O1", "-fsanitize=undefined", "-fsanitize-trap=undefined")

Compile = Callable[..., Path]


def c_files(sources: Path) -> list[Path]:
    """The C runtime's own files for this system."""
    return [sources / name for name in toolchain.runtime_sources(LINUX) if name.endswith(".c")]


@pytest.fixture(scope="session")
def sources(root: Path) -> Path:
    return root / "compiler" / "runtime" / "c"


@pytest.fixture(scope="session")
def compile_program(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Compile:
    """An executable of these C files and flags; warnings are errors."""

    def build(*arguments: str | Path) -> Path:
        folder = tmp_path_factory.mktemp("program")
        program = folder / "program"
        warnings = ("-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wconversion", "-Wno-sign-conversion")
        zig = (sys.executable, "-m", "ziglang", "cc", "-g", "-O1")
        subprocess.run(
            [*zig, *warnings, f"-I{sources}", *map(str, arguments), "-pthread", "-o", str(program)],
            env={**os.environ, "ZIG_LOCAL_CACHE_DIR": str(folder / "zig")},
            check=True,
            timeout=600,
        )
        return program

    return build


@pytest.fixture(scope="session")
def compile_stress(compile_program: Compile, sources: Path) -> Compile:
    """stress.c with the runtime compiled into it."""
    files = (
        "-std=c11",
        *c_files(sources),
        HERE / "plan_example.c",
        HERE / "stress.c",
    )
    return lambda *flags: compile_program(*files, "-DISTHMUS_POISON", *flags)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(64))
    return path


def stress(program: Path, *arguments: object) -> None:
    done = subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("0 failures\n", "", 0)


def test_thousands_of_runs_on_1_to_8_threads(compile_stress: Compile, weights: Path) -> None:
    program = compile_stress("-O2")
    stress(program, weights, 4000)
    stress(program, weights, 300, "sleep")


def test_many_stages(compile_stress: Compile, weights: Path) -> None:
    stress(compile_stress("-O2", "-DSTAGES=50"), weights, 300)


def test_threads_on_a_single_processor(compile_stress: Compile, weights: Path) -> None:
    # A barrier that only spins would take a time slice for each of its stages here.
    program = compile_stress("-O2")
    one = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [program, weights, "300"],
        preexec_fn=lambda: os.sched_setaffinity(0, {one}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("0 failures\n", "")


def test_no_undefined_behaviour(compile_stress: Compile, weights: Path) -> None:
    program = compile_stress(*TRAPS)
    stress(program, weights, 500)
    stress(program, weights, 50, "sleep")


@pytest.mark.parametrize("bounds", [(), ("-DHIGH_SEQ=8000", "-DHIGH_BATCH=2")])
def test_misuse_and_allocation(
    compile_program: Compile, sources: Path, weights: Path, bounds: tuple[str, ...]
) -> None:
    files = (
        *c_files(sources),
        HERE / "plan_example.c",
        HERE / "api.c",
    )
    counted = [f"-D{name}=counted_{name}" for name in ("calloc", "aligned_alloc", "mmap")]
    program = compile_program("-std=c11", *files, "-D_GNU_SOURCE", *counted, *TRAPS, *bounds)
    stress(program, weights, *bounds[:1])


@pytest.mark.slow  # the first time, zig builds the sanitizer's own runtime: a minute or two
def test_no_data_races(compile_stress: Compile, weights: Path) -> None:
    program = compile_stress("-O1", "-fsanitize=thread")
    stress(program, weights, 500)
    stress(program, weights, 100, "sleep")


def test_the_headers_are_c_plus_plus_too(compile_program: Compile, tmp_path: Path) -> None:
    source = tmp_path / "includes.cpp"
    source.write_text('#include "isthmus.h"\nint main() { return isthmus_tensor{}.rank; }\n')
    compile_program("-c", "-Wno-unused-command-line-argument", "-xc++", "-std=c++17", source)


def test_the_c_example_of_the_documentation(
    root: Path, bundle: Path, compile_program: Compile, tmp_path: Path
) -> None:
    text = (root / "docs" / "c-api.md").read_text()
    source = tmp_path / "example.c"
    source.write_text(text.split("```c\n")[1].split("```")[0])
    library = bundle / "lib" / "libmodel.so"
    program = compile_program("-std=c11", source, library, f"-Wl,-rpath,{library.parent}")
    done = subprocess.run([program, bundle / "weights.bin"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("y = 3 5 7 9 11 13\nz = 15 33\n", "", 0)
    done = subprocess.run([program, tmp_path / "none.bin"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "none.bin': No such file or directory" in done.stderr


def test_short_weights_are_an_error(bundle: Path, compile_stress: Compile, tmp_path: Path) -> None:
    program = compile_stress("-O2")
    short = tmp_path / "short.bin"
    for size in (0, 63, 65):
        short.write_bytes(bytes(size))
        done = subprocess.run([program, short], capture_output=True, text=True, check=False)
        assert done.returncode == 1 and f"have {size} bytes, expected 64" in done.stderr
    done = subprocess.run([program, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "not a regular file" in done.stderr
