"""Linking: what comes out, and that it is the same bytes everywhere."""

from __future__ import annotations

import ctypes
import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.codegen import toolchain
from isthmus.errors import CompilerBug
from isthmus.systems import LINUX, SYSTEMS

ZIG = LINUX.toolchain("x86_64", "x86_64")
PLAN = """\
#include "isthmus_plan.h"
int64_t one(void);
int64_t two(void);
static int64_t arrange(const int64_t *dims, int32_t threads, int64_t *offsets) {
  (void)dims, (void)offsets;
  return threads;
}
static void run(const isthmus_frame *frame, int32_t thread) {
  (void)thread;
  *(int64_t *)frame->outputs[0] = one() + two();
}
static void shape(const int64_t *dims, int32_t output, int64_t *shape) {
  (void)dims, (void)output, (void)shape;
}
static const isthmus_port OUTPUT = {.name = "y", .dtype = ISTHMUS_I64, .dims_text = ""};
static const isthmus_entry ENTRY = {
    .name = "main", .output_count = 1, .outputs = &OUTPUT, .output_shape = shape,
    .arrange = arrange, .run = run};
static const isthmus_program PROGRAM = {
    .abi = ISTHMUS_PLAN_ABI, .model = "tiny", .target = "any", .entry_count = 1, .entries = &ENTRY};
const isthmus_program *const isthmus_programs[] = {&PROGRAM, 0};
"""


@pytest.fixture(scope="module")
def cache(root: Path) -> Path:
    return root / "build" / "cache"


@pytest.fixture(scope="module")
def objects(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two kernels; their symbols are visible, as TVM makes them."""
    folder = tmp_path_factory.mktemp("kernels")
    made = {}
    zig = ("-m", "ziglang", "cc", "-target", ZIG.zig_target, "-O2", "-fPIC")
    for value, symbol in enumerate(("one", "two"), 1):
        source = folder / f"{symbol}.c"
        source.write_text(f"#include <stdint.h>\nint64_t {symbol}(void) {{ return {value}; }}\n")
        subprocess.run(
            [sys.executable, *zig, "-c", source, "-o", folder / f"{symbol}.o"],
            env={
                **os.environ,
                "ZIG_GLOBAL_CACHE_DIR": str(cache / "zig"),
                "ZIG_LOCAL_CACHE_DIR": str(folder / "z"),
            },
            check=True,
        )
        made[symbol] = (folder / f"{symbol}.o").read_bytes()
    return made


@pytest.fixture(scope="module")
def library(objects: dict[str, bytes], cache: Path) -> bytes:
    return toolchain.link({"model.c": PLAN}, objects, ZIG, cache)[ZIG.library]


def test_only_the_interface_is_visible(library: bytes, tmp_path: Path) -> None:
    path = tmp_path / "libmodel.so"
    path.write_bytes(library)
    loaded = ctypes.CDLL(str(path))
    assert loaded.isthmus_run and loaded.isthmus_open
    for hidden in ("one", "two", "isthmus_programs", "isthmus_barrier_meet", "isthmus_os_pages"):
        assert not hasattr(loaded, hidden), hidden


def test_needs_only_libc_and_threads(library: bytes) -> None:
    names = {part for part in library.split(b"\0") if part.startswith(b"lib") and b".so" in part}
    assert names <= {b"libc.so.6", b"libpthread.so.0"}


def test_carries_no_paths(library: bytes, root: Path) -> None:
    for text in (os.fsencode(root), os.fsencode(Path.home()), b"/tmp", b"isthmus-link", b".debug_info"):
        assert text not in library


SCRIPT = """
import hashlib, pickle, sys
from pathlib import Path
from isthmus.codegen import toolchain
from isthmus.systems import LINUX, SYSTEMS
plan, objects, zig, cache = pickle.loads(sys.stdin.buffer.read())
print(hashlib.sha256(toolchain.link({"model.c": plan}, objects, zig, cache)[zig.library]).hexdigest())
"""


def test_same_bytes_in_every_folder_and_with_every_hash_seed(
    library: bytes, objects: dict[str, bytes], cache: Path, tmp_path: Path
) -> None:
    expected = hashlib.sha256(library).hexdigest()
    for seed in ("1", "2"):
        folder = tmp_path / f"some where {seed}"
        folder.mkdir()
        turned = dict(reversed(objects.items())) if seed == "2" else objects
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            input=pickle.dumps((PLAN, turned, ZIG, cache)),
            cwd=folder,
            env={**os.environ, "PYTHONHASHSEED": seed, "TMPDIR": str(folder), "CFLAGS": "-O0", "CPATH": "/x"},
            capture_output=True,
            check=True,
        )
        assert done.stdout.decode().strip() == expected
        assert not any(folder.iterdir()), "something was left behind"


@pytest.mark.slow  # zig builds its libc stubs: about ten seconds
def test_same_bytes_without_a_cache(library: bytes, objects: dict[str, bytes]) -> None:
    assert toolchain.link({"model.c": PLAN}, objects, ZIG, None)[ZIG.library] == library


def test_a_refusal_says_what_the_compiler_said(cache: Path, objects: dict[str, bytes]) -> None:
    with pytest.raises(CompilerBug, match="use of undeclared identifier 'nonsense'"):
        toolchain.link({"model.c": PLAN + "int x = nonsense;"}, objects, ZIG, cache)
    with pytest.raises(CompilerBug, match="three"):
        toolchain.link(
            {"model.c": PLAN.replace("two()", "three()").replace("two(void)", "three(void)")},
            objects,
            ZIG,
            cache,
        )


def test_the_runtime_comes_with_the_package(root: Path) -> None:
    folder = root / "compiler" / "runtime" / "c"
    files = {path.name: path.read_text() for path in sorted(folder.glob("*.[ch]"))}
    library = {path.name: path.read_text() for path in sorted((folder / "freestanding").glob("*.[ch]"))}
    assert library
    for system in SYSTEMS.values():
        others = {name for name in files if name.startswith("os_")} - {system.source}
        wanted = {name: text for name, text in files.items() if name not in others}
        assert toolchain.runtime_sources(system) == {**wanted, **(library if system.freestanding else {})}


def test_a_cache_that_cannot_be_written_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert toolchain._writable(tmp_path / "new" / "folder")
    assert not toolchain._writable(tmp_path / "file" / "folder")
