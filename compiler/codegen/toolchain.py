"""The C compiler and linker: generated C, kernel objects and the C runtime in, one shared library out.

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources, util
from pathlib import Path

from isthmus.codegen import cache as store
from isthmus.errors import CompilerBug
from isthmus.target import Toolchain

_COMPILE = (
    "-std=c11",
    "-O2",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",  # what generated C computes is what it says
    "-Werror=implicit-function-declaration",
    "-Werror=incompatible-pointer-types",
    "-Werror=int-conversion",
    "-I.",
)
_LINK = (
    "-shared",
    "-s",
    "-pthread",
    "-Wl,--build-id=none",
    "-Wl,-z,defs",
    "-Wl,--version-script=exports.map",
)
# Kernel objects come with default visibility; only the interface leaves the library.
_EXPORTS = "{ global: isthmus_*; local: *; };\n"
_STDERR_TAIL = 4000
_KEPT = ("PATH", "SYSTEMROOT", "TMPDIR", "TEMP")


def link(
    model_c: str,
    objects: Mapping[str, bytes],
    toolchain: Toolchain,
    cache: Path | None,
    flags: Sequence[str] = (),
) -> bytes:
    """The shared library made of `model_c` (see isthmus_plan.h), `objects` (by symbol) and the C runtime.

    `cache` is the folder of `codegen.cache`; without it the compiler rebuilds its libc stubs each time
    (seconds). `flags` are further arguments for all C sources and the link, such as -DISTHMUS_POISON.
    Raises `CompilerBug` with the compiler's own words when it refuses.
    """
    with tempfile.TemporaryDirectory(prefix="isthmus-link-") as name:
        zig = _Zig(Path(name), toolchain, cache, tuple(flags))
        zig.write_all(runtime_sources())
        runtime = zig.runtime_objects()
        zig.write_all({"model.c": model_c, "exports.map": _EXPORTS})
        kernels = [f"k{number:05}.o" for number in range(len(objects))]
        # In symbol order: a mapping's order is its maker's affair.
        for file, symbol in zip(kernels, sorted(objects), strict=True):
            (zig.folder / file).write_bytes(objects[symbol])
        zig.run(*_COMPILE, *zig.flags, "-c", "model.c", "-o", "model.o")
        # A response file: hundreds of kernels do not fit every system's command line.
        zig.write_all({"objects.rsp": "\n".join(["model.o", *runtime, *kernels])})
        zig.run(*_LINK, *zig.flags, "@objects.rsp", "-o", "library.out")
        return (zig.folder / "library.out").read_bytes()


def runtime_sources() -> dict[str, str]:
    """The C runtime by file name, headers included, as it is installed with the package."""
    folder = resources.files("isthmus.runtime") / "c"
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith((".c", ".h")))
    return {name: (folder / name).read_text(encoding="utf-8") for name in names}


def version() -> str:
    """Name and version of the C compiler, for the manifest."""
    return f"ziglang {metadata.version('ziglang')}"


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
        sources = sorted(path.name for path in self.folder.glob("*.c"))
        texts = [path.read_text(encoding="utf-8") for path in sorted(self.folder.glob("*.[ch]"))]
        return [self._runtime_object(source, texts) for source in sources]

    def _runtime_object(self, source: str, texts: Sequence[str]) -> str:
        name = f"{source.removesuffix('.c')}.o"
        key = _key(version(), *self._target(), *_COMPILE, *self.flags, source, *texts)
        known = store.load(self.cache, key)
        if known is not None:
            (self.folder / name).write_bytes(known)
            return name
        self.run(*_COMPILE, *self.flags, "-c", source, "-o", name)
        store.store(self.cache, key, (self.folder / name).read_bytes())
        return name

    def _target(self) -> tuple[str, str, str]:
        return "-target", self.toolchain.zig_target, f"-mcpu={self.toolchain.zig_cpu}"

    def run(self, *arguments: str) -> None:
        """One call of the compiler in the scratch folder; nothing is written outside it and the cache."""
        command = [*_compiler(), "cc", *self._target(), *arguments]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace")[-_STDERR_TAIL:]
            call = " ".join(arguments)
            raise CompilerBug(f"{version()} refused (status {done.returncode}): zig cc {call}\n{said}")

    def _environment(self) -> dict[str, str]:
        # Not the caller's: CPATH, CFLAGS and their like would change what comes out.
        shared = self.folder / "zig" if self.cache is None else self.cache / "zig"
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        return {
            **kept,
            "ZIG_GLOBAL_CACHE_DIR": str(shared),
            # Holds this call's objects only, so it goes with the scratch folder instead of growing.
            "ZIG_LOCAL_CACHE_DIR": str(self.folder / "zig-local"),
        }


def _compiler() -> list[str]:
    """The executable of the `ziglang` package; `python -m ziglang` would only start it through Python."""
    spec = util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise CompilerBug("the package 'ziglang', on which isthmus depends, is not installed")
    binary = Path(spec.origin).parent / "zig"
    return [str(binary)] if binary.is_file() else [sys.executable, "-m", "ziglang"]


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
