"""What packages are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from isthmus.bundle.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Parts:
    """A bundle as far as it is known before it is written.

    Its manifest without `files`, its libraries by file name, the size of its weights (0: none), and the
    platform tag of wheels that hold its library, None where there are no such wheels.
    """

    manifest: Manifest
    libraries: Mapping[str, bytes]
    weights_bytes: int
    wheel: str | None = None
