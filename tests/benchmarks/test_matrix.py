"""benchmarks/matrix.py: some of the matrix is still one, and its steps do what they should and no more."""

from __future__ import annotations

from pathlib import Path

import matrix
import pytest
from matrix_project import TOML, write_model

from isthmus.matrix.config import parse_config

ROOT = Path(__file__).resolve().parents[2]


def test_some_models_on_some_chips() -> None:
    text = (ROOT / "benchmarks" / "matrix.toml").read_text("utf-8")
    whole = parse_config(text, Path("isthmus.toml"))
    kept = {"models": ["vit", "gpt2"], "chips": ["c"]}
    some = parse_config(matrix.some(text, kept, whole.chips), Path("isthmus.toml"))
    assert (list(some.models), list(some.chips), list(some.prices)) == (["vit", "gpt2"], ["c"], ["c"])
    assert (some.budgets, some.currency) == (whole.budgets, whole.currency)
    with pytest.raises(SystemExit, match=r"no gpt3 in matrix\.toml"):
        matrix.chosen("--models", "vit,gpt3", list(whole.models))


@pytest.mark.slow
def test_all_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "first.onnx")
    write_model(tmp_path / "second.onnx", 2.0)
    (tmp_path / "isthmus.toml").write_text(TOML)
    assert matrix.all_steps(tmp_path, 2) == 0
    out = capsys.readouterr().out
    assert out.count("as it should be") == 4 and "first@c: done in" in out
