"""Digests of files: SHA-256, and for large files a tree of it that several threads compute together.

A processor with SHA instructions hashes about 1.7 GB/s on one core, so a plain digest of 70 MB of weights
would take longer than everything else that loading does.
"""

from __future__ import annotations

import hashlib
import mmap
import threading
from collections.abc import Iterable

from isthmus.bundle.manifest import File

CHUNK = 1 << 20  # bytes; part of the format


class Meter:
    """Digests of bytes that pass by in pieces of any size."""

    def __init__(self) -> None:
        self._bytes = 0
        self._whole = hashlib.sha256()
        self._tree = hashlib.sha256()
        self._chunk = hashlib.sha256()

    def add(self, piece: memoryview) -> None:
        self._whole.update(piece)
        while piece:
            room = CHUNK - self._bytes % CHUNK
            part, piece = piece[:room], piece[room:]
            self._chunk.update(part)
            self._bytes += len(part)
            if self._bytes % CHUNK == 0:
                self._tree.update(self._chunk.digest())
                self._chunk = hashlib.sha256()

    def file(self) -> File:
        """What the manifest says of a file with these bytes."""
        if self._bytes <= CHUNK:
            return File(self._bytes, self._whole.hexdigest())
        tree = self._tree.copy()
        if self._bytes % CHUNK:
            tree.update(self._chunk.digest())
        return File(self._bytes, self._whole.hexdigest(), tree.hexdigest())


def describe(pieces: Iterable[bytes | memoryview]) -> File:
    """Size and digests of the concatenated `pieces`."""
    meter = Meter()
    for piece in pieces:
        meter.add(memoryview(piece).cast("B"))
    return meter.file()


def matches(handle: int, file: File, threads: int) -> bool:
    """Are the contents of the open file `handle`, whose size is known to be right, what `file` says?

    A file with a tree is checked by its tree alone, on up to `threads` threads.
    """
    if file.bytes == 0:
        return hashlib.sha256(b"").hexdigest() == file.sha256
    with mmap.mmap(handle, file.bytes, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
        if file.tree is None:
            return hashlib.sha256(view).hexdigest() == file.sha256
        return _tree(view, threads) == file.tree


def _tree(view: memoryview, threads: int) -> str:
    count = -(-len(view) // CHUNK)
    digests = [b""] * count
    todo = iter(range(count))  # shared: `next` on it is atomic

    def work() -> None:
        for number in todo:
            with view[number * CHUNK : (number + 1) * CHUNK] as chunk:
                digests[number] = hashlib.sha256(chunk).digest()

    helpers = [threading.Thread(target=work) for _ in range(min(threads, count) - 1)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    return hashlib.sha256(b"".join(digests)).hexdigest()
