"""What the benchmark scripts make of what they measure: the table, the worst step."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import encoders
import models
import numpy as np
import places
import pytest
import scaling


def result() -> dict:
    """Two sizes on one thread, the first also on two; a loss at the second."""

    def point(threads: int, batch: int, ours: float, ratio: float) -> dict:
        timing = {"best_ms": ours, "median_ms": ours, "quartiles_ms": [ours, ours], "runs": 9, "turns": 5}
        peer = {**timing, "median_ms": ours / ratio, "ratio": {"median": ratio, "quartiles": [ratio, ratio]}}
        limit = {"gflops": 100.0, "share": {"median": 0.9, "quartiles": [0.9, 0.9]}}
        sizes = {"batch": batch, "seq": 16}
        return {
            "threads": threads,
            "sizes": sizes,
            "isthmus": timing,
            "peers": {"rival": peer},
            "limit": limit,
        }

    return {
        "title": "A model",
        "machine": {"processor": "Some Processor", "processors": 2, "caches": {"L2": "2048K"}},
        "engines": {"isthmus": {"version": "1"}, "rival": {"version": "2.0-abc"}},
        "points": [point(1, 1, 4.0, 0.5), point(1, 8, 40.0, 2.0), point(2, 1, 2.0, 0.5)],
        "compile": {"seconds": 3.2, "peak_bytes": 4e8},
        "start": {"isthmus": {"median_ms": 10.0}, "rival": {"median_ms": 100.0, "ratio": 0.1}},
        "memory": {"weights": 1000_000, "second_process": 10_000},
    }


def test_the_table_tells_wins_and_losses() -> None:
    text = encoders.table({"a": result()})
    assert "| 1 x 16 | 1 | 4.00 | 8.00 | 0.50 | 90% |" in text
    assert "| 8 x 16 | 1 | 40.0 | 20.0 | **2.00** | 90% |" in text
    assert (
        "- 1 thread: 1.00 times as fast as the best peer in geometric mean; slower at 8 x 16 (2.00)." in text
    )
    assert "- 2 threads: 2.00 times as fast as the best peer in geometric mean; slower at no size." in text
    assert "- 2 threads over 1: 2.00 at 1 x 16." in text
    assert "rival 100 ms, ratio 0.100" in text
    assert "1.0% of the weights" in text
    assert "rival 2.0;" in text


def test_parts_that_are_measured_again_replace_what_was_there() -> None:
    before, now = result(), result()
    now["points"] = [{**now["points"][1], "limit": None}]
    del now["compile"]
    both = encoders.merged(before, now)
    assert [p["limit"] is None for p in both["points"]] == [False, True, False]
    assert both["compile"] == before["compile"]
    assert encoders.merged({}, before) == before
    assert encoders.merged({"not_measured": "for a reason"}, before) == before


def test_points_may_be_measured_against_different_engines() -> None:
    before, now = result(), result()
    now["engines"] = {"isthmus": {"version": "1"}, "other": {"version": "3"}}
    now["points"] = [{**now["points"][1], "peers": {"other": now["points"][1]["peers"]["rival"]}}]
    text = encoders.table({"a": encoders.merged(before, now)})
    assert "| sizes | threads | isthmus | rival | ratio | other | ratio | of the limit |" in text
    assert "| 1 x 16 | 1 | 4.00 | 8.00 | 0.50 |  |  | 90% |" in text
    assert "| 8 x 16 | 1 | 40.0 |  |  | 20.0 | **2.00** | 90% |" in text


def test_the_table_says_what_could_not_be_measured() -> None:
    text = encoders.table({"b": {"title": "Another", "not_measured": "for a reason"}, "a": result()})
    assert text.endswith("Not measured: Another: for a reason.\n")


def test_each_processor_has_its_folder() -> None:
    names = {
        "AMD EPYC (family 25, model 17)": "amd-epyc-family-25-model-17",
        "Intel(R) Xeon(R) Processor (family 6, model 167)": "intel-xeon-processor-family-6-model-167",
    }
    for processor, folder in names.items():
        assert places.results_folder(processor) == places.RESULTS / folder
    assert places.results_folder().parent == places.RESULTS


def test_committed_results_lie_in_the_folder_of_their_processor() -> None:
    files = [path for path in places.RESULTS.glob("*/*.json") if path.name != "scaling.json"]
    assert files
    for path in files:
        machine = json.loads(path.read_text("utf-8"))["machine"]
        processor = machine if path.name == "sparse.json" else machine["processor"]
        assert places.results_folder(processor) == path.parent


def test_results_are_read_in_order(tmp_path: Path) -> None:
    for name in reversed(encoders.SUBJECTS):
        (tmp_path / f"{name}.json").write_text(json.dumps(result()))
    assert list(encoders.read_results(tmp_path)) == list(encoders.SUBJECTS)
    (tmp_path / "bert-base.json").unlink()
    assert "bert-base" not in encoders.read_results(tmp_path)


def test_the_worst_step() -> None:
    sizes = list(range(1, 65))
    times = [1e-3 * (2 + n + n * n / 50) for n in sizes]
    np.testing.assert_allclose(scaling.smooth(sizes, times), times, rtol=1e-6)
    times[40] *= 1.5
    where, over = scaling.worst(sizes, times)
    assert where == 41
    assert over == pytest.approx(1.5, rel=0.1)


def test_a_pass_later_keeps_what_was_less() -> None:
    before = {"sizes": [1, 2], "ms": [5.0, 9.0]}
    assert scaling.least_of([6e-3, 8e-3, 7e-3], before, [1, 2, 3]) == [5e-3, 8e-3, 7e-3]


@pytest.mark.slow
def test_a_small_model_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"layers": 1, "hidden": 64, "heads": 2, "inner": 96, "vocabulary": 5000, "positions": 64}
    monkeypatch.setattr(models, "MODELS", {"small": lambda: models.bert(**small)})
    monkeypatch.setattr(encoders, "SUBJECTS", {"small": encoders.Subject("Small", ((1, 16), (2, 32)))})
    given = argparse.Namespace(
        parts=encoders.PARTS, threads=[1, 2], sizes=[], against=["onnxruntime"], seconds=0.01, turns=1
    )
    for part in encoders.measure("small", tmp_path, given):
        encoders.save("small", part, tmp_path)
    found = encoders.read_results(tmp_path)["small"]
    assert len(found["points"]) == 4
    assert found["compile"]["peak_bytes"] > 1e7
    assert found["start"]["onnxruntime"]["ratio"] > 0
    assert found["memory"]["weights"] > 4 * 5000 * 64
    assert found["memory"]["second_process"] > 0
    text = encoders.table({"small": found})
    assert text.count("| 2 x 32 |") == 2
    (bundle,) = (tmp_path / "bundles").iterdir()
    monkeypatch.setattr(
        "sys.argv",
        ["scaling.py", str(bundle), "--lengths", "6", "--batches", "6", "--passes", "1", "-o", str(tmp_path)],
    )
    scaling.main()
    found = json.loads((tmp_path / "scaling.json").read_text())
    assert [len(one["ms"]) for one in found.values()] == [6, 6]
    assert (tmp_path / "scaling.svg").read_text().startswith("<?xml")
