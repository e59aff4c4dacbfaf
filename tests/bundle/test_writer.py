"""Writing a bundle: whole or not at all, whoever is killed and whoever else writes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isthmus.bundle import writer
from isthmus.bundle.digest import CHUNK
from isthmus.bundle.manifest import NAME, Manifest
from isthmus.bundle.reader import open_bundle
from isthmus.bundle.writer import SCRATCH_PREFIX
from isthmus.errors import BundleError, Code, CompilerBug

Write = Callable[..., Manifest]


def leftovers(parent: Path) -> list[Path]:
    return sorted(parent.glob(".*"))


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_input_same_bytes(tmp_path: Path, write_bundle: Write) -> None:
    write_bundle(tmp_path / "a" / "model@big")
    os.umask(os.umask(0))
    write_bundle(tmp_path / "b" / "other place" / "model@big")
    assert bytes_of(tmp_path / "a" / "model@big") == bytes_of(tmp_path / "b" / "other place" / "model@big")


def test_contents_may_come_in_pieces_or_from_a_file(tmp_path: Path, write_bundle: Write) -> None:
    data = os.urandom(2 * CHUNK + 3)
    (tmp_path / "weights").write_bytes(data)

    def pieces() -> Iterator[bytes]:
        for i in range(0, len(data), 1000):
            yield data[i : i + 1000]

    manifests = [
        write_bundle(tmp_path / "model@big", {"lib/libmodel.so": b"x", "weights.bin": weights})
        for weights in (data, tmp_path / "weights", pieces(), [memoryview(data)])
    ]
    assert all(manifest == manifests[0] for manifest in manifests)
    assert (tmp_path / "model@big" / "weights.bin").read_bytes() == data


def test_an_older_bundle_is_replaced_whole(bundle: Path, write_bundle: Write) -> None:
    manifest = write_bundle(bundle, {"lib/libmodel.so": b"new", "weights.bin": b"w"})
    assert open_bundle(bundle).manifest == manifest
    assert set(bytes_of(bundle)) == {NAME, "lib/libmodel.so", "weights.bin"}
    assert not leftovers(bundle.parent)


def test_an_empty_folder_is_replaced(tmp_path: Path, write_bundle: Write) -> None:
    (tmp_path / "model@big").mkdir()
    write_bundle(tmp_path / "model@big")
    open_bundle(tmp_path / "model@big")


def test_what_is_not_a_bundle_is_left_alone(tmp_path: Path, bundle: Path, write_bundle: Write) -> None:
    work, file, link = tmp_path / "work", tmp_path / "file", tmp_path / "link"
    work.mkdir()
    (work / "thesis.tex").write_text("years")
    file.write_text("x")
    link.symlink_to(bundle)
    for destination in (work, file, link, file / "below"):
        with pytest.raises(BundleError) as error:
            write_bundle(destination)
        assert [problem.code for problem in error.value.problems] == [Code.CANNOT_WRITE]
        assert str(destination) in str(error.value)
    assert (work / "thesis.tex").read_text() == "years"
    assert file.read_text() == "x" and link.is_symlink()
    assert not leftovers(tmp_path)


def test_a_failure_on_the_way_leaves_the_old_bundle(bundle: Path, write_bundle: Write) -> None:
    before = bytes_of(bundle)

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise OSError(28, "No space left on device")

    with pytest.raises(BundleError, match="cannot write the bundle: No space left on device"):
        write_bundle(bundle, {"lib/libmodel.so": b"x", "weights.bin": broken()})

    def interrupted() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bundle(bundle, {"lib/libmodel.so": b"x", "weights.bin": interrupted()})
    assert bytes_of(bundle) == before
    assert not leftovers(bundle.parent)


def test_a_check_that_fails_leaves_the_old_bundle(bundle: Path, draft: Manifest) -> None:
    before = bytes_of(bundle)
    seen: list[bytes] = []

    def check(scratch: Path) -> None:
        open_bundle(scratch)
        seen.append((scratch / "weights.bin").read_bytes())
        raise ValueError("not good enough")

    with pytest.raises(ValueError, match="not good enough"):
        writer.write(bundle, draft, {"lib/libmodel.so": b"x", "weights.bin": b"new"}, check)
    assert seen == [b"new"]
    assert bytes_of(bundle) == before
    assert not leftovers(bundle.parent)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path, write_bundle: Write) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BundleError, match="Permission denied"):
        write_bundle(tmp_path / "model@big")


@pytest.mark.parametrize("path", ["../x", "/x", "a/../b", NAME, ".hidden"])
def test_paths_of_our_own_making_are_checked_too(tmp_path: Path, write_bundle: Write, path: str) -> None:
    with pytest.raises(CompilerBug, match="cannot be the name"):
        write_bundle(tmp_path / "model@big", {path: b""})
    assert not list(tmp_path.iterdir())


def test_a_manifest_that_nobody_could_read_is_our_bug(tmp_path: Path, write_bundle: Write) -> None:
    with pytest.raises(CompilerBug, match="is not among the files"):
        write_bundle(tmp_path / "model@big", {"lib/libmodel.so": b""})
    assert not list(tmp_path.iterdir())


def test_without_an_exchange_it_takes_two_steps(
    bundle: Path, write_bundle: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_exchange", lambda one, other: False)
    manifest = write_bundle(bundle, {"lib/libmodel.so": b"new", "weights.bin": b"w"})
    assert open_bundle(bundle).manifest == manifest
    assert not leftovers(bundle.parent)


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path, write_bundle: Write) -> None:
    dead = tmp_path / f"{SCRATCH_PREFIX}dead"
    (dead / "lib").mkdir(parents=True)
    (dead / "lib" / "x").write_bytes(b"x")
    foreign = tmp_path / ".isthmus-notes"
    foreign.mkdir()
    in_the_middle, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[bytes]:
        in_the_middle.set()
        go_on.wait(30)
        yield b"slow"

    contents = {"lib/libmodel.so": b"x", "weights.bin": slow()}
    living = threading.Thread(target=write_bundle, args=(tmp_path / "slow@big", contents))
    living.start()
    in_the_middle.wait(30)
    write_bundle(tmp_path / "model@big")
    assert not dead.exists() and foreign.exists()
    go_on.set()
    living.join()
    assert (tmp_path / "slow@big" / "weights.bin").read_bytes() == b"slow"
    assert leftovers(tmp_path) == [foreign]


def test_a_link_that_looks_like_a_leftover_is_not_followed(
    tmp_path: Path, bundle: Path, write_bundle: Write
) -> None:
    before = bytes_of(bundle)
    (tmp_path / f"{SCRATCH_PREFIX}link").symlink_to(bundle)
    write_bundle(tmp_path / "model@big")
    assert bytes_of(bundle) == before


def test_writers_at_the_same_time(tmp_path: Path, write_bundle: Write) -> None:
    """The result is the bundle of one of them, never a mixture."""
    folder = tmp_path / "model@big"
    errors: list[BaseException] = []

    def work(number: int) -> None:
        text = b"%d" % number * 5000
        try:
            for _ in range(15):
                write_bundle(folder, {"lib/libmodel.so": text, "weights.bin": text, f"src/{number}.c": text})
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    open_bundle(folder)
    assert len({(folder / path).read_bytes() for path in ("lib/libmodel.so", "weights.bin")}) == 1
    assert not leftovers(tmp_path)


VICTIM = textwrap.dedent("""
    import sys
    from pathlib import Path
    from isthmus.bundle import manifest, writer
    draft = manifest.parse(sys.stdin.read())
    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        text = b"%d " % number * 3000
        contents = {"lib/libmodel.so": text, "weights.bin": text, **{f"src/{i}.c": text for i in range(5)}}
        writer.write(Path(sys.argv[1]), draft, contents)
""")


def start_victim(script: str, manifest: str, folder: Path) -> subprocess.Popen[bytes]:
    """A process that writes `folder` over and over; it has begun when this returns."""
    victim = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert victim.stdin is not None and victim.stdout is not None
    victim.stdin.write(manifest.encode())
    victim.stdin.close()
    assert victim.stdout.readline() == b"ready\n"
    return victim


@pytest.mark.parametrize("two_steps", [False, True])
def test_killed_at_any_moment(tmp_path: Path, write_bundle: Write, two_steps: bool) -> None:
    """There is a whole bundle or none, and at most hidden leftovers, which the next writer removes."""
    rng = random.Random(7)
    text = write_bundle(tmp_path / "draft" / "model@big").dumps()
    folder = tmp_path / "dist" / "model@big"
    script = VICTIM.replace(
        "number = 0", "writer._exchange = lambda *_: False\nnumber = 0" if two_steps else "number = 0"
    )
    killed_with_leftovers = 0
    for _ in range(8):
        victims = [start_victim(script, text, folder) for _ in range(2)]
        time.sleep(rng.uniform(0.0, 0.06))
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
        for victim in victims:
            victim.wait()
            assert victim.stdout is not None
            victim.stdout.close()
        killed_with_leftovers += bool(leftovers(folder.parent)) if folder.parent.exists() else 0
        if not folder.exists():
            continue
        manifest = open_bundle(folder).manifest
        assert len({file.sha256 for file in manifest.files.values()}) == 1
        assert [path for path in folder.parent.iterdir() if not path.name.startswith(SCRATCH_PREFIX)] == [
            folder
        ]
    write_bundle(folder)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert killed_with_leftovers
