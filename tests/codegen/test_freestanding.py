"""What stands in for a C library and for a heap where there is no system, compiled for this machine."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from layer_models import layer_model, save
from strict_c import WARNINGS, C

import isthmus.targets
from isthmus.chips import best_for, discover
from isthmus.codegen import toolchain
from isthmus.codegen.session_memory import arena_bytes, static_bytes
from isthmus.codegen.sources import source_files
from isthmus.driver import Options, Prepared, prepare, read_model, write_c
from isthmus.machine import Machine
from isthmus.systems import NONE

Build = Callable[..., ctypes.CDLL]
(BOARD, *_) = (
    target for target in discover(isthmus.targets).values() if target.toolchain.system.freestanding
)


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """A library of these texts, without warnings."""

    def made(texts: dict[str, str], flags: Sequence[str] = ()) -> ctypes.CDLL:
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
        path = tmp_path / f"library{len(list(tmp_path.glob('*.so')))}.so"
        sources = sorted(name for name in texts if name.endswith(".c"))
        command = [sys.executable, "-m", "ziglang", "cc", "-std=c11", "-O2", *WARNINGS, "-fPIC", "-shared"]
        subprocess.run([*command, *flags, "-I.", *sources, "-pthread", "-o", path], cwd=tmp_path, check=True)
        return ctypes.CDLL(str(path))

    return made


MEMORY = """
#include <stddef.h>
extern unsigned char isthmus_memory[];
extern const size_t isthmus_memory_bytes;
_Alignas(64) unsigned char isthmus_memory[4096];
const size_t isthmus_memory_bytes = 4096;
"""


@pytest.fixture
def library(build: Build) -> ctypes.CDLL:
    runtime = toolchain.runtime_sources(NONE)
    wanted = ("library.c", "stdio.h", "stdlib.h", "string.h", "inttypes.h")
    return build({**{name: runtime[name] for name in wanted}, "memory.c": MEMORY}, ["-ffreestanding"])


def test_formats(library: ctypes.CDLL) -> None:
    def formatted(size: int, text: bytes, *arguments: object) -> tuple[int, bytes]:
        room = ctypes.create_string_buffer(b"#" * 64)
        length = library.isthmus_snprintf(room, ctypes.c_size_t(size), text, *arguments)
        return length, room.value if size else b""

    assert formatted(64, b"plain") == (5, b"plain")
    assert formatted(64, b"'%s' is %d", b"x", -12) == (10, b"'x' is -12")
    assert formatted(64, b"[%s|%.*s]", b"whole", 3, b"abcdef") == (11, b"[whole|abc]")
    for number in (0, 7, -1, 2**31 - 1, -(2**31)):
        assert formatted(64, b"%d", ctypes.c_int(number))[1] == str(number).encode()
    for number in (0, 2**63 - 1, -(2**63)):
        for conversion in (b"%ld", b"%lld"):
            assert formatted(64, conversion, ctypes.c_int64(number))[1] == str(number).encode()
    # Cut where the room ends, and counted all the same.
    assert formatted(4, b"%s", b"abcdef") == (6, b"abc")
    assert formatted(1, b"abc") == (3, b"")
    assert formatted(0, b"abc")[0] == 3


def test_memory_is_one_array(library: ctypes.CDLL) -> None:
    for name in ("isthmus_calloc", "isthmus_aligned_alloc"):
        getattr(library, name).restype = ctypes.c_void_p
    size = ctypes.c_size_t
    one = library.isthmus_calloc(size(3), size(5))
    two = library.isthmus_aligned_alloc(size(64), size(1000))
    assert one and two and two % 64 == 0 and two >= one + 15
    assert ctypes.string_at(one, 15) == bytes(15)
    assert library.isthmus_calloc(size(1), size(4096)) is None
    assert library.isthmus_calloc(size(2**62), size(8)) is None
    ctypes.memset(one, 0xFF, 15)
    library.isthmus_free(ctypes.c_void_p(two))
    library.isthmus_free(None)
    library.isthmus_free(ctypes.c_void_p(one))
    again = library.isthmus_calloc(size(1), size(4096))
    assert again == one and ctypes.string_at(again, 4096) == bytes(4096)


def test_text_functions(library: ctypes.CDLL) -> None:
    for name in ("strspn", "strcspn", "strlen"):
        getattr(library, name).restype = ctypes.c_size_t
    assert library.strspn(b", , x", b", ") == 4 and library.strspn(b"x", b"") == 0
    assert library.strcspn(b"seq, 384", b",") == 3 and library.strcspn(b"seq", b",") == 3
    assert library.strlen(b"") == 0 and library.strlen(b"four") == 4
    assert library.strcmp(b"a", b"a") == 0 and library.strcmp(b"a", b"b") < 0 < library.strcmp(b"ab", b"a")
    room = ctypes.create_string_buffer(b"abcdef", 7)
    address = ctypes.addressof(room)
    library.memmove(ctypes.c_void_p(address + 2), ctypes.c_void_p(address), ctypes.c_size_t(4))
    assert room.value == b"ababcd"
    library.memmove(ctypes.c_void_p(address), ctypes.c_void_p(address + 2), ctypes.c_size_t(4))
    assert room.value == b"abcdcd"


PROBE = """
#include "isthmus_plan.h"
int64_t arena(const int64_t *dims);
int64_t arena(const int64_t *dims) {
  int64_t offsets[256];
  return isthmus_programs[0]->entries[0].arrange(dims, 1, offsets);
}
"""


def plan_of(made: Prepared) -> str:
    """The text of model.c."""
    return write_c("model", [made]).sources["model.c"]


def test_memory_is_as_large_as_it_has_to_be(build: Build, tmp_path: Path) -> None:
    """What Python adds up is what the generated C arranges, and model.c says so."""
    model = save(layer_model(), tmp_path)
    for batch, seq in ((1, 1), (2, 7), (3, 64)):
        options = Options(dims={"batch": (1, batch), "seq": (1, seq)})
        made = prepare(read_model(model, options), C, options)
        sources = source_files(plan_of(made), made.plan.kernels(), C.toolchain.system)
        sources.pop("Makefile")
        library = build({**sources, "probe.c": PROBE}, ["-Wno-unused-parameter"])
        library.arena.restype = ctypes.c_int64
        sizes = [{"batch": batch, "seq": seq}[dim.name] for dim in made.plan.dims]
        wanted = library.arena((ctypes.c_int64 * 2)(*sizes))
        board = prepare(read_model(model, options), BOARD, options)
        highest = {"batch": batch, "seq": seq}
        assert arena_bytes(made.plan, highest, threads=1) == wanted
        (told,) = re.findall(r"#define ISTHMUS_MEMORY_BYTES (\d+)", plan_of(board))
        assert int(told) == static_bytes(board.plan) > wanted


SATURATING = """
#include "isthmus_plan.h"
int64_t mul(int64_t a, int64_t b);
int64_t add(int64_t a, int64_t b);
int64_t mul(int64_t a, int64_t b) { return isthmus_mul(a, b); }
int64_t add(int64_t a, int64_t b) { return isthmus_add(a, b); }
"""


def test_sizes_saturate_in_plain_c(build: Build) -> None:
    runtime = toolchain.runtime_sources(C.toolchain.system)
    texts = {
        "s.c": SATURATING,
        "isthmus_plan.h": runtime["isthmus_plan.h"],
        "isthmus.h": runtime["isthmus.h"],
    }
    low, high = -(2**63), 2**63 - 1
    edges = [low, low + 1, -(2**32), -3, -1, 0, 1, 2, 3, 2**31, 2**32, 3037000500, high // 2, high - 1, high]
    for flags in ((), ("-DISTHMUS_PLAIN_C",)):
        library = build(texts, [*flags, "-fsanitize=undefined", "-fsanitize-trap=all"])
        for name, exact in (("mul", lambda a, b: a * b), ("add", lambda a, b: a + b)):
            function = getattr(library, name)
            function.restype = ctypes.c_int64
            for a in edges:
                for b in edges:
                    got = function(ctypes.c_int64(a), ctypes.c_int64(b))
                    assert got == min(max(exact(a, b), low), high), (name, a, b, flags)


def test_c_is_the_host_only_where_nothing_better_is_known() -> None:
    known = discover(isthmus.targets)
    machine = Machine(C.arch, C.os)
    assert best_for(machine, {C.name: C}) is C
    assert best_for(Machine("z80", "cpm"), known) is None
    full = Machine(C.arch, C.os, frozenset(f for t in known.values() for f in t.cpu_flags))
    best = best_for(full, known)
    assert best is not None and (best.kernels == "llvm" or all(t.kernels == "c" for t in known.values()))
