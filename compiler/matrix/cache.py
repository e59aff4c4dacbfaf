"""Finished pieces by content: files by their SHA-256, and entries, which say what files a key came to.

    FOLDER/blobs/AB/ABCD..      a file; its name is its digest
    FOLDER/entries/AB/ABCD..    JSON after a line with its digest; its name is the key

A key is the digest of all that the result depends on. Everything is checked when it is read; what is damaged
is told, dropped and made again. Losing any of it only costs time.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from isthmus.codegen.cache import cache_dir
from isthmus.errors import Code, ModelError, Problem

BLOBS, ENTRIES = "blobs", "entries"
MOST_ERRORS = 3  # of a place that cannot be reached, before it is left alone

Entry = Mapping[str, Any]
Warn = Callable[[Problem], None]
T = TypeVar("T")


class Store(Protocol):
    """Files by name. `read` and `fetch` say None and False of what is not there; others raise `OSError`.
    Nothing is written or removed where `read_only`."""

    @property
    def where(self) -> str: ...
    @property
    def read_only(self) -> bool: ...
    def read(self, name: str) -> bytes | None: ...
    def fetch(self, name: str, path: Path) -> bool: ...
    def has(self, name: str) -> bool: ...
    def write(self, name: str, data: bytes) -> None: ...
    def upload(self, name: str, path: Path) -> None: ...
    def remove(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class FolderStore:
    """A folder of this machine, or of one that it shares. Whoever writes shows all of a file or nothing."""

    folder: Path

    @property
    def where(self) -> str:
        return str(self.folder)

    @property
    def read_only(self) -> bool:
        return False

    def read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def fetch(self, name: str, path: Path) -> bool:
        source = self.folder / name
        if not source.is_file():
            return False
        shutil.copyfile(source, path)
        return True

    def has(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def write(self, name: str, data: bytes) -> None:
        self._put(name, lambda scratch: scratch.write_bytes(data))

    def upload(self, name: str, path: Path) -> None:
        self._put(name, lambda scratch: shutil.copyfile(path, scratch))

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def _put(self, name: str, fill: Callable[[Path], object]) -> None:
        place = self.folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = place.with_name(f".new-{secrets.token_hex(8)}")
        try:
            fill(scratch)
            scratch.replace(place)
        finally:
            scratch.unlink(missing_ok=True)


class UrlStore:
    """Any file system that fsspec knows, by URL. An object store shows all of an object or nothing; elsewhere
    half a file is found out by its digest."""

    def __init__(self, url: str) -> None:
        """Raises `ModelError` (missing-package) without fsspec, or without what it needs for this URL."""
        hint = "pip install 'isthmus[remote]', and what fsspec needs for the URL: s3fs, gcsfs, aiohttp"
        if importlib.util.find_spec("fsspec") is None:
            raise ModelError(Problem(Code.MISSING_PACKAGE, "fsspec is not installed", "--cache", hint))
        # Imported when asked for: a folder needs none of it.
        import fsspec

        self.where = url
        self.read_only = url.startswith(("http://", "https://"))
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            text = f"{url!r} cannot be a cache: {error}"
            raise ModelError(Problem(Code.BAD_OPTION, text, "--cache", hint)) from None

    def read(self, name: str) -> bytes | None:
        try:
            return cast("bytes", self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def fetch(self, name: str, path: Path) -> bool:
        try:
            self._files.get_file(self._path(name), str(path))
        except FileNotFoundError:
            path.unlink(missing_ok=True)
            return False
        return True

    def has(self, name: str) -> bool:
        return bool(self._files.exists(self._path(name)))

    def write(self, name: str, data: bytes) -> None:
        self._parents(name)
        self._files.pipe_file(self._path(name), data)

    def upload(self, name: str, path: Path) -> None:
        self._parents(name)
        self._files.put_file(str(path), self._path(name))

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _parents(self, name: str) -> None:
        self._files.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)


@dataclass(frozen=True, slots=True)
class Where:
    """A folder of this machine, None for its usual one; and a URL that others reach as well, or None."""

    folder: Path | None
    url: str | None = None


def where(given: str | None, folder: Path) -> Where:
    """The cache that `given` names: a folder, or a URL, of which `folder` keeps copies on this machine."""
    if given is None:
        return Where(folder)
    scheme, separator, rest = given.partition("://")
    if not separator:
        return Where(Path(given).expanduser().absolute())
    return Where(Path(rest).absolute()) if scheme == "file" else Where(folder, given)


class Cache:
    """What was finished before. Not to be able to write it, or to reach it, is told once and no error."""

    def __init__(self, places: Where, warn: Warn) -> None:
        self._warn = warn
        self._told: set[str] = set()
        self._errors: Counter[str] = Counter()
        self._local = FolderStore(places.folder or usual_folder(cache_dir(os.environ)))
        self._stores: list[Store] = [self._local]
        if places.url is not None:
            self._stores.append(UrlStore(places.url))

    def load(self, key: str) -> Entry | None:
        """The entry of `key`; None if there is none, or if it is damaged."""
        name = _name(ENTRIES, key)
        for number, store in enumerate(self._stores):
            raw = self._try(store, store.read, name)
            if raw is None:
                continue
            digest, _, text = raw.partition(b"\n")
            if hashlib.sha256(text).hexdigest().encode() != digest:
                self._damaged(store, name)
                continue
            if number:
                self._write(self._stores[0], name, raw)
            return cast("Entry", json.loads(text))
        return None

    def store(self, key: str, entry: Entry) -> None:
        """Keep `entry`, whose files are there already, under `key`."""
        text = json.dumps(entry, sort_keys=True).encode()
        raw = hashlib.sha256(text).hexdigest().encode() + b"\n" + text
        for store in self._stores:
            self._write(store, _name(ENTRIES, key), raw)

    def add(self, path: Path, digest: str) -> None:
        """Keep the file at `path`, whose digest is known."""
        name = _name(BLOBS, digest)
        for store in self._stores:
            if not self._try(store, store.has, name):
                self._put(store, name, lambda store=store: store.upload(name, path))  # type: ignore[misc]

    def add_bytes(self, data: bytes) -> str:
        """Keep `data`; its digest."""
        digest = hashlib.sha256(data).hexdigest()
        for store in self._stores:
            self._write(store, _name(BLOBS, digest), data)
        return digest

    def fetch(self, digest: str, path: Path) -> bool:
        """Write the file called `digest` to `path`, which is new; whether it was there and whole."""
        name = _name(BLOBS, digest)
        for number, store in enumerate(self._stores):
            if not self._try(store, store.fetch, name, path):
                continue
            if file_digest(path) == digest:
                if number:
                    self._put(self._stores[0], name, lambda: self._stores[0].upload(name, path))
                return True
            path.unlink()
            self._damaged(store, name)
        return False

    def read(self, digest: str) -> bytes | None:
        """The contents of the file called `digest`; None if it is not there or damaged."""
        for store in self._stores:
            raw = self._try(store, store.read, _name(BLOBS, digest))
            if raw is not None and hashlib.sha256(raw).hexdigest() == digest:
                return raw
            if raw is not None:
                self._damaged(store, _name(BLOBS, digest))
        return None

    def local(self, digest: str) -> Path | None:
        """Where the file called `digest` lies on this machine, fetched if need be; None if it is nowhere.

        Whoever copies it compares digests, as with anything that comes from here."""
        place = self._local.folder / _name(BLOBS, digest)
        if not place.is_file() and len(self._stores) > 1:
            with tempfile.TemporaryDirectory() as folder:
                self.fetch(digest, Path(folder) / "fetched")
        return place if place.is_file() else None

    def whole(self, digests: Iterable[str], checked: dict[str, bool]) -> bool:
        """Whether all these files are there: in the folder and undamaged, or by name behind the URL.

        `checked` remembers what was found, for as long as its owner likes."""
        found = {digest: self._is_whole(digest, checked) for digest in digests}  # all damage is told
        return all(found.values())

    def _is_whole(self, digest: str, checked: dict[str, bool]) -> bool:
        if digest not in checked:
            name = _name(BLOBS, digest)
            local = self._local
            found = self._try(local, file_digest, local.folder / name)
            if found is not None and found != digest:
                self._damaged(local, name)
            others = (bool(self._try(store, store.has, name)) for store in self._stores[1:])
            checked[digest] = found == digest or any(others)
        return checked[digest]

    def _write(self, store: Store, name: str, data: bytes) -> None:
        self._put(store, name, lambda: store.write(name, data))

    def _put(self, store: Store, name: str, write: Callable[[], None]) -> None:
        if store.read_only or self._is_left(store):
            return
        try:
            write()
        except Exception as error:  # noqa: BLE001 - every file system has errors of its own
            self._errors[store.where] += 1
            self._tell(Code.CACHE_NOT_WRITTEN, f"cannot be written: {_said(error)}", store.where)

    def _try(self, store: Store, read: Callable[..., T], *arguments: object) -> T | None:
        """What `read` gives; None where it cannot."""
        if self._is_left(store):
            return None
        try:
            return read(*arguments)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - likewise
            self._errors[store.where] += 1
            self._tell(Code.CACHE_NOT_WRITTEN, f"cannot be read: {_said(error)}", store.where)
            return None

    def _is_left(self, store: Store) -> bool:
        """Whether it failed so often that it would only cost time."""
        return self._errors[store.where] >= MOST_ERRORS

    def _damaged(self, store: Store, name: str) -> None:
        text = f"{name} is not what was stored; it is made again"
        self._warn(Problem(Code.DAMAGED_CACHE, text, store.where))
        if not store.read_only:
            with suppress(Exception):
                store.remove(name)

    def _tell(self, code: Code, text: str, place: str) -> None:
        if place not in self._told:
            self._told.add(place)
            self._warn(Problem(code, f"the cache {text}", place, "the build goes on without it"))


def file_digest(path: Path) -> str:
    """The SHA-256 of a file. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def key_of(*parts: object) -> str:
    """The digest of what a result depends on: JSON of the parts."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, default=_refuse)
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} cannot be part of a key")


def _said(error: Exception) -> str:
    return str(error) if not isinstance(error, OSError) else error.strerror or str(error)


def _name(kind: str, digest: str) -> str:
    return f"{kind}/{digest[:2]}/{digest}"


def usual_folder(kept: Path | None) -> Path:
    """The folder `matrix` in the user's cache `kept`; if there is none that can be written, a temporary one
    that ends with this process."""
    if kept is not None:
        with suppress(OSError):
            (kept / "matrix").mkdir(parents=True, exist_ok=True)
            if os.access(kept / "matrix", os.W_OK):
                return kept / "matrix"
    return _temporary()


@functools.cache
def _temporary() -> Path:
    folder = tempfile.mkdtemp(prefix="isthmus-cache-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
