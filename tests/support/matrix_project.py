"""A small matrix: two tiny models, two chips that this machine runs itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from layer_models import layer_model

from isthmus.matrix.build import Event, Request, build_matrix
from isthmus.matrix.cache import Where
from isthmus.matrix.config import load_config
from isthmus.matrix.plans import plan_matrix
from isthmus.matrix.results import BuildResult

TOML = """\
[models.first]
path = "first.onnx"

[models.second]
path = "second.onnx"

[chips.here]
target = "host"

[chips.c]
"""


def write_model(path: Path, scale: float = 1.0) -> None:
    """The layer of `layer_models`, with other weights for every `scale`."""
    model = layer_model()
    for tensor in model.graph.initializer:
        if tensor.name == "up":
            values = onnx.numpy_helper.to_array(tensor) * np.float32(scale)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)


@dataclass
class Project:
    """A folder with an isthmus.toml; `events` are those of the last build."""

    folder: Path
    events: list[Event]

    def write(self, text: str) -> None:
        (self.folder / "isthmus.toml").write_text(text)

    def build(
        self, only: Iterable[str] = (), jobs: int = 2, measure: bool = False, **others: Any
    ) -> BuildResult:
        self.events = []
        request = Request(
            places=Where(self.folder / "cache"),
            output=self.folder / "dist",
            jobs=jobs,
            measure=measure,
            tell=self.events.append,
        )
        config = load_config(self.folder / "isthmus.toml")
        return build_matrix(config, plan_matrix(config, only), replace(request, **others))
