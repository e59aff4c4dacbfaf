"""Everything once more, from nothing, to see whether the same bytes come out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from isthmus.errors import Code, Problem
from isthmus.matrix.build import Request, build_matrix
from isthmus.matrix.cache import Where
from isthmus.matrix.config import Config
from isthmus.matrix.plans import Matrix
from isthmus.matrix.results import BuildResult

# As different from what anybody has as they can be.
_STRANGE = {"TZ": "Pacific/Chatham", "PYTHONHASHSEED": "4711", "LC_ALL": "C"}


def rebuild(config: Config, matrix: Matrix, request: Request, replaces: bool) -> BuildResult:
    """Build without any cache, in another time zone and with another hash seed; in an empty folder, unless
    what comes out `replaces` the bundles in that of `request`."""
    with tempfile.TemporaryDirectory(prefix="isthmus-rebuild-") as name:
        folder = Path(name)
        with _environment({**_STRANGE, "ISTHMUS_CACHE": str(folder / "kernels")}):
            places = Where(folder / "cache")
            output = request.output if replaces else folder / "dist"
            again = replace(request, places=places, output=output, measure=False, scheduler=None)
            return build_matrix(config, matrix, again)


def differences(wanted: Mapping[str, str], again: BuildResult) -> list[Problem]:
    """Bundles that were made before, by digest, and came out otherwise or not at all."""
    made = {pair.name: pair.digest for pair in again.pairs}
    return [
        Problem(
            Code.NOT_REPRODUCED,
            f"the bundle is {digest[:16]}, and once more {(made.get(name) or 'not there')[:16]}",
            name,
            "please send both to the project: the same input has to give the same bytes",
        )
        for name, digest in wanted.items()
        if name in made and made[name] != digest
    ]


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Variables that workers started meanwhile inherit."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
