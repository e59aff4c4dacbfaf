"""Write a bundle so that nobody ever sees half of one, whatever is killed and whoever else writes.

The bundle is written into a hidden folder beside its destination and then put in its place by one rename
(an exchange, if an older bundle is there). A writer holds a lock on its hidden folder as long as it lives,
so the next writer can tell which of them are left over from writers that were killed.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from isthmus.bundle import manifest
from isthmus.bundle.digest import Meter
from isthmus.bundle.fields import safe_path
from isthmus.bundle.manifest import File, Manifest
from isthmus.errors import BundleError, Code, CompilerBug, Problem

SCRATCH_PREFIX = ".isthmus-new-"
_ATTEMPTS = 100
_PIECE = 1 << 20
_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100

Content = bytes | Path | Iterable[bytes | memoryview]
"""Bytes, a file to copy, or pieces in order (for weights that should not be in memory at once)."""


def write(
    destination: Path,
    draft: Manifest,
    contents: Mapping[str, Content],
    check: Callable[[Path], None] = lambda scratch: None,
) -> Manifest:
    """Write the bundle `destination` (a folder that is new or a bundle) and return its manifest.

    `draft.files` is replaced by what `contents` turn out to be. `check` is called with the path of the whole
    bundle before that takes its place; what it raises is passed on, and nothing has changed. Of several
    writers at one time the one that finishes last wins. Raises `BundleError` (cannot-write) when the
    destination is something else or the disk refuses; then, too, nothing has changed.
    """
    destination = Path(os.path.abspath(destination))
    for path in contents:
        if not safe_path(path) or path == manifest.NAME:
            raise CompilerBug(f"{path!r} cannot be the name of a file of a bundle")
    _check_destination(destination)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(destination.parent)
        with _scratch(destination.parent) as scratch:
            files = {path: _write_file(scratch / path, contents[path]) for path in sorted(contents)}
            final = replace(draft, files=MappingProxyType(files))
            text = final.dumps()
            _check_readable(text)
            (scratch / manifest.NAME).write_text(text, encoding="utf-8", newline="\n")
            check(scratch)
            _publish(scratch, destination)
    except OSError as error:
        raise _cannot(destination, f"cannot write the bundle: {error.strerror or error}") from error
    return final


def remove_leftovers(parent: Path) -> None:
    """Delete the hidden folders in `parent` whose writers are dead."""
    for path in sorted(parent.glob(f"{SCRATCH_PREFIX}*")):
        handle = _lock(path)
        if handle is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(handle)


def _check_readable(text: str) -> None:
    """What we write, we can read."""
    try:
        manifest.parse(text)
    except BundleError as error:
        raise CompilerBug(f"the manifest about to be written is wrong: {error}") from error


def _cannot(destination: Path, message: str, hint: str = "") -> BundleError:
    return BundleError(Problem(Code.CANNOT_WRITE, message, str(destination), hint))


def _check_destination(destination: Path) -> None:
    """Only a bundle, or an empty folder, may be replaced: everything else is somebody's work."""
    try:
        mode = destination.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot(destination, f"cannot write the bundle: {error.strerror}") from error
    hint = "choose another output folder, or move this away"
    if not stat.S_ISDIR(mode):
        kind = "a symbolic link" if stat.S_ISLNK(mode) else "a file"
        raise _cannot(destination, f"there is {kind} where the bundle is to be", hint)
    if not (destination / manifest.NAME).is_file() and any(destination.iterdir()):
        raise _cannot(destination, "there is a folder that is not a bundle where the bundle is to be", hint)


def _lock(path: Path) -> int | None:
    """An open handle that holds the lock on the folder; None if another process has it or it is gone."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with suppress(OSError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between opening and locking, the folder may have been deleted or put into place as a bundle.
        there, here = os.lstat(path), os.fstat(handle)
        if (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino):
            return handle
    os.close(handle)
    return None


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A locked hidden folder in `parent`; whatever is there under its name at the end is deleted."""
    for _ in range(_ATTEMPTS):
        path = parent / f"{SCRATCH_PREFIX}{secrets.token_hex(8)}"
        path.mkdir()
        handle = _lock(path)
        if handle is not None:
            break
    else:
        raise OSError(f"cannot lock a folder in {parent}")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def _write_file(path: Path, content: Content) -> File:
    path.parent.mkdir(parents=True, exist_ok=True)
    meter = Meter()
    with path.open("xb") as file:
        for piece in _pieces(content):
            view = memoryview(piece).cast("B")
            meter.add(view)
            file.write(view)
    return meter.file()


def _pieces(content: Content) -> Iterator[bytes | memoryview]:
    if isinstance(content, bytes):
        yield content
    elif isinstance(content, Path):
        with content.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
    else:
        yield from content


def _publish(scratch: Path, destination: Path) -> None:
    """Put `scratch` in the place of `destination`; afterwards `scratch` is what was there, or nothing."""
    for _ in range(_ATTEMPTS):
        if not os.path.lexists(destination):
            # Fails if another writer's bundle, which is not empty, has appeared meanwhile.
            with suppress(OSError):
                os.rename(scratch, destination)
                return
            if not os.path.lexists(destination):
                os.rename(scratch, destination)
                return
        _check_destination(destination)
        if _exchange(scratch, destination):
            return
        with suppress(OSError):
            _replace_in_two_steps(scratch, destination)
            return
    raise OSError(f"{destination} keeps being replaced by others")


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step, where the system can."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _replace_in_two_steps(scratch: Path, destination: Path) -> None:
    """Move the old bundle into the hidden folder's keeping, then the new one into place.

    Killed in between, there is no bundle and a leftover that the next writer deletes.
    """
    old = scratch.with_name(f"{SCRATCH_PREFIX}{secrets.token_hex(8)}")
    os.rename(destination, old)
    try:
        os.rename(scratch, destination)
    finally:
        shutil.rmtree(old, ignore_errors=True)
