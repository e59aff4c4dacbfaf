"""Opening a bundle: whatever is wrong with it is said, before any of its code is loaded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from isthmus.bundle import digest
from isthmus.bundle.digest import CHUNK
from isthmus.bundle.manifest import NAME, Manifest
from isthmus.bundle.reader import open_bundle
from isthmus.errors import BundleError, Code
from isthmus.machine import Machine, parse_cpu_flags
from isthmus.runtime import load

Write = Callable[..., Manifest]


def refusal(folder: Path, machine: Machine | None = None) -> list[tuple[Code, str]]:
    with pytest.raises(BundleError) as error:
        open_bundle(folder, machine)
    return [(problem.code, problem.message) for problem in error.value.problems]


def files_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_good_bundle(bundle: Path, machine: Machine, contents: dict[str, bytes]) -> None:
    opened = open_bundle(bundle, machine)
    assert files_of(bundle) == sorted([NAME, *contents])
    assert {path: opened.file(path).read_bytes() for path in opened.manifest.files} == contents
    with pytest.raises(KeyError):
        opened.file("../secret")


def plain_sums(chunk: bytes) -> bytes:
    """What the format says of a chunk, in integers without bounds."""
    padded = chunk + bytes(-len(chunk) % 8)
    words = [int.from_bytes(padded[i : i + 8], "little") for i in range(0, len(padded), 8)]
    totals = sum(words), sum(i * word for i, word in enumerate(words, 1))
    return b"".join((total % 2**64).to_bytes(8, "little") for total in totals)


def test_digests_can_be_checked_with_ordinary_tools(bundle: Path) -> None:
    for path, file in open_bundle(bundle).manifest.files.items():
        data = (bundle / path).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file.sha256
        assert len(data) == file.bytes
        chunks = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)]
        sums = hashlib.sha256(b"".join(map(plain_sums, chunks))).hexdigest()
        assert file.sums == (sums if len(data) > CHUNK else None)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 5])
def test_digests_do_not_depend_on_the_pieces(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    whole = digest.describe([data])
    assert digest.describe([data[i : i + 300_007] for i in range(0, size, 300_007)]) == whole
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb") as file:
        for threads in (1, 2, 7):
            assert digest.matches(file.fileno(), whole, threads, thorough=False)
        assert digest.matches(file.fileno(), whole, 1, thorough=True)


@pytest.mark.parametrize("place", [0, 0.3, 0.99999])
def test_a_changed_byte_in_any_file(bundle: Path, place: float) -> None:
    for path in files_of(bundle):
        target = bundle / path
        good = target.read_bytes()
        if not good:
            continue
        position = int(place * len(good))
        target.write_bytes(good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
        [(code, message), *more] = refusal(bundle)
        assert code in (Code.DAMAGED_BUNDLE, Code.NOT_A_BUNDLE)
        if path != NAME:
            assert (code, message, more) == (
                Code.DAMAGED_BUNDLE,
                "the contents are not what was written: wrong digest",
                [],
            )
        target.write_bytes(good)
    open_bundle(bundle)


def test_every_chunk_of_a_large_file_is_checked(bundle: Path) -> None:
    weights = bundle / "weights.bin"
    good = weights.read_bytes()
    for position in (0, CHUNK - 1, CHUNK, 2 * CHUNK - 1, 2 * CHUNK, len(good) - 1):
        weights.write_bytes(good[:position] + bytes([good[position] ^ 0x80]) + good[position + 1 :])
        assert refusal(bundle)[0][0] is Code.DAMAGED_BUNDLE
    swapped = good[CHUNK : 2 * CHUNK] + good[:CHUNK] + good[2 * CHUNK :]
    weights.write_bytes(swapped)
    assert refusal(bundle)[0][0] is Code.DAMAGED_BUNDLE


def test_a_missing_file(bundle: Path, contents: dict[str, bytes]) -> None:
    for path in contents:
        shutil.move(bundle / path, bundle.parent / "away")
        assert refusal(bundle) == [(Code.DAMAGED_BUNDLE, "the file is missing")]
        shutil.move(bundle.parent / "away", bundle / path)
    (bundle / NAME).unlink()
    [(code, message)] = refusal(bundle)
    assert code is Code.NOT_A_BUNDLE and "manifest.json cannot be read" in message


def test_everything_wrong_with_the_files_is_said_at_once(bundle: Path) -> None:
    (bundle / "src" / "model.c").unlink()
    (bundle / "lib" / "evil.so").write_bytes(b"x")
    (bundle / "weights.bin").write_bytes(b"short")
    (bundle / "report.json").unlink()
    (bundle / "report.json").symlink_to("/etc/passwd")
    assert sorted(message for _, message in refusal(bundle)) == [
        "the file does not belong to the bundle",
        f"the file has 5 bytes, expected {2 * CHUNK + 77}",
        "the file is missing",
        "this is a link or a device, not a file",
    ]


def test_no_link_is_followed(bundle: Path) -> None:
    outside = bundle.parent / "outside"
    (bundle / "lib").rename(outside)
    (bundle / "lib").symlink_to(outside)
    assert {message for _, message in refusal(bundle)} == {
        "the file is missing",
        "the file does not belong to the bundle",
    }
    (bundle / "lib").unlink()
    outside.rename(bundle / "lib")
    (bundle / NAME).rename(bundle.parent / NAME)
    (bundle / NAME).symlink_to(bundle.parent / NAME)
    assert refusal(bundle)[0][0] is Code.NOT_A_BUNDLE


def test_a_link_to_the_bundle_itself_is_fine(bundle: Path, machine: Machine) -> None:
    link = bundle.parent / "latest"
    link.symlink_to(bundle.name)
    assert open_bundle(link, machine).manifest.name == "model"


def test_pipes_do_not_keep_the_reader_waiting(bundle: Path) -> None:
    for path in (NAME, "lib/libmodel.so", "report.json"):
        target = bundle / path
        good = target.read_bytes()
        target.unlink()
        os.mkfifo(target)
        assert refusal(bundle)[0][0] in (Code.NOT_A_BUNDLE, Code.DAMAGED_BUNDLE)
        target.unlink()
        target.write_bytes(good)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert refusal(tmp_path / "nothing")[0][0] is Code.NO_SUCH_FILE
    assert refusal(tmp_path / "file")[0][0] is Code.NOT_A_BUNDLE
    assert refusal(tmp_path)[0][0] is Code.NOT_A_BUNDLE
    for raw in (b"", b"\xff\xfe", b"{}", b" " * (17 << 20)):
        (tmp_path / NAME).write_bytes(raw)
        assert {code for code, _ in refusal(tmp_path)} == {Code.NOT_A_BUNDLE}


def test_the_format_comes_before_everything_else(bundle: Path) -> None:
    raw = json.loads((bundle / NAME).read_text())
    (bundle / NAME).write_text(json.dumps({**raw, "format": 7}))
    (bundle / "weights.bin").unlink()
    assert [code for code, _ in refusal(bundle, Machine("vax", "vms"))] == [Code.NEWER_FORMAT]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Machine("aarch64", "linux", frozenset({"asimd"})), "this machine is aarch64, not x86_64"),
        (Machine("x86_64", "windows", frozenset({"avx2", "fma"})), "this machine is windows, not linux"),
        (Machine("x86_64", "linux", frozenset({"avx2"})), "this machine lacks fma"),
        (Machine("x86_64", "linux"), "this machine lacks avx2, fma"),
        (Machine("riscv64", "darwin"), "this machine is riscv64, not x86_64; is darwin, not linux"),
    ],
)
def test_a_machine_that_will_not_do(bundle: Path, other: Machine, said: str) -> None:
    assert refusal(bundle, other) == [(Code.WRONG_MACHINE, f"the bundle is for big, and {said}")]
    open_bundle(bundle, None)  # to look is allowed anywhere


def test_the_machine_is_checked_before_the_library_is_opened(tmp_path: Path, write_bundle: Write) -> None:
    # The library is no library: trying to load it would be another error.
    folder = tmp_path / "model@big"
    here = Machine.here()
    write_bundle(folder)
    with pytest.raises(BundleError, match="cannot be loaded") as error:
        write_bundle(folder, chip=type(open_bundle(folder).manifest.chip)("big", here.arch, here.os))
        load(folder)
    assert error.value.problems[0].code is Code.DAMAGED_BUNDLE
    chip = type(open_bundle(folder).manifest.chip)("big", here.arch, here.os, cpu_flags=("flux_capacitor",))
    write_bundle(folder, chip=chip)
    with pytest.raises(BundleError, match="lacks flux_capacitor") as error:
        load(folder)
    assert error.value.problems[0].code is Code.WRONG_MACHINE


def test_without_verification_the_library_is_still_checked(bundle: Path) -> None:
    data = bytearray((bundle / "weights.bin").read_bytes())
    data[5] ^= 1
    (bundle / "weights.bin").write_bytes(data)
    open_bundle(bundle, verify=False)
    library = bundle / "lib" / "libmodel.so"
    library.write_bytes(library.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match="wrong digest"):
        open_bundle(bundle, verify=False)


def test_reading_while_it_is_replaced(bundle: Path, write_bundle: Write) -> None:
    """Every reader sees one whole bundle, old or new."""
    stop = threading.Event()
    failures: list[str] = []

    def replace_it() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            write_bundle(bundle, {"lib/libmodel.so": b"%d" % number, "weights.bin": b"%d" % number})

    writer = threading.Thread(target=replace_it)
    writer.start()
    try:
        for _ in range(150):
            try:
                open_bundle(bundle)
            except BundleError as error:
                if "keeps being replaced" not in str(error):
                    failures.append(str(error))
    finally:
        stop.set()
        writer.join()
    assert not failures


CPUINFO = """\
processor : 0
flags     : fpu sse4_1 avx2 avx512f
bugs      : spectre

processor : 1
flags     : fpu sse4_1 avx2
"""


def test_flags_that_every_processor_has() -> None:
    assert parse_cpu_flags(CPUINFO) == {"fpu", "sse4_1", "avx2"}
    assert parse_cpu_flags("Features : fp asimd\n") == {"fp", "asimd"}
    assert parse_cpu_flags("isa : rv64imafdc_zba_zbb\n") == {"rv64imafdc", "zba", "zbb"}
    assert parse_cpu_flags("") == frozenset()


def test_this_machine(tmp_path: Path) -> None:
    here = Machine.here()
    assert here.arch == os.uname().machine and here.os == "linux"
    assert Machine.here(tmp_path / "none").cpu_flags == frozenset()
