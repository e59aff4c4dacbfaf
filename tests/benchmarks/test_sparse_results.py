"""What becomes of the times of products with zeros: the plot of breaking even, and the tables."""

from __future__ import annotations

import json
from pathlib import Path

import places
import sparse_results

FOUND = json.loads((places.RESULTS / "amd-epyc-family-25-model-17" / "sparse.json").read_text("utf-8"))


def test_every_format_is_in_the_plot(tmp_path: Path) -> None:
    """As a line over the shares of zeros, with a mark for each decision."""
    assert set(FOUND["latency"]) == set(sparse_results.FORMATS)
    few, all_ = tmp_path / "few.svg", tmp_path / "all.svg"
    sparse_results.draw({"latency": {"f32 csr": FOUND["latency"]["f32 csr"]}}, few)
    sparse_results.draw(FOUND, all_)
    assert len(all_.read_text("utf-8")) > len(few.read_text("utf-8")) > 10_000


def test_the_table_tells_what_the_decision_keeps_dense() -> None:
    text = sparse_results.tables(FOUND)
    (row,) = (line for line in text.splitlines() if line.startswith("| 50 % |"))
    cells = dict(zip(sparse_results.FORMATS, row.strip("| ").split(" | ")[1:], strict=True))
    for name, cell in cells.items():
        point = FOUND["latency"][name]["0.5"]
        assert cell.startswith("(") == (not point["decided"])
        assert f"{point['gain'][1]:.2f}" in cell
    assert "| 90 % | onnxruntime |" in text
