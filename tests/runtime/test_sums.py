"""Large weights are summed by the bundle's own library, as the format says, before anything runs."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from programs import needed

from isthmus.bundle.digest import CHUNK, chunk_sums, of_pairs
from isthmus.bundle.reader import open_bundle
from isthmus.errors import BundleError, Code
from isthmus.runtime import load
from isthmus.runtime.library import Library

HERE = Path(__file__).resolve().parent
SIZES = (64, CHUNK, CHUNK + 1, 2 * CHUNK + 4096, 3 * CHUNK + 5)

BuildBundle = Callable[..., Path]


def pairs_of(data: bytes) -> np.ndarray:
    """What NumPy finds."""
    chunks = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)]
    return np.frombuffer(b"".join(map(chunk_sums, map(bytearray, chunks))), "<u8").reshape(-1, 2)


def sums_of(bundle: Path, threads: int) -> np.ndarray:
    """What the library finds."""
    library, weights = bundle / "lib" / "libmodel.so", bundle / "weights.bin"
    handles = [os.open(path, os.O_RDONLY) for path in (library, weights)]
    opened = Library(*handles, (library, weights), threads)
    try:
        return opened.weight_sums(-(-weights.stat().st_size // CHUNK))
    finally:
        opened.close()
        os.close(handles[1])


@pytest.mark.parametrize("size", SIZES)
def test_the_library_sums_as_the_format_says(build_bundle: BuildBundle, size: int) -> None:
    bundle = build_bundle(size=size)
    expected = pairs_of((bundle / "weights.bin").read_bytes())
    for threads in (1, 2, 7):
        np.testing.assert_array_equal(sums_of(bundle, threads), expected)
    if size > CHUNK:
        assert open_bundle(bundle).manifest.files["weights.bin"].sums == of_pairs(expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_changed_byte_of_any_chunk_is_found(build_bundle: BuildBundle, threads: int) -> None:
    bundle = build_bundle(size=SIZES[-1])
    weights = bundle / "weights.bin"
    good = weights.read_bytes()
    load(bundle, threads).close()
    for position in (0, 63, CHUNK - 1, CHUNK, 2 * CHUNK + 77, 3 * CHUNK - 1, 3 * CHUNK, len(good) - 1):
        weights.write_bytes(good[:position] + bytes([good[position] ^ 0x80]) + good[position + 1 :])
        with pytest.raises(BundleError, match="wrong digest") as error:
            load(bundle, threads)
        assert [problem.code for problem in error.value.problems] == [Code.DAMAGED_BUNDLE]
        load(bundle, threads, verify=False).close()
    weights.write_bytes(good[CHUNK : 2 * CHUNK] + good[:CHUNK] + good[2 * CHUNK :])
    with pytest.raises(BundleError, match="wrong digest"):
        load(bundle, threads)


def test_small_weights_are_checked_before_code_is_loaded(build_bundle: BuildBundle) -> None:
    bundle = build_bundle(size=64)
    (bundle / "weights.bin").write_bytes(bytes(64))
    with pytest.raises(BundleError, match="wrong digest"):
        load(bundle)


def test_a_library_that_cannot_sum_says_that_it_is_old(
    build_bundle: BuildBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ctypes.CDLL.__getattr__

    def missing(library: ctypes.CDLL, name: str) -> object:
        if name == "isthmus_weight_sums":
            raise AttributeError(f"undefined symbol: {name}")
        return found(library, name)

    bundle = build_bundle(size=64)
    monkeypatch.setattr(ctypes.CDLL, "__getattr__", missing)
    with pytest.raises(BundleError, match="undefined symbol") as error:
        load(bundle)
    assert "compile the model again" in str(error.value)


def test_a_big_endian_machine_sums_the_same(tmp_path: Path, root: Path) -> None:
    """Without a C library, which takes zig most of a minute to build for one more machine."""
    emulator = needed("qemu-s390x", "qemu-s390x-static")
    runtime, program = root / "compiler" / "runtime" / "c", tmp_path / "sums"
    zig = [sys.executable, "-m", "ziglang", "cc", "-target", "s390x-linux-musl"]
    files = [HERE / "sums.c", runtime / "sums.c", runtime / "freestanding" / "library.c"]
    flags = ["-O2", "-static", "-nostdlib", f"-I{runtime / 'freestanding'}", f"-I{runtime}"]
    cache = {"ZIG_LOCAL_CACHE_DIR": str(tmp_path / "zig")}
    subprocess.run([*zig, *flags, *files, "-o", program], env={**os.environ, **cache}, check=True)
    for size in SIZES:
        data = np.random.default_rng(size).bytes(size)
        done = subprocess.run([emulator, program], input=data, check=True, stdout=subprocess.PIPE)
        np.testing.assert_array_equal(np.frombuffer(done.stdout, ">u8").reshape(-1, 2), pairs_of(data))
