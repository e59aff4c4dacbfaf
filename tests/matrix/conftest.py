"""A small matrix to build."""

from __future__ import annotations

from pathlib import Path

import pytest
from matrix_project import TOML, Project, write_model


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Two tiny models, two chips that this machine runs itself."""
    write_model(tmp_path / "first.onnx")
    write_model(tmp_path / "second.onnx", 2.0)
    found = Project(tmp_path, [])
    found.write(TOML)
    return found
