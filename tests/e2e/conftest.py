"""The real model, compiled once for all tests here, and onnxruntime beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

import isthmus

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def bundle(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the real model for this machine."""
    return isthmus.compile(minilm, target="host", out=tmp_path_factory.mktemp("dist")).path


@pytest.fixture(scope="session")
def peer(minilm: Path) -> Callable[[Arrays], Arrays]:
    """onnxruntime's answer."""
    session = onnxruntime.InferenceSession(str(minilm), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


@pytest.fixture(scope="session")
def tokenize(data: Callable[[str], Path]) -> Callable[[list[str]], Arrays]:
    """Texts as model inputs: padded to the longest, cut at 512."""
    tokenizer = Tokenizer.from_file(str(data("tokenizer.json")))
    tokenizer.enable_truncation(512)
    tokenizer.enable_padding()

    def run(texts: list[str]) -> Arrays:
        encodings = tokenizer.encode_batch(texts)
        return {
            "input_ids": np.array([e.ids for e in encodings], np.int64),
            "attention_mask": np.array([e.attention_mask for e in encodings], np.int64),
        }

    return run


@pytest.fixture(scope="session")
def documents(data: Callable[[str], Path]) -> list[str]:
    """The fifty news texts of the Lee corpus."""
    return [line for line in data("lee.cor").read_text("latin-1").splitlines() if line.strip()]
