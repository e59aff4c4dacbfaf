"""The whole build: what is made, what is not made again, what stops nobody."""

from __future__ import annotations

import functools
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from matrix_project import TOML, Project, write_model

import isthmus
from isthmus.errors import Code, ModelError
from isthmus.matrix.cache import Where
from isthmus.matrix.results import BuildResult, Work


def digests(result: BuildResult) -> dict[str, str | None]:
    return {pair.name: pair.digest for pair in result.pairs}


def test_cold_warm_a_model_touched_a_chip_added(project: Project) -> None:
    cold = project.build(measure=True)
    assert cold.work == Work(models=2, pairs=4, checks=4, measurements=4)
    assert [pair.status for pair in cold.pairs] == ["pass"] * 4 and cold.exit_code == 0
    assert {pair.state for pair in cold.pairs} == {"built"}
    warm = project.build(measure=True)
    assert warm.work == Work()
    assert digests(warm) == digests(cold) and {pair.state for pair in warm.pairs} == {"cached"}
    # Touching one model makes its row again, and nothing else.
    write_model(project.folder / "first.onnx", 3.0)
    touched = project.build()
    assert touched.work == Work(models=1, pairs=2, checks=2)
    assert [pair.name for pair in touched.pairs if pair.state == "built"] == ["first@here", "first@c"]
    assert digests(touched)["second@c"] == digests(cold)["second@c"]
    assert digests(touched)["first@c"] != digests(cold)["first@c"]
    # Adding a chip makes its column only; models are not imported again.
    project.write(TOML + "[chips.x86-64-v3]\n")
    wider = project.build()
    assert (wider.work.models, wider.work.pairs) == (0, 2)
    assert [p.name for p in wider.pairs if p.state == "built"] == ["first@x86-64-v3", "second@x86-64-v3"]


def test_a_bundle_is_that_of_the_compiler(project: Project) -> None:
    result = project.build(only=["first@here"])
    place = result["first@here"].bundle
    assert place == project.folder / "dist" / "first@here"
    made = isthmus.compile(project.folder / "first.onnx", out=project.folder / "alone")
    files = sorted(p.relative_to(made.path) for p in made.path.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(place) for p in place.rglob("*") if p.is_file())
    assert all((place / f).read_bytes() == (made.path / f).read_bytes() for f in files)


def test_what_is_known_of_a_pair(project: Project) -> None:
    project.write(TOML + "[prices]\nhere = 3.6\n[models.second.at]\nseq = 4\n")
    result = project.build(measure=True)
    pair = result["first@here"]
    assert pair.latency is not None and pair.latency.measured and pair.start is not None
    assert pair.cost == pytest.approx(3.6 / 3600 * pair.latency.p50 * 1e6)
    assert pair.accuracy == pytest.approx(1.0) and pair.runner == "native"
    assert pair.size == pair.code_bytes + pair.weights_bytes < pair.peak_memory + pair.code_bytes
    assert pair.sizes == {"batch": 1, "seq": 128}
    assert result["second@here"].sizes == {"batch": 1, "seq": 4}
    assert result.cheapest == {"first": "here", "second": "here"}


def test_without_measuring_latency_is_an_estimate_that_says_from_what(project: Project) -> None:
    project.write(TOML + "gflops = 2\ngbytes_per_s = 1\n[budgets]\nlatency_p50 = '1 us'\n")
    result = project.build(only=["first@*"])
    latency = result["first@c"].latency
    assert latency is not None and not latency.measured
    assert "2 GFLOP/s a core (as configured), 1 thread, 1 GB/s of memory (as configured)" in latency.basis
    # Two products of 128 x 16 x 48 multiply-adds at 2 GFLOP/s are the least it can take.
    assert 2 * 2 * 128 * 16 * 48 / 2e9 <= latency.p50 < 2e-3
    assert "assumed" in result["first@here"].latency.basis
    # An estimate is over the budget, and fails nothing.
    (verdict,) = result["first@c"].verdicts
    assert verdict.over and not verdict.fails and result.exit_code == 0


def test_budgets_fail_the_build_and_nothing_else(project: Project) -> None:
    project.write(TOML + "[models.first.budgets]\nsize = '1 kB'\naccuracy_drop = 0.1\n")
    result = project.build()
    assert [pair.status for pair in result.pairs] == ["over", "over", "pass", "pass"]
    assert result.exit_code == 1
    assert [problem.code for problem in result["first@c"].faults] == [Code.OVER_BUDGET]
    assert result["first@c"].bundle is not None


def test_a_pair_that_fails_stops_no_other(project: Project) -> None:
    (project.folder / "second.onnx").write_bytes(b"this is no model")
    project.write(TOML + "[chips.cortex-m7]\n")
    result = project.build()
    found = {pair.name: pair.status for pair in result.pairs}
    assert {name for name, status in found.items() if status == "pass"} == {"first@here", "first@c"}
    assert result.exit_code == 2
    assert [p.code for p in result["second@c"].problems] == [Code.NOT_ONNX]
    # The chip has no heap, and a dim no bound.
    assert {p.code for p in result["first@cortex-m7"].problems} == {Code.BAD_DIM}
    assert not (project.folder / "dist" / "second@c").exists()


@pytest.mark.parametrize("kind", ["blobs", "entries"])
def test_damage_is_told_and_made_good(kind: str, project: Project) -> None:
    before = project.build(only=["first@c"])
    for path in (project.folder / "cache" / kind).rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1] + b"!")
    after = project.build(only=["first@c"])
    assert {problem.code for problem in after.warnings} == {Code.DAMAGED_CACHE}
    assert after.work.pairs == 1 and digests(after) == digests(before)
    assert project.build(only=["first@c"]).warnings == ()


def test_a_bundle_that_was_changed_or_deleted_is_put_back(project: Project) -> None:
    before = project.build(only=["first@c"])
    library = project.folder / "dist" / "first@c" / "lib" / "libmodel.so"
    whole = library.read_bytes()
    library.write_bytes(b"x" + whole[1:])
    assert project.build(only=["first@c"]).work == Work()
    assert library.read_bytes() == whole
    assert digests(before) == digests(project.build(only=["first@c"]))


def test_what_is_somebody_elses_is_not_replaced(project: Project) -> None:
    (project.folder / "dist" / "first@c").mkdir(parents=True)
    (project.folder / "dist" / "first@c" / "thesis.txt").write_text("two years")
    result = project.build(only=["first@*"])
    assert [p.code for p in result["first@c"].problems] == [Code.CANNOT_WRITE]
    assert result["first@here"].status == "pass" and result.exit_code == 2


def test_events_tell_what_is_done(project: Project) -> None:
    project.build(only=["first@*"])
    assert next(e.what for e in project.events if e.kind == "done") == "first"
    assert sorted(e.number for e in project.events if e.kind == "done") == [1, 2, 3]
    assert {e.total for e in project.events} == {3}
    project.build(only=["first@*"])
    assert [e.kind for e in project.events] == ["cached", "cached"]


def test_an_unknown_pair(project: Project) -> None:
    with pytest.raises(ModelError, match="no pair is called"):
        project.build(only=["third@c"])


def test_precision_is_that_of_the_compiler(project: Project) -> None:
    rng = np.random.default_rng(0)
    (project.folder / "requests").mkdir()
    for number in range(8):
        request = rng.standard_normal((2, 5, 16)).astype(np.float32)
        np.savez(project.folder / "requests" / f"{number}.npz", x=request)
    static = "[models.second]\nprecision = 'int8-static'\ncalibration = 'requests'"
    dynamic = "[[overrides]]\nmodel = 'first'\nchip = 'c'\nprecision = 'int8'\n"
    project.write(TOML.replace("[models.second]", static) + dynamic)
    result = project.build()
    assert result.exit_code == 0 and result.work.models == 3
    assert [pair.precision for pair in result.pairs] == ["f32", "int8", "int8-static", "int8-static"]
    for name, precision, calibration in (("first@c", "int8", None), ("second@c", "int8-static", "requests")):
        made = isthmus.compile(
            project.folder / f"{name.partition('@')[0]}.onnx",
            target="c",
            precision=precision,
            calibration=None if calibration is None else project.folder / calibration,
            out=project.folder / "alone",
        )
        place = result[name].bundle
        assert (made.path / "manifest.json").read_bytes() == (place / "manifest.json").read_bytes()
        # Integers cost something, and that shows.
        assert 0.99 < result[name].accuracy < 1 - 1e-7
        # A product in integers is as much work, also for an estimate.
        heaviest = result[name].details["heaviest"][0]
        assert heaviest["multiply_adds"] == 128 * 16 * 48
    # Other requests to calibrate with make other bundles.
    np.savez(
        project.folder / "requests" / "0.npz", x=np.linspace(0, 9, 160, dtype=np.float32).reshape(2, 5, 16)
    )
    assert project.build(only=["second@*"]).work.models == 1


def test_sparsity_is_that_of_the_compiler(project: Project) -> None:
    sparse = "[models.second]\nsparsity = 'unstructured@0.5'"
    override = "[[overrides]]\nmodel = 'second'\nchip = 'here'\nsparsity = 'none'\n"
    project.write(TOML.replace("[models.second]", sparse) + override)
    result = project.build()
    assert result.exit_code == 0 and result.work.models == 3
    made = isthmus.compile(
        project.folder / "second.onnx", target="c", sparsity="unstructured@0.5", out=project.folder / "alone"
    )
    place = result["second@c"].bundle
    assert (made.path / "manifest.json").read_bytes() == (place / "manifest.json").read_bytes()
    assert result["second@c"].accuracy < 1 - 1e-7 < result["second@here"].accuracy


def test_a_build_takes_what_a_web_server_has(project: Project) -> None:
    """What CI built lies behind HTTP: another machine takes it, and builds only what it has not."""
    made = project.build(only=["first@c"])
    shared = project.folder / "cache"
    kind = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(shared))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        places = Where(project.folder / "other", url)
        taken = project.build(only=["*@c"], places=places, output=project.folder / "far")
        server.shutdown()
    assert taken.work == Work(models=1, pairs=1, checks=1) and not taken.warnings
    assert digests(taken)["first@c"] == digests(made)["first@c"] and taken["first@c"].state == "cached"


def test_decisions_are_those_of_a_record(project: Project) -> None:
    """Another record is another bundle; the same gives that of the compiler, also when built once more."""
    sparse = "[models.second]\nsparsity = 'unstructured@0.9'"
    project.write(TOML.replace("[models.second]", sparse))
    first = project.build(only=["second@c"])["second@c"]
    report = json.loads((first.bundle / "report.json").read_bytes())
    turned = {"dense": "csr(", "csr": "dense"}
    for layer in report["sparsity"]:
        layer.update(stored=turned[layer["stored"].partition("(")[0]], measured_gain=1.5)
    assert report["sparsity"]
    (project.folder / "decisions.json").write_text(json.dumps(report))
    override = "[[overrides]]\nmodel = 'second'\nchip = 'c'\ndecisions = 'decisions.json'\n"
    project.write(TOML.replace("[models.second]", sparse) + override)
    second = project.build(only=["second@c"])["second@c"]
    assert second.status == "pass"
    made = isthmus.compile(
        project.folder / "second.onnx",
        target="c",
        sparsity="unstructured@0.9",
        decisions=project.folder / "decisions.json",
        out=project.folder / "alone",
    )
    assert (made.path / "manifest.json").read_bytes() == (second.bundle / "manifest.json").read_bytes()
    told = json.loads((second.bundle / "report.json").read_bytes())["sparsity"]
    assert [layer["stored"].partition("(")[0] for layer in told] == [
        layer["stored"].partition("(")[0] for layer in report["sparsity"]
    ]
    assert {layer["decided_by"] for layer in told} == {"measurement"}
    assert first.digest != second.digest
    # It is known again, until the record says something else.
    assert project.build(only=["second@c"]).work.pairs == 0
    for layer in report["sparsity"]:
        layer["measured_gain"] = 1.25
    (project.folder / "decisions.json").write_text(json.dumps(report))
    assert project.build(only=["second@c"]).work.pairs == 1
    # What is no record is said where it is asked for.
    (project.folder / "decisions.json").write_text("[]")
    with pytest.raises(ModelError, match="no report of a bundle"):
        project.build(only=["second@c"])


KILLED = """
import sys
from matrix_project import Project
from pathlib import Path
Project(Path(sys.argv[1]), []).build(jobs=1)
"""


def test_killed_in_the_middle_it_goes_on_where_it_was(project: Project) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "support")}
    command = [sys.executable, "-c", KILLED, str(project.folder)]
    bundles = project.folder / "cache" / "entries"
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        # Model, model, and the first of the bundles and its check.
        end = time.monotonic() + 120
        while len([p for p in bundles.rglob("*") if p.is_file() and p.name[0] != "."]) < 4:
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    after = project.build()
    assert after.exit_code == 0 and not after.warnings
    assert after.work.models == 0 and 1 <= after.work.pairs <= 3
    # The same as if nobody had been killed.
    assert digests(project.build(places=Where(project.folder / "other"))) == digests(after)
