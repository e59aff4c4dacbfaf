"""Open a bundle: is it whole, and can this machine run it? Answered before any of its code is loaded."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from isthmus.bundle import digest, manifest
from isthmus.bundle.folder import Folder
from isthmus.bundle.manifest import Chip, File, Manifest
from isthmus.errors import BundleError, Code, Problem
from isthmus.machine import Machine, processors

T = TypeVar("T")

_ATTEMPTS = 5
_HASH_THREADS = 8  # more only compete for the memory
_CACHES = "__pycache__"
_AGAIN = "compile the model again, or copy the bundle again"


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that was checked: where it is and what its manifest says."""

    path: Path
    manifest: Manifest

    def file(self, path: str) -> Path:
        """Where the file of this name in the manifest is."""
        if path not in self.manifest.files:
            raise KeyError(path)
        return self.path / path


def open_bundle(
    path: Path, machine: Machine | None = None, verify: bool = True, thorough: bool = False
) -> Bundle:
    """Check the bundle at `path`: its format, its machine, its file list, sizes and digests.

    `machine` is the one that is to run it (`Machine.here()`); None: only look, do not run. Without `verify`
    the digests of all files but the library are taken on trust; `thorough` compares the SHA-256 of large
    files, too, and not only their sums. Raises `BundleError`.
    """
    return with_folder(path, lambda folder: check(folder, machine, verify, thorough))


def with_folder(path: Path, use: Callable[[Folder], T]) -> T:
    """`use` of the bundle's folder, again from the start if another bundle is put in its place meanwhile."""
    for _ in range(_ATTEMPTS):
        with open_folder(path) as folder:
            try:
                return use(folder)
            except BundleError:
                if folder.is_current():
                    raise
    raise BundleError(Problem(Code.NOT_A_BUNDLE, "the bundle keeps being replaced", str(path)))


def open_folder(path: Path) -> Folder:
    """The bundle's folder, or `BundleError`: no-such-file, not-a-bundle."""
    try:
        return Folder(path)
    except FileNotFoundError:
        raise BundleError(Problem(Code.NO_SUCH_FILE, "there is no bundle here", str(path))) from None
    except OSError as error:
        raise BundleError(
            Problem(
                Code.NOT_A_BUNDLE,
                f"a bundle is a folder; this cannot be opened as one: {error.strerror}",
                str(path),
            )
        ) from None


def check(
    folder: Folder, machine: Machine | None, verify: bool, thorough: bool = False, weights: bool = True
) -> Bundle:
    """`open_bundle` for a folder that is open already.

    Without `weights` those that have sums are left to the caller, who has the library sum them.
    """
    found = read_manifest(folder)
    if machine is not None:
        check_machine(found, machine, folder.path)
    names = [path for path in found.files if verify or path == found.library]
    if not weights and found.weights in names and found.files[found.weights].sums is not None:
        names.remove(found.weights)
    problems = _check_list(folder, found.files) or _check_contents(folder, found, names, thorough)
    if problems:
        raise BundleError(problems)
    return Bundle(folder.path, found)


def read_manifest(folder: Folder) -> Manifest:
    """The manifest of an open bundle."""
    where = str(folder.path / manifest.NAME)
    try:
        handle = folder.open(manifest.NAME)
    except OSError as error:
        raise BundleError(
            Problem(
                Code.NOT_A_BUNDLE,
                f"not a bundle: {manifest.NAME} cannot be read: {error.strerror or error}",
                where,
            )
        ) from None
    with os.fdopen(handle, "rb") as file:
        raw = file.read(manifest.MOST_BYTES + 1)
    if len(raw) > manifest.MOST_BYTES:
        raise BundleError(Problem(Code.NOT_A_BUNDLE, "the manifest is too large to be one", where))
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BundleError(Problem(Code.NOT_A_BUNDLE, "the manifest is not text", where)) from None
    return manifest.parse(text, where)


def check_machine(found: Manifest, machine: Machine, where: Path) -> None:
    """Raise `BundleError` (wrong-machine) with everything that `machine` lacks."""
    lacking = missing(found.chip, machine)
    if lacking:
        raise BundleError(
            Problem(
                Code.WRONG_MACHINE,
                f"the bundle is for {found.chip.name}, and this machine {'; '.join(lacking)}",
                str(where),
                "compile with --target host on this machine, or run it in an emulator: `isthmus verify`",
            )
        )


def missing(chip: Chip, machine: Machine) -> tuple[str, ...]:
    """In words, what `machine` lacks for code made for `chip`; empty if nothing."""
    lacking = [
        f"is {has}, not {wanted}"
        for wanted, has in ((chip.arch, machine.arch), (chip.os, machine.os))
        if wanted != has
    ]
    if chip.byte_order != machine.byte_order:
        lacking.append(f"is {machine.byte_order}-endian, not {chip.byte_order}-endian")
    # Flags have a meaning within one architecture only.
    if chip.arch == machine.arch:
        flags = sorted(set(chip.cpu_flags) - machine.cpu_flags)
        lacking += [f"lacks {', '.join(flags)}"] if flags else []
    return tuple(lacking)


def wrong_digest(folder: Folder, path: str) -> Problem:
    """The file at `path` is not the one that the manifest lists."""
    return _damaged(folder.path / path, "the contents are not what was written: wrong digest")


def _damaged(where: Path, message: str) -> Problem:
    return Problem(Code.DAMAGED_BUNDLE, message, str(where), _AGAIN)


def _check_list(folder: Folder, files: Mapping[str, File]) -> list[Problem]:
    """Missing files, extra files, links and other things that are no files, wrong sizes."""
    try:
        # Python keeps compiled modules beside the generated package; nothing is ever read from there.
        found = {path: status for path, status in folder.walk() if _CACHES not in path.split("/")}
    except OSError as error:
        return [_damaged(folder.path, f"cannot list the bundle: {error.strerror}")]
    found.pop(manifest.NAME, None)
    problems = [
        _damaged(folder.path / path, "the file is missing") for path in sorted(files.keys() - found.keys())
    ]
    for path, status in found.items():
        where = folder.path / path
        if path not in files:
            problems.append(_damaged(where, "the file does not belong to the bundle"))
        elif not stat.S_ISREG(status.st_mode):
            problems.append(_damaged(where, "this is a link or a device, not a file"))
        elif status.st_size != files[path].bytes:
            problems.append(
                _damaged(where, f"the file has {status.st_size} bytes, expected {files[path].bytes}")
            )
    return problems


def _check_contents(folder: Folder, found: Manifest, names: Sequence[str], thorough: bool) -> list[Problem]:
    threads = min(processors(), _HASH_THREADS)
    problems: list[Problem] = []
    for path in names:
        file = found.files[path]
        try:
            handle = folder.open(path)
        except OSError as error:
            problems.append(_damaged(folder.path / path, f"cannot be read: {error.strerror or error}"))
            continue
        try:
            # The size may have changed since it was listed.
            by_sha256 = thorough or path == found.library
            if os.fstat(handle).st_size != file.bytes or not digest.matches(handle, file, threads, by_sha256):
                problems.append(wrong_digest(folder, path))
        finally:
            os.close(handle)
    return problems
