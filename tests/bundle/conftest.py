"""A bundle of made-up contents: nothing here is ever executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isthmus.bundle import selftest, writer
from isthmus.bundle.digest import CHUNK
from isthmus.bundle.manifest import Chip, DimBounds, Entry, Manifest, Port
from isthmus.bundle.selftest import Case, Tolerance
from isthmus.machine import Machine

MACHINE = Machine("x86_64", "linux", frozenset({"avx2", "fma", "avx512f"}))


def draft_manifest(name: str = "model") -> Manifest:
    return Manifest(
        name=name,
        model_digest="ab" * 32,
        chip=Chip("big", "x86_64", "linux", "little", ("avx2", "fma")),
        library="lib/libmodel.so",
        weights="weights.bin",
        dims=(DimBounds("batch"), DimBounds("seq", 1, 512)),
        entries=(
            Entry(
                "main",
                (Port("ids", "i64", ("batch", "seq")),),
                (Port("out", "f32", ("batch", "2*seq + 1", 384)),),
            ),
        ),
        precision="f32",
        pipeline="clean,fuse{width=4}",
        tools=(("isthmus", "0.1"), ("zig", "1")),
    )


def case_of(scale: float = 1.0) -> Case:
    out = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4) * np.float32(scale)
    return Case("main", {"ids": np.arange(6).reshape(2, 3)}, {"out": out}, Tolerance(1e-4, 1e-3))


def contents_of(seed: int = 0) -> dict[str, bytes]:
    """Files of every size that matters: empty, small, above one chunk, no multiple of a chunk."""
    rng = np.random.default_rng(seed)
    return {
        "lib/libmodel.so": rng.bytes(5000),
        "weights.bin": rng.bytes(2 * CHUNK + 77),
        "report.json": b"",
        "src/model.c": b"int x;\n" * (seed + 1),
        **selftest.dump([case_of()]),
    }


@pytest.fixture
def machine() -> Machine:
    return MACHINE


@pytest.fixture
def draft() -> Manifest:
    return draft_manifest()


@pytest.fixture
def contents() -> dict[str, bytes]:
    return contents_of()


@pytest.fixture
def case() -> Case:
    return case_of()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A good bundle."""
    folder = tmp_path / "dist" / "model@big"
    writer.write(folder, draft_manifest(), contents_of())
    return folder


@pytest.fixture
def write_bundle() -> Callable[..., Manifest]:
    def write(
        folder: Path, contents: Mapping[str, writer.Content] | None = None, **changes: object
    ) -> Manifest:
        draft = replace(draft_manifest(), **changes)  # type: ignore[arg-type]
        return writer.write(folder, draft, contents_of() if contents is None else contents)

    return write
