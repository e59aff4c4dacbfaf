"""A folder of results of earlier compilations, by content. It only saves time: losing it loses nothing."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

_DIGEST_BYTES = 32
_OFF = ("off", "none", "0", "")


def cache_dir(env: Mapping[str, str]) -> Path | None:
    """Where the cache is: $ISTHMUS_CACHE (`off` or empty: None, no cache), else isthmus/ in the XDG cache."""
    given = env.get("ISTHMUS_CACHE")
    if given is not None:
        return None if given.lower() in _OFF else Path(given).expanduser().absolute()
    # The XDG specification: a relative $XDG_CACHE_HOME is to be ignored.
    base = env.get("XDG_CACHE_HOME", "")
    if base.startswith("/"):
        return Path(base) / "isthmus"
    home = env.get("HOME", "")
    return Path(home) / ".cache" / "isthmus" if home.startswith("/") else None


def load(cache: Path | None, key: str) -> bytes | None:
    """What was stored under `key` (hexadecimal digits); None if nothing was, or if it was damaged since."""
    if cache is None:
        return None
    try:
        raw = _path(cache, key).read_bytes()
    except OSError:
        return None
    digest, data = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
    return data if hashlib.sha256(data).digest() == digest else None


def store(cache: Path | None, key: str, data: bytes) -> None:
    """Keep `data` under `key`; other processes see all of it or nothing.

    A folder that cannot be written costs time later, and is no error.
    """
    if cache is None:
        return
    path = _path(cache, key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    except OSError:
        return
    scratch = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(data).digest())
            file.write(data)
        scratch.replace(path)
    except OSError:
        scratch.unlink(missing_ok=True)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def _path(cache: Path, key: str) -> Path:
    return cache / "objects" / key[:2] / key


def digest_of(files: Iterable[tuple[str, Path]]) -> str:
    """One digest of files and the names they go by, for a key: whatever their order is. Raises `OSError`."""
    digest = hashlib.sha256()
    for name, path in sorted(files):
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
