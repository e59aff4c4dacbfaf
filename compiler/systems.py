"""Operating systems, as data: what a library is called there and how it is linked. No chip is named here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

ARCHIVE = "libmodel.a"
# Kernel objects come with default visibility; only the interface leaves the library.
EXPORTS_FILE = "exports.map"
EXPORTS = "{ global: isthmus_*; local: *; };\n"
_ELF = (
    "-shared",
    "-s",
    "-pthread",
    "-Wl,--build-id=none",
    "-Wl,-z,defs",
    f"-Wl,--version-script={EXPORTS_FILE}",
)


@dataclass(frozen=True, slots=True)
class System:
    """One operating system and C library.

    `name` is what `Machine.os` says there. `triple` follows the architecture in a target of `zig cc`, `llvm`
    in a triple of LLVM.
    `library` is the shared library, None where nothing is loaded at run time. `source` is the file of the C
    runtime that answers `os.h`. `link` makes the shared library. A program that is to run a bundle is linked
    with the shared library, or with the archive if `program_static`, and is called `program`. `packages` are
    generated into the bundle (see `isthmus.packages`). `wheel` is the platform tag of Python's wheels; {arch}
    in it is the machine's architecture, as `wheel_arch` spells it if it does, {libc} the C library's version.
    `freestanding`: there is no C library, so that all memory is set aside when a model is compiled.
    """

    name: str
    triple: str
    llvm: str
    library: str | None
    source: str = "os_posix.c"
    compile: tuple[str, ...] = ("-fPIC",)
    link: tuple[str, ...] = _ELF
    program: str = "replay"
    program_static: bool = False
    program_link: tuple[str, ...] = ("-pthread",)
    packages: tuple[str, ...] = ()
    wheel: str | None = None
    wheel_arch: tuple[tuple[str, str], ...] = ()
    freestanding: bool = False

    def toolchain(self, arch: str, cpu: str, triple: str | None = None) -> Toolchain:
        """How C is compiled for the architecture `arch`, as `zig cc` spells it, with the baseline `cpu`.

        `triple` replaces the system's own where the architecture has an ABI to name (`linux-gnueabihf`)."""
        return Toolchain(f"{arch}-{triple or self.triple}", cpu, self)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """How the C parts are compiled and linked: arguments of `zig cc`.

    `zig_cpu` is the baseline of the chip's family, not the chip itself: the library must be able to say
    "this machine lacks X" on a machine that lacks X.
    """

    zig_target: str
    zig_cpu: str
    system: System

    @property
    def library(self) -> str:
        """The file in `lib/` that is the bundle's code: the shared library where there is one."""
        return self.system.library or ARCHIVE

    def wheel(self, arch: str) -> str | None:
        """The platform tag of wheels that hold the library, for a machine that calls itself `arch`.

        Source: Python packaging user guide, Platform compatibility tags."""
        if self.system.wheel is None:
            return None
        libc = re.search(r"\.(\d+)\.(\d+)$", self.zig_target)
        version = "_".join(libc.groups()) if libc else ""
        return self.system.wheel.format(arch=dict(self.system.wheel_arch).get(arch, arch), libc=version)


# glibc 2.17 is the floor of manylinux2014.
LINUX = System(
    "linux",
    "linux-gnu.2.17",
    "unknown-linux-gnu",
    "libmodel.so",
    packages=("c", "python", "rust"),
    wheel="manylinux_{libc}_{arch}",
)
MUSL = System(
    "linux-musl",
    "linux-musl",
    "unknown-linux-musl",
    "libmodel.so",
    program_static=True,
    program_link=("-static", "-pthread"),
    packages=("c", "python", "rust"),
    wheel="musllinux_1_2_{arch}",
)
# Android's libc is not to be had here. What the runtime calls of it takes the same arguments as musl's on
# 64-bit processors; where names differ, os_posix.c says so. It is found when the library is loaded.
ANDROID = System(
    "android",
    "linux-musl",
    "linux-android24",
    "libmodel.so",
    compile=("-fPIC", "-DISTHMUS_ANDROID"),
    link=(
        "-shared",
        "-s",
        "-nostdlib",
        "-Wl,--build-id=none",
        "-Wl,-z,max-page-size=16384",
        f"-Wl,--version-script={EXPORTS_FILE}",
    ),
    packages=("c",),
)
WINDOWS = System(
    "windows",
    "windows-gnu",
    "pc-windows-gnu",  # without a vendor it is no COFF
    "model.dll",
    source="os_windows.c",
    # Objects carry a name of their own and the time, unless told otherwise.
    compile=(
        "-DISTHMUS_EXPORT=__declspec(dllexport)",
        "-mno-incremental-linker-compatible",
        "-Xclang",
        "-object-file-name=isthmus",
    ),
    link=("-shared", "-s"),
    program="replay.exe",
    program_link=(),
    packages=("c",),
)
MACOS = System(
    "darwin",
    "macos.13.0",
    "apple-macos13.0",
    "libmodel.dylib",
    link=("-shared", "-Wl,-install_name,@rpath/libmodel.dylib"),
    packages=("c", "python", "rust"),
    wheel="macosx_13_0_{arch}",
    wheel_arch=(("aarch64", "arm64"),),
)
# A module without imports: it runs in a page, in Node and in any other engine, on one thread. Its stack lies
# below everything else (zig sees to that), so that overflowing it traps.
_INTERFACE = (
    "open_memory", "close", "session_new", "session_free", "shapes", "run", "bytes", "model_name",
    "target_name", "entry_count", "entry_name", "input_count", "output_count", "input", "output", "dim_count",
    "dim",
)  # fmt: skip
WASI = System(
    "wasi",
    "wasi",
    "unknown-wasi",
    "model.wasm",
    source="os_single.c",
    compile=("-DISTHMUS_SINGLE",),
    link=(
        "-s",
        "-mexec-model=reactor",
        "-Wl,--no-entry",
        "-Wl,-z,stack-size=1048576",
        "-Wl,--export=aligned_alloc,--export=free",
        *(f"-Wl,--export=isthmus_{name}" for name in _INTERFACE),
    ),
    program="replay.wasm",
    program_static=True,
    program_link=("-Wl,-z,stack-size=1048576",),
    packages=("npm",),
)
# No system at all: one thread, no files, no heap.
NONE = System(
    "none",
    "freestanding-eabihf",
    "none-eabihf",
    library=None,
    source="os_single.c",
    compile=("-ffreestanding", "-DISTHMUS_SINGLE", "-ffunction-sections", "-fdata-sections"),
    program="replay.elf",
    program_static=True,
    program_link=("-nostdlib", "-rtlib=compiler-rt", "-Wl,--gc-sections"),
    freestanding=True,
)

SYSTEMS: Mapping[str, System] = {
    system.name: system for system in (LINUX, MUSL, ANDROID, WINDOWS, MACOS, WASI, NONE)
}
