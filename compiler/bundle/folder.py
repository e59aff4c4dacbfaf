"""A folder held open: what is read through it comes from that folder even if its path is renamed meanwhile.

Replacing a bundle renames folders. A reader that went by path could take the manifest of one bundle and the
library of the next.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType


class Folder:
    """An open directory. Symbolic links below it are never followed. A context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.handle)

    def is_current(self) -> bool:
        """Is this still the folder that the path leads to?"""
        try:
            there, here = os.stat(self.path), os.fstat(self.handle)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)

    def open(self, path: str) -> int:
        """Open the regular file at the relative POSIX `path` for reading. Raises `OSError`.

        `IsADirectoryError` stands for anything that is not a regular file.
        """
        *folders, name = path.split("/")
        parent = self._descend(folders)
        try:
            # Without O_NONBLOCK a pipe planted here would keep us waiting.
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        finally:
            if parent != self.handle:
                os.close(parent)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
        raise IsADirectoryError(f"{path} is not a regular file")

    def _descend(self, folders: list[str]) -> int:
        current = self.handle
        for name in folders:
            try:
                inner = os.open(
                    name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=current
                )
            finally:
                if current != self.handle:
                    os.close(current)
            current = inner
        return current

    def walk(self) -> Iterator[tuple[str, os.stat_result]]:
        """Relative POSIX path and status of everything in the folder that is not itself a folder."""
        yield from _walk(self.handle, "")


def _walk(handle: int, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    for name in sorted(os.listdir(handle)):
        status = os.stat(name, dir_fd=handle, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            yield prefix + name, status
            continue
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
        try:
            yield from _walk(inner, f"{prefix}{name}/")
        finally:
            os.close(inner)
