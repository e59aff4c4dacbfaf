"""onnxruntime. On processors it computes f32 models in f32; nothing has to be said for that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from isthmus.tools.peers.engine import Array, Request
from isthmus.tools.reference import Reference


class _Engine:
    precision = "f32"
    shapes = "any"

    def __init__(self, model: Path, threads: int, fixed: Mapping[str, Array]) -> None:
        self._reference = Reference(model, threads, fixed)
        self.version = self._reference.version

    def request(self, inputs: Mapping[str, Array]) -> Request:
        given = dict(inputs)
        return Request(lambda: self._reference.run(given), self._read)

    def _read(self, result: object) -> Mapping[str, Array]:
        return dict(zip(self._reference.outputs, cast("Sequence[Array]", result), strict=True))


def open_model(model: Path, threads: int, fixed: Mapping[str, Array]) -> _Engine:
    """`model` in a session of its own."""
    return _Engine(model, threads, fixed)
