"""A bundle made of the hand-written plan in plan_example.c, in the variants that tests ask for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isthmus.bundle import writer
from isthmus.bundle.manifest import Chip, DimBounds, Entry, Manifest, Port
from isthmus.codegen import toolchain
from isthmus.machine import Machine
from isthmus.runtime.library import DTYPES
from isthmus.systems import LINUX

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent.parent / "build" / "cache"
TOOLCHAIN = LINUX.toolchain("x86_64", "x86_64")

Flags = tuple[str, ...]
BuildLibrary = Callable[..., bytes]
BuildBundle = Callable[..., Path]


@pytest.fixture(scope="session")
def build_library() -> BuildLibrary:
    """The library of plan_example.c, compiled with these further flags."""
    source = (HERE / "plan_example.c").read_text()
    built: dict[Flags, bytes] = {}

    def build(*flags: str) -> bytes:
        if flags not in built:
            built[flags] = toolchain.link({"model.c": source}, {}, TOOLCHAIN, CACHE, flags)[TOOLCHAIN.library]
        return built[flags]

    return build


def example_manifest(machine: Machine, low: int = 1, high: int | None = None) -> Manifest:
    """What plan_example.c is."""
    x, mask = Port("x", "f32", ("batch", "seq")), Port("mask", "i64", ("batch", "seq"))
    main = Entry(
        "main",
        (x, mask, Port("bias", "f32", (3,))),
        (Port("y", "f32", ("batch", "seq")), Port("z", "f32", ("batch",))),
    )
    check = Entry(
        "check", (Port("x", "f32", ("seq",)), Port("doubled", "f32", ("2*seq",))), (Port("sum", "f32", ()),)
    )
    return Manifest(
        name="example",
        model_digest="0" * 64,
        chip=Chip("any", machine.arch, machine.os),
        library="lib/libmodel.so",
        weights="weights.bin",
        dims=(DimBounds("batch"), DimBounds("seq", low, high)),
        entries=(main, check),
        precision="f32",
        pipeline="",
        tools=(("zig", toolchain.version()),),
    )


@pytest.fixture(scope="session")
def build_bundle(build_library: BuildLibrary, tmp_path_factory: pytest.TempPathFactory) -> BuildBundle:
    """The folder of a bundle around that library; `size` bytes of weights, and weights[0] is `first`."""
    machine = Machine.here()

    def build(*flags: str, low: int = 1, high: int | None = None, first: float = 0.0, size: int = 64) -> Path:
        folder = tmp_path_factory.mktemp("bundle") / "example@any"
        rest = np.random.default_rng(size).bytes(size - 4)
        weights = np.float32(first).tobytes() + rest
        bounds = () if high is None else (f"-DLOW_SEQ={low}", f"-DHIGH_SEQ={high}", "-DHIGH_BATCH=8")
        library = build_library(*flags, *bounds, f"-DWEIGHTS_BYTES={size}")
        contents = {"lib/libmodel.so": library, "weights.bin": weights}
        writer.write(folder, example_manifest(machine, low, high), contents)
        return folder

    return build


@pytest.fixture(scope="session")
def bundle(build_bundle: BuildBundle) -> Path:
    """The plain example."""
    return build_bundle("-DISTHMUS_POISON")


def request_of(batch: int, seq: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of the entry `main` of plan_example.c."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.integers(-50, 50, (batch, seq)).astype(DTYPES["f32"][1]),
        "mask": np.ones((batch, seq), np.int64),
        "bias": np.array([1, 0, 0], np.float32),
    }


@pytest.fixture(scope="session")
def make_request() -> Callable[..., dict[str, np.ndarray]]:
    return request_of
