"""`isthmus build`, `rebuild` and `diff` on the command line: output, exit codes, lock."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from matrix_project import TOML, Project, write_model

from isthmus.cli import app
from isthmus.cli.build_progress import Progress
from isthmus.errors import Code, Problem
from isthmus.matrix.build import Event
from isthmus.matrix.cache import file_digest


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The working folder, with two models and a file that names them."""
    write_model(tmp_path / "first.onnx")
    write_model(tmp_path / "second.onnx", 2.0)
    project = Project(tmp_path, [])
    project.write('cache = "cache"\n' + TOML)
    monkeypatch.chdir(tmp_path)
    return project


def test_build_leaves_bundles_reports_and_a_lock(desk: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["build", "--only", "*@c", "--no-measure"]) == 0
    out, err = capsys.readouterr()
    assert "first" in out and "pass" in out and "~" in out
    assert "first@c: done in" in err and "[4/4]" in err
    assert {path.name for path in (desk.folder / "dist").iterdir()} == {
        "first@c", "second@c", "report.html", "report.json", "report.md", "junit.xml", "report.sarif",
    }  # fmt: skip
    lock = json.loads((desk.folder / "isthmus.lock").read_text())
    assert set(lock["pairs"]) == {"first@c", "second@c"} and set(lock["models"]) == {"first", "second"}
    assert "source" in lock["tools"]
    # What is not asked for stays in the lock.
    assert app.run(["build", "--only", "first@here", "--no-measure", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [pair["name"] for pair in json.loads(out)["pairs"]] == ["first@here"]
    assert set(json.loads((desk.folder / "isthmus.lock").read_text())["pairs"]) == {
        "first@c", "second@c", "first@here",
    }  # fmt: skip
    report = json.loads((desk.folder / "dist" / "report.json").read_text())
    assert {pair["name"] for pair in report["pairs"]} == {"first@c", "second@c", "first@here"}


def test_frozen_refuses_what_drifted(desk: Project, capsys: pytest.CaptureFixture[str]) -> None:
    build = ["build", "--only", "first@c", "--no-measure"]
    assert app.run([*build, "--frozen"]) == 2
    assert "E1001" in capsys.readouterr().err
    assert app.run(build) == 0
    lock = desk.folder / "isthmus.lock"
    before = lock.read_bytes()
    assert app.run([*build, "--frozen"]) == 0
    write_model(desk.folder / "first.onnx", 3.0)
    capsys.readouterr()
    assert app.run([*build, "--frozen"]) == 2
    err = capsys.readouterr().err
    assert err.count("E1502") == 1 and "model first is" in err
    desk.write('cache = "cache"\n' + TOML + "[models.first.dims]\nseq = 4\n")
    assert app.run([*build, "--frozen"]) == 2
    assert "pair first@c is" in capsys.readouterr().err
    assert lock.read_bytes() == before


def test_a_frozen_bundle_that_comes_out_otherwise(desk: Project, capsys: pytest.CaptureFixture[str]) -> None:
    build = ["build", "--only", "first@c", "--no-measure"]
    assert app.run(build) == 0
    lock = desk.folder / "isthmus.lock"
    raw = json.loads(lock.read_text())
    raw["pairs"]["first@c"]["bundle"] = "0" * 64
    lock.write_text(json.dumps(raw))
    capsys.readouterr()
    assert app.run([*build, "--frozen"]) == 2
    assert "bundle first@c is" in capsys.readouterr().err
    lock.write_text("{}")
    assert app.run([*build, "--frozen"]) == 2


def test_exit_codes(desk: Project, capsys: pytest.CaptureFixture[str]) -> None:
    desk.write('cache = "cache"\n' + TOML + "[budgets]\nsize = '1 kB'\n")
    assert app.run(["build", "--only", "*@c", "--no-measure"]) == 1
    err = capsys.readouterr().err
    assert "E3002" in err and "the budget is 1.0 kB" in err
    (desk.folder / "second.onnx").write_bytes(b"no model")
    assert app.run(["build", "--only", "*@c", "--no-measure"]) == 2
    err = capsys.readouterr().err
    assert "second: FAILED" in err and "E1101" in err
    capsys.readouterr()
    assert app.run(["build", "nowhere.toml"]) == 2
    assert "[models.NAME]" in capsys.readouterr().err
    assert app.run(["build", "."]) == 2
    assert "give the file: isthmus.toml" in capsys.readouterr().err
    (desk.folder / "model.onnx").write_bytes(b"\xff\xfe")
    assert app.run(["build", "model.onnx"]) == 2
    assert "isthmus compile" in capsys.readouterr().err
    assert app.run(["build", "--memory", "lots"]) == 2
    assert app.run(["build", "--only", "first@d"]) == 2
    assert "did you mean 'first@c'" in capsys.readouterr().err


@pytest.mark.slow
def test_rebuild_proves_that_the_bytes_are_the_same(
    desk: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["rebuild", "--check", "--only", "first@here"]) == 2
    assert "there are no bundles here" in capsys.readouterr().err
    assert app.run(["build", "--only", "first@here", "--no-measure"]) == 0
    capsys.readouterr()
    assert app.run(["rebuild", "--check", "--only", "first@here"]) == 0
    assert "first@here: the same bytes" in capsys.readouterr().out
    # A bundle of another model in its place is found out.
    write_model(desk.folder / "first.onnx", 5.0)
    assert app.run(["rebuild", "--check", "--only", "first@here", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"same": [], "different": ["first@here"], "new": []} and "E3003" in err


@pytest.mark.slow
def test_rebuild_of_a_bundle_puts_it_in_its_place(desk: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["build", "--only", "*@c", "--no-measure"]) == 0
    place = desk.folder / "dist" / "first@c"
    library = place / "lib" / "libmodel.so"
    whole = library.read_bytes()
    library.write_bytes(b"damaged")
    capsys.readouterr()
    assert app.run(["rebuild", "dist/first@c"]) == 0
    assert (
        capsys.readouterr().out == f"first@c: the same bytes ({file_digest(place / 'manifest.json')[:16]})\n"
    )
    assert library.read_bytes() == whole
    # The other model changed meanwhile: what it is now takes the place of what it was.
    write_model(desk.folder / "second.onnx", 3.0)
    assert app.run(["rebuild", str(desk.folder / "dist" / "second@c")]) == 0
    assert "second@c: other bytes" in capsys.readouterr().out
    assert app.run(["rebuild", "--check", "dist/second@c"]) == 0


def test_rebuild_of_what_is_none(
    bundle: Path, desk: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["rebuild", "--check", "--config", "isthmus.toml", "isthmus.toml"]) == 2
    assert app.run(["rebuild", str(bundle), "--only", "*"]) == 2
    # It is not one of this configuration.
    assert app.run(["rebuild", str(bundle)]) == 2
    assert "no pair is called" in capsys.readouterr().err
    (tmp_path / "isthmus.toml").unlink()
    assert app.run(["rebuild", str(bundle)]) == 2
    assert "--config FILE" in capsys.readouterr().err


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    problem = Problem(Code.NOT_ONNX, "no model")
    with Progress() as progress:
        progress.tell(Event("begin", "first", 0, 2))
        progress.tell(Event("done", "first", 1, 2, 0.5))
        progress.tell(Event("failed", "second", 2, 2, 0.5, (problem,)))
    err = capsys.readouterr().err
    # What failed stays to be read; steps that are done do not.
    assert "second: FAILED" in err and "first: done" not in err


def test_diff(desk: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["build", "--only", "first@c", "--no-measure", "-o", "one"]) == 0
    desk.write('cache = "cache"\n' + TOML + "[models.first.dims]\nseq = 4\n")
    assert app.run(["build", "--only", "first@*", "--no-measure", "-o", "two"]) == 0
    capsys.readouterr()
    assert app.run(["diff", "one", "two/report.json", "--json"]) == 0
    changes = {change["pair"]: change for change in json.loads(capsys.readouterr().out)}
    assert changes["first@here"]["kind"] == "new"
    assert {"digest", "latency_p50 (estimate)"} <= {f["name"] for f in changes["first@c"]["fields"]}
    assert app.run(["diff", "one/first@c", "two/first@c"]) == 0
    out = capsys.readouterr().out
    assert "first@c" in out and "digest:" in out
    assert app.run(["diff", "one", "one"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "no difference" in err


def test_diff_of_what_cannot_be_compared(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["diff", str(bundle), str(tmp_path)]) == 2
    assert "E1504" in capsys.readouterr().err
    (tmp_path / "report.json").write_text('{"pairs": []}')
    assert app.run(["diff", str(bundle), str(tmp_path)]) == 2
    assert "E1003" in capsys.readouterr().err
    (tmp_path / "report.json").write_text('{"rewrites": {}}')
    assert app.run(["diff", str(tmp_path), str(tmp_path)]) == 2
    # A bundle without a report beside it says what it says itself.
    assert app.run(["diff", str(bundle), str(bundle)]) == 0
