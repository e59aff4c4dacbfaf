"""What many tests share: real data, the collection of tiny models, and no colour."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from fetch_data import fetch

# The same examples everywhere, and no failures for being slow on a busy machine.
hypothesis.settings.register_profile("isthmus", deadline=None, derandomize=True)
hypothesis.settings.load_profile("isthmus")

ROOT = Path(__file__).resolve().parent.parent
# What is printed into a pipe has a width of its own, which a runner of tests may have set otherwise.
os.environ.pop("COLUMNS", None)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def data() -> Callable[[str], Path]:
    """A file of tests/data.lock by name; fetched on first use, and an error if it cannot be had."""
    return fetch


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real model: paraphrase-MiniLM-L3-v2, fp32, opset 17."""
    return fetch("paraphrase-MiniLM-L3-v2.onnx")


@pytest.fixture(scope="session")
def zoo() -> Path:
    """A folder of tiny exported models with stored outputs, where $ISTHMUS_ZOO names one."""
    folder = os.environ.get("ISTHMUS_ZOO")
    if not folder:
        pytest.skip("ISTHMUS_ZOO is not set")
    if not Path(folder).is_dir():
        pytest.fail(f"ISTHMUS_ZOO={folder} is not a folder")
    return Path(folder)
