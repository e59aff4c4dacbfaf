"""Digests of files: SHA-256 of all, and for large files sums that are read at the speed of memory.

A processor with SHA instructions hashes about 1.7 GB/s on one core, so a digest of 70 MB of weights would
take longer than everything else that loading does. Loading therefore checks code by SHA-256, then lets that
code sum the weights (runtime/c/sums.c); here they are summed where no code is loaded. `isthmus verify` checks
everything by SHA-256.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from isthmus.bundle.manifest import File

CHUNK = 1 << 20  # bytes; part of the format
_POSITIONS = np.arange(1, CHUNK // 8 + 1, dtype=np.uint64)


class Meter:
    """Digests of bytes that pass by in pieces of any size."""

    def __init__(self) -> None:
        self._bytes = 0
        self._whole = hashlib.sha256()
        self._sums = hashlib.sha256()
        self._chunk = bytearray()

    def add(self, piece: memoryview) -> None:
        self._whole.update(piece)
        while piece:
            room = CHUNK - self._bytes % CHUNK
            part, piece = piece[:room], piece[room:]
            self._chunk += part
            self._bytes += len(part)
            if self._bytes % CHUNK == 0:
                self._sums.update(chunk_sums(self._chunk))
                self._chunk.clear()

    def file(self) -> File:
        """What the manifest says of a file with these bytes."""
        if self._bytes <= CHUNK:
            return File(self._bytes, self._whole.hexdigest())
        sums = self._sums.copy()
        if self._bytes % CHUNK:
            sums.update(chunk_sums(self._chunk))
        return File(self._bytes, self._whole.hexdigest(), sums.hexdigest())


def describe(pieces: Iterable[bytes | memoryview]) -> File:
    """Size and digests of the concatenated `pieces`."""
    meter = Meter()
    for piece in pieces:
        meter.add(memoryview(piece).cast("B"))
    return meter.file()


def chunk_sums(chunk: memoryview | bytearray) -> bytes:
    """Sixteen bytes that change with every byte of `chunk` and when parts of it trade places.

    With w the chunk as little-endian 64-bit words, counted from 1, the last filled up with zeros: the sum
    of w[i] and the sum of i * w[i], modulo 2^64 (J. G. Fletcher, "An Arithmetic Checksum for Serial
    Transmissions", 1982). It finds damage, not intent: that is what SHA-256 is there for.
    """
    missing = -len(chunk) % 8
    words = np.frombuffer(bytes(chunk) + bytes(missing) if missing else chunk, "<u8")
    plain, weighted = words.sum(dtype=np.uint64), (words * _POSITIONS[: len(words)]).sum(dtype=np.uint64)
    return bytes(np.array([plain, weighted], "<u8"))


def of_pairs(pairs: npt.NDArray[np.uint64]) -> str:
    """The `sums` of a file whose chunks have these sums: (chunks, 2), as `chunk_sums` gives them."""
    return hashlib.sha256(pairs.astype("<u8").tobytes()).hexdigest()


def matches(handle: int, file: File, threads: int, thorough: bool) -> bool:
    """Are the contents of the open file `handle`, whose size is known to be right, what `file` says?

    Without `thorough` a file that has sums is checked by them alone, on up to `threads` threads.
    """
    if file.bytes <= CHUNK:  # to map it would cost more than to read it
        return hashlib.sha256(_start_of(handle, file.bytes)).hexdigest() == file.sha256
    with mmap.mmap(handle, file.bytes, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
        if thorough or file.sums is None:
            return hashlib.sha256(view).hexdigest() == file.sha256
        return _sums(view, threads) == file.sums


def _start_of(handle: int, size: int) -> bytes:
    """The first `size` bytes of the open file; fewer if it has fewer."""
    data = b""
    while len(data) < size and (piece := os.pread(handle, size - len(data), len(data))):
        data += piece
    return data


def chunks(size: int) -> int:
    """How many chunks a file of `size` bytes has."""
    return -(-size // CHUNK)


def _sums(view: memoryview, threads: int) -> str:
    count = chunks(len(view))
    found = [b""] * count
    todo = iter(range(count))  # shared: `next` on it is atomic

    def work() -> None:
        for number in todo:
            with view[number * CHUNK : (number + 1) * CHUNK] as chunk:
                found[number] = chunk_sums(chunk)

    helpers = [threading.Thread(target=work) for _ in range(min(threads, count) - 1)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    return hashlib.sha256(b"".join(found)).hexdigest()
