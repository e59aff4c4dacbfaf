"""One small bundle for this machine, whose packages are built and used as their users would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from layer_models import WIDTH, layer_model

import isthmus


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    onnx.save(layer_model(), folder / "layer.onnx")
    return isthmus.compile(folder / "layer.onnx", target="host", out=folder, name="a layer").path


@pytest.fixture(scope="session")
def answer_to_zeros(bundle: Path) -> np.ndarray:
    """What the model gives for the smallest request of zeros."""
    with isthmus.load(bundle) as session:
        return session(x=np.zeros((1, 1, WIDTH), np.float32))["y"]
