"""The C compiler and linker: generated C, kernel objects and the C runtime in, the bundle's library out.

The compiler is the one in the `ziglang` package, which brings its own headers and libc stubs. The same
input gives the same bytes in every folder and process: file names are relative, nothing carries debug
information or a build id, and the environment is not passed on.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata, resources, util
from pathlib import Path

from isthmus.codegen import cache as store
from isthmus.errors import CompilerBug
from isthmus.systems import ARCHIVE, EXPORTS, EXPORTS_FILE, System, Toolchain

COMMON_FLAGS = (
    "-std=c11",
    "-O2",
    "-g0",
    "-fvisibility=hidden",
    "-ffp-contract=off",  # what generated C computes is what it says
    "-Werror=implicit-function-declaration",
    "-Werror=incompatible-pointer-types",
    "-Werror=int-conversion",
    "-I.",
)
# Kernels that are C.
KERNEL_FLAGS = (
    "-fno-math-errno",  # the square root as an instruction
    "-fno-strict-aliasing",  # memory that held another type before
    "-fvisibility=default",  # as TVM makes them
)
KERNEL_HEADER = "kernel.h"
_STDERR_TAIL = 4000
_KEPT = ("PATH", "SYSTEMROOT", "TMPDIR", "TEMP")


def link(
    sources: Mapping[str, str],
    objects: Mapping[str, bytes],
    toolchain: Toolchain,
    cache: Path | None,
    flags: Sequence[str] = (),
) -> dict[str, bytes]:
    """What is made of `sources` (see isthmus_plan.h), `objects` (by symbol) and the C runtime, by file name:
    the static library, and the shared library where the system has such.

    `cache` is the folder of `codegen.cache`; without it the compiler rebuilds its libc stubs each time
    (seconds). `flags` are further arguments for all C sources and the link, such as -DISTHMUS_POISON.
    Raises `CompilerBug` with the compiler's own words when it refuses.
    """
    system = toolchain.system
    with _zig(toolchain, cache, flags) as zig:
        runtime = zig.runtime_objects()
        zig.write_all({**sources, EXPORTS_FILE: EXPORTS})
        kernels = [f"k{number:05}.o" for number in range(len(objects))]
        # In symbol order: a mapping's order is its maker's affair.
        for file, symbol in zip(kernels, sorted(objects), strict=True):
            (zig.folder / file).write_bytes(objects[symbol])
        models = [f"{name.removesuffix('.c')}.o" for name in sorted(sources)]
        for source, name in zip(sorted(sources), models, strict=True):
            zig.compile(source, name)
        # A response file: hundreds of kernels do not fit every system's command line.
        zig.write_all({"objects.rsp": "\n".join([*models, *runtime, *kernels])})
        # D: no clock, no owner. The format does not depend on the machine that writes it.
        zig.run("ar", "--format=gnu", "rcsD", "archive.out", "@objects.rsp")
        made = {ARCHIVE: (zig.folder / "archive.out").read_bytes()}
        if system.library is not None:
            # Under its own name: some formats carry it.
            zig.link(*system.link, *zig.flags, "@objects.rsp", "-o", system.library)
            made[system.library] = _without_clock((zig.folder / system.library).read_bytes())
        return made


def kernel_object(source: str, toolchain: Toolchain) -> bytes:
    """The object file of one kernel that was printed as C."""
    with _zig(toolchain, None, KERNEL_FLAGS) as zig:
        zig.write_all({"kernel.c": source, KERNEL_HEADER: _texts("c")[KERNEL_HEADER]})
        zig.compile("kernel.c", "kernel.o")
        return (zig.folder / "kernel.o").read_bytes()


def kernel_key(source: str, toolchain: Toolchain) -> str:
    """What the object depends on, for a cache."""
    arguments = _Zig(Path(), toolchain, None, KERNEL_FLAGS).arguments()
    return _key(version(), *arguments, source, _texts("c")[KERNEL_HEADER])


def replay_program(
    libraries: Mapping[str, bytes], toolchain: Toolchain, cache: Path | None, image: Image | None = None
) -> bytes:
    """A program that runs one request of a bundle on a machine where only C runs: see c/programs/replay.c.

    `libraries` are the bundle's, by file name. It finds a shared library in the folder it is started from.
    Without a system it is an `image`.
    """
    system = toolchain.system
    if system.freestanding:
        return _replay_image(libraries[ARCHIVE], toolchain, cache, image)
    wanted = ARCHIVE if system.program_static or system.library is None else system.library
    with _zig(toolchain, cache, ()) as zig:
        zig.write_all(program_sources())
        (zig.folder / wanted).write_bytes(libraries[wanted])
        zig.compile("replay.c", "replay.o")
        origin = () if wanted == ARCHIVE else ("-Wl,-rpath,$ORIGIN",)
        zig.link("-s", *system.program_link, "replay.o", wanted, *origin, "-o", "program.out")
        return (zig.folder / "program.out").read_bytes()


def _without_clock(library: bytes) -> bytes:
    """The library without the time at which it was linked, which one format has in its header.

    Source: Microsoft, PE Format: bytes 0x3c to 0x3f say where the signature stands, the time is 8 behind it.
    """
    if not library.startswith(b"MZ"):
        return library
    stamp = int.from_bytes(library[0x3C:0x40], "little") + 8
    return library[:stamp] + bytes(4) + library[stamp + 4 :]


@dataclass(frozen=True, slots=True)
class Image:
    """What a program without a system holds besides code: a linker script, and the weights."""

    script: str
    weights: Path | None


def _replay_image(archive: bytes, toolchain: Toolchain, cache: Path | None, image: Image | None) -> bytes:
    if image is None:
        raise CompilerBug("a program without a system needs to know where memory is")
    with _zig(toolchain, cache, ("-DISTHMUS_IMAGE",)) as zig:
        zig.write_all({**program_sources(), **_texts("c/freestanding"), **_texts("c/programs/board")})
        zig.write_all({"board.ld": image.script})
        (zig.folder / ARCHIVE).write_bytes(archive)
        (zig.folder / "weights.bin").write_bytes(b"" if image.weights is None else image.weights.read_bytes())
        names = ("replay", "board", "weights")
        for name in names:
            zig.compile(f"{name}.c", f"{name}.o")
        objects = [f"{name}.o" for name in names]
        zig.link(
            "-s", *toolchain.system.program_link, "-Wl,-T,board.ld", *objects, ARCHIVE, "-o", "program.out"
        )
        return (zig.folder / "program.out").read_bytes()


def runtime_sources(system: System) -> dict[str, str]:
    """The C runtime for one system by file name, headers included, as it is installed with the package."""
    texts = {**_texts("c"), **(_texts("c/freestanding") if system.freestanding else {})}
    return {name: text for name, text in texts.items() if not name.startswith("os_") or name == system.source}


def program_sources() -> dict[str, str]:
    """The programs that run bundles, and the headers they include."""
    headers = {name: text for name, text in _texts("c").items() if name.endswith(".h")}
    return {**headers, **_texts("c/programs")}


def _texts(folder: str) -> dict[str, str]:
    place = resources.files("isthmus.runtime") / folder
    names = sorted(item.name for item in place.iterdir() if item.name.endswith((".c", ".h")))
    return {name: (place / name).read_text(encoding="utf-8") for name in names}


def version() -> str:
    """Name and version of the C compiler, for the manifest."""
    return f"ziglang {metadata.version('ziglang')}"


@contextmanager
def _zig(toolchain: Toolchain, cache: Path | None, flags: Sequence[str]) -> Iterator[_Zig]:
    """The compiler in a scratch folder that goes away."""
    with tempfile.TemporaryDirectory(prefix="isthmus-link-") as name:
        yield _Zig(Path(name), toolchain, cache, tuple(flags))


@dataclass(frozen=True, slots=True)
class _Zig:
    folder: Path
    toolchain: Toolchain
    cache: Path | None
    flags: tuple[str, ...]

    def write_all(self, texts: Mapping[str, str]) -> None:
        for name, text in texts.items():
            (self.folder / name).write_text(text, encoding="utf-8", newline="\n")

    def runtime_objects(self) -> list[str]:
        """Names of the runtime's objects, compiled or taken from the cache."""
        sources = runtime_sources(self.toolchain.system)
        self.write_all(sources)
        texts = [sources[name] for name in sorted(sources)]
        return [self._runtime_object(name, texts) for name in sorted(sources) if name.endswith(".c")]

    def _runtime_object(self, source: str, texts: Sequence[str]) -> str:
        name = f"{source.removesuffix('.c')}.o"
        key = _key(version(), *self.arguments(), source, *texts)
        known = store.load(self.cache, key)
        if known is not None:
            (self.folder / name).write_bytes(known)
            return name
        self.compile(source, name)
        store.store(self.cache, key, (self.folder / name).read_bytes())
        return name

    def compile(self, source: str, name: str) -> None:
        """The object `name` of the C file `source`."""
        self.cc(*self._compile_flags(), "-c", source, "-o", name)

    def cc(self, *arguments: str) -> None:
        """One call of the C compiler."""
        self.run("cc", *self._target(), *arguments)

    def link(self, *arguments: str) -> None:
        """One call of the linker. For a machine that it has not linked for, zig builds more to go with the
        objects unless told that they are optimized: three times as long, for the same library."""
        self.cc("-O2", *arguments)

    def arguments(self) -> tuple[str, ...]:
        """All that objects depend on besides their source."""
        return (*self._target(), *self._compile_flags())

    def _compile_flags(self) -> tuple[str, ...]:
        return (*COMMON_FLAGS, *self.toolchain.system.compile, *self.flags)

    def _target(self) -> tuple[str, str, str]:
        return "-target", self.toolchain.zig_target, f"-mcpu={self.toolchain.zig_cpu}"

    def run(self, *arguments: str) -> None:
        """One call of zig in the scratch folder; nothing is written outside it and the cache."""
        done = subprocess.run(
            [*compiler(), *arguments],
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace")[-_STDERR_TAIL:]
            call = " ".join(arguments)
            raise CompilerBug(f"{version()} refused (status {done.returncode}): zig {call}\n{said}")

    def _environment(self) -> dict[str, str]:
        # Not the caller's: CPATH, CFLAGS and their like would change what comes out.
        shared = (
            self.cache / "zig" if self.cache is not None and _writable(self.cache) else self.folder / "zig"
        )
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        return {
            **kept,
            "ZIG_GLOBAL_CACHE_DIR": str(shared),
            # Holds this call's objects only, so it goes with the scratch folder instead of growing.
            "ZIG_LOCAL_CACHE_DIR": str(self.folder / "zig-local"),
        }


def compiler() -> list[str]:
    """The executable of the `ziglang` package; `python -m ziglang` would only start it through Python."""
    spec = util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise CompilerBug("the package 'ziglang', on which isthmus depends, is not installed")
    binary = Path(spec.origin).parent / "zig"
    return [str(binary)] if binary.is_file() else [sys.executable, "-m", "ziglang"]


def _writable(folder: Path) -> bool:
    """Whether a cache may be kept there; without one the compiler rebuilds what it needs each time."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
