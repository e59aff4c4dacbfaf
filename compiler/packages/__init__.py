"""Packages for other languages inside a bundle: which ones is said by its system (`System.packages`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from isthmus.packages import c, npm, python, rust
from isthmus.packages.parts import Parts
from isthmus.systems import System

__all__ = ["Parts", "files"]

GENERATORS: Mapping[str, Callable[[Parts], dict[str, bytes]]] = {
    "c": c.files,
    "npm": npm.files,
    "python": python.files,
    "rust": rust.files,
}


def files(system: System, parts: Parts) -> dict[str, bytes]:
    """The files of all packages of `system`, by path in the bundle."""
    return {path: content for name in system.packages for path, content in GENERATORS[name](parts).items()}
