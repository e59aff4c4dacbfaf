"""Engines held to AVX2: which bytes are replaced, and what a library then finds."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import held
import pytest

ASKS = """
#include <cpuid.h>
unsigned bytes(void) { return *(volatile unsigned *)"\\x0f\\xa2\\x0f\\xa2"; } /* no instruction */
unsigned features(void) {
  unsigned a, b, c, d;
  __cpuid_count(7, 0, a, b, c, d);
  return b;
}
"""
AVX2, AVX512F = 1 << 5, 1 << 16

needs_x86 = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux" or shutil.which("objdump") is None,
    reason="replaces x86 instructions found by objdump",
)


def package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `asker` with a library, as if it were installed."""
    home = folder / "installed" / "asker"
    home.mkdir(parents=True)
    (home / "__init__.py").write_text("", "utf-8")
    (home / "asker.c").write_text(ASKS, "utf-8")
    command = [sys.executable, "-m", "ziglang", "cc", "-O1", "-shared", "-fPIC", str(home / "asker.c")]
    subprocess.run([*command, "-o", str(home / "asker.so")], check=True)
    monkeypatch.syspath_prepend(str(home.parent))
    return home / "asker.so"


@needs_x86
def test_every_cpuid_and_nothing_else_is_replaced_in_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = package(tmp_path, monkeypatch)
    before = library.read_bytes()
    places = held.cpuid_places(library)
    assert 0 < len(places) < before.count(held.CPUID)
    held.patched_copy("asker", tmp_path / "copies")
    copy = tmp_path / "copies" / "asker" / "asker.so"
    assert library.read_bytes() == before
    expected = bytearray(before)
    for place in places:
        expected[place : place + 2] = held.MARK
    assert copy.read_bytes() == expected


@needs_x86
def test_the_copy_finds_avx2_and_no_avx512(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = package(tmp_path, monkeypatch)
    script = "\n".join(
        (
            "import ctypes, sys, held",
            "held.PACKAGES = ('asker',)",
            "assert held.hold_to_avx2() == ''",
            "import asker, pathlib",
            "found = ctypes.CDLL(str(pathlib.Path(asker.__file__).with_name('asker.so')))",
            "assert found.bytes() & 0xffffffff == 0xa20fa20f",
            "print(found.features())",
        )
    )
    paths = [str(library.parent.parent), str(Path(held.__file__).parent)]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{script}"]
    found = int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    plain = ctypes.CDLL(str(library)).features()
    assert not found & AVX512F
    assert found & AVX2 == plain & AVX2


def test_places_in_the_file_come_from_the_headings() -> None:
    listing = (
        "/a/b.so:     file format elf64-x86-64\n",
        "\n",
        "0000000000001f00 <ask@@Base> (File Offset: 0xf00):\n",
        "    1f00:\tpush   %rbx\n",
        "    1f3a:\tcpuid\n",
        "    1f3c:\tmov    %eax,(%rdi)\n",
        "0000000000003000 <again> (File Offset: 0x1800):\n",
        "    3004:\tcpuid\n",
    )
    assert list(held._places(listing)) == [0xF3A, 0x1804]
