"""The cache of compiled objects."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from isthmus.codegen import cache

KEY = "ab" * 32


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"ISTHMUS_CACHE": "/some/where"}, Path("/some/where")),
        ({"ISTHMUS_CACHE": "off", "HOME": "/home/a"}, None),
        ({"ISTHMUS_CACHE": "", "HOME": "/home/a"}, None),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/home/a"}, Path("/x/isthmus")),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/a"}, Path("/home/a/.cache/isthmus")),
        ({"HOME": "/home/a"}, Path("/home/a/.cache/isthmus")),
        ({}, None),
    ],
)
def test_where_it_is(env: dict[str, str], expected: Path | None) -> None:
    assert cache.cache_dir(env) == expected


def test_gives_back_what_was_stored(tmp_path: Path) -> None:
    assert cache.load(tmp_path, KEY) is None
    cache.store(tmp_path, KEY, b"object")
    assert cache.load(tmp_path, KEY) == b"object"
    cache.store(None, KEY, b"object")
    assert cache.load(None, KEY) is None


def test_a_damaged_entry_is_none(tmp_path: Path) -> None:
    cache.store(tmp_path, KEY, b"object")
    [entry] = [path for path in tmp_path.rglob("*") if path.is_file()]
    good = entry.read_bytes()
    for bad in (good[:-1], good + b"x", good[:-1] + b"X", b"", good[:10]):
        entry.write_bytes(bad)
        assert cache.load(tmp_path, KEY) is None
    cache.store(tmp_path, KEY, b"object")
    assert cache.load(tmp_path, KEY) == b"object"


def test_a_folder_that_cannot_be_written_is_let_be(tmp_path: Path) -> None:
    (tmp_path / "objects").write_text("in the way")
    cache.store(tmp_path, KEY, b"object")
    assert cache.load(tmp_path, KEY) is None


def test_writers_at_the_same_time(tmp_path: Path) -> None:
    versions = {bytes([i]) * 100_000 for i in range(4)}

    def work(data: bytes) -> None:
        for _ in range(50):
            cache.store(tmp_path, KEY, data)
            assert cache.load(tmp_path, KEY) in versions

    threads = [threading.Thread(target=work, args=(data,)) for data in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.load(tmp_path, KEY) in versions
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
