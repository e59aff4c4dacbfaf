"""A real sentence encoder without half of its numbers: methods that take data agree better with people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from minilm_l6 import all_minilm_l6
from similarity import agreement, encoder, lines, read

import isthmus

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("form", ["unstructured@0.5", "2:4"])
def test_data_beats_magnitude(form: str, data: Callable[[str], Path], tmp_path: Path) -> None:
    """By Pearson with 1,225 judgements; calibrated on news texts that are not those of the measurement."""
    onnx.save(all_minilm_l6(data("all-MiniLM-L6-v2.safetensors")), tmp_path / "l6.onnx")
    judged = read(data)
    encode = encoder(data("tokenizer.json"), ("input_ids", "attention_mask"))
    requests = [encode(text) for text in lines(data("lee_background.cor"))[:40]]

    def pearson(method: str) -> float:
        bundle = isthmus.compile(
            tmp_path / "l6.onnx",
            out=tmp_path / method,
            sparsity=form,
            sparsity_method=method,
            calibration=requests,
        )
        with isthmus.load(bundle.path) as session:
            return agreement(lambda x: session.run(x)["sentence_embedding"], encode, judged).pearson

    by_magnitude = pearson("magnitude")
    assert pearson("wanda") > by_magnitude + 0.02
    assert pearson("sparsegpt") > by_magnitude + 0.02
