"""The cache: what was stored comes back or is told to be damaged; many may write at once."""

from __future__ import annotations

import functools
import hashlib
import http.server
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import fsspec
import pytest

from isthmus.errors import Code, ModelError, Problem
from isthmus.matrix.cache import Cache, FolderStore, Where, key_of, where

KEY = key_of("a", 1)


@pytest.fixture(params=["folder", "url"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    """A folder, and a URL with a folder for copies."""
    if request.param == "folder":
        return Where(tmp_path / "cache")
    fsspec.filesystem("memory").store.clear()
    return Where(tmp_path / "cache", "memory://bucket/cache")


def opened(places: Where) -> tuple[Cache, list[Problem]]:
    told: list[Problem] = []
    return Cache(places, told.append), told


def test_what_was_stored_comes_back(places: Where, tmp_path: Path) -> None:
    cache, told = opened(places)
    assert cache.load(KEY) is None
    (tmp_path / "file").write_bytes(b"x" * 3000)
    digest = hashlib.sha256(b"x" * 3000).hexdigest()
    cache.add(tmp_path / "file", digest)
    text = cache.add_bytes(b"text")
    cache.store(KEY, {"files": {"file": digest, "text": text}})
    again, _ = opened(places)
    assert again.load(KEY) == {"files": {"file": digest, "text": text}}
    assert again.read(text) == b"text" and again.fetch(digest, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"x" * 3000
    assert again.whole([digest, text], {}) and not again.whole([digest, "0" * 64], {})
    assert not again.fetch("0" * 64, tmp_path / "other") and not (tmp_path / "other").exists()
    assert not told


def test_a_url_serves_machines_that_have_no_copy(tmp_path: Path) -> None:
    fsspec.filesystem("memory").store.clear()
    first, _ = opened(Where(tmp_path / "one", "memory://bucket"))
    digest = first.add_bytes(b"text")
    first.store(KEY, {"files": {"x": digest}})
    other, told = opened(Where(tmp_path / "two", "memory://bucket"))
    assert other.load(KEY) is not None and other.whole([digest], {})
    place = other.local(digest)
    assert place is not None and place.read_bytes() == b"text" and place.is_relative_to(tmp_path / "two")
    assert not told


@pytest.mark.parametrize("kind", ["blobs", "entries"])
def test_damage_is_found_told_and_dropped(kind: str, tmp_path: Path) -> None:
    cache, _ = opened(Where(tmp_path))
    digest = cache.add_bytes(b"text")
    cache.store(KEY, {"files": {"x": digest}})
    (path,) = (p for p in (tmp_path / kind).rglob("*") if p.is_file())
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    again, told = opened(Where(tmp_path))
    if kind == "entries":
        assert again.load(KEY) is None
    else:
        assert not again.whole([digest], {})
        assert not again.fetch(digest, tmp_path / "copy") and again.read(digest) is None
    assert [problem.code for problem in told] == [Code.DAMAGED_CACHE]
    assert not path.exists()


def test_a_damaged_copy_behind_a_url(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    cache, _ = opened(Where(tmp_path / "one", "memory://bucket"))
    digest = cache.add_bytes(b"text")
    (path,) = memory.find("/bucket")
    memory.pipe_file(path, b"tent")
    other, told = opened(Where(tmp_path / "two", "memory://bucket"))
    assert other.local(digest) is None
    assert [problem.code for problem in told] == [Code.DAMAGED_CACHE]
    assert not memory.find("/bucket")


class _Shelf(http.server.SimpleHTTPRequestHandler):
    """A folder behind HTTP, to read; what is asked for, and how, is noted."""

    asked: list[str] = []  # noqa: RUF012 - of all requests to this class

    def do_HEAD(self) -> None:
        self.asked.append(f"HEAD {self.path}")
        super().do_HEAD()

    def do_GET(self) -> None:
        self.asked.append(f"GET {self.path}")
        super().do_GET()

    def do_POST(self) -> None:
        self.asked.append(f"POST {self.path}")
        self.send_error(405)

    do_PUT = do_DELETE = do_POST

    def log_message(self, format: str, *args: object) -> None:
        return None


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The URL of a web server for the folder `shared`, and what it was asked."""
    (tmp_path / "shared").mkdir()
    asked: list[str] = []
    kind = type("Shelf", (_Shelf,), {"asked": asked})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(kind, directory=str(tmp_path / "shared"))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", asked
        server.shutdown()


def test_over_http_it_is_read_and_never_written(shelf: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = shelf
    filled, _ = opened(Where(tmp_path / "shared"))
    good, bad = filled.add_bytes(b"text"), filled.add_bytes(b"more")
    filled.store(KEY, {"files": {"x": good}})
    damaged = tmp_path / "shared" / "blobs" / bad[:2] / bad
    damaged.write_bytes(b"mare")
    cache, told = opened(Where(tmp_path / "mine", url))
    assert cache.load(KEY) == {"files": {"x": good}} and cache.load(key_of("b")) is None
    assert cache.whole([good], {}) and cache.read(good) == b"text"
    place = cache.local(good)
    assert place is not None and place.is_relative_to(tmp_path / "mine") and place.read_bytes() == b"text"
    assert not told
    assert cache.read(bad) is None and [p.code for p in told] == [Code.DAMAGED_CACHE] and damaged.is_file()
    cache.store(key_of("new"), {})
    cache.add_bytes(b"new")
    assert len(told) == 1 and {line.split()[0] for line in asked} <= {"GET", "HEAD"}
    # What was fetched once is here: nobody is asked again.
    asked.clear()
    again, _ = opened(Where(tmp_path / "mine", url))
    assert again.load(KEY) is not None and again.read(good) == b"text" and not asked


def test_a_server_that_is_gone_is_told_once_and_left_alone(tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Shelf) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/"
    cache, told = opened(Where(tmp_path, url))
    assert all(cache.load(key_of(number)) is None for number in range(20))
    digest = cache.add_bytes(b"text")
    assert cache.read(digest) == b"text"
    assert [(problem.code, problem.where) for problem in told] == [(Code.CACHE_NOT_WRITTEN, url)]


def test_a_cache_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache, told = opened(Where(tmp_path / "file"))
    cache.add_bytes(b"text")
    cache.store(KEY, {})
    assert [problem.code for problem in told] == [Code.CACHE_NOT_WRITTEN]


def test_a_url_nobody_knows() -> None:
    with pytest.raises(ModelError, match="E1003"):
        Cache(Where(Path("x"), "nowhere://x"), lambda _: None)


def test_names_of_caches(tmp_path: Path) -> None:
    here = tmp_path / "here"
    assert where(None, here) == Where(here)
    assert where("/some/folder", here) == where("file:///some/folder", here) == Where(Path("/some/folder"))
    assert where("s3://bucket/x", here) == Where(here, "s3://bucket/x")


def _write_often(folder: Path, number: int) -> int:
    cache, told = opened(Where(folder))
    for size in range(40):
        cache.add_bytes(b"x" * 50_000 + bytes([size]))
        cache.store(KEY, {"by": number, "pad": "y" * 20_000})
        assert cache.load(KEY) is not None
    return len(told)


def test_many_may_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=context) as pool:
        assert list(pool.map(_write_often, [tmp_path] * 3, range(3))) == [0, 0, 0]
    assert not list(tmp_path.rglob(".new-*"))


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FolderStore(tmp_path).upload("a/b", tmp_path / "absent")
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_keys_are_of_plain_data_only() -> None:
    assert key_of({"b": 1, "a": (1, 2)}) == key_of({"a": [1, 2], "b": 1})
    with pytest.raises(TypeError):
        key_of({1, 2})
    assert os.path.basename(KEY) == KEY and len(KEY) == 64
